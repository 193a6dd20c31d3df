"""How a basis is stored, against computations of its own: scipy's DCT, resizing and averaging by hand."""

import itertools
import math

import numpy as np
import pytest
import scipy.fft
import torch

from haba_hf import HabaConfig, HabaModel
from haba_hf.artifact import storage_haba
from haba_hf.artifact.storage_haba import (
    COLORS,
    decode_int8,
    encode_int8,
    lowest_frequencies,
    plane_images,
    restore_bases,
    store_images,
)
from naive_artifact import make_model, scramble

STORAGES = {
    "pixels": {},
    "small pixels": {"basis_height": 5, "basis_width": 4},
    "small grey pixels": {"basis_height": 5, "basis_width": 4, "basis_channels": 1},
    "luma and chroma": {"basis_storage": "luma_chroma", "basis_height": 5, "basis_width": 7, "chroma_width": 3},
    "frequencies": {"basis_storage": "frequencies", "basis_frequencies": 9, "chroma_frequencies": 4},
    "frequencies of small bases": {
        "basis_storage": "frequencies",
        "basis_frequencies": 9,
        "basis_height": 5,
        "basis_width": 6,
    },
    "frequencies, grey": {"basis_storage": "frequencies", "basis_frequencies": 9, "sample_channels": 1},
    "frequencies of grey bases": {"basis_storage": "frequencies", "basis_frequencies": 9, "basis_channels": 1},
    "tiles of luma and chroma": {
        "basis_storage": "luma_chroma",
        "basis_height": 4,
        "basis_width": 4,
        "sample_height": 8,
        "formation_factor": 2,
    },
}
each_storage = pytest.mark.parametrize("storage", STORAGES)
DTYPES = ("float32", "bfloat16", "int8")


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def model_of(storage, **kwargs):
    grey = STORAGES[storage].get("basis_channels") == 1
    return scramble(make_model(**{"num_hallucinators": 2 if grey else 0} | STORAGES[storage] | kwargs))


def enlarged_by_hand(image, size):
    """Bilinear interpolation between the centres of pixels, edges held."""

    def places(old, new):
        for i in range(new):
            place = min(max((i + 0.5) * old / new - 0.5, 0), old - 1)
            low = int(place)
            yield low, min(low + 1, old - 1), place - low

    out = np.zeros(size)
    for i, (top, bottom, down) in enumerate(places(image.shape[0], size[0])):
        for j, (left, right, over) in enumerate(places(image.shape[1], size[1])):
            upper = (1 - over) * image[top, left] + over * image[top, right]
            lower = (1 - over) * image[bottom, left] + over * image[bottom, right]
            out[i, j] = (1 - down) * upper + down * lower
    return out


