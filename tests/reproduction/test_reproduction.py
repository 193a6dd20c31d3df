"""Tables of systems: read, run row by row, kept, printed."""

import json
import math
import shutil
import statistics

import pytest

from haba_hf.recipes import parse_recipe
from haba_hf.reproduction import (
    TableRow,
    departures,
    keep_record,
    markdown,
    read_records,
    read_table,
    records,
    settings_hash,
)
from tiny_records import record

TINY = """
title: Digits, tiny
source: the moon
set: {network_depth: 2, network_width: 4, max_train_samples: 200, evaluation_seeds: 2, student_epochs: 2}
rows:
  - {name: Random, recipe: digits/random-1pc, kind: coreset, paper: 51.4 ± 3.8}
  - name: DM
    recipe: digits/dm-2pc-pixels
    set: {steps: 2, real_batch_size: 4}
    published: digits/dm-2pc-pixels
  - {name: DM w. HaBa, recipe: digits/dm-1pc, set: {steps: 2, real_batch_size: 4}, against: DM}
  - {name: Full data, recipe: digits/dm-1pc, set: {real_student_epochs: 1}, kind: full_data}
"""


def table_of(folder, text=TINY):
    path = folder / "tiny.yaml"
    path.write_text(text)
    return read_table(str(path))


def test_bytes_of_whitened_rows_are_explained_where_one_has_run(tmp_path):
    table = table_of(tmp_path, TINY.replace("{steps: 2, real_batch_size: 4}, against", "{zca: true}, against"))
    plain, whitened = record(table, "DM", [0.5]), record(table, "DM w. HaBa", [0.6])
    sentence = "Bytes of whitened rows hold the matrix of ZCA, which images per class leave out"
    assert sentence in markdown(table, [plain, whitened]) and sentence not in markdown(table, [plain])


def test_the_rows_own_settings_win_over_the_tables(tmp_path):
    text = TINY.replace(
        "{steps: 2, real_batch_size: 4}\n    published", "{steps: 2, student_epochs: 7}\n    published"
    )
    rows = table_of(tmp_path, text).rows
    assert [row.parse({}).evaluation.student_epochs for row in rows] == [2, 7, 2, 2]
    assert rows[1].parse({"student_epochs": 9}).evaluation.student_epochs == 9


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("title: Digits, tiny", "", "title"),
        ("against: DM", "against: DSA", "DSA, which is no earlier row"),
        ("name: DM w. HaBa", "name: DM", "two rows are called DM"),
        ("recipe: digits/random-1pc, ", "", "row 1: it needs name, recipe"),
        ("paper: 51.4", "papers: 51.4", "papers"),
        ("title: Digits, tiny", "title: Digits: tiny", "not YAML"),
        ("kind: full_data", "kind: full_data, transfer: {architectures: [vgg11]}", "Full data: transfer needs arch"),
        ("kind: coreset", "kind: coreset, transfer: {evaluation_steps: 3}", "Random: transfer needs architectures"),
        ("kind: coreset", "kind: coreset, transfer: {architectures: [vgg11], steps: 3}", "may set .*; it sets steps"),
        (
            "kind: coreset",
            "kind: coreset, transfer: {architectures: [vgg11], evaluation_split: validation}",
            "it sets evaluation_split",
        ),
        ("kind: coreset", "kind: random", "kind must be distilled, coreset, full_data, got random"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, old, new, message):
    assert old in TINY
    with pytest.raises(ValueError, match=message):
        table_of(tmp_path, TINY.replace(old, new))


def test_an_unknown_table_names_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"no table nowhere; there are .*mnist-1"):
        read_table("nowhere")


def test_an_unknown_recipe_is_named():
    with pytest.raises(FileNotFoundError, match="no recipe digits/nothing; did you mean"):
        TableRow("x", "digits/nothing").parse({})


