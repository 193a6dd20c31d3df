import dataclasses

import pytest
import torch

from haba_hf.distillation import ModelArguments, initial_model
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
    )
    config = initial_model(arguments, data, seed=0).config
    for name in vars(arguments).keys() - {"basis_init", "label_init", "storage_budget"}:
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
    with pytest.raises(ValueError, match=r"Class 'class 0' has 3 training images, fewer than the 4 asked for: lower"):
        initial_model(ModelArguments(bases_per_class=4), data, seed=0)