def averaged_by_hand(image, size):
    """The mean over the pixels that a smaller one touches."""
    out = np.zeros(size)
    for i, j in itertools.product(*map(range, size)):
        rows = slice(i * image.shape[0] // size[0], -(-(i + 1) * image.shape[0] // size[0]))
        columns = slice(j * image.shape[1] // size[1], -(-(j + 1) * image.shape[1] // size[1]))
        out[i, j] = image[rows, columns].mean()
    return out


def naive_restored(stored, config, size):
    """One basis as an image [C', H, W], plane by plane."""
    planes, start = [], 0
    numbers = stored.flatten().numpy()
    for height, width in config.plane_shapes:
        plane = numbers[start : start + height * width]
        start += height * width
        if config.basis_storage == "frequencies":
            grid = np.zeros(size)
            places = sorted(
                itertools.product(range(config.basis_shape[1]), range(config.basis_shape[2])),
                key=lambda uv: ((uv[0] * config.basis_shape[2]) ** 2 + (uv[1] * config.basis_shape[1]) ** 2, *uv),
            )
            for (u, v), coefficient in zip(places, plane, strict=False):
                grid[u, v] = coefficient
            planes.append(scipy.fft.idctn(grid, norm="ortho") * math.sqrt(math.prod(size)))
        else:
            planes.append(enlarged_by_hand(plane.reshape(height, width), size))
    if config.basis_storage != "pixels" and len(planes) == 3 and config.sample_channels == 3:
        luma, first, second = planes
        a, b, c = math.sqrt(1.5), math.sqrt(0.5), math.sqrt(2)
        return np.stack([luma + a * first + b * second, luma - c * second, luma - a * first + b * second])
    return np.stack(planes)


@each_storage
def test_restoring_equals_a_computation_by_hand(storage, doubles):
    model = model_of(storage)
    config = model.config
    for size in (config.sample_shape[1:], config.basis_shape[1:]):
        restored = restore_bases(model.bases.detach(), config, size)
        for basis, image in zip(model.bases.detach(), restored, strict=True):
            np.testing.assert_allclose(image.numpy(), naive_restored(basis, config, size), atol=1e-12)
    if not config.num_hallucinators and config.num_formations == 1:
        assert torch.equal(model().samples, restore_bases(model.bases, config, config.sample_shape[1:]))


@each_storage
def test_gradients_equal_finite_differences(storage, doubles):
    model = model_of(storage, bases_per_class=1, num_labels=2)
    weights = torch.randn(model().samples.shape)

    def loss(bases):
        with torch.no_grad():
            kept = model.bases.clone()
            model.bases.copy_(bases)
            value = (model().samples.tanh() * weights).sum()
            model.bases.copy_(kept)
        return value.item()

    (model().samples.tanh() * weights).sum().backward()
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        direction = torch.randn(model.bases.shape, generator=generator)
        step = 1e-6
        slope = (loss(model.bases + step * direction) - loss(model.bases - step * direction)) / (2 * step)
        assert (model.bases.grad * direction).sum().item() == pytest.approx(slope, rel=1e-6)


@each_storage
def test_images_are_stored_by_averaging_or_projection(storage, doubles):
    config = model_of(storage).config
    images = torch.randn(2, *config.sample_shape)
    stored = store_images(images, config)
    assert stored.shape == (2, *config.stored_shape)
    for image, basis in zip(images.numpy(), stored.numpy(), strict=True):
        planes = image
        if config.basis_shape[0] == 1 and config.sample_channels == 3:
            planes = image.mean(axis=0, keepdims=True)
        elif config.has_chroma:
            planes = np.tensordot(np.array(COLORS) / 3, image, axes=1)
        expected = []
        for plane, shape in zip(planes, config.plane_shapes, strict=True):
            if config.basis_storage == "frequencies":
                spectrum = scipy.fft.dctn(plane, norm="ortho") / math.sqrt(plane.size)
                u, v = lowest_frequencies(config.basis_shape[1:], shape[1]).numpy().T
                expected.append(spectrum[u, v])
            else:
                expected.append(averaged_by_hand(plane, shape).ravel())
        np.testing.assert_allclose(basis.ravel(), np.concatenate(expected), atol=1e-12)


@pytest.mark.parametrize("storage", ["luma and chroma", "frequencies"])
def test_gradients_after_a_look_in_inference_mode(storage):
    storage_haba._waves.cache_clear()
    storage_haba._interpolation.cache_clear()
    storage_haba._colors.cache_clear()
    model = model_of(storage)
    with torch.inference_mode():
        model()
    model().samples.square().sum().backward()
    assert model.bases.grad.abs().min() > 0


def test_all_frequencies_are_the_image_itself(doubles):
    for shape in ((3, 6, 10), (1, 5, 7)):
        channels, height, width = shape
        counts = {"basis_frequencies": height * width} | (
            {"chroma_frequencies": height * width} if channels == 3 else {}
        )
        config = HabaConfig(
            sample_channels=channels,
            sample_height=height,
            sample_width=width,
            basis_storage="frequencies",
            **counts,
        )
        images = torch.randn(4, *shape)
        torch.testing.assert_close(restore_bases(store_images(images, config), config, (height, width)), images)


def test_a_stored_number_is_the_root_mean_square_of_what_it_adds(doubles):
    sides = {"sample_height": 8, "sample_width": 12}
    for settings in (
        {"basis_storage": "frequencies", "basis_frequencies": 20, "chroma_frequencies": 7},
        {"basis_storage": "luma_chroma", "chroma_height": 8, "chroma_width": 12},
    ):
        config = HabaConfig(**sides, **settings)
        alone = torch.eye(math.prod(config.stored_shape))
        restored = restore_bases(alone, config, (8, 12))
        if config.basis_storage == "luma_chroma":  # a number is of one pixel
            torch.testing.assert_close(restored.square().sum(dim=(1, 2, 3)), torch.full((len(alone),), 3.0))
        else:
            torch.testing.assert_close(restored.square().mean(dim=(1, 2, 3)), torch.ones(len(alone)))


def test_frequencies_are_taken_by_their_length_in_cycles_a_pixel():
    square = lowest_frequencies((4, 4), 6).tolist()
    assert square == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [2, 0]]
    wide = lowest_frequencies((2, 8), 6).tolist()
    assert wide == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [1, 0]]


