"""Pruning: which images are left out, and that nothing of a distillation sees them."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from haba_hf import HabaModel
from haba_hf.coresets import CoresetArguments, images_to_keep, least_loss, pruning
from haba_hf.data import load_image_data
from haba_hf.data.splits import Split
from haba_hf.distillation import DistillationArguments, initial_model
from haba_hf.hub import read_artifact, render_model_card
from haba_hf.recipes import parse_recipe
from haba_hf.runs import build_objective, distill, evaluate
from haba_hf.runs.distilling import run_settings
from tiny import (
    NETWORK,
    assert_same,
    launch_processes,
    states,
    tiny_accelerator,
    tiny_data,
    tiny_distiller,
    tiny_model,
    tiny_recipe,
)
from tiny_backbones import resnet

EXPERT = {"coreset_epochs": 2, "coreset_batch_size": 8}


def kept_of(data, ratio, directory, seed=0, **settings):
    arguments = CoresetArguments(coreset_dir=str(directory), **EXPERT | settings)
    rows, _ = images_to_keep(data, ratio, NETWORK, arguments, seed, tiny_accelerator())
    return data.keeping(rows)


@pytest.mark.parametrize(("share", "count"), [(1.0, 9), (0.5, 5), (0.45, 4), (0.05, 1), (0.0, 1)])
def test_a_share_of_least_loss_against_numpy(share, count):
    losses = torch.tensor([3.0, 1.0, 2.0, 1.0, 5.0, 0.5, 2.0, 2.0, 9.0])
    expected = sorted(np.argsort(losses.numpy(), kind="stable")[:count].tolist())
    assert least_loss(losses, share).tolist() == expected


def test_each_class_keeps_its_share_of_least_loss(tmp_path):
    data = tiny_data(images_per_class=9)
    found = kept_of(data, 0.5, tmp_path)
    losses = load_file(tmp_path / "expert-features.safetensors")["losses"]
    assert found.train.images is data.train.images and data.train.kept is None
    for label in range(4):
        left = found.train.of_class(label)
        out = [row for row in data.train.of_class(label).tolist() if row not in left.tolist()]
        assert (len(left), len(out)) == (5, 4)
        assert losses[left].max() <= losses[out].min()
    assert found.train.rows.tolist() == sorted(found.train.rows.tolist())


def test_the_fingerprint_says_which_images_are_left():
    data = tiny_data()
    first, again, other = (data.keeping(torch.tensor(rows)).fingerprint for rows in ([0, 1, 5], [0, 1, 5], [0, 1, 6]))
    assert first == again
    assert len({data.fingerprint, first, other}) == 3


def test_an_expert_serves_coresets_and_pruning(tmp_path):
    data = tiny_data()
    kept_of(data, 0.3, tmp_path)
    written = (tmp_path / "expert-features.safetensors").stat().st_mtime_ns
    kept_of(data, 0.6, tmp_path)
    assert (tmp_path / "expert-features.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match=r"recorded with another training .* choose another coreset_dir"):
        kept_of(data, 0.6, tmp_path, coreset_epochs=3)


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "dm"},
        {"objective": "dm", "network_bank": 2},
        {"objective": "dc"},
        {"objective": "dsa"},
        {"objective": "idc", "idc_real_samples": 7},
        {"objective": "cafe"},
        {"objective": "dd"},
        {"objective": "ld"},
        {"objective": "linear"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_pruned_run_equals_a_run_on_the_images_that_are_left(settings, tmp_path):
    """Bit for bit: so no image that is left out is seen."""
    sizes = {"label_kind": "soft", "num_hallucinators": 0} if settings["objective"] == "ld" else {}
    sizes |= {"num_hallucinators": 0, "num_step_sizes": 2} if settings["objective"] == "dd" else {}
    network = {"network": f"probe/{resnet(tmp_path)}"} if settings["objective"] == "linear" else {}
    whole = tiny_data()
    kept = torch.tensor([row for row in range(24) if row % 3])
    assert min(whole.train.labels[kept].bincount()) >= 2
    alone = dataclasses.replace(whole, train=Split(whole.train.images[kept], whole.train.labels[kept]))
    found = []
    for name, data in (("kept", whole.keeping(kept)), ("alone", alone), ("whole", whole)):
        recipe = tiny_recipe(output_dir=str(tmp_path / name), steps=3, **settings, **network)
        model = tiny_model(data, **sizes)
        start = initial_model(dataclasses.replace(recipe.model, bases_per_class=2), data, seed=1)
        model.bases.data.copy_(start.bases.data)
        distiller = tiny_distiller(model, build_objective(recipe, data), recipe, data)
        distiller.run()
        found.append(states(distiller))
    assert_same(found[0], found[1])
    with pytest.raises(AssertionError):
        assert_same(found[0], found[2])


@pytest.fixture
def recipe_of(tmp_path):
    def make(**changes):
        settings = {
            **{"max_train_samples": 120, "resize": 8, "output_dir": tmp_path / "run", "network_width": 4},
            **{"coreset_dir": tmp_path / "experts", "network_depth": 1, "steps": 2, "real_batch_size": 4},
            **{"report_to": "none", "student_epochs": 2, "evaluation_seeds": 1, "pruning_ratio": 0.5},
            **EXPERT,
        }
        words = [f"--{name}={value}" for name, value in (settings | changes).items()]
        return parse_recipe(["digits/dm-1pc", *words])

    return make


def test_from_a_recipe_to_a_record(recipe_of, tmp_path, capsys):
    recipe = recipe_of()
    artifact = distill(recipe, tiny_accelerator())
    assert "of 120 training images are left, those of least loss" in capsys.readouterr().out
    record = json.loads((artifact / "distillation.json").read_text())
    assert record["train_images"] == 120
    assert record["kept_images"] == 60
    rows = evaluate(recipe, tiny_accelerator())
    assert len(rows) > 1, "with controls, of the whole training set"
    card = render_model_card(read_artifact(artifact), "me/pruned")
    assert "60 images left, those of least loss of each class" in card and "120 training images" in card

    data = load_image_data(recipe.data)
    kept, seconds = images_to_keep(data, 0.5, recipe.network, recipe.coreset, 0, tiny_accelerator())
    assert record["pruning_seconds"] == round(seconds, 3) and seconds > 0
    start = distill(recipe_of(basis_learning_rate=0, output_dir=tmp_path / "start"), tiny_accelerator())
    images = data.processor.normalize(data.train.images[kept])
    for base in HabaModel.from_pretrained(start).bases:
        assert (images - base).abs().amax((1, 2, 3)).min() < 1e-6, "it starts from images that are left"


def test_the_expert_counts_where_it_chose(recipe_of):
    assert run_settings(recipe_of()) != run_settings(recipe_of(coreset_epochs=3))
    plain = recipe_of(pruning_ratio=0)
    assert run_settings(plain) == run_settings(recipe_of(pruning_ratio=0, coreset_epochs=3))


def test_a_budget_is_checked_before_an_expert_is_trained(recipe_of, tmp_path):
    with pytest.raises(ValueError, match="more: lower num_hallucinators or hallucinator_depth, or raise the budget"):
        distill(recipe_of(storage_budget=0.1), tiny_accelerator())
    assert not (tmp_path / "experts").exists()


def test_other_images_than_the_checkpoints_are_refused(recipe_of, tmp_path):
    distill(recipe_of(), tiny_accelerator())
    shutil.rmtree(tmp_path / "experts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "least_loss", lambda losses, share: torch.arange(int(share * len(losses))))
        with pytest.raises(ValueError, match=r"written with other settings \(data_fingerprint"):
            distill(recipe_of(), tiny_accelerator())


def test_two_processes_leave_out_the_same(recipe_of, tmp_path):
    recipe = recipe_of(steps=1)
    recipe.write(tmp_path / "recipe.yaml")
    script = """
        import sys
        from accelerate import Accelerator
        from haba_hf.data import load_image_data
        from haba_hf.coresets import expert, images_to_keep
        from haba_hf.recipes import parse_recipe

        trained, train = [], expert._train
        expert._train = lambda *words: trained.append(1) or train(*words)
        recipe, accelerator = parse_recipe([sys.argv[1]]), Accelerator(cpu=True)
        data = load_image_data(recipe.data)
        rows, _ = images_to_keep(data, 0.5, recipe.network, recipe.coreset, 0, accelerator)
        sys.stdout.write(f"RESULT {accelerator.process_index} {len(trained)} {len(rows)} {int(rows.sum())}\\n")
    """
    first, second = launch_processes(tmp_path, script, str(tmp_path / "recipe.yaml"))
    assert first.split()[:3] == ["RESULT", "0", "1"] and second.split()[:3] == ["RESULT", "1", "0"]
    assert first.split()[3:] == second.split()[3:]


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.5])
def test_a_share_that_is_none_is_refused(ratio):
    with pytest.raises(ValueError, match=r"pruning_ratio is the share that is left out, 0 or more and below 1, got"):
        DistillationArguments(pruning_ratio=ratio)


def test_trajectory_matching_is_refused():
    with pytest.raises(ValueError, match="experts, which train on all of them: leave pruning_ratio out"):
        DistillationArguments(pruning_ratio=0.5, objective="mtt")