def test_what_a_row_sets_otherwise_than_published_is_listed_and_nothing_else():
    published = parse_recipe(["mnist/dsa-1pc-pixels-paper"])
    row = TableRow("DSA", "mnist/dsa-1pc-pixels-paper", {"steps": 7, "seed": 3, "output_dir": "elsewhere"})
    assert departures(row.parse({}), published) == ["steps 7 (1000)"]
    narrow = row.parse({"network_width": 64, "student_width": published.network.network_width})
    named = {departure.split()[0] for departure in departures(narrow, published)}
    assert named == {"steps", "network_width"}, "students are as wide as published"


def test_the_hash_tells_results_apart_and_only_them():
    row = TableRow("DM", "digits/dm-1pc", {"steps": 5})
    first = settings_hash(row, {})
    assert settings_hash(row, {"output_dir": "elsewhere", "seed": 1, "checkpoint_every": 3}) == first
    assert settings_hash(row, {"steps": "5"}) == first
    assert settings_hash(row, {"steps": 6}) != first
    assert settings_hash(TableRow("other name", "digits/dm-1pc", {"steps": 5}), {}) == first


def test_a_record_takes_the_place_of_the_one_of_its_row_and_seed(tmp_path):
    path = tmp_path / "table.jsonl"
    for row, accuracy, seed in (("DM", 0.5, 0), ("Random", 0.6, 0), ("DM", 0.7, 0), ("DM", 0.8, 1)):
        keep_record(path, record(table_of(tmp_path), row, [accuracy], seed))
    assert [(kept["row"], kept["seed"], kept["mean"]) for kept in read_records(path)] == [
        ("DM", 0, 0.7),
        ("Random", 0, 0.6),
        ("DM", 1, 0.8),
    ]


def test_the_difference_of_a_pair_has_the_standard_error_of_two_independent_means(tmp_path):
    plain, haba = [0.70, 0.72, 0.74], [0.75, 0.75, 0.78]
    table = table_of(tmp_path)
    text = markdown(table, [record(table, "DM", plain), record(table, "DM w. HaBa", haba)])
    error = math.sqrt(statistics.variance(plain) / 3 + statistics.variance(haba) / 3)
    expected = f"{100 * (statistics.mean(haba) - statistics.mean(plain)):+.1f} ± {100 * error:.1f} (DM)"
    assert expected in text
    assert "| Random | not run | 51.4 ± 3.8 |" in text


def test_the_table_marks_departures_and_runs_that_their_time_ended(tmp_path):
    table = table_of(tmp_path)
    shorter = record(table, "DM", [0.7, 0.8], set={"steps": 3}, steps=2, ended_by="max_minutes")
    text = markdown(table, [shorter])
    assert "| DM [1] | 75.0 ± 5.0 |" in text
    assert "| 2* |" in text and "*: ended by its budget of time." in text
    assert "\n[1] `digits/dm-2pc-pixels` sets otherwise: " in text and ", steps 3 (300), " in text
    assert "the moon" in text and "a machine, torch 2.14.1" in text
    larger = markdown(table, [record(table, "DM", [0.7, 0.8], set={"steps": 3, "bases_per_class": 7})])
    assert larger.split("sets otherwise")[1] == text.split("sets otherwise")[1], "published settings at the row's size"


def test_a_run_of_settings_that_its_row_had_earlier_is_marked(tmp_path):
    table = table_of(tmp_path)
    kept = record(table, "DM", [0.7, 0.8])
    assert "°" not in markdown(table, [kept])
    older = {**kept, "set": {"steps": 2, "real_batch_size": 4}}
    older.pop("overrides")  # which older records do not tell apart
    for setting, record_of_it in (("{steps: 3, real_batch_size: 4}", older), ("{steps: 2}", kept), ("{}", kept)):
        changed = table_of(tmp_path, TINY.replace("{steps: 2, real_batch_size: 4}\n", f"{setting}\n"))
        text = markdown(changed, [record_of_it])
        assert "| DM ° | 75.0 ± 5.0 |" in text and "°: run before its recipe was changed, and to be run again." in text
    assert "sets otherwise" not in text, "what it set is not what its row says now"


