"""The benchmark's scripts print their tables, and its naive way computes the same."""

import importlib
import inspect
import subprocess
import sys
from dataclasses import replace

import datasets
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from tiny import gradients
from training_scripts import ENVIRONMENT, TRAINING, run_script


@pytest.mark.slow
def test_downstream_speed_prints_a_row_for_each_way():
    printed = run_script(
        "benchmark/downstream.py",
        *("--rounds", "1", "--depths", "0", "1", "--side", "8", "--width", "4", "--bases_per_class", "2"),
    )
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == [
        "| plain pixels",
        *(f"| depth {depth}, samples made {how}" for depth in (0, 1) for how in ("once", "for every batch")),
    ]
    assert rows[0][2] == "100.0% |"
    assert all(float(row[1]) > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_more_images_print_a_row_for_each_run():
    printed = run_script("benchmark/data_size.py", "--images", "320", "--side", "16", "--steps", "2")
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")][1:]
    assert [row[:3] for row in rows] == [["320", "0", "first"], ["320", "0", "again"]]
    for row in rows:
        first_step, artifact = (float(seconds.split(" (")[0]) for seconds in row[3:5])
        assert 0 < first_step <= artifact and float(row[5]) > 50


@pytest.mark.slow
def test_what_grows_with_classes_is_measured():
    rows = [line.split(" | ") for line in run_script("benchmark/classes.py", "12").splitlines()]
    assert rows[0][0] == "| 12 classes"
    assert [row[0] for row in rows[3:]] == [
        *(f"| coreset: {rule}" for rule in ("random", "forgetting", "herding", "k_center")),
        *(f"| a step: {objective}" for objective in ("dm", "dsa", "mtt")),
        *("| evaluation", "| gallery"),
    ]
    assert all(float(row[1]) >= 0 for row in rows[2:])


def test_benchmark_prints_two_tables():
    printed = run_script("benchmark", "--quick", "--cases", "student", "materialize-20")
    assert f"torch {torch.__version__}" in printed
    assert "1 threads" in printed
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    _, compared, _, of_ours = rows
    assert compared[0] == "student training, 10 bases per class, bf16"
    assert of_ours[0] == "materialization: 20 hallucinators / 5"
    for row in (compared, of_ours):
        for way in row[1:3]:
            median, unit = way.split()[:2]
            assert unit == "samples/s"
            assert float(median.replace(",", "")) > 0
        assert float(row[3]) > 0


def test_benchmark_of_experts_needs_data():
    command = [sys.executable, TRAINING / "benchmark", "--quick", "--cases", "experts-accuracy"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False)
    assert done.returncode == 2
    assert "experts-accuracy need --data_dir" in done.stderr


@pytest.fixture(scope="module")
def benchmark_cases():
    sys.path.insert(0, str(TRAINING))
    yield importlib.import_module("benchmark.cases")
    sys.path.remove(str(TRAINING))


def test_every_case_of_the_benchmark_runs(benchmark_cases, tmp_path):
    for split, count in (("train", 300), ("test", 20)):
        images = [Image.new("L", (28, 28), color=index % 256) for index in range(count)]
        features = datasets.Features(
            image=datasets.Image(), label=datasets.ClassLabel(names=[str(label) for label in range(10)])
        )
        rows = {"image": images, "label": [index % 10 for index in range(count)]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    size = replace(benchmark_cases.QUICK, data_dir=str(tmp_path))
    for name, case in benchmark_cases.CASES.items():
        for way in case.ways:
            AcceleratorState._reset_state(reset_partial_state=True)
            with torch.random.fork_rng():
                done = way.prepare(size)()
            if case.needs_data:
                done, score = done
                assert 0 <= score() <= 1
            assert done > 0, name
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("objective", ["mtt", "dm"])
def test_the_naive_way_gives_the_same_gradients(benchmark_cases, objective):
    """Without the adversary and with the same draws: what the benchmark compares does the same work."""
    found = []
    for naive in (False, True):
        run = benchmark_cases.distill(
            benchmark_cases.QUICK, objective, naive, dsa="none", lambda_con=0.0, lambda_cos=0.0, optimizer="sgd"
        )
        distiller = inspect.getclosurevars(run).nonlocals["distiller"]
        run()
        found.append(gradients(distiller.model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-3, atol=1e-6, msg=name)
    assert found[0]["bases"].abs().max() > 0
