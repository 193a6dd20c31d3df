"""Objectives whose step depends on the steps before (and unrolled training) as runs: resumed at any step, on several
processes, from a recipe to an artifact and back."""

import json

import pytest
import torch
from safetensors.torch import load_file

from haba_hf import HabaModel
from haba_hf.distillation import Distiller
from haba_hf.distillation.checkpoints import latest_checkpoint
from haba_hf.recipes import parse_recipe
from haba_hf.runs import build_objective, distill, evaluate, train_one_student
from haba_hf.utils.seeds import seeded_generator
from tiny import (
    assert_same,
    launch_processes,
    metrics,
    states,
    tiny_accelerator,
    tiny_data,
    tiny_distiller,
    tiny_model,
    tiny_recipe,
)

# Loops so short that networks are drawn anew on the way.
SETTINGS = {
    "cafe": {
        **{"steps_per_network": None, "epochs_per_step": None, "query_batch_size": 4},
        **{"accuracy_window": 2, "outer_range": 0.2, "max_inner_epochs": 3},
    },
    "dd": {"pairing": "sample"},
    "ld": {"restart_window": 1, "student_batch_size": 5, "label_learning_rate": 0.1},
}
SIZES = {
    "cafe": {"label_kind": "soft"},
    "dd": {"num_step_sizes": 2},
    "ld": {"label_kind": "soft", "num_hallucinators": 0},
}
each_objective = pytest.mark.parametrize("name", SETTINGS)


class Interrupted(Distiller):
    """Is stopped after the checkpoint of step `at`."""

    at = 0

    def save(self):
        super().save()
        if self.step_number == self.at:
            raise KeyboardInterrupt


def make(name, output_dir, model_seed=0, kind=Distiller, **settings):
    settings = {"objective": name, "steps": 6, "checkpoint_every": 1} | SETTINGS[name] | settings
    recipe, data = tiny_recipe(output_dir=str(output_dir), **settings), tiny_data()
    model = tiny_model(data, seed=model_seed, **SIZES[name])
    return tiny_distiller(model, build_objective(recipe, data), recipe, data, kind)


def everything(distiller):
    """What was learned and what the objective carries."""
    return states(distiller) | {
        f"objective.{key}": value.clone() for key, value in distiller.objective.state().items()
    }


@each_objective
def test_a_run_resumed_at_any_step_equals_an_uninterrupted_one_bit_for_bit(tmp_path, name):
    whole = make(name, tmp_path / "whole")
    before = everything(whole)
    whole.run()
    expected = everything(whole)
    learned = {key for key, value in expected.items() if key.startswith("model.") and not value.equal(before[key])}
    wanted = {
        "cafe": {"model.bases", "model.label_logits"},
        "dd": {"model.bases", "model.raw_step_sizes"},
        "ld": {"model.label_logits"},
    }[name]
    assert learned - {key for key in learned if ".hallucinators." in key} == wanted
    logs = metrics(tmp_path / "whole")
    if name == "cafe":
        assert any(line["inner_epochs"] for line in logs)
        assert whole.objective.networks > 1
    if name == "ld":
        assert logs[-1]["restarts"] > 0
    for at in range(1, 6):
        output_dir = tmp_path / f"until {at}"
        first = make(name, output_dir, kind=Interrupted)
        first.at = at
        with pytest.raises(KeyboardInterrupt):
            first.run()
        assert latest_checkpoint(output_dir).name == f"step-0000000{at}"
        torch.manual_seed(at)  # neither another start nor another global state changes anything
        resumed = make(name, output_dir, model_seed=9)
        resumed.run()
        assert_same(everything(resumed), expected)
        assert metrics(output_dir) == logs


@each_objective
def test_a_step_neither_uses_nor_changes_the_global_random_state(tmp_path, name):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        distiller = make(name, tmp_path)
        logs = [distiller.step() for _ in range(3)]
        assert torch.equal(torch.get_rng_state(), before)
        found.append((logs, everything(distiller)))
    assert found[0][0] == found[1][0]
    assert_same(found[0][1], found[1][1])


@each_objective
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_only_label_distillation_leaves_bases_as_they_are(tmp_path, name, optimizer):
    distiller = make(name, tmp_path, optimizer=optimizer)
    before = everything(distiller)
    for _ in range(3):
        distiller.step()
    assert torch.equal(everything(distiller)["model.bases"], before["model.bases"]) == (name == "ld")