def test_controls_stand_below_their_row_and_students_steps_below_the_table(tmp_path):
    control = {
        "system": "random real, same storage",
        "mean": 0.4,
        "std": 0.01,
        "bytes": 1_000,
        "images_per_class": 1.5,
        "student_steps": 12,
    }
    table = table_of(tmp_path)
    text = markdown(
        table, [record(table, "DM", [0.5, 0.7], controls=[control], samples_per_class=28, student_steps=10)]
    )
    lines = text.splitlines()
    assert "| samples a class |" in lines[2]
    place = next(number for number, line in enumerate(lines) if line.startswith("| DM "))
    assert "| 62,724 | 28 | 1,000 |" in lines[place]
    assert lines[place + 1].startswith("| beside it: random real, same storage | 40.0 ± 1.0 |")
    assert "Students took 10 to 12 steps of SGD." in text
    older = markdown(table, [record(table, "DM", [0.5, 0.7], controls=[control])])
    assert "Students took 12 steps of SGD, as far as it is on record." in older


def test_whether_a_loss_still_falls_is_told(tmp_path):
    losses = [2_000.0, 1_500.0, 12.0, 11.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 0.25, 0.125, 0.5]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(f'{{"step": {step}, "l_dd": {loss}}}\n' for step, loss in enumerate(losses, 1)))
    parts = records.mean_losses(log)
    assert parts == [1750.0, 11.5, 9.5, 7.5, 5.5, 0.2917], "13 steps in six parts, the last one longer"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:5]))
    assert records.mean_losses(log) == records.mean_losses(tmp_path / "none.jsonl") == []
    table = table_of(tmp_path)
    text = markdown(table, [record(table, "Random", [0.5]), record(table, "DM", [0.6], l_dd=parts)])
    assert "| 1,000 | 1,750; 5.5, 0.292 | 1.5 |" in text and "L_DD: mean over the first sixth" in text
    assert "L_DD" not in markdown(table, [record(table, "DM", [0.6])])


def test_labels_are_told_where_any_are_soft(tmp_path):
    control = {
        "system": "random real, same storage",
        "mean": 0.4,
        "std": 0.01,
        "bytes": 1_000,
        "images_per_class": 1.5,
    }
    text = TINY.replace("{steps: 2, real_batch_size: 4}\n    published", "{steps: 2, label_kind: soft}\n    published")
    table = table_of(tmp_path, text)
    runs = [
        record(table, "DM", [0.5, 0.7], controls=[control]),  # of a package that kept no word on labels
        record(table, "DM w. HaBa", [0.5, 0.6], labels="teacher", controls=[control | {"labels": "teacher"}]),
    ]
    lines = markdown(table, runs).splitlines()
    assert lines[2].startswith("| system | labels | accuracy (%) |")
    assert [line.split(" | ")[1] for line in lines[5:9]] == ["learned", "hard", "teacher", "teacher"]
    assert any("Labels: soft ones, all but hard, are counted" in line for line in lines)
    assert "labels" not in markdown(table_of(tmp_path), [record(table_of(tmp_path), "DM", [0.5])]).lower()


def test_a_record_keeps_soft_labels_alone():
    accuracy = {"mean": 0.5, "std": 0.0, "accuracies": [0.5]}
    row = {"accuracy": accuracy, "storage": {"floats": 3, "bytes": 12, "images_per_class": 0.1}, "labels": "hard"}
    assert "labels" not in records._scores(row)
    assert records._scores(row | {"labels": "teacher"})["labels"] == "teacher"


def test_a_row_that_starts_from_another_is_told_apart(tmp_path):
    text = TINY.replace("against: DM}", "start: DM}")
    row = table_of(tmp_path, text).rows[2]
    assert row.start == "DM"
    assert settings_hash(row, {}) != settings_hash(table_of(tmp_path).rows[2], {})
    with pytest.raises(ValueError, match="start names DSA, which is no earlier row"):
        table_of(tmp_path, text.replace("start: DM", "start: DSA"))