@pytest.mark.parametrize("at", ["basis", "sample"])
@pytest.mark.parametrize("storage", ["small pixels", "luma and chroma", "frequencies of small bases"])
def test_hallucinators_before_and_after_enlarging(storage, at, doubles):
    model = model_of(storage, num_hallucinators=2, hallucinate_at=at)
    config = model.config
    size = config.basis_shape[1:] if at == "basis" else config.sample_shape[1:]
    assert config.feature_shape[1:] == config.hallucinated_size == size
    for i, j in itertools.product(range(config.num_bases), range(2)):
        image = torch.from_numpy(naive_restored(model.bases.detach()[i], config, size))
        sample = model.hallucinators[j](image[None])[0].detach().numpy()
        expected = np.stack([enlarged_by_hand(channel, config.sample_shape[1:]) for channel in sample])
        np.testing.assert_allclose(
            model(torch.tensor([i]), torch.tensor([j])).samples[0].detach().numpy(), expected, atol=1e-10
        )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 1), (None, 4)])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_coarse_maps_are_enlarged_bilinearly(height, width, depth, doubles):
    kwargs = {"hallucinator_map_width": width, "hallucinator_depth": depth}
    rows = 4 if depth == 2 else 7  # depth 2 halves the feature map
    height = None if height == 7 else height
    model = scramble(make_model(hallucinator_map_height=height, **kwargs))
    full = scramble(make_model(hallucinator_depth=depth))
    shape = model.config.feature_shape
    assert model.hallucinators[0].scale.shape == (shape[0], height or rows, width or shape[2])
    full.load_state_dict(
        {**model.state_dict(), **{k: v for k, v in full.state_dict().items() if k[-5:] in ("scale", "shift")}}
    )
    with torch.no_grad():
        for coarse, fine in zip(model.hallucinators, full.hallucinators, strict=True):
            for name in ("scale", "shift"):
                maps = [enlarged_by_hand(channel.numpy(), shape[1:]) for channel in getattr(coarse, name)]
                getattr(fine, name).copy_(torch.from_numpy(np.stack(maps)))
        torch.testing.assert_close(model().samples, full().samples)
    assert model.storage().floats == model.config.num_floats


def test_coarse_hallucinators_cost_hundreds_of_floats():
    config = HabaConfig(num_hallucinators=50, hallucinator_map_height=1, hallucinator_map_width=1)
    assert config.storage_parts["hallucinators"] == 50 * (2 * 3 + 84 + 84)
    small = HabaConfig(basis_height=16, basis_width=16)
    assert small.storage_parts["hallucinators"] == 5 * (2 * 3 * 256 + 168)


@pytest.mark.parametrize("dtype", DTYPES)
@each_storage
def test_what_is_saved_is_loaded_bit_for_bit(storage, dtype, tmp_path):
    model = model_of(storage, storage_dtype=dtype, label_kind="soft", num_step_sizes=2)
    before = model.bases.detach().clone()
    model.save_pretrained(tmp_path / "first")
    loaded = HabaModel.from_pretrained(tmp_path / "first")
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor) and loaded.state_dict()[name].dtype == tensor.dtype, name
    assert torch.equal(loaded.materialize().samples, model.materialize().samples)
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())

    loaded.save_pretrained(tmp_path / "second")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert files[0] == files[1]
    ids = 8 * model.config.num_bases
    assert 0 <= len(files[0]) - model.storage().bytes - ids < 4096, "its header, and the class of every basis"
    assert model.storage().bytes == model.config.num_bytes and model.storage().floats == model.config.num_floats

    error = (model.bases - before).abs().max()
    largest = before.abs().max()
    assert error <= {"float32": 0, "bfloat16": largest / 256, "int8": largest / 254 * 1.001}[dtype]
    assert (error > 0) == (dtype != "float32")


def test_int8_has_a_scale_for_each_plane():
    model = model_of("luma and chroma", storage_dtype="int8")
    config, bases = model.config, model.bases.detach().clone()
    codes, scales = encode_int8(bases, config)
    assert codes.dtype == torch.int8 and scales.shape == (config.num_bases, 3)
    for plane, scale, code in zip(
        bases.split(config.plane_numbers, dim=1), scales.T, codes.split(config.plane_numbers, dim=1), strict=True
    ):
        torch.testing.assert_close(scale, plane.abs().amax(dim=1) / 127)
        assert torch.equal(code, (plane / scale[:, None]).round().to(torch.int8))
    decoded = decode_int8(codes, scales, config)
    assert (decoded - bases).abs().max() <= scales.max() / 2 * 1.001
    zeros, ones = encode_int8(torch.zeros_like(bases), config)
    assert not zeros.any() and torch.equal(ones, torch.ones_like(scales))


