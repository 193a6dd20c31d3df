"""What hallucinators are worth at equal storage: which runs are compared, and the page of the records."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from haba_hf.reproduction import equal_storage as module
from haba_hf.reproduction import read_table
from haba_hf.reproduction.equal_storage import comparisons, equal_storage, plot_equal_storage
from tiny_records import record

RESULTS = Path(__file__).parents[2] / "training" / "results"
TABLE = """
title: Digits
rows:
  - {name: pixels, recipe: digits/dm-2pc-pixels}
  - {name: frequencies, recipe: digits/dm-2pc-pixels, set: {basis_storage: frequencies, basis_frequencies: 16}}
  - {name: w. HaBa, recipe: digits/dm-1pc, against: pixels}
  - {name: w. more HaBa, recipe: digits/dm-1pc, set: {num_hallucinators: 9}, against: w. HaBa}
  - {name: in place of frequencies, recipe: digits/dm-1pc, set: {hallucinator_depth: 0}, against: frequencies}
"""


def run_of(table, row, accuracies, floats, hallucinators):
    sizes = {"floats": floats, "images_per_class": floats / 640, "num_hallucinators": hallucinators, "steps": 300}
    return record(table, row, accuracies, **sizes)


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """The comparisons of a table with these records, each changed by what is given for its row."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TABLE)
    table = read_table(str(path))
    monkeypatch.setattr(module, "read_table", lambda name: table)

    def of(**changes):
        records = [
            run_of(table, "pixels", [0.5, 0.6, 0.7], 1280, 0),
            run_of(table, "frequencies", [0.7, 0.7, 0.7], 1280, 0),
            run_of(table, "w. HaBa", [0.6, 0.8, 0.8], 1300, 5),
            run_of(table, "w. more HaBa", [0.6, 0.8, 0.8], 1300, 9),
            run_of(table, "in place of frequencies", [0.6, 0.6, 0.6], 1000, 5),
        ]
        for run in records:
            run |= changes.get(run["row"].replace(". ", "_").replace(" ", "_"), {})
        (tmp_path / "tiny.jsonl").write_text("".join(json.dumps(run) + "\n" for run in records))
        return comparisons(tmp_path)

    return of


def test_a_run_is_compared_with_the_one_without_hallucinators(compared):
    first, second = compared()
    assert (first.record["row"], first.other["row"], first.beside_pixels) == ("w. HaBa", "pixels", True)
    error = math.sqrt(np.var([0.6, 0.8, 0.8], ddof=1) / 3 + np.var([0.5, 0.6, 0.7], ddof=1) / 3)
    assert first.difference == pytest.approx((100 * (2.2 / 3 - 0.6), 100 * error))
    assert (second.record["row"], second.beside_pixels) == ("in place of frequencies", False), "which take less"


@pytest.mark.parametrize("change", [{"floats": 1410}, {"settings_hash": "of earlier settings"}, {"seed": 1}])
def test_what_is_not_at_equal_storage_is_left_out(compared, change):
    assert [one.record["row"] for one in compared(w_HaBa=change)] == ["in place of frequencies"]
    (only,) = compared(pixels={"settings_hash": "of earlier settings"})
    assert only.record["row"] == "in place of frequencies"


def test_its_lines_and_its_picture(compared, tmp_path):
    found = compared(w_HaBa={"samples_per_class": 5, "steps": 600, "hallucinator_variety": 0.987})
    pixels, small = equal_storage(found).split("\n## ")[1:]
    columns, _, line = (line for line in pixels.splitlines() if line.startswith("|"))
    cells = dict(zip(columns.split(" | "), line.split(" | "), strict=True))
    assert cells["| difference"] == "| +13.3 ± 8.8" and cells["with (%)"] == "73.3 ± 9.4"
    assert cells["images per class"] == "2.03, 2.00" and cells["samples a class"] == "5, -"
    assert cells["variety"] == "0.99" and cells["steps"] == "600, 300"
    assert "| -10.0 ± 0.0 |" in small and "| - | 300 |" in small and "w. more HaBa" not in pixels + small
    plot_equal_storage(found, tmp_path / "one.png")
    plot_equal_storage(found[:1], tmp_path / "of_one_kind.png")
    with Image.open(tmp_path / "one.png") as picture:
        assert np.asarray(picture).std() > 10


def test_the_page_is_what_the_records_say():
    found = comparisons(RESULTS)
    assert (RESULTS / "equal_storage.md").read_text() == equal_storage(found), "python -m haba_hf.reproduction"
    assert len(found) > 50
    for one in found:
        rows = {row.name: row for row in one.table.rows}
        ours, theirs = (rows[run["row"]].parse(run["set"]) for run in (one.record, one.other))
        assert ours.distillation.objective == theirs.distillation.objective
        assert one.record["data_fingerprint"] == one.other["data_fingerprint"]
        assert ours.data.zca == theirs.data.zca
        counts = [run["student_steps"] for run in (one.record, one.other) if "student_steps" in run]
        assert len(counts) < 2 or max(counts) <= 1.1 * min(counts), (one.table.name, one.record["row"], counts)
