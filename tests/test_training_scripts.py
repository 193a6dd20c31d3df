"""Launches every script in training/ as a user would, for a few steps, and looks at the files it leaves."""

import importlib
import inspect
import json
import os
import runpy
import signal
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from accelerate.commands.config import load_config_from_file
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_model
from transformers import AutoImageProcessor

from haba_hf import HabaImageProcessor, HabaModel
from haba_hf.data import DataArguments, load_image_data
from haba_hf.evaluation import accuracy
from haba_hf.networks import NetworkArguments, build_network
from haba_hf.recipes import parse_recipe
from tiny import gradients

ROOT = Path(__file__).parents[1]
TRAINING = ROOT / "training"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "HABA_DEBUG"} | {
    "ACCELERATE_USE_CPU": "true",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}
NETWORK = ["--network_depth", "2", "--network_width", "4"]
DM = [*NETWORK, "--steps", "4", "--checkpoint_every", "2", "--real_batch_size", "8"]
MTT = ["--objective", "mtt", "--steps", "3", "--student_steps", "2", "--expert_span", "1", "--max_start", "2"]
TO = ["--report_to", "none", "--output_dir"]
EVALUATION = ["--evaluation_seeds", "2", "--student_epochs", "3", "--real_student_epochs", "1"]


def run_script(name, *arguments, launch=()):
    """Runs a script to its end, which has to be a good one, and returns what it printed."""
    command = [sys.executable, *launch, str(TRAINING / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_two_processes(config="cpu-2", *more):
    """The words that launch a script in two processes on the CPU."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "accelerate.commands.launch", "--main_process_port", str(port)]
    return [*launcher, "--config_file", str(TRAINING / "launch" / f"{config}.yaml"), *more]


def metrics_of(output_dir):
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


def check_run(output_dir, steps, num_hallucinators):
    """What every distillation leaves."""
    artifact = output_dir / "artifact"
    model = HabaModel.from_pretrained(artifact)
    assert model.config.num_hallucinators == num_hallucinators
    assert model.materialize().samples.shape == (10 * max(num_hallucinators, 1), 1, 8, 8)
    assert model.materialize().samples.isfinite().all()
    assert isinstance(AutoImageProcessor.from_pretrained(artifact), HabaImageProcessor)

    metrics = metrics_of(output_dir)
    assert [line["step"] for line in metrics] == list(range(1, steps + 1))
    assert all({"l_dd", "seconds"} <= line.keys() for line in metrics)
    assert all(("l_cos" in line) == (num_hallucinators > 1) for line in metrics)

    recipe = parse_recipe([str(artifact / "recipe.yaml")])
    assert recipe.distillation.steps == steps
    assert recipe.model.num_hallucinators == num_hallucinators
    provenance = json.loads((artifact / "distillation.json").read_text())
    assert provenance["recipe_hash"] == recipe.hash
    assert provenance["steps"] == steps
    for name in ("gallery.png", "training_curves.png"):
        with Image.open(artifact / name) as picture:
            picture.load()
            assert min(picture.size) > 50
    left = {path.name for path in output_dir.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"}
    assert left == set(), "half-written files stay behind"


@pytest.fixture
def run_here(monkeypatch):
    """Runs a script in this process: importing torch and transformers takes longer than most tests."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HABA_DEBUG", raising=False)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(TRAINING / name), run_name="__main__")

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def error_of(run_here, capfd):
    """Runs a script with a mistake in its settings and returns the one line it says about it."""

    def error(name, *arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            run_here(name, *arguments)
        assert stop.value.code == 2
        said = capfd.readouterr().err
        assert "Traceback" not in said
        lines = [line for line in said.splitlines() if "error:" in line]
        assert lines == said.splitlines()[-1:], "one line, the last"
        return lines[0]

    return error


@pytest.mark.slow
def test_two_machines_distil_what_two_processes_of_one_do(tmp_path):
    """The configuration for two machines, with one process each and the loopback between them."""
    run_script("distill.py", *DM, *TO, tmp_path / "one", launch=in_two_processes())

    launch = in_two_processes("nodes-2x8", "--num_processes", "2", "--main_process_ip", "127.0.0.1", "--machine_rank")
    words = [TRAINING / "distill.py", *DM, *TO, tmp_path / "two"]
    machines = [
        subprocess.Popen([sys.executable, *map(str, [*launch, rank, *words])], env=ENVIRONMENT) for rank in (0, 1)
    ]
    assert [machine.wait(300) for machine in machines] == [0, 0]

    (one, two) = (HabaModel.from_pretrained(tmp_path / name / "artifact").state_dict() for name in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert json.loads((tmp_path / "two" / "artifact" / "distillation.json").read_text())["processes"] == 2
    assert [line["step"] for line in metrics_of(tmp_path / "two")] == [1, 2, 3, 4]  # of the first machine alone


def test_distribution_matching_in_two_processes_then_evaluate_and_train_a_student(run_here, tmp_path, capfd):
    """`haba` is distilled, evaluated and trained on; every number that is printed is in the files."""
    where = ["--output_dir", tmp_path]
    run_script("distill.py", *DM, *where, launch=in_two_processes())
    check_run(tmp_path, steps=4, num_hallucinators=5)
    events = [path for path in tmp_path.rglob("events.out.tfevents*") if path.stat().st_size]
    assert events, "tensorboard is the default tracker"
    assert json.loads((tmp_path / "artifact" / "distillation.json").read_text())["processes"] == 2

    capfd.readouterr()
    run_here("evaluate.py", *DM, *EVALUATION, *where)
    printed = capfd.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())

    def in_percent(accuracies):
        return f"| {100 * statistics.fmean(accuracies):.1f} ± {100 * statistics.pstdev(accuracies):.1f} "

    plain, balanced = (
        [in_percent(row["accuracy"][name]) for row in results["rows"]]
        for name in ("accuracies", "balanced_accuracies")
    )
    balanced = balanced if balanced != plain else [""] * len(plain)  # a column of its own where they differ
    expected = [
        f"| {row['system']} {accuracy}{of_classes}"
        f"| {row['storage']['floats']:,} | {row['storage']['bytes']:,} | {row['storage']['images_per_class']:.2f} "
        f"| {row['storage']['ratio']:.3%} | {row['accuracy']['steps']:,} | {row['accuracy']['samples']:,} "
        f"| {row['accuracy']['seconds']:.0f} |"
        for row, accuracy, of_classes in zip(results["rows"], plain, balanced, strict=True)
    ]
    assert [line for line in printed.splitlines() if line.startswith("| ")][1:] == expected
    systems = [row["system"] for row in results["rows"]]
    assert systems == ["HaBa, 5 hallucinators", "random real, equal storage", "random real, equal bytes", "full data"]
    assert all(len(row["accuracy"]["accuracies"]) == 2 for row in results["rows"])
    assert results["settings"]["student_epochs"] == 3

    run_here("train_student.py", *DM, *EVALUATION, *where)
    printed = capfd.readouterr().out
    settings = json.loads((tmp_path / "student" / "student.json").read_text())
    assert settings["accuracy"] == results["rows"][0]["accuracy"]["accuracies"][0]
    assert f"{100 * settings['accuracy']:.1f} %" in printed
    network = build_network(NetworkArguments(**settings["network"]), settings["image_shape"], 10, seed=1)
    load_model(network, tmp_path / "student" / "model.safetensors")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "student")
    test = load_image_data(DataArguments()).test
    assert accuracy(network, test.images, test.labels, processor) == settings["accuracy"]


