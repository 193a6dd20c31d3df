"""Students of other networks on the artifact of a table's row: run once, kept in its record, printed."""

import shutil
import statistics

import pytest

from haba_hf.reproduction import has_artifact, markdown, read_records, read_table, transfer_of
from haba_hf.reproduction.leaderboard import leaderboard
from tiny_records import record

TEXT = """
title: Digits, tiny
set: {network_depth: 2, network_width: 4, max_train_samples: 200, evaluation_seeds: 2, student_epochs: 2, steps: 2}
rows:
  - name: DM
    recipe: digits/dm-2pc-pixels
    transfer: {architectures: [convnet, alexnet], evaluation_steps: 3, evaluation_seeds: 1}
  - {name: DM w. HaBa, recipe: digits/dm-1pc}
"""


def table_of(folder, text=TEXT):
    path = folder / "tiny.yaml"
    path.write_text(text)
    return read_table(str(path))


def transfer(row, accuracies):
    """What a record keeps, by network."""
    rows = [
        {
            "network": name,
            "mean": statistics.mean(of),
            "std": statistics.pstdev(of),
            "accuracies": of,
            "student_steps": 3,
        }
        for name, of in accuracies.items()
    ]
    return {"set": row.transfer, "rows": rows}


def test_a_second_table_has_the_other_networks_of_the_rows_that_ask_for_them(tmp_path):
    table = table_of(tmp_path)
    plain = record(table, "DM", [0.5])
    assert "Other networks" not in markdown(table, [plain])
    kept = plain | {"transfer": transfer(table.rows[0], {"convnet": [0.5, 0.6], "alexnet": [0.25, 0.25]})}
    text = markdown(table, [kept, record(table, "DM w. HaBa", [0.6])])
    assert "| system | ConvNet | AlexNet | students | steps |" in text
    assert "| DM | 55.0 ± 5.0 | 25.0 ± 0.0 | 2 | 3 |" in text and text.count("| DM w. HaBa |") == 1
    assert "|\n\nTest accuracy in percent" in text, "a paragraph of its own"
    other = record(table, "DM", [0.5], seed=1) | {"transfer": transfer(table.rows[0], {"convnet": [0.75]})}
    both = markdown(table, [kept, other])
    assert "| DM | 55.0 ± 5.0 | 25.0 ± 0.0 | 2 | 3 |" in both and "| DM | 75.0 ± 0.0 | - | 1 | 3 |" in both, "seeds"


def test_students_of_other_settings_than_a_row_asks_for_are_not_its(tmp_path):
    table = table_of(tmp_path)
    kept = record(table, "DM", [0.5]) | {"transfer": transfer(table.rows[0], {"convnet": [0.5]})}
    assert transfer_of(table.rows[0], kept) is not None
    for other in (TEXT.replace("evaluation_steps: 3", "evaluation_steps: 4"), TEXT.replace("    transfer", "    #")):
        changed = table_of(tmp_path, other)
        assert transfer_of(changed.rows[0], kept) is None
        assert "Other networks" not in markdown(changed, [kept])


def test_the_leaderboard_shows_them(tmp_path, monkeypatch):
    table = table_of(tmp_path)
    kept = record(table, "DM", [0.5], floats=15_681, num_hallucinators=0)
    kept["transfer"] = transfer(table.rows[0], {"convnet": [0.4], "alexnet": [0.25]})
    monkeypatch.setattr("haba_hf.reproduction.leaderboard.read_table", lambda name: table)
    monkeypatch.setattr("haba_hf.reproduction.leaderboard.read_records", lambda path: [kept])
    (tmp_path / "tiny.jsonl").touch()
    line = next(line for line in leaderboard(tmp_path, []).splitlines() if "| DM |" in line)
    assert line.startswith("| 50.0 ± 0.0 | DM |") and "| - | - | 25.0 ± 0.0 | - |" in line


def test_a_network_that_is_not_known_is_refused_before_anything_runs(reproduce, tmp_path):
    table_of(tmp_path, TEXT.replace("convnet, alexnet", "alexnett"))
    run = reproduce(tmp_path / "tiny.yaml")
    assert run.returncode == 2 and "alexnett" in run.stderr and "==>" not in run.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_they_are_trained_on_the_artifact_of_the_record_and_once(reproduce, tmp_path):
    table = table_of(tmp_path, TEXT.replace("    transfer", "    #"))
    assert reproduce(tmp_path / "tiny.yaml", "--rows", "DM").returncode == 0
    row, folder = table.rows[0], tmp_path / "runs" / "tiny" / "dm"
    (before,) = read_records(tmp_path / "results" / "tiny.jsonl")
    assert "transfer" not in before and has_artifact(row, before, folder, {})
    assert not has_artifact(row, before | {"accuracies": [0.1, 0.2]}, folder, {}), "of another run"

    table = table_of(tmp_path)
    run = reproduce(tmp_path / "tiny.yaml", "--rows", "DM")
    assert run.returncode == 0, run.stderr
    assert "==> tiny: DM, other networks\n" in run.stdout and "==> tiny: DM\n" not in run.stdout
    (kept,) = read_records(tmp_path / "results" / "tiny.jsonl")
    assert {name: kept[name] for name in before} == before, "the row itself was not run again"
    networks = transfer_of(table.rows[0], kept)["rows"]
    assert [(of["network"], len(of["accuracies"]), of["student_steps"]) for of in networks] == [
        ("convnet", 1, 3),
        ("alexnet", 1, 3),
    ]
    assert networks[1]["parameters"] > networks[0]["parameters"]
    assert "**Other networks, the same samples**" in (tmp_path / "results" / "tiny.md").read_text()
    assert "==>" not in reproduce(tmp_path / "tiny.yaml", "--rows", "DM").stdout

    shutil.rmtree(tmp_path / "runs")  # as in a fresh clone, which has the records alone
    assert "==>" not in reproduce(tmp_path / "tiny.yaml", "--rows", "DM").stdout
    table_of(tmp_path, TEXT.replace("evaluation_steps: 3", "evaluation_steps: 2"))
    run = reproduce(tmp_path / "tiny.yaml", "--rows", "DM")
    assert "==> tiny: DM\n" in run.stdout and "==> tiny: DM, other networks\n" in run.stdout
    (kept,) = read_records(tmp_path / "results" / "tiny.jsonl")
    assert {of["student_steps"] for of in kept["transfer"]["rows"]} == {2}
