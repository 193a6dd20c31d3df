"""A run that ends early, by a signal, an error or its length, goes on where it stopped, with nothing lost."""

import json
import os
import random
import shutil
import signal

import numpy as np
import pytest
import torch

from haba_hf.distillation import Distiller, DistributionMatching
from haba_hf.distillation.checkpoints import latest_checkpoint
from tiny import (
    NETWORK,
    assert_same,
    metrics,
    states,
    tiny_data,
    tiny_distiller,
    tiny_model,
    tiny_recipe,
)
from tiny_runs import Interrupted, make

RUNS = {
    "dm, adam": ({}, {}),
    "dm, sgd, cosine": ({"optimizer": "sgd", "learning_rate_schedule": "cosine"}, {}),
    "dm, bank, soft": ({"network_bank": 2}, {"label_kind": "soft"}),
    "dm, plain pixels": ({"optimizer": "sgd", "momentum": 0.0}, {"num_hallucinators": 0}),
    "mtt, adam, soft, cosine": (
        {"objective": "mtt", "learning_rate_schedule": "cosine", "pairing": "sample"},
        {"label_kind": "soft"},
    ),
    "mtt, sgd, graph": (
        {"objective": "mtt", "optimizer": "sgd", "unroll": "graph", "contrast": "supervised"},
        {"share_encoder_decoder": True},
    ),
    "mtt, no adversary": ({"objective": "mtt", "lambda_cos": 0.0, "lambda_con": 0.0}, {}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, experts_dir, name):
    settings, sizes = RUNS[name]
    whole = make(tiny_recipe(output_dir=str(tmp_path / "whole"), **settings), experts_dir, **sizes)
    initial = states(whole)
    assert whole.run() is whole.model
    expected = states(whole)
    learned = [key for key in expected if not torch.equal(initial[key], expected[key])]
    assert "model.bases" in learned
    assert ("model.label_logits" in learned) == (sizes.get("label_kind") == "soft")
    assert ("model.student_learning_rate" in learned) == ("mtt" in name)
    assert any(key.startswith("adversary.") for key in learned) == (
        "no adversary" not in name and "pixels" not in name
    )

    recipe = tiny_recipe(output_dir=str(tmp_path / "parts"), **settings)
    with pytest.raises(KeyboardInterrupt):
        make(recipe, experts_dir, kind=Interrupted, **sizes).run()
    assert latest_checkpoint(tmp_path / "parts").name == "step-00000004"
    # Everything learned comes from the checkpoint: another start and another global state change nothing.
    torch.manual_seed(123)
    resumed = make(recipe, experts_dir, model_seed=9, **sizes)
    resumed.run()
    assert_same(states(resumed), expected)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert [line["step"] for line in metrics(tmp_path / "parts")] == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_does_nothing_more(tmp_path):
    recipe = tiny_recipe(output_dir=str(tmp_path))
    first = make(recipe)
    first.run()
    log = (tmp_path / "metrics.jsonl").read_text()
    again = make(recipe, model_seed=9)
    again.run()
    assert_same(states(again), states(first))
    assert (tmp_path / "metrics.jsonl").read_text() == log


def test_the_newest_two_checkpoints_are_kept(tmp_path):
    make(tiny_recipe(output_dir=str(tmp_path), steps=7)).run()
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-00000006", "step-00000007"]
    assert sorted(os.listdir(tmp_path / "checkpoints" / "step-00000007")) == [
        "adversary.safetensors",
        "adversary_optimizer.safetensors",
        "model.safetensors",
        "objective.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]


def test_a_damaged_checkpoint_can_be_deleted(tmp_path):
    recipe = tiny_recipe(output_dir=str(tmp_path))
    whole = make(recipe)
    whole.run()
    damaged = latest_checkpoint(tmp_path)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"step-00000006 is damaged .*delete it to resume from the one before"):
        make(recipe).run()
    shutil.rmtree(damaged)
    resumed = make(recipe)
    resumed.run()
    assert_same(states(resumed), states(whole))


def test_a_checkpoint_of_another_recipe(tmp_path):
    recipe = tiny_recipe(output_dir=str(tmp_path))
    make(recipe).run()
    log = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match=r"written with other settings \(recipe abc, now xyz\): choose another"):
        make(recipe, settings={"recipe": "xyz"}).run()
    assert (tmp_path / "metrics.jsonl").read_text() == log


def run_of(tmp_path, steps, **changes):
    recipe = tiny_recipe(output_dir=str(tmp_path), steps=steps, **changes)
    return make(recipe, settings={"steps": steps, "schedule": recipe.distillation.learning_rate_schedule})


def test_more_steps_lengthen_a_run(tmp_path):
    """At constant learning rates the longer run is the one that was asked for at first."""
    run_of(tmp_path / "a", 4).run()
    longer, whole = run_of(tmp_path / "a", 7), run_of(tmp_path / "b", 7)
    longer.run()
    whole.run()
    assert_same(states(longer), states(whole))
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    with pytest.raises(ValueError, match="step-00000007 is beyond the 5 steps asked for"):
        run_of(tmp_path / "a", 5).run()


