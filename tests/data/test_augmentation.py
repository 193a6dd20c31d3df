import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from haba_hf.data.augmentation import DSA_OPERATIONS, DSA_STRATEGY, DsaAugmentation, DsaParameters, DsaStage

each_operation = pytest.mark.parametrize("operation", DSA_OPERATIONS)
SHAPES = [(3, 8, 8), (1, 8, 8), (3, 7, 10), (1, 5, 3), (3, 32, 32)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def images_of(shape, count=6, seed=0, dtype=torch.float64):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def uniforms_of(count=6, seed=1):
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------- the published operations, one image, one pixel


def color(image, u):
    image = image + (u[0] - 0.5) * 1.0
    grey = image.mean(axis=0)
    image = np.stack([(channel - grey) * (2.0 * u[1]) + grey for channel in image])
    return (image - image.mean()) * (u[2] + 0.5) + image.mean()


def crop(image, u):
    _, height, width = image.shape
    down, right = int(height / 8 + 0.5), int(width / 8 + 0.5)
    padded = np.pad(image, [(0, 0), (down, down), (right, right)])
    top, left = int(u[0] * (2 * down + 1)), int(u[1] * (2 * right + 1))
    return padded[:, top : top + height, left : left + width]


def cutout(image, u):
    image = image.copy()
    _, height, width = image.shape
    tall, wide = int(height / 2 + 0.5), int(width / 2 + 0.5)
    top = int(u[0] * (height + 1 - tall % 2)) - tall // 2
    left = int(u[1] * (width + 1 - wide % 2)) - wide // 2
    for i in range(max(top, 0), min(top + tall, height)):
        for j in range(max(left, 0), min(left + wide, width)):
            image[:, i, j] = 0
    return image


def flip(image, u):
    return image[:, :, ::-1] if u[0] < 0.5 else image


def affine(image, matrix):
    """Bilinear resampling; coordinates run from -1 to 1 between the centers of the outermost pixels, outside is 0."""
    _, height, width = image.shape
    result = np.zeros_like(image)
    for i, j in itertools.product(range(height), range(width)):
        x, y = matrix @ np.array([2 * j / (width - 1) - 1, 2 * i / (height - 1) - 1])
        column, row = (x + 1) * (width - 1) / 2, (y + 1) * (height - 1) / 2
        for near_row, near_column in itertools.product(
            range(math.floor(row), math.floor(row) + 2), range(math.floor(column), math.floor(column) + 2)
        ):
            if 0 <= near_row < height and 0 <= near_column < width:
                share = (1 - abs(row - near_row)) * (1 - abs(column - near_column))
                result[:, i, j] += share * image[:, near_row, near_column]
    return result


def scale(image, u):
    return affine(image, np.diag([1 / 1.2 + u[0] * (1.2 - 1 / 1.2), 1 / 1.2 + u[1] * (1.2 - 1 / 1.2)]))


def rotate(image, u):
    angle = math.radians((2 * u[0] - 1) * 15)
    return affine(image, np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]))


REFERENCES = {"color": color, "crop": crop, "cutout": cutout, "flip": flip, "scale": scale, "rotate": rotate}


def one_stage(operation, uniforms):
    return DsaParameters((DsaStage(operation, uniforms),))


@each_operation
@each_shape
def test_each_operation_equals_a_loop_over_images(operation, shape):
    images, uniforms = images_of(shape), uniforms_of()
    uniforms[0] = 0
    uniforms[1] = 1 - 2**-24  # the largest number that rand gives
    result = DsaAugmentation.apply(images, one_stage(operation, uniforms))
    expected = np.stack(
        [REFERENCES[operation](image, u) for image, u in zip(images.numpy(), uniforms.double().numpy(), strict=True)]
    )
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.numpy(), expected, atol=2e-5)
    result = DsaAugmentation.apply(images.float(), one_stage(operation, uniforms))
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-4)


@each_operation
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 10)], ids=str)
def test_the_same_parameters_are_the_same_transformation(operation, shape):
    """What siamese use rests on: an image is transformed by its own row, whatever stands beside it."""
    parameters = one_stage(operation, uniforms_of())
    real, samples = images_of(shape, seed=2), images_of(shape, seed=3)
    both = [DsaAugmentation.apply(images, parameters) for images in (real, samples)]
    for row in range(6):
        own = one_stage(operation, parameters.stages[0].uniforms[row : row + 1])
        for images, result in zip((real, samples), both, strict=True):
            torch.testing.assert_close(DsaAugmentation.apply(images[row : row + 1], own), result[row : row + 1])
    mixed = DsaAugmentation.apply(0.3 * real + 0.7 * samples, parameters)
    torch.testing.assert_close(mixed, 0.3 * both[0] + 0.7 * both[1])
    assert torch.equal(DsaAugmentation.apply(real, parameters), both[0])