STARTED = """
title: One after the other
set: {network_depth: 2, network_width: 4, max_train_samples: 200, evaluation_seeds: 1, evaluation_steps: 3, steps: 2}
rows:
  - name: DM
    recipe: digits/dm-2pc-pixels
    set: {basis_height: 4, basis_width: 4, references: random}
  - name: DM again
    recipe: digits/dm-2pc-pixels
    start: DM
    set: {basis_height: 4, basis_width: 4, storage_dtype: int8, references: same_storage}
"""


@pytest.mark.slow
def test_reproduce_starts_a_row_from_another_and_keeps_its_controls(reproduce, tmp_path):
    (tmp_path / "started.yaml").write_text(STARTED)
    run = reproduce(tmp_path / "started.yaml", "--rows", "DM")
    assert run.returncode == 0, run.stderr
    shutil.rmtree(tmp_path / "runs")  # as in a fresh clone, which has the records alone

    run = reproduce(tmp_path / "started.yaml")
    assert run.returncode == 0, run.stderr
    assert "started: DM, for its artifact" in run.stdout
    assert not (tmp_path / "runs" / "started" / "dm" / "results.json").exists()  # its students are on record
    first, second = read_records(tmp_path / "results" / "started.jsonl")
    assert [control["system"] for control in first["controls"]] == [
        "random real, equal storage",
        "random real, same storage",
        "random real, equal bytes",
    ]
    assert [control["system"] for control in second["controls"]] == ["random real, same storage"]
    assert second["controls"][0]["bytes"] == second["bytes"] == 20 * 16 + 20 * 4 + 4
    assert first["samples_per_class"] == 2 and first["student_steps"] == 3
    made = tmp_path / "runs" / "started" / "dm-again" / "artifact" / "distillation.json"
    assert len(json.loads(made.read_text())["started_from"]) == 16
    assert "beside it: random real, same storage" in run.stdout


@pytest.mark.slow
def test_reproduce_fills_a_table_and_does_not_run_a_row_twice(reproduce, tmp_path):
    table_of(tmp_path)
    tiny = tmp_path / "tiny.yaml"
    first = reproduce(tiny, "--rows", "Random", "DM")
    assert first.returncode == 0, first.stderr
    kept = read_records(tmp_path / "results" / "tiny.jsonl")
    assert [run["row"] for run in kept] == ["Random", "DM"]
    assert [run["steps"] for run in kept] == [None, 2]
    assert all(len(run["accuracies"]) == 2 and run["seconds"] >= 0 for run in kept)
    assert str(tmp_path) not in json.dumps(kept)

    again = reproduce(tiny)
    assert again.returncode == 0, again.stderr
    assert "tiny: DM w. HaBa" in again.stdout and "tiny: Random" not in again.stdout
    assert again.stdout.rstrip().endswith((tmp_path / "results" / "tiny.md").read_text().rstrip())
    assert "not run" not in again.stdout.split("# Digits, tiny")[1]
    full = read_records(tmp_path / "results" / "tiny.jsonl")[-1]
    assert (full["row"], full["bytes"], full["bases_per_class"]) == ("Full data", 200 * 64, None)
    assert "| Full data | " in again.stdout and not (tmp_path / "runs" / "tiny" / "full-data" / "artifact").exists()

    failing = reproduce(tiny, "--rows", "DM", "--bases_per_class", "1000")
    assert failing.returncode == 1
    assert "these rows failed: DM" in failing.stderr
    assert len(read_records(tmp_path / "results" / "tiny.jsonl")) == 4

    wrong = reproduce(tiny, "--steps", "0")
    assert wrong.returncode == 2 and "steps must be at least 1" in wrong.stderr


def test_fields_behind_the_options_are_read_as_the_recipes_are(script):
    fields = script.fields
    assert fields(["--steps=3", "--dsa", "a=b"]) == {"steps": "3", "dsa": "a=b"}
    with pytest.raises(ValueError, match="steps: after the table"):
        fields(["steps", "3"])
    with pytest.raises(ValueError, match="--steps: after the table"):
        fields(["--steps"])