def test_a_run_whose_rates_follow_its_length_cannot_be_lengthened(tmp_path):
    run_of(tmp_path, 4, learning_rate_schedule="cosine").run()
    with pytest.raises(ValueError, match=r"other settings \(steps 4, now 7\)"):
        run_of(tmp_path, 7, learning_rate_schedule="cosine").run()


def test_other_processes_are_refused_and_other_threads_said(tmp_path, capsys):
    run_of(tmp_path, 4).run()
    path = latest_checkpoint(tmp_path) / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"threads": 96}))
    run_of(tmp_path, 5).run()
    assert "where 96 began: the last bits of sums will differ" in capsys.readouterr().out
    path = latest_checkpoint(tmp_path) / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processes": 3}))
    with pytest.raises(ValueError, match=r"written by 3 process\(es\), but this run has 1, .*: launch as many"):
        run_of(tmp_path, 6).run()


class Signalled(Distiller):
    """Gets a signal in the log call of step 5, which is not one of a checkpoint."""

    signum = signal.SIGTERM

    def log(self, logs):
        super().log(logs)
        if self.step_number == 5:
            os.kill(os.getpid(), self.signum)


@pytest.mark.parametrize(("signum", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_ends_a_run_where_nothing_is_lost(tmp_path, monkeypatch, signum, error):
    monkeypatch.setattr(Signalled, "signum", signum)
    recipe = tiny_recipe(output_dir=str(tmp_path / "a"), steps=7, checkpoint_every=4)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(error) as stopped:
        make(recipe, kind=Signalled).run()
    assert str(stopped.value) == "step 5 is saved, run the same command again to go on"
    assert getattr(stopped.value, "code", 143) == 143
    assert latest_checkpoint(tmp_path / "a").name == "step-00000005"
    assert signal.getsignal(signal.SIGINT) is before, "as it was before"
    resumed, whole = make(recipe), make(tiny_recipe(output_dir=str(tmp_path / "b"), steps=7))
    resumed.run()
    whole.run()
    assert_same(states(resumed), states(whole))


def test_the_log_is_cut_to_the_resumed_step(tmp_path):
    """Lines of steps that will be repeated go, and so does a line that was being written."""
    recipe = tiny_recipe(output_dir=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        make(recipe, kind=Interrupted).run()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('[]\n{"l_dd": 1}\n{"step": "3"}\nnull\n{"step": 4, "l_d')
    distiller = make(recipe)
    distiller.resume()
    assert distiller.step_number == 4
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4]


def test_a_log_without_a_checkpoint_is_begun_anew(tmp_path):
    recipe = tiny_recipe(output_dir=str(tmp_path), checkpoint_every=100)
    with pytest.raises(KeyboardInterrupt):
        make(recipe, kind=Interrupted).run()
    make(recipe).run()
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


class Spoiled(DistributionMatching):
    """Its gradient breaks in the step after `after`."""

    after, value, steps = 3, float("nan"), 0

    def backward(self, model, generator):
        logs = super().backward(model, generator)
        if self.steps == self.after:
            model.bases.grad[1, 0, 0, 0] = self.value
        self.steps += 1
        return logs


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("after", "checkpoint"), [(3, "step-00000002"), (1, "none")])
def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path, value, after, checkpoint):
    recipe = tiny_recipe(output_dir=str(tmp_path))
    data = tiny_data()
    objective = Spoiled(NETWORK, recipe.distillation, recipe.distribution_matching)
    objective.after, objective.value = after, value
    model = tiny_model(data)
    distiller = tiny_distiller(model, objective, recipe, data)
    message = rf"NaN or infinite at step {after}\. Last good checkpoint: .*{checkpoint}\. Lower basis_learning_rate"
    with pytest.raises(FloatingPointError, match=message):
        distiller.run()
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert len(metrics(tmp_path)) == after
    found = latest_checkpoint(tmp_path)
    assert (found.name if found else "none") == checkpoint


def test_an_unwritable_folder_stops_before_any_step(tmp_path):
    (tmp_path / "file").touch()

    class Untouched(DistributionMatching):
        def backward(self, model, generator):
            raise AssertionError("a step was made")

    recipe = tiny_recipe(output_dir=str(tmp_path / "file" / "run"))
    data = tiny_data()
    objective = Untouched(NETWORK, recipe.distillation, recipe.distribution_matching)
    distiller = tiny_distiller(tiny_model(data), objective, recipe, data)
    with pytest.raises(OSError, match=r"Cannot write .*file/run"):
        distiller.run()


def global_states():
    numpy_state = np.random.get_state()[1].tolist()
    return torch.get_rng_state().tolist(), random.getstate(), numpy_state


@pytest.mark.parametrize("name", RUNS)
def test_a_step_neither_uses_nor_changes_global_random_states(tmp_path, experts_dir, name):
    settings, sizes = RUNS[name]
    found = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = global_states()
        distiller = make(tiny_recipe(output_dir=str(tmp_path), **settings), experts_dir, **sizes)
        logs = [distiller.step(), distiller.step()]
        assert global_states() == before
        found.append((logs, states(distiller)))
    assert found[0][0] == found[1][0]
    assert_same(found[0][1], found[1][1])
