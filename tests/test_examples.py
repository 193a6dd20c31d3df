"""Runs every example of training/examples on a tiny artifact of the digits."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from haba_hf import HabaModel, published_artifact
from haba_hf.data import DataArguments, load_image_data
from haba_hf.distillation import ModelArguments, initial_model

EXAMPLES = Path(__file__).parents[1] / "training" / "examples"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """Random real digits as plain pixels, which students learn something from without any distillation."""
    folder = tmp_path_factory.mktemp("artifact")
    data = load_image_data(DataArguments("digits"))
    settings = ModelArguments(bases_per_class=6, num_hallucinators=0, student_learning_rate=0.05)
    initial_model(settings, data, seed=0).save_pretrained(folder)
    data.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def accuracy_of(artifact, monkeypatch, capsys, tmp_path):
    """Runs an example in this process and returns the accuracy it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def run(name, *options):
        torch.manual_seed(0)
        monkeypatch.setattr(sys, "argv", [name, str(artifact), "digits", *options])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        (printed,) = re.findall(r"^accuracy (\d\.\d{4})$", capsys.readouterr().out, flags=re.MULTILINE)
        return float(printed)

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("name", ["dataloader.py", "accelerate_loop.py", "datasets_torch.py"])
def test_loops_learn(name, accuracy_of):
    options = ["--workers", "0"] if name == "dataloader.py" else []
    assert accuracy_of(name, "--epochs", "12", *options) > 0.4, "chance is 0.1"


@pytest.mark.slow
def test_workers(accuracy_of):
    assert accuracy_of("dataloader.py", "--epochs", "2", "--workers", "2") > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("resnet", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}),
        (
            "vit",
            {
                "patch_size": 4,
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 32,
            },
        ),
    ],
)
def test_trainer_takes_classifiers_of_transformers(model_type, config, accuracy_of):
    options = ["--model_type", model_type, "--epochs", "40", "--config", json.dumps(config)]
    assert accuracy_of("trainer.py", *options) > 0.25, "chance is 0.1"


@pytest.fixture
def printed_by(monkeypatch, capsys, tmp_path):
    """Runs an example on the digits that come with the package; returns what it printed and the record it wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    shutil.copytree(published_artifact("digits-dm-1pc"), "artifact")
    config = json.loads(Path("artifact/config.json").read_text())
    config["student_training"]["student_epochs"] = 60  # in place of 1,000
    Path("artifact/config.json").write_text(json.dumps(config))

    def run(name, *options):
        words = [name, "artifact", "digits", "--out", "record.json", *options]
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out, json.loads(Path("record.json").read_text())

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
def test_architectures_are_ranked(printed_by):
    printed, record = printed_by("architecture_search.py", "--epochs", "3")
    assert len(record["networks"]) == len(set(record["networks"])) == 20
    for name in ("artifact", "equal bytes", "all images"):
        assert len(record[name]["accuracies"]) == 20
        assert f"{name} seconds" in printed
    assert record["all images"]["rank_correlation"] == pytest.approx(1)
    assert record["artifact"]["rank_correlation"] > 0.3


@pytest.mark.slow
def test_a_memory_keeps_classes_known(printed_by):
    _, record = printed_by("continual_learning.py", "--steps", "20")
    # bytes of bases, hallucinators and rate; 64 pixels of one byte, of 10 classes
    assert (record["bytes"], record["real_per_class"]) == (
        HabaModel.from_pretrained(published_artifact("digits-dm-1pc")).storage().bytes,
        9,
    )
    at_the_end = {
        name: sum(runs[-1] for runs in record[name]) / 2 for name in ("distilled", "real, equal bytes", "none")
    }
    assert at_the_end["none"] < 0.3 < min(at_the_end["distilled"], at_the_end["real, equal bytes"])


def test_examples_are_short_and_all_tested(artifact):
    lines = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    loops = {"trainer.py", "dataloader.py", "accelerate_loop.py", "datasets_torch.py"}
    assert lines.keys() == loops | {"architecture_search.py", "continual_learning.py"}
    assert all(count < 40 for name, count in lines.items() if name in loops)
    assert max(lines.values()) <= 60
    assert HabaModel.from_pretrained(artifact).config.num_samples == 60


def test_the_headers_say_what_the_records_hold():
    """Of the two examples with a measured result: `training/results/examples` is what they wrote."""

    def record_and_header(name):
        record = json.loads((EXAMPLES.parent / "results" / "examples" / f"{name}.json").read_text())
        return record, (EXAMPLES / f"{name}.py").read_text().split('"""')[1]

    record, header = record_and_header("architecture_search")
    assert len(record["networks"]) == 20
    for name, figure in {"artifact": "0.91", "equal bytes": "0.55"}.items():
        assert f"{record[name]['rank_correlation']:.2f}" == figure
        assert figure in header
    assert f"in {record['artifact']['seconds']:.0f} s" in header
    assert f"({record['all images']['seconds']:.0f} s)" in header

    record, header = record_and_header("continual_learning")
    after = {4: r"after four classes (\S+) and (\S+) %", 10: r"has (\S+) %.*and (\S+) % with real"}
    for seen, figures in after.items():
        printed = re.search(figures, header, re.DOTALL).groups()
        for name, figure in zip(("distilled", "real, equal bytes"), printed, strict=True):
            mean = sum(reached[seen // 2 - 1] for reached in record[name]) / len(record[name])
            assert float(figure) == pytest.approx(100 * mean, abs=0.051)


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_says(monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = json.loads((EXAMPLES / "teach_in_a_minute.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    scope = {}
    for cell in cells:
        exec("".join(cell["source"]), scope)
    AcceleratorState._reset_state(reset_partial_state=True)

    assert scope["reached"] > max(scope["beside"], 0.85)
    shown = [output for cell in cells for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    said = "".join(line for output in shown for line in output.get("text", []))
    printed = capsys.readouterr().out
    assert said.splitlines()[0] in printed.splitlines()
    reached, beside = (float(number) for number in re.findall(r"([\d.]+)%", said))
    assert 100 * scope["reached"] == pytest.approx(reached, abs=3)  # another processor, other last digits
    assert 100 * scope["beside"] == pytest.approx(beside, abs=6)
