"""Mixtures of hallucinators against a loop over the formula, and the picture of them against its tiles."""

from functools import partial

import numpy as np
import pytest
import torch

from haba_hf.hub import mix_hallucinators, mixture_picture, read_artifact
from haba_hf.hub.galleries import fits
from haba_hf.hub.stored import pictures
from haba_hf.hub.tiles import stretched
from tiny import tiny_data, tiny_model
from tiny_artifact import tiny_artifact


def tile_of(image):
    """An image [1, 8, 8] in [0, 1] as it is in the picture, 64 pixels a side."""
    pixels = (image * 255).round().to(torch.uint8)[0].numpy()
    return pixels.repeat(8, axis=0).repeat(8, axis=1)[..., None].repeat(3, axis=2)


def holds(picture, image):
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], (64, 64))[:, :, ::63, ::63]
    tile = tile_of(image)
    corners = (windows == tile[::63, ::63, 0]).all(axis=(2, 3)).nonzero()
    places = zip(*corners, strict=True)
    return any((picture[top : top + 64, left : left + 64] == tile).all() for top, left in places)


@pytest.mark.parametrize("formation_factor", [1, 2])
def test_a_mixture_is_the_weighted_mean_of_samples(formation_factor):
    model = tiny_model(tiny_data(), formation_factor=formation_factor)
    basis_ids, weights = torch.tensor([5, 0]), [1.0, 0.0, 3.0]
    mixed = mix_hallucinators(model, basis_ids, weights)
    for place, basis in enumerate(basis_ids):
        expected = 0
        for j, weight in enumerate(weights):
            expected = expected + weight / 4 * model(basis[None], torch.tensor([j])).samples
        torch.testing.assert_close(mixed[place], expected.detach())
    only_second = mix_hallucinators(model, basis_ids, [0, 7, 0])
    alone = model(basis_ids, torch.tensor([1, 1])).samples
    torch.testing.assert_close(only_second.flatten(0, 1), alone.detach(), rtol=0, atol=0)


def test_plain_pixels_are_their_own_mixture():
    model = tiny_model(tiny_data(), num_hallucinators=0)
    assert torch.equal(mix_hallucinators(model, torch.tensor([3]), [])[0], model.bases[3:4])


@pytest.mark.parametrize(
    "weights", [[1.0], [0.0, 0.0, 0.0], [1.0, -1.0, 1.0], [float("nan"), 1.0, 1.0], [float("inf"), 0, 0]]
)
def test_other_weights_are_refused(weights):
    with pytest.raises(ValueError, match="mixture"):
        mix_hallucinators(tiny_model(tiny_data()), torch.tensor([0]), weights)


def test_the_picture_shows_basis_sample_and_real_image(tmp_path):
    artifact, data = read_artifact(tiny_artifact(tmp_path)), tiny_data(channels=1)
    data.class_names = list(artifact.model.config.id2label.values())
    assert fits(data, artifact)
    model, to_pixels = artifact.model, partial(pictures, artifact.processor)
    weights = [0.0, 1.0, 0.0]
    whole, third = (
        mixture_picture(artifact, weights, real=data),
        mixture_picture(artifact, weights, label=2, real=data),
    )
    samples = to_pixels(mix_hallucinators(model, torch.arange(8), weights)[:, 0])
    bases, real = to_pixels(model.bases.detach()), data.train.images[data.train.of_class(2)] / 255
    of_all, _ = stretched(samples[::2])  # the first basis of each class
    of_third, _ = stretched(samples[4:6])
    for image in (bases[4], of_all[2], of_all[0], real[0]):
        assert holds(whole, image)
    assert not holds(whole, bases[5])
    for image in (bases[4], bases[5], of_third[0], of_third[1], real[0], real[1]):
        assert holds(third, image)
    assert not holds(third, of_all[0])
    assert not holds(mixture_picture(artifact, weights, label=2), real[0]), "no data given"
    other = mixture_picture(artifact, [1.0, 0.0, 0.0], label=2, real=data)
    assert not holds(other, of_third[0])
    assert holds(other, bases[4])


def test_by_default_all_hallucinators_are_side_by_side(tmp_path):
    artifact = read_artifact(tiny_artifact(tmp_path))
    picture = mixture_picture(artifact, label=1)
    for j in range(3):
        weights = [float(i == j) for i in range(3)]
        samples = mix_hallucinators(artifact.model, torch.tensor([2, 3]), weights)[:, 0]
        for image in stretched(pictures(artifact.processor, samples))[0]:
            assert holds(picture, image)


def test_of_many_classes_the_first_are_shown(tmp_path, monkeypatch):
    artifact, data = read_artifact(tiny_artifact(tmp_path)), tiny_data(channels=1)
    monkeypatch.setattr("haba_hf.hub.galleries.MANY_CLASSES_PIXELS", 3 * 68)
    picture = mixture_picture(artifact, [0.0, 1.0, 0.0], real=data)
    bases = pictures(artifact.processor, artifact.model.bases.detach())
    assert [holds(picture, bases[2 * label]) for label in range(4)] == [True, True, True, False]
    assert not holds(picture, data.train.images[data.train.of_class(3)][0] / 255)


def test_data_of_other_classes_or_shape_do_not_fit(tmp_path):
    artifact = read_artifact(tiny_artifact(tmp_path))
    data = tiny_data(channels=1)
    assert not fits(data, artifact), "its classes have other names"
    larger = tiny_data(channels=1, side=16)
    larger.class_names = list(artifact.model.config.id2label.values())
    assert not fits(larger, artifact)