@each_operation
@pytest.mark.parametrize("count", [1, 2, 9])
def test_one_row_serves_batches_of_any_size(operation, count):
    augmentation = DsaAugmentation(operation, per_sample=False)
    parameters = augmentation.draw(4, torch.Generator().manual_seed(5))
    assert parameters.stages[0].uniforms.shape == (1, 3)
    images = images_of((3, 8, 8), count)
    result = augmentation.apply(images, parameters)
    repeated = one_stage(operation, parameters.stages[0].uniforms.repeat(count, 1))
    torch.testing.assert_close(result, augmentation.apply(images, repeated))


@each_operation
def test_per_sample_magnitudes_differ(operation):
    augmentation = DsaAugmentation(operation)
    parameters = augmentation.draw(64, torch.Generator().manual_seed(0))
    assert parameters.stages[0].uniforms.shape == (64, 3)
    results = augmentation.apply(images_of((3, 8, 8), 1).expand(64, -1, -1, -1), parameters)
    assert len({image.numpy().tobytes() for image in results}) >= (2 if operation == "flip" else 8)


@each_operation
def test_parameters_of_another_batch_size_are_refused(operation):
    with pytest.raises(ValueError, match="parameters are for 6 images, not 5"):
        DsaAugmentation.apply(images_of((3, 8, 8), 5), one_stage(operation, uniforms_of()))


@each_operation
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 4)], ids=str)
def test_gradients_flow(operation, shape):
    parameters = one_stage(operation, uniforms_of(2).double())
    images = images_of(shape, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: DsaAugmentation.apply(x, parameters), (images,))


def test_a_seed_gives_the_same_draws_and_leaves_the_global_state():
    augmentation, images = DsaAugmentation(), images_of((3, 8, 8))

    def draws(seed):
        generator = torch.Generator().manual_seed(seed)
        return [augmentation.draw(6, generator) for _ in range(10)]

    state = torch.get_rng_state()
    first, again, other = draws(0), draws(0), draws(1)
    assert [draw.stages[0].operation for draw in first] == [draw.stages[0].operation for draw in again]
    for draw, same in zip(first, again, strict=True):
        assert torch.equal(draw.stages[0].uniforms, same.stages[0].uniforms)
        assert torch.equal(augmentation.apply(images, draw), augmentation.apply(images, same))
    assert not torch.equal(first[0].stages[0].uniforms, other[0].stages[0].uniforms)
    called = augmentation(images, torch.Generator().manual_seed(0))
    assert torch.equal(called, augmentation.apply(images, first[0]))
    assert torch.equal(torch.get_rng_state(), state)


def test_operations_are_drawn_equally_often_and_only_from_the_strategy():
    def counts(strategy):
        augmentation, generator = DsaAugmentation(strategy), torch.Generator().manual_seed(0)
        return Counter(augmentation.draw(1, generator).stages[0].operation for _ in range(3000))

    found = counts(DSA_STRATEGY)
    assert set(found) == set(DSA_OPERATIONS) == {"color", "crop", "cutout", "flip", "scale", "rotate"}
    assert all(400 < count < 600 for count in found.values())  # 500 expected, almost five standard deviations
    assert set(counts("crop_rotate")) == {"crop", "rotate"}


@pytest.mark.parametrize("strategy", ["none", ""])
def test_no_strategy_is_the_identity(strategy):
    augmentation, images = DsaAugmentation(strategy), images_of((3, 8, 8))
    generator = torch.Generator().manual_seed(0)
    parameters = augmentation.draw(6, generator)
    assert parameters.stages == ()
    assert augmentation.apply(images, parameters) is images
    assert augmentation.apply(images[:2], parameters).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("per_sample", [True, False])
def test_stages_are_applied_in_turn(per_sample):
    augmentation, images = DsaAugmentation("color+crop_scale+cutout", per_sample), images_of((3, 8, 8))
    seen = set()
    for seed in range(20):
        parameters = augmentation.draw(6, torch.Generator().manual_seed(seed))
        expected, drawn = images, parameters.stages
        for each in drawn:
            assert each.uniforms.shape == (6 if per_sample else 1, 3)
            expected = np.stack(
                [
                    REFERENCES[each.operation](np.asarray(image), u)
                    for image, u in zip(expected, each.uniforms.double().expand(6, 3).numpy(), strict=True)
                ]
            )
        np.testing.assert_allclose(augmentation.apply(images, parameters).numpy(), expected, atol=2e-5)
        assert [each.operation for each in drawn][::2] == ["color", "cutout"] and len(drawn) == 3
        seen.add(drawn[1].operation)
        uniforms = torch.stack([each.uniforms for each in drawn])
        assert len(uniforms.unique()) == uniforms.numel(), "every stage draws its own magnitudes"
    assert seen == {"crop", "scale"}
    again = augmentation(images, torch.Generator().manual_seed(19))
    assert torch.equal(again, augmentation.apply(images, parameters))


