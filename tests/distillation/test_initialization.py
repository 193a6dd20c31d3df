import dataclasses
import math

import pytest
import torch

from haba_hf.artifact.storage_haba import store_images
from haba_hf.distillation import ModelArguments, initial_model, model_config
from naive_artifact import scramble
from tiny import tiny_data


def rows_of(model, data):
    """For each basis the training images it equals."""
    images = data.processor.normalize(data.train.images)
    if model.bases.shape[1] != images.shape[1]:
        images = images.mean(dim=1, keepdim=True).expand(-1, model.bases.shape[1], -1, -1)
    return [[row for row, image in enumerate(images) if torch.equal(image, basis)] for basis in model.bases]


@pytest.mark.parametrize(
    ("channels", "basis_channels"),
    [(1, None), (3, None), (3, 1), (1, 3)],
    ids=["grey", "RGB", "RGB to grey", "widened"],
)
def test_bases_are_images_of_their_class(channels, basis_channels):
    data = tiny_data(channels)
    model = initial_model(ModelArguments(bases_per_class=3, basis_channels=basis_channels), data, seed=0)
    rows = rows_of(model, data)
    assert [len(found) for found in rows] == [1] * 12
    chosen = [row for (row,) in rows]
    assert len(set(chosen)) == 12
    assert data.train.labels[chosen].tolist() == model.class_ids.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


@pytest.mark.parametrize(("axes", "rows"), [("both", 2), ("time", 1)])
@pytest.mark.parametrize("basis_channels", [None, 1])
def test_mixed_bases_are_made_of_reduced_images_of_their_class(axes, rows, basis_channels):
    data = tiny_data(images_per_class=8)
    arguments = ModelArguments(
        bases_per_class=2, basis_init="mix", formation_factor=2, formation_axes=axes, basis_channels=basis_channels
    )
    model = initial_model(arguments, data, seed=0)
    images = data.processor.normalize(data.train.images)
    if basis_channels:
        images = images.mean(dim=1, keepdim=True)
    height, chosen = 8 // rows, []
    for basis, label in zip(model.bases, model.class_ids.tolist(), strict=True):
        for top in range(0, 8, height):
            for left in (0, 4):
                tile = basis[:, top : top + height, left : left + 4]
                found = [row for row, image in enumerate(images) if torch.equal(image[:, ::rows, ::2], tile)]
                assert len(found) == 1
                assert data.train.labels[found[0]] == label
                chosen += found
    assert len(set(chosen)) == len(chosen) == 8 * 2 * rows

    with pytest.raises(ValueError, match="has 8 training images, fewer than the"):
        initial_model(dataclasses.replace(arguments, bases_per_class=5), data, seed=0)


def test_mixed_bases_start_as_samples_that_look_like_images():
    data = tiny_data()
    arguments = ModelArguments(num_hallucinators=0, basis_init="mix", formation_factor=2)
    output = initial_model(arguments, data, seed=0).materialize()
    assert output.samples.shape == (16, 3, 8, 8)
    brightness = output.samples.mean(dim=(1, 2, 3)).view(4, 4)
    assert (brightness[1:].min(dim=1).values > brightness[:-1].max(dim=1).values).all()


