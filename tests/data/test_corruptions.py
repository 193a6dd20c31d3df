"""Every corruption, and where it is easy, against an independent computation."""

import colorsys
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from haba_hf.data.corruptions import (
    CORRUPTIONS,
    IMAGES_AT_ONCE,
    SEVERITIES,
    STANDARD_CORRUPTIONS,
    corrupt,
    load_official,
)
from haba_hf.data.corruptions.blur import defocus_blur, glass_blur, trail, zoom_blur, zoomed
from haba_hf.data.corruptions.digital import elastic_transform
from haba_hf.data.corruptions.weather import plasma


def pictures(count=12, side=32, seed=0):
    """A gradient behind a disk and a striped bar in colors, softened as a photograph is: uint8 [n, 3, side, side]."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / (side - 1)
    images = np.empty((count, side, side, 3))
    for image in images:
        a, b, disk, bar, other = random.uniform(0.1, 0.9, (5, 3))
        image[:] = a + (b - a) * (rows * random.random() + columns * random.random())[..., None] / 2
        center = random.uniform(0.3, 0.7, 2)
        image[(rows - center[0]) ** 2 + (columns - center[1]) ** 2 < random.uniform(0.02, 0.08)] = disk
        inside = np.abs(columns - random.random()) < 0.12
        image[inside] = np.where((rows[inside] * random.uniform(3, 11) % 2 < 1)[:, None], bar, other)
    images = ndimage.gaussian_filter(images, (0, 0.5, 0.5, 0))
    return torch.from_numpy((images * 255).round().astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


def as_floats(images):
    return images.permute(0, 2, 3, 1).double().numpy() / 255


def distance(images, others):
    return (images.double() - others.double()).abs().mean().item()


def test_there_are_19_of_which_15_are_standard():
    assert len(CORRUPTIONS) == len(set(CORRUPTIONS)) == 19 and len(STANDARD_CORRUPTIONS) == 15
    assert set(CORRUPTIONS) - set(STANDARD_CORRUPTIONS) == {"speckle_noise", "gaussian_blur", "spatter", "saturate"}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_form_and_determinism(corruption):
    images = pictures(3, side=24)
    before = np.random.get_state()[1].copy(), torch.get_rng_state(), images.clone()
    for severity in SEVERITIES:
        corrupted = corrupt(images, corruption, severity, seed=4)
        assert corrupted.shape == images.shape and corrupted.dtype == torch.uint8 and corrupted.is_contiguous()
        assert not torch.equal(corrupted, images)
        assert torch.equal(corrupt(images, corruption, severity, seed=4), corrupted)
    fixed = {"brightness", "contrast", "saturate", "pixelate", "jpeg_compression"}
    fixed |= {"defocus_blur", "gaussian_blur", "zoom_blur"}
    assert torch.equal(corrupt(images, corruption, 5, seed=5), corrupted) == (corruption in fixed)
    assert np.array_equal(np.random.get_state()[1], before[0]) and torch.equal(torch.get_rng_state(), before[1])
    assert torch.equal(images, before[2])


@pytest.mark.parametrize(("severity", "end"), list(enumerate((1.06, 1.11, 1.16, 1.21, 1.26), start=1)))
def test_zoom_blur_has_the_zooms_of_the_published_list(severity, end):
    images = np.random.default_rng(0).uniform(size=(2, 32, 32, 3))
    zooms = np.arange(1, end, 0.01)  # rounds to one number more than it seems, at the first two ends
    expected = (images + sum(zoomed(images, round(float(zoom), 2)) for zoom in zooms)) / (len(zooms) + 1)
    assert zoom_blur(images, severity, np.random.default_rng(0)) == pytest.approx(expected)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_severity_grows(corruption):
    """
    The mean distance from the clean images grows, but where the published levels do not mean it to: saturate takes
    color away (2 more than 1) and then adds it, elastic_transform trades a global map that shrinks for displacements,
    spatter turns to mud at 4, glass_blur and motion_blur have levels that move an image as far, frost's levels 3 to 5
    darken the image below the ice. Of frost, what is left of the image in the correlation falls instead.
    """
    images = pictures(40)
    corrupted = [corrupt(images, corruption, severity) for severity in SEVERITIES]
    distances = [distance(images, others) for others in corrupted]

    def grows(*severities):
        chosen = [distances[severity - 1] for severity in severities]
        return all(weaker < stronger for weaker, stronger in pairwise(chosen))

    if corruption == "saturate":
        assert grows(1, 2) and grows(3, 4, 5)
    elif corruption == "elastic_transform":
        assert all(value > 2 for value in distances)
    elif corruption == "spatter":
        assert grows(1, 2, 3) and grows(4, 5)
    elif corruption == "glass_blur":
        assert max(distances[:3]) < min(distances[3:])
    elif corruption == "motion_blur":
        assert grows(1, 2, 3, 5) and grows(1, 2, 4, 5)
    elif corruption == "frost":
        kept = [np.corrcoef(images.flatten(), others.flatten())[0, 1] for others in corrupted]
        assert kept == sorted(kept, reverse=True)
    else:
        assert grows(*SEVERITIES)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_its_published_statistics(severity):
    grey = torch.full((20, 3, 32, 32), 128, dtype=torch.uint8)
    value = 128 / 255

    def noise(corruption):
        return as_floats(corrupt(grey, corruption, severity)) - value

    std = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    assert noise("gaussian_noise").std() == pytest.approx(std, rel=0.02)
    assert noise("gaussian_noise").mean() == pytest.approx(-0.5 / 255, abs=0.002)  # values are cut off to bytes
    photons = (500, 250, 100, 75, 50)[severity - 1]
    assert noise("shot_noise").std() == pytest.approx((value / photons) ** 0.5, rel=0.02)
    std = (0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1]
    assert noise("speckle_noise").std() == pytest.approx(value * std, rel=0.02)
    impulses = corrupt(grey, "impulse_noise", severity)
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    for extreme in (0, 255):
        assert (impulses == extreme).double().mean().item() == pytest.approx(amount / 2, rel=0.15)
    assert set(impulses.unique().tolist()) == {0, 128, 255}


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_and_saturation_against_hsv_by_hand(severity):
    images = torch.randint(0, 256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images[..., 0] = 77  # greys, which have no hue
    images[..., 1] = 0
    added = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    factor, offset = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    brighter, saturated = (as_floats(corrupt(images, name, severity)) for name in ("brightness", "saturate"))
    for row in range(8):
        for column in range(8):
            h, s, v = colorsys.rgb_to_hsv(*(images[0, :, row, column].double().numpy() / 255))
            by_hand = colorsys.hsv_to_rgb(h, s, min(v + added, 1))
            assert brighter[0, row, column] == pytest.approx(by_hand, abs=1.01 / 255)
            by_hand = colorsys.hsv_to_rgb(h, min(max(s * factor + offset, 0), 1), v)
            assert saturated[0, row, column] == pytest.approx(by_hand, abs=1.01 / 255)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_by_hand(severity):
    image = pictures(1)
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    means = image.double().mean(dim=(2, 3), keepdim=True)
    expected = (image.double() - means) * factor + means
    assert (corrupt(image, "contrast", severity).double() - expected).abs().max() <= 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_and_jpeg_against_pil(severity):
    images = pictures(2)
    scale = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    quality = (80, 65, 58, 50, 40)[severity - 1]
    pixelated, compressed = (corrupt(images, name, severity) for name in ("pixelate", "jpeg_compression"))
    for i, image in enumerate(images):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        small = picture.resize((int(32 * scale), int(32 * scale)), Image.Resampling.BOX)
        expected = np.array(small.resize((32, 32), Image.Resampling.BOX))
        assert np.array_equal(pixelated[i].permute(1, 2, 0).numpy(), expected)
        file = BytesIO()
        picture.save(file, "JPEG", quality=quality)
        assert np.array_equal(compressed[i].permute(1, 2, 0).numpy(), np.array(Image.open(file)))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_blur_against_a_loop(severity):
    image = pictures(1)
    std = (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1]
    reach = int(4 * std + 0.5)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * std**2))
    weights /= weights.sum()
    padded = np.pad(as_floats(image)[0], ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    expected = sum(
        weights[i] * weights[j] * padded[i : i + 32, j : j + 32]
        for i in range(2 * reach + 1)
        for j in range(2 * reach + 1)
    )
    assert as_floats(corrupt(image, "gaussian_blur", severity))[0] == pytest.approx(expected, abs=1.01 / 255)


def test_the_kernels_of_defocus_blur():
    """What a single bright pixel becomes, at levels whose disks are a point, a cross and a square."""
    point = np.zeros((1, 9, 9, 1))
    point[0, 4, 4] = 1
    soft = np.exp(-np.square([-1, 0, 1]) / (2 * 0.4**2))
    kernel = np.outer(soft, soft) / soft.sum() ** 2
    assert defocus_blur(point, 1, None)[0, 3:6, 3:6, 0] == pytest.approx(kernel)
    cross = defocus_blur(point, 4, None)[0, ..., 0]
    assert cross[4, 4] == pytest.approx(0.2, abs=1e-4) and cross[3, 4] == pytest.approx(0.2, abs=1e-4)
    assert cross[3, 3] < 1e-4
    square = defocus_blur(point, 5, None)[0, ..., 0]
    assert square[3:6, 3:6] == pytest.approx(np.full((3, 3), 1 / 9)) and square.sum() == pytest.approx(1)


def test_a_trail_is_half_a_gaussian_along_its_ray():
    point = np.zeros((3, 21, 21))
    point[:, 10, 10] = 1
    weights = np.exp(-(np.arange(13) ** 2) / (2 * 2**2))
    weights /= weights.sum()
    right, down, diagonal = trail(point, 6, 2, np.array([0.0, 90.0, 45.0]))
    # a pixel sees what lies on its ray, so that the point spreads the other way
    assert right[10, 10::-1] == pytest.approx(weights[:11])
    assert down[10::-1, 10] == pytest.approx(weights[:11])
    on_diagonal = np.diag(diagonal)[10::-1]
    assert on_diagonal.sum() == pytest.approx(diagonal.sum()) and on_diagonal[0] == pytest.approx(weights[0])
    flat = np.full((2, 8, 8, 3), 0.3)
    assert trail(flat, 9, 2.5, np.array([-30.0, 200.0])) == pytest.approx(flat)


@pytest.mark.parametrize("zoom", [1.0, 1.03, 1.11, 1.25, 1.75, 2.25])
def test_zooming_against_scipy(zoom):
    images = as_floats(pictures(2))
    cropped = int(np.ceil(32 / zoom))
    top = (32 - cropped) // 2
    middle = images[:, top : top + cropped, top : top + cropped]
    expected = ndimage.zoom(middle, (1, zoom, zoom, 1), order=1)
    trim = (expected.shape[1] - 32) // 2
    assert zoomed(images, zoom) == pytest.approx(expected[:, trim : trim + 32, trim : trim + 32])


def test_glass_blur_moves_pixels_by_no_more_than_its_reach():
    """Its Gaussian is nothing at level 1: every pixel is itself or a neighbour above or to the left."""
    places = np.arange(16 * 16).reshape(1, 16, 16, 1) / 255
    moved = np.rint(glass_blur(places, 1, np.random.default_rng(0)) * 255).astype(int)[0, ..., 0]
    rows, columns = np.divmod(moved, 16)
    down, right = np.arange(16)[:, None] - rows, np.arange(16) - columns
    assert set(down.ravel()) == set(right.ravel()) == {0, 1}
    assert (down[:2] == 0).all() and (right[:, :2] == 0).all()
    assert 0.4 < down[2:, 2:].mean() < 0.6


def test_elastic_transform_keeps_values_and_moves_little():
    flat = np.full((2, 32, 32, 3), 0.4)
    columns = np.tile(np.arange(32.0)[:, None], (1, 32, 1, 1))
    for severity in SEVERITIES:
        assert elastic_transform(flat, severity, np.random.default_rng(0)) == pytest.approx(flat)
        moved = elastic_transform(columns, severity, np.random.default_rng(1)) - columns
        inner = np.abs(moved[0, 8:-8, 8:-8])
        assert 0.05 < inner.mean() < 4


def test_plasma_is_smooth_and_spread_over_the_unit_interval():
    clouds = plasma(50, 32, 3, np.random.default_rng(0))
    assert clouds.shape == (50, 32, 32)
    assert (clouds.min(axis=(1, 2)) == 0).all() and (clouds.max(axis=(1, 2)) == 1).all()
    steps = [np.abs(np.diff(plasma(50, 32, decay, np.random.default_rng(0)), axis=1)).mean() for decay in (3, 2, 1.2)]
    assert steps == sorted(steps), "the less the noise decays, the rougher the clouds"
    assert plasma(1, 33, 2, np.random.default_rng(0)).shape == (1, 64, 64)


def test_black_images_give_no_nan():
    black = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    for corruption in CORRUPTIONS:
        for severity in SEVERITIES:
            corrupt(black, corruption, severity)  # a NaN would be a warning of numpy's cast


def test_many_images_are_corrupted_in_portions(monkeypatch):
    images = pictures(5, side=16)
    whole = corrupt(images, "gaussian_noise", 3)
    monkeypatch.setattr("haba_hf.data.corruptions.IMAGES_AT_ONCE", 2)
    assert torch.equal(corrupt(images, "gaussian_noise", 3), whole)
    assert IMAGES_AT_ONCE == 500
    assert corrupt(images[:0], "gaussian_noise", 3).shape == (0, 3, 16, 16)


def test_what_cannot_be_corrupted_is_refused():
    images = pictures(1)
    with pytest.raises(ValueError, match=r"no corruption 'rain': choose one of gaussian_noise, .* saturate"):
        corrupt(images, "rain", 1)
    for severity in (0, 6):
        with pytest.raises(ValueError, match=f"severity is 1 to 5, got {severity}"):
            corrupt(images, "fog", severity)
    for unfit in (images[:, :1], images.float(), images[0], images[..., :7]):
        with pytest.raises(ValueError, match=r"color images \[n, 3, H, W\] of 8x8 pixels or more"):
            corrupt(unfit, "fog", 1)


def write_official(folder, count=4, side=8):
    folder.mkdir()
    arrays = np.random.default_rng(0).integers(0, 256, (5 * count, side, side, 3), dtype=np.uint8)
    np.save(folder / "fog.npy", arrays)
    np.save(folder / "labels.npy", np.tile(np.arange(count, dtype=np.uint8), 5))
    return arrays


def test_official_files(tmp_path):
    arrays = write_official(tmp_path / "c")
    split = load_official(tmp_path / "c", "fog", 3)
    assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
    assert np.array_equal(split.images.permute(0, 2, 3, 1).numpy(), arrays[8:12])
    assert split.labels.tolist() == [0, 1, 2, 3]


def test_official_files_that_do_not_fit_are_named(tmp_path):
    folder = tmp_path / "c"
    with pytest.raises(FileNotFoundError, match=r"There is no .*fog\.npy: corruptions_dir must be"):
        load_official(folder, "fog", 1)
    arrays = write_official(folder)
    with pytest.raises(ValueError, match="severity is 1 to 5"):
        load_official(folder, "fog", 6)
    np.save(folder / "snow.npy", arrays[:7])
    with pytest.raises(ValueError, match=r"snow\.npy holds uint8 \[7, 8, 8, 3\] and labels\.npy \[20\]"):
        load_official(folder, "snow", 1)
    np.save(folder / "frost.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"frost\.npy is damaged or no array file"):
        load_official(folder, "frost", 1)
    (folder / "contrast.npy").write_bytes((folder / "fog.npy").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"contrast\.npy is damaged or no array file"):
        load_official(folder, "contrast", 1)
