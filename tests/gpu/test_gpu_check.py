"""The command for a machine with a GPU, from end to end where there is none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import ClassLabel

from image_sets import rows_of, write_parquet

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "training" / "gpu_check.sh"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def gpu_check(*words, status=0, **environment):
    """Runs the script and returns what it printed."""
    command = ["bash", str(SCRIPT), *map(str, words), "--python", sys.executable]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_steps_tests_and_rows_leave_their_lines(tmp_path):
    for split, per_class in (("train", 40), ("test", 3)):
        rows = rows_of(per_class, num_labels=10, height=32, width=32)
        write_parquet(tmp_path / f"data/cifar10/{split}-0.parquet", rows, ClassLabel(names=CLASSES))

    said = gpu_check(tmp_path / "out", "--data", tmp_path / "data", "--device", "cpu", "--tiny", "--minutes", "14")

    out = tmp_path / "out"
    assert [line.split(":")[0] for line in said.splitlines()] == ["==> steps", "==> tests", "==> rows"]
    assert sorted(path.name for path in out.iterdir()) == ["log.txt", "rows.jsonl", "steps.jsonl", "tests.jsonl"]
    steps = lines_of(out / "steps.jsonl")
    assert [line["case"] for line in steps] == ["dm", "mtt-1", "expert"]
    assert all(line["seconds"] > 0 and "error" not in line for line in steps)
    assert {line["outcome"] for line in lines_of(out / "tests.jsonl")} == {"skipped"}  # each compares with a GPU
    rows = lines_of(out / "rows.jsonl")
    assert [row["row"].endswith("by MTT") for row in rows] == [False, True]
    assert all(row["steps"] == 2 and 0 <= row["mean"] <= 1 for row in rows)


def test_it_ends_by_itself_and_says_what_it_had_no_time_for(tmp_path):
    said = gpu_check(tmp_path / "out", "--device", "cpu", "--tiny", "--minutes", "0", status=1)

    assert said.splitlines() == ["==> steps: no time left", "==> tests: no time left"]


def test_wrong_words_are_answered_with_the_usage(tmp_path):
    assert "gpu_check.sh OUT" in gpu_check(tmp_path / "out", "--fast", status=2)
    assert not (tmp_path / "out").exists()