@pytest.mark.parametrize(
    ("strategy", "unknown"),
    [
        ("color_blur", "blur"),
        ("Color", "Color"),
        ("color__flip", ""),
        ("color,flip", "color,flip"),
        ("color+", ""),
        ("color+none", "none"),
    ],
)
def test_an_unknown_operation_is_refused(strategy, unknown):
    with pytest.raises(
        ValueError, match=rf"no operation '{unknown}' .*color, crop, cutout, flip, scale, rotate.*'none'"
    ):
        DsaAugmentation(strategy)


# --------------------------------------------------------------- magnitudes as published, measured on what comes out

COUNT = 2000


def augmented(operation, image):
    augmentation = DsaAugmentation(operation)
    parameters = augmentation.draw(COUNT, torch.Generator().manual_seed(0))
    return augmentation.apply(image.expand(COUNT, -1, -1, -1), parameters)


def assert_uniform(values, low, high):
    values = np.asarray(values, dtype=np.float64)
    assert low - 1e-4 <= values.min() < low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) < values.max() <= high + 1e-4
    fractions = np.histogram(values, bins=4, range=(low, high))[0] / COUNT
    assert np.abs(fractions - 0.25).max() < 0.04  # four standard deviations


def test_brightness_is_between_minus_and_plus_a_half():
    brightness = augmented("color", torch.full((1, 3, 4, 4), 2.0))[:, 0, 0, 0] - 2
    assert_uniform(brightness, -0.5, 0.5)


def test_saturation_is_between_0_and_2_and_contrast_between_a_half_and_one_and_a_half():
    image = torch.zeros(1, 3, 2, 2)
    image[0, 0, 0], image[0, 1, 0], image[0, 2, 0] = 1.0, 0.0, -1.0  # colored and grey on average
    image[0, :, 1] = 5.0  # bright and grey
    result = augmented("color", image)
    grey = result.mean(dim=1)
    contrast = (grey[:, 1, 0] - grey[:, 0, 0]) / 5
    assert_uniform(contrast, 0.5, 1.5)
    saturation = (result[:, 0, 0, 0] - result[:, 2, 0, 0]) / 2 / contrast
    assert_uniform(saturation, 0, 2)


def test_crop_shifts_by_up_to_an_eighth():
    image = torch.zeros(1, 1, 32, 32)
    image[..., 16, 16] = 1
    found = augmented("crop", image).flatten(1).argmax(dim=1)
    for shifts in (found // 32 - 16, found % 32 - 16):
        counts = Counter(shifts.tolist())
        assert set(counts) == set(range(-4, 5))
        assert all(abs(count - COUNT / 9) < 4 * math.sqrt(COUNT / 9) for count in counts.values())


def test_cutout_zeroes_a_square_of_half_the_side_wherever_its_center_fits():
    holes = augmented("cutout", torch.ones(1, 1, 32, 32))[:, 0] == 0
    heights, widths = holes.any(dim=2).sum(dim=1), holes.any(dim=1).sum(dim=1)
    assert torch.equal(holes.sum(dim=(1, 2)), heights * widths)
    for sides in (heights, widths):
        counts = Counter(sides.tolist())
        assert set(counts) == set(range(8, 17))  # a center at the border leaves half of the square
        assert abs(counts[16] / COUNT - 17 / 33) < 0.05
    assert holes.any(dim=0).all()


def test_flip_is_a_fair_coin():
    image = torch.tensor([[[[1.0, 2.0]]]])
    flipped = augmented("flip", image)[:, 0, 0, 0] == 2
    assert abs(flipped.double().mean() - 0.5) < 0.05


def ramp():
    """Two channels whose values are the coordinates x and y of a pixel; bilinear resampling keeps them exact."""
    line = torch.linspace(-1, 1, 9)
    return torch.stack([line.expand(9, 9), line.expand(9, 9).T])[None]


def test_scale_zooms_each_axis_by_at_most_a_fifth():
    result = augmented("scale", ramp())
    right, below = result[:, :, 4, 5] * 4, result[:, :, 5, 4] * 4
    assert_uniform(right[:, 0], 1 / 1.2, 1.2)
    assert_uniform(below[:, 1], 1 / 1.2, 1.2)
    assert right[:, 1].abs().max() < 1e-5
    assert np.corrcoef(right[:, 0], below[:, 1])[0, 1] == pytest.approx(0, abs=0.1)


def test_rotation_is_by_at_most_15_degrees():
    right = augmented("rotate", ramp())[:, :, 4, 5] * 4
    torch.testing.assert_close(right.norm(dim=1), torch.ones(COUNT))
    assert_uniform(torch.rad2deg(torch.atan2(right[:, 1], right[:, 0])), -15, 15)