def test_seed_decides_and_the_global_state_does_not():
    data = tiny_data()
    arguments = ModelArguments(bases_per_class=2, label_kind="soft")
    torch.manual_seed(1)
    first = initial_model(arguments, data, seed=7).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = initial_model(arguments, data, seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    other = initial_model(arguments, data, seed=8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["bases"], other["bases"])
    weight = "hallucinators.0.decoder.convolutions.0.weight"
    assert not torch.equal(first[weight], other[weight])
    assert not torch.equal(first[weight], first[weight.replace("0", "1", 1)])


def test_noise():
    data = tiny_data(images_per_class=1)
    model = initial_model(ModelArguments(bases_per_class=30, basis_init="noise"), data, seed=0)
    assert model.bases.mean().item() == pytest.approx(0, abs=0.05)
    assert model.bases.std().item() == pytest.approx(1, abs=0.05)


def test_sizes_reach_the_config():
    data = tiny_data(3)
    arguments = ModelArguments(
        bases_per_class=2,
        num_hallucinators=4,
        hallucinator_depth=2,
        hallucinator_channels=5,
        share_encoder_decoder=True,
        basis_channels=1,
        label_kind="soft",
        student_learning_rate=0.25,
        formation_factor=2,
        formation_axes="time",
        num_step_sizes=6,
        hallucinator_map_height=2,
        hallucinator_map_width=3,
        hallucinate_at="sample",
        basis_storage="frequencies",
        basis_height=6,
        basis_width=5,
        basis_frequencies=7,
        storage_dtype="int8",
    )
    config = initial_model(arguments, data, seed=0).config
    for name in vars(arguments).keys() - {"basis_init", "label_init", "storage_budget", "init_from", "repeat_images"}:
        assert vars(config)[name] == vars(arguments)[name]
    assert config.sample_shape == (3, 8, 8)
    assert config.id2label == {0: "class 0", 1: "class 1", 2: "class 2", 3: "class 3"}
    assert config.label2id == {"class 0": 0, "class 1": 1, "class 2": 2, "class 3": 3}


def test_uniform_labels():
    data = tiny_data()
    uniform = initial_model(ModelArguments(label_kind="soft", label_init="uniform"), data, seed=0)
    assert torch.equal(uniform.labels, torch.full((4, 4), 0.25))
    assert initial_model(ModelArguments(label_kind="soft"), data, seed=0).labels.diagonal().min() > 0.89


def test_plain_pixels():
    data = tiny_data()
    model = initial_model(ModelArguments(bases_per_class=2, num_hallucinators=0), data, seed=0)
    assert torch.equal(model.materialize().samples, model.bases)


def test_identity_start_restores_real_images():
    data = tiny_data()
    model = initial_model(ModelArguments(hallucinator_init="identity"), data, seed=0)
    output = model.materialize()
    error = (output.samples - model.bases[output.basis_ids]).abs().mean()
    assert 0 < error < 0.5 * model.bases.std()


def test_fewer_images_than_bases():
    data = tiny_data(images_per_class=3)
    with pytest.raises(ValueError, match=r"Class 'class 0' has 3 training images, fewer than the 4 .* repeat_images"):
        initial_model(ModelArguments(bases_per_class=4), data, seed=0)


STORED = {"basis_storage": "luma_chroma", "basis_height": 4, "basis_width": 4}


def saved(model, data, folder):
    model.save_pretrained(folder)
    data.processor.save_pretrained(folder)
    return str(folder)


def test_a_class_of_fewer_images_is_filled_with_noisy_copies():
    """Ten bases of three images: each image once as it is, then again with noise of its own."""
    data = tiny_data(images_per_class=3, side=16)
    arguments = ModelArguments(bases_per_class=10, num_hallucinators=0, repeat_images=True)
    bases = initial_model(arguments, data, seed=2).bases.detach().view(4, 10, 3, 16, 16)
    for label in range(4):
        own = data.processor.normalize(data.train.images[data.train.of_class(label)])
        first = bases[label, :3]
        assert all((first == image).flatten(1).all(dim=1).sum() == 1 for image in own), "in some order"
        noise = bases[label, 3:] - first[torch.arange(7) % 3]
        assert noise.std().item() == pytest.approx(0.1, rel=0.05) and abs(noise.mean().item()) < 0.01
        assert len(noise.flatten(1).unique(dim=0)) == 7, "each of its own"
    again = initial_model(arguments, data, seed=2).bases.view(4, 10, 3, 16, 16)
    assert torch.equal(again, bases)
    enough = dataclasses.replace(arguments, bases_per_class=3)
    plain = dataclasses.replace(enough, repeat_images=False)
    assert torch.equal(initial_model(enough, data, 2).bases, initial_model(plain, data, 2).bases)


def test_bases_of_any_storage_start_as_images_that_are_stored_so():
    data = tiny_data()
    model = initial_model(ModelArguments(bases_per_class=3, num_hallucinators=0, **STORED), data, seed=0)
    plain = initial_model(ModelArguments(bases_per_class=3, num_hallucinators=0), data, seed=0)
    assert torch.equal(model.bases, store_images(plain.bases.detach(), model.config))


def test_a_model_starts_from_another_artifact(tmp_path):
    data = tiny_data()
    sizes = {"bases_per_class": 2, "num_hallucinators": 3, "label_kind": "soft", **STORED}
    other = scramble(initial_model(ModelArguments(**sizes), data, seed=1))
    folder = saved(other, data, tmp_path / "other")
    model = initial_model(ModelArguments(**sizes, init_from=folder, student_learning_rate=0.5), data, seed=0)
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor) == (name != "student_learning_rate"), name
    assert model.student_learning_rate.item() == 0.5

    hard = scramble(initial_model(ModelArguments(bases_per_class=2, num_hallucinators=0, **STORED), data, seed=1))
    folder = saved(hard, data, tmp_path / "hard")
    fresh = initial_model(ModelArguments(**sizes), data, seed=0)
    model = initial_model(ModelArguments(**sizes, init_from=folder), data, seed=0)
    assert torch.equal(model.bases, hard.bases)
    assert torch.equal(model.label_logits, fresh.label_logits)
    assert torch.equal(
        model.hallucinators[0].encoder.convolutions[0].weight, fresh.hallucinators[0].encoder.convolutions[0].weight
    )