def test_a_changed_model_is_rounded_anew_and_an_unchanged_one_stays(tmp_path):
    model = model_of("frequencies", storage_dtype="int8")
    model.round_to_storage()
    rounded = model.bases.detach().clone()
    model.round_to_storage()
    assert torch.equal(model.bases, rounded)
    with torch.no_grad():
        model.bases.mul_(3.3)
    model.save_pretrained(tmp_path)
    assert torch.equal(HabaModel.from_pretrained(tmp_path).bases, model.bases)
    assert (model.bases - 3.3 * rounded).abs().max() < 0.05


def test_bytes_and_floats_of_each_dtype():
    sizes = {"num_labels": 10, "bases_per_class": 28, "num_hallucinators": 0}
    storage = {"basis_storage": "luma_chroma", "basis_height": 12, "basis_width": 12}
    stored = 280 * (144 + 2 * 36)
    for dtype, taken in (("float32", 4 * stored + 4), ("bfloat16", 2 * stored + 4), ("int8", stored + 280 * 12 + 4)):
        config = HabaConfig(**sizes, **storage, storage_dtype=dtype)
        assert config.num_bytes == taken
        assert config.num_floats == stored + 1 + (840 if dtype == "int8" else 0)
    assert stored == 60_480, "the floats of 2 images per class of CIFAR-10 hold 28 samples"


def test_planes_are_shown_in_their_own_colors():
    model = model_of("luma and chroma")
    images = plane_images(model.bases.detach(), model.config)
    assert [image.shape[1:] for image in images] == [(3, 5, 7), (3, 4, 3), (3, 4, 3)] or len(images) == 3
    luma = images[0]
    assert torch.equal(luma[:, 0], luma[:, 1]) and torch.equal(luma[:, 0], luma[:, 2])
    (pixels,) = plane_images(model_of("small pixels").bases.detach(), model_of("small pixels").config)
    assert pixels.shape == (6, 3, 5, 4)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"basis_height": 33}, r"basis_height must be 1 to 32, the sample height, or left out, got 33"),
        ({"basis_width": 0}, "basis_width must be 1 to 32"),
        ({"basis_storage": "jpeg"}, "basis_storage must be 'pixels', 'luma_chroma' or 'frequencies', got 'jpeg'"),
        ({"basis_storage": "luma_chroma", "sample_channels": 1}, "is of color.*these have 1 for 1"),
        ({"basis_storage": "luma_chroma", "basis_channels": 1}, "is of color.*these have 1 for 3"),
        ({"basis_storage": "luma_chroma", "basis_height": 8, "chroma_height": 9}, "chroma_height must be 1 to 8"),
        ({"chroma_height": 4}, "chroma_height is of basis_storage='luma_chroma'"),
        ({"basis_frequencies": 4}, "basis_frequencies is of basis_storage='frequencies'"),
        ({"basis_storage": "frequencies"}, "needs basis_frequencies"),
        ({"basis_storage": "frequencies", "basis_frequencies": 1025}, "basis_frequencies must be 1 to 1024"),
        (
            {"basis_storage": "frequencies", "basis_frequencies": 4, "basis_height": 2, "basis_width": 2}
            | {"chroma_frequencies": 5},
            "chroma_frequencies must be 1 to 4",
        ),
        (
            {"basis_storage": "frequencies", "basis_frequencies": 4, "chroma_frequencies": 2, "sample_channels": 1},
            "chroma_frequencies are of color",
        ),
        ({"hallucinator_map_height": 33}, "hallucinator_map_height must be 1 to 32, the height of the feature map"),
        ({"basis_height": 8, "hallucinator_map_height": 9}, "hallucinator_map_height must be 1 to 8"),
        ({"hallucinator_map_width": 0}, "hallucinator_map_width must be 1 to 32"),
        ({"hallucinate_at": "home"}, "hallucinate_at must be 'basis' or 'sample'"),
        ({"storage_dtype": "int4"}, "storage_dtype must be 'float32', 'bfloat16' or 'int8', got 'int4'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings, problem):
    with pytest.raises(ValueError, match=problem):
        HabaConfig(**settings)