TWO_PROCESSES = r"""
    import sys

    from safetensors.torch import save_file
    from test_carried_state import everything, make
    from tiny import tiny_accelerator

    accelerator = tiny_accelerator()
    assert accelerator.num_processes == 2
    rank = accelerator.process_index
    for name in ("cafe", "dd", "ld"):
        settings = {"restart_window": None} if name == "ld" else {}
        # The second process starts elsewhere: the first one's parameters count.
        distiller = make(name, f"{sys.argv[1]}/{name}", model_seed=rank, **settings)
        distiller.run()
        save_file(everything(distiller), f"{sys.argv[1]}/{name}-{rank}.safetensors")
    sys.stdout.write(f"RESULT {rank}\n")
"""


def averaged_by_hand(name, output_dir, **settings):
    """Two processes' steps in one: an objective for each rank, and the mean of the gradients of both."""
    first, second = (make(name, output_dir, **settings) for _ in range(2))
    model, adversary = first.model, first.adversary
    modules = [model] if adversary is None else [model, adversary.network]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    for step in range(6):
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for rank, objective in enumerate((first.objective, second.objective)):
            for module in modules:
                module.zero_grad()
            generator = seeded_generator(0, step, rank)
            objective.backward(model, generator)
            if adversary is not None:
                adversary.backward(model, generator)
            for total, parameter in zip(sums, parameters, strict=True):
                if parameter.grad is not None:
                    total += parameter.grad
        for total, parameter in zip(sums, parameters, strict=True):
            parameter.grad = total / 2
        for optimizer in first.optimizers.values():
            optimizer.step()
    return everything(first)


@pytest.mark.slow
def test_two_processes_equal_one_with_the_averaged_gradient(tmp_path, monkeypatch):
    """
    Within 1e-6 of the values, which float32 sums taken in another order may differ by; ranks are bit-equal, the
    networks that they carry too.
    """
    monkeypatch.syspath_prepend(__file__.rsplit("/", 1)[0])
    monkeypatch.setenv("PYTHONPATH", __file__.rsplit("/", 1)[0])
    assert launch_processes(tmp_path, TWO_PROCESSES, str(tmp_path)) == ["RESULT 0", "RESULT 1"]
    for name in SETTINGS:
        first, second = (load_file(tmp_path / f"{name}-{rank}.safetensors") for rank in (0, 1))
        assert_same(first, second)
        settings = {"restart_window": None} if name == "ld" else {}
        expected = averaged_by_hand(name, tmp_path / f"{name} by hand", **settings)
        errors = {"objective.errors", "objective.lowest"}  # each process by hand has its own; a run has their mean
        for key, value in expected.items():
            if key not in errors:
                torch.testing.assert_close(
                    first[key], value, rtol=1e-6, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
                )
        alone = make(name, tmp_path / f"{name} alone", **settings)
        alone.run()
        learned = "model.label_logits" if name == "ld" else "model.bases"
        assert (everything(alone)[learned] - first[learned]).abs().max() > 1e-4


RECIPES = {
    "cafe": {"num_hallucinators": 2, "query_batch_size": 5, "accuracy_window": 2, "max_inner_epochs": 2},
    "dd": {"num_hallucinators": 2, "num_step_sizes": 3, "evaluation_protocol": "schedule"},
    "ld": {"num_hallucinators": 0, "label_kind": "soft", "label_init": "uniform"},
}


def recipe_of(name, output_dir, **changes):
    fields = {
        "objective": name,
        "max_train_samples": 100,
        "network_depth": 2,
        "network_width": 4,
        "steps": 4,
        "real_batch_size": 20,
        "evaluation_seeds": 2,
        "student_epochs": 3,
        "references": "random",
        "report_to": "none",
        "output_dir": output_dir,
    }
    words = [(f"--{field}", str(value)) for field, value in (fields | RECIPES[name] | changes).items()]
    return parse_recipe([word for pair in words for word in pair])


@each_objective
def test_from_a_recipe_to_a_student(tmp_path, name):
    recipe, accelerator = recipe_of(name, tmp_path), tiny_accelerator()
    model = HabaModel.from_pretrained(distill(recipe, accelerator))
    assert (model.step_sizes is not None) == (name == "dd")
    rows = evaluate(recipe, accelerator)
    assert [row.system for row in rows][1:] == ["random real, equal storage", "random real, equal bytes"]
    assert train_one_student(recipe, accelerator) == rows[0].accuracy.accuracies[0]
    student = json.loads((tmp_path / "student" / "student.json").read_text())
    if name == "dd":
        assert student["training"]["evaluation_learning_rate"] == model.step_sizes.tolist()


def test_a_schedule_that_validation_would_miss_is_refused_before_any_step(tmp_path):
    recipe = recipe_of("cafe", tmp_path / "run", evaluation_protocol="schedule", validate_every=1)
    with pytest.raises(ValueError, match="evaluation_protocol schedule needs step sizes: set num_step_sizes"):
        distill(recipe, tiny_accelerator())
    assert not (tmp_path / "run").exists()