@pytest.mark.slow
def test_trajectory_matching_from_experts_to_artifacts(run_here, tmp_path, capfd):
    experts = tmp_path / "experts"
    shared = [*NETWORK, *MTT, "--experts_dir", experts, "--num_experts", "2"]
    run_here("record_experts.py", *shared)
    assert "2 x 3 snapshots" in capfd.readouterr().out
    files = sorted(experts.iterdir())
    assert [file.name for file in files] == ["expert-0000.safetensors", "expert-0001.safetensors"]
    written = [file.stat().st_mtime_ns for file in files]

    run_here("distill.py", *shared, *TO, tmp_path / "haba")
    check_run(tmp_path / "haba", steps=3, num_hallucinators=5)
    rates = [line["student_learning_rate"] for line in metrics_of(tmp_path / "haba")]
    model = HabaModel.from_pretrained(tmp_path / "haba" / "artifact")
    assert len(set(rates)) == 3
    assert model.student_learning_rate.item() not in rates, "what is logged is the rate before the step"

    run_here("record_experts.py", *shared)
    plain = ["--num_hallucinators", "0", "--micro_batch_size", "8"]
    run_here("distill.py", *shared, *plain, *TO, tmp_path / "plain")
    check_run(tmp_path / "plain", steps=3, num_hallucinators=0)
    assert json.loads((tmp_path / "plain/artifact/distillation.json").read_text())["experts_mixed_precision"] == "no"
    assert [file.stat().st_mtime_ns for file in files] == written, "experts that are there are kept"


