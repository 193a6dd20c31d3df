"""Runs every example of training/examples on a tiny artifact of the digits."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from haba_hf import HabaModel
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


def test_examples_are_short_and_all_tested(artifact):
    examples = {path.name for path in EXAMPLES.glob("*.py")}
    assert examples == {"trainer.py", "dataloader.py", "accelerate_loop.py", "datasets_torch.py"}
    assert all(len((EXAMPLES / name).read_text().splitlines()) < 40 for name in examples)
    assert HabaModel.from_pretrained(artifact).config.num_samples == 60