def test_a_start_of_more_bases_gives_the_first_of_each_class(tmp_path):
    data = tiny_data()
    more = {"bases_per_class": 3, "num_hallucinators": 0, "label_kind": "soft", **STORED}
    other = scramble(initial_model(ModelArguments(**more), data, seed=1))
    folder = saved(other, data, tmp_path / "other")
    fewer = more | {"bases_per_class": 2, "num_hallucinators": 3, "hallucinator_init": "identity"}
    model = initial_model(ModelArguments(**fewer, init_from=folder), data, seed=0)
    kept = [row for row in range(len(other.bases)) if row % 3 < 2]
    assert torch.equal(model.bases, other.bases[kept])
    assert torch.equal(model.label_logits, other.label_logits[kept])
    assert torch.equal(model.class_ids, other.class_ids[kept])


@pytest.mark.parametrize(
    ("settings", "other_data", "problem"),
    [
        ({"bases_per_class": 3}, {}, "bases_per_class is 3 in the recipe, but 2 in .*bases_per_class to that or less"),
        ({"basis_height": 5}, {}, "basis_height is 5 in the recipe, but 4"),
        ({"num_hallucinators": 2}, {}, "num_hallucinators is 2 in the recipe, but 3"),
        ({}, {"num_labels": 3}, "of other classes or another shape than tiny"),
        ({}, {"side": 10}, "of other classes or another shape than tiny"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(settings, other_data, problem, tmp_path):
    data = tiny_data(**other_data)
    arguments = {"bases_per_class": 2, "num_hallucinators": 3, **STORED}
    folder = saved(initial_model(ModelArguments(**arguments), data, seed=1), data, tmp_path)
    with pytest.raises(ValueError, match=problem):
        initial_model(ModelArguments(**arguments | settings, init_from=folder), tiny_data(), seed=0)


def test_a_start_in_another_space_is_refused(tmp_path):
    folder = saved(initial_model(ModelArguments(), tiny_data(zca=True), seed=1), tiny_data(zca=True), tmp_path)
    with pytest.raises(ValueError, match="not in the space of the recipe's tiny"):
        initial_model(ModelArguments(init_from=folder), tiny_data(), seed=0)


def test_a_budget_decides_how_many_bases_there_are():
    data = tiny_data(images_per_class=20)
    budget = {"bases_per_class": "auto", "storage_budget": 2}
    config = model_config(ModelArguments(**budget, num_hallucinators=0), data)
    assert config.basis_storage == "frequencies", "the layout measured best"
    assert 2 * 4 * 192 - math.prod(config.stored_shape) * 4 < config.num_floats - 1 <= 2 * 4 * 192
    config = model_config(ModelArguments(**budget, num_hallucinators=0, basis_height=4, basis_width=4), data)
    assert config.basis_storage == "pixels" and config.bases_per_class == 8, "a recipe that says how is left alone"
    config = model_config(ModelArguments(bases_per_class="auto", storage_budget=10, num_hallucinators=0), data)
    assert (config.basis_storage, config.basis_height, config.basis_width) == ("pixels", 4, 4)
    assert config.bases_per_class == 40
    with pytest.raises(ValueError, match="bases_per_class auto is what a budget pays for: set storage_budget"):
        model_config(ModelArguments(bases_per_class="auto"), data)
    with pytest.raises(ValueError, match="lower num_hallucinators"):
        model_config(ModelArguments(**budget, num_hallucinators=50), data)