@pytest.mark.slow
def test_coresets_are_chosen_and_evaluated(run_here, tmp_path, capfd):
    shared = [TRAINING / "recipes" / "digits" / "forgetting-1pc.yaml", *NETWORK, "--coreset_epochs", "2"]
    shared += ["--coreset_dir", tmp_path / "coresets"]
    run_here("select_coreset.py", *shared, "--output_dir", tmp_path / "forgetting")
    assert f"{tmp_path / 'forgetting' / 'artifact'}: 10 of 1,293 training images" in capfd.readouterr().out
    (features,) = (tmp_path / "coresets").iterdir()
    written = features.stat().st_mtime_ns
    herding = [*shared, "--coreset", "herding", "--bases_per_class", "2", "--output_dir", tmp_path / "herding"]
    run_here("select_coreset.py", *herding)
    assert features.stat().st_mtime_ns == written, "one expert serves all coresets"
    for name, images_per_class in (("forgetting", 1), ("herding", 2)):
        artifact = tmp_path / name / "artifact"
        assert HabaModel.from_pretrained(artifact).materialize().samples.shape == (10 * images_per_class, 1, 8, 8)
        assert json.loads((artifact / "coreset.json").read_text())["coreset"] == name
        assert {"gallery.png", "preprocessor_config.json", "recipe.yaml"} <= {path.name for path in artifact.iterdir()}
    run_here("evaluate.py", *herding, *EVALUATION, "--references", "none")
    (row,) = json.loads((tmp_path / "herding" / "results.json").read_text())["rows"]
    assert row["system"] == "coreset, herding"


def test_hallucinators_in_a_coreset(error_of, tmp_path):
    line = error_of("select_coreset.py", "--coreset", "herding", "--output_dir", tmp_path / "run")
    assert "A coreset is real images with their labels" in line
    assert "set num_hallucinators to 0" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_other_architectures_and_an_embedding(run_here, error_of, tmp_path, capfd):
    where = [*NETWORK, *TO, tmp_path]
    run_here("distill.py", *where, "--steps", "1", "--real_batch_size", "8", "--num_hallucinators", "2")
    capfd.readouterr()
    run_here("evaluate.py", *where, *EVALUATION, "--architectures", "convnet", "transformers/convnext")
    printed = capfd.readouterr().out.splitlines()
    rows = json.loads((tmp_path / "cross_architecture.json").read_text())["rows"]
    assert [row["architecture"] for row in rows] == ["convnet", "transformers/convnext"]
    assert [line.split(" | ")[:3] for line in printed if line.startswith("| ")][1:] == [
        [
            f"| {row['architecture']}",
            f"{100 * row['accuracy']['mean']:.1f} ± {100 * row['accuracy']['std']:.1f}",
            f"{row['parameters']:,}",
        ]
        for row in rows
    ]
    assert not (tmp_path / "results.json").exists()

    run_here("embed.py", *where, *EVALUATION, "--embedded_classes", "3", "7", "--embedded_images", "20")
    assert f"{tmp_path / 'embedding.png'}: written" in capfd.readouterr().out
    with Image.open(tmp_path / "embedding.png") as picture:
        picture.load()
    assert len(json.loads((tmp_path / "embedding.json").read_text())["points"]) == 2 * (20 + 2)
    assert "made for uint8 color images" in error_of("robustness.py", *where)
    assert "VGG11 needs images of 28x28 pixels or more, got 8x8" in error_of(
        "evaluate.py", *where, "--architectures", "convnet", "vgg11"
    )


@pytest.mark.slow
def test_an_interrupted_run_ends_in_the_same_bytes(tmp_path):
    """Killed by SIGTERM after a checkpoint and launched again, against a run in one go."""
    options = [*DM, "--num_hallucinators", "2", "--steps", "100", "--checkpoint_every", "10", *TO]
    command = [sys.executable, str(TRAINING / "distill.py"), *options, str(tmp_path / "interrupted")]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "interrupted").glob("checkpoints/step-*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not (tmp_path / "interrupted" / "artifact").exists()
    assert len(metrics_of(tmp_path / "interrupted")) < 100

    assert "Resuming at step" in run_script("distill.py", *options, tmp_path / "interrupted")
    run_script("distill.py", *options, tmp_path / "whole")
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        files = [tmp_path / run / "artifact" / name for run in ("interrupted", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    logs = [
        [(line["step"], line["l_dd"], line["l_con"]) for line in metrics_of(tmp_path / run)]
        for run in ("interrupted", "whole")
    ]
    assert logs[0] == logs[1]
    check_run(tmp_path / "whole", steps=100, num_hallucinators=2)


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


@pytest.mark.slow
def test_a_published_artifact_gives_what_its_card_says():
    """By the call that the card shows; of the artifact whose data are here."""
    words = [sys.executable, "training/check_published.py", "digits-dm-1pc"]
    shown = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    _, student, first, _ = shown.stdout.splitlines()[-1].strip("| ").split(" | ")
    assert float(student) == pytest.approx(float(first), abs=1.0), "the last digits are a machine's"


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


@pytest.mark.parametrize("path", sorted((TRAINING / "launch").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_launch_configuration_is_one_that_accelerate_reads(path):
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    written = yaml.safe_load(path.read_text())
    assert written.keys() <= vars(config).keys()
    assert config.num_processes == written["num_processes"]


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


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "in vain"
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["none", "one process", "two processes"])
def test_sigterm_ends_a_run_and_its_children_where_nothing_is_lost(tmp_path, launcher):
    """SIGTERM to `accelerate launch` itself; the same command goes on where the run was stopped."""
    launch = {
        "none": [],
        "one process": ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"],
        "two processes": in_two_processes(),
    }[launcher]
    recipe = TRAINING / "recipes" / "digits" / "dm-1pc.yaml"
    words = [*NETWORK, "--real_batch_size", "8", "--checkpoint_every", "100000", *TO, tmp_path / "run"]
    command = [sys.executable, *launch, TRAINING / "distill.py", recipe, *words]
    command = [*map(str, command), "--learning_rate_schedule", "constant", "--steps"]
    with (tmp_path / "output").open("w") as output:
        run = subprocess.Popen([*command, "100000"], env=ENVIRONMENT, stdout=output, stderr=output)
        log = tmp_path / "run" / "metrics.jsonl"
        wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 3)
        run.terminate()
        run.wait(60)
    wait_for(lambda: not (tmp_path / "run" / ".lock").exists())
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = len(metrics_of(tmp_path / "run"))
    assert checkpoint.name == f"step-{step:08d}"
    assert f"stopped: step {step} is saved, run the same command again to go on" in (tmp_path / "output").read_text()
    if launcher == "none":
        assert run.returncode == 143
    done = subprocess.run(
        [*command, str(step + 1)], env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"Resuming at step {step} from {checkpoint}" in done.stdout
    assert len(metrics_of(tmp_path / "run")) == step + 1


@pytest.mark.slow
def test_demo(tmp_path):
    tiny = ["--steps", "2", "--real_batch_size", "4", "--network_width", "4", "--evaluation_steps", "3", *EVALUATION]
    printed = run_script("demo.py", "--output_dir", tmp_path, "--", *tiny)
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    systems = ["40 frequencies, int8", "random real, same storage", "random real, equal bytes", "full data"]
    for system in [*systems, "plain pixels", "HaBa, 5 hallucinators"]:
        assert any(row.startswith(f"| {system} |") for row in rows), system
    for run, hallucinators in (("int8", 0), ("haba", 5), ("pixels", 0)):
        assert HabaModel.from_pretrained(tmp_path / run / "artifact").config.num_hallucinators == hallucinators
        assert (tmp_path / run / "artifact" / "gallery.png").is_file()


@pytest.mark.parametrize(
    "name", ["record_experts.py", "select_coreset.py", "distill.py", "evaluate.py", "train_student.py"]
)
def test_unknown_field_names_the_nearest(name, error_of, tmp_path):
    line = error_of(name, "--basis_per_class", "1")
    assert line == "error: command line: unknown field 'basis_per_class'; did you mean 'bases_per_class'?"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("objectiv: dm\n")
    line = error_of(name, recipe)
    assert line == f"error: {recipe}: unknown field 'objectiv'; did you mean 'objective'?"


@pytest.mark.parametrize("name", ["record_experts.py", "distill.py"])
def test_unknown_data_set_names_the_nearest(name, error_of, tmp_path):
    line = error_of(name, "--dataset", "fashion-mnist", "--experts_dir", tmp_path / "experts", *TO, tmp_path / "run")
    assert "Unknown data set 'fashion-mnist'" in line
    assert "did you mean 'fashion_mnist'?" in line
    assert list(tmp_path.iterdir()) == []


def test_data_without_a_label_column(error_of, tmp_path):
    folder = tmp_path / "data"
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict({"picture": [Image.new("L", (8, 8))], "kind": [0]}, features=features)
    folder.mkdir()
    for split in ("train", "test"):
        rows.to_parquet(folder / f"{split}.parquet")
    line = error_of("distill.py", "--dataset", folder, *TO, tmp_path / "run")
    assert "set label_column to one of its columns picture (Image), kind (Value)" in line
    line = error_of("distill.py", "--dataset", folder, "--label_column", "class", *TO, tmp_path / "run")
    assert "no column 'class'" in line
    assert "kind (Value)" in line


def test_experts_missing_of_another_network_or_too_short(run_here, error_of, tmp_path):
    shared = [*NETWORK, *MTT, "--experts_dir", tmp_path / "experts", "--num_experts", "1"]
    line = error_of("distill.py", *shared, *TO, tmp_path / "run")
    assert f"{tmp_path / 'experts'} holds 0 of the 1 experts (num_experts): record them" in line

    run_here("record_experts.py", *shared)
    for script in ("distill.py", "record_experts.py"):
        line = error_of(script, *shared, "--network_width", "8", *TO, tmp_path / "run")
        assert "recorded with another network" in line
        assert "choose another experts_dir" in line
        line = error_of(script, *shared, "--data_seed", "1", *TO, tmp_path / "run")
        assert "recorded with another data" in line
    line = error_of("distill.py", *shared, "--max_start", "3", *TO, tmp_path / "run")
    assert "The experts hold 3 snapshots, but max_start + expert_span = 4" in line
    expert = tmp_path / "experts" / "expert-0000.safetensors"
    expert.write_bytes(expert.read_bytes()[:-8])
    line = error_of("distill.py", *shared, *TO, tmp_path / "run")
    assert f"{expert} is damaged" in line
    assert not (tmp_path / "run").exists()


def test_too_few_images_for_the_bases(error_of, tmp_path):
    line = error_of("distill.py", *DM, "--bases_per_class", "200", *TO, tmp_path / "run")
    assert "Class '0' has 128 training images, fewer than the 200 asked for: lower bases_per_class" in line


@pytest.mark.parametrize("num_hallucinators", [0, 5])
def test_images_too_small_for_the_network(num_hallucinators, error_of, tmp_path):
    options = [*DM, "--network_depth", "4", "--num_hallucinators", num_hallucinators]
    line = error_of("distill.py", *options, *TO, tmp_path / "run")
    assert "too often for 8x8 images: use network_depth 3 or less, or resize the images" in line


@pytest.mark.parametrize("name", ["evaluate.py", "train_student.py"])
def test_artifact_missing_damaged_or_of_other_data(name, error_of, tmp_path):
    line = error_of(name, *DM, *TO, tmp_path)
    assert f"There is no artifact in {tmp_path}: run haba distill with the same recipe" in line

    config = HabaModel.config_class(num_labels=10, sample_channels=1, sample_height=8, sample_width=8)
    artifact = tmp_path / "artifact"
    HabaModel(config).save_pretrained(artifact)
    size = {"height": 8, "width": 8}
    HabaImageProcessor(size, num_channels=1, image_mean=[0.3], image_std=[0.4]).save_pretrained(artifact)
    line = error_of(name, *DM, "--resize", "16", *TO, tmp_path)
    assert "is of samples [1, 8, 8] (C, H, W), but digits has images [1, 16, 16]" in line
    weights = artifact / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    line = error_of(name, *DM, *TO, tmp_path)
    assert f"The safetensors file of {artifact} is cut off" in line


@pytest.mark.parametrize("name", ["record_experts.py", "select_coreset.py", "distill.py"])
def test_unwritable_output(name, error_of, tmp_path):
    (tmp_path / "file").write_text("in the way")
    place = tmp_path / "file" / "run"
    line = error_of(name, *DM, "--num_hallucinators", "0", "--experts_dir", place, *TO, place)
    assert f"Cannot write {place}" in line


def test_a_backbone_for_probes(run_here, tmp_path):
    run_here("train_backbone.py", tmp_path, "digits", "--classes", 0, 1, 7, "--image_size", 16, "--epochs", 20)
    data = load_image_data(DataArguments("digits"))
    probe = build_network(NetworkArguments(f"probe/{tmp_path}"), (1, 8, 8), 10, 0, data.processor)
    assert probe.backbone.size == (16, 16)
    features = probe.features(data.processor.normalize(data.test.images))
    means = torch.stack([features[data.test.labels == label].mean(dim=0) for label in (0, 1, 7)])
    known = torch.isin(data.test.labels, torch.tensor([0, 1, 7]))
    nearest = torch.tensor([0, 1, 7])[torch.cdist(features[known], means).argmin(dim=1)]
    assert (nearest == data.test.labels[known]).float().mean() > 0.6, "it knows the classes it was given"
