import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

import haba_hf  # noqa: F401 - registers the Auto classes
from haba_hf.artifact.processing_haba import HabaImageProcessor
from haba_hf.artifact.whitening_haba import ZcaWhitening


def random_pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


def smooth_pixels(height, width, channels):
    """A gradient with a ripple: what resizing is compared on, beside noise."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / (3 + c)) * np.cos(y / (4 + c)) for c in range(channels)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def processor_for(height=8, width=8, num_channels=3, **kwargs):
    return HabaImageProcessor(size={"height": height, "width": width}, num_channels=num_channels, **kwargs)


# --- conversion ------------------------------------------------------------------------------------------------------


def test_pil_numpy_and_torch_forms_of_one_image_agree():
    pixels_HWC = random_pixels(8, 8, 3)
    pixels_CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)
    processor = processor_for()
    forms = [
        Image.fromarray(pixels_HWC),
        pixels_HWC,
        pixels_HWC.astype(np.float64) / 255,
        pixels_HWC.astype(np.float32) / 255,
        pixels_CHW,
        pixels_CHW[None],
        pixels_CHW.float() / 255,
    ]
    for form in forms:
        images = processor.to_uint8(form)
        assert images.dtype == torch.uint8
        assert torch.equal(images, pixels_CHW[None])
    assert torch.equal(processor.to_uint8(forms), pixels_CHW.expand(len(forms), -1, -1, -1))


def test_a_list_may_mix_sizes_modes_and_batches_and_keeps_its_order():
    processor = processor_for()
    pixels = random_pixels(3, 8, 8, 3)
    grey = random_pixels(8, 8, seed=1)
    large = smooth_pixels(20, 24, 3)
    batch = torch.from_numpy(pixels[1:]).permute(0, 3, 1, 2)
    images = processor.to_uint8([pixels[0], grey, batch, large, Image.fromarray(grey)])
    assert images.shape == (6, 3, 8, 8)
    assert torch.equal(images[0], torch.from_numpy(pixels[0]).permute(2, 0, 1))
    assert torch.equal(images[1], torch.from_numpy(grey).expand(3, -1, -1))
    assert torch.equal(images[2:4], batch)
    assert torch.equal(images[4], processor.to_uint8(large)[0])
    assert torch.equal(images[5], images[1])


@pytest.mark.parametrize("mode", ["RGB", "P", "CMYK", "YCbCr", "HSV", "L", "1"])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_modes_are_converted_as_pillow_does(mode, num_channels):
    image = Image.fromarray(random_pixels(8, 8, 3)).convert(mode)
    expected = image.convert("RGB") if mode not in ("L", "1") else image.convert("L")
    expected = np.asarray(expected.convert("L" if num_channels == 1 else "RGB"))
    images = processor_for(num_channels=num_channels).to_uint8(image)
    assert images.shape == (1, num_channels, 8, 8)
    np.testing.assert_array_equal(images[0].permute(1, 2, 0).squeeze(-1).numpy(), expected)


def test_rgb_to_grey_is_pillows_luma_for_every_form():
    pixels_HWC = random_pixels(64, 64, 3)
    expected = np.asarray(Image.fromarray(pixels_HWC).convert("L"))
    processor = processor_for(64, 64, num_channels=1)
    for form in (pixels_HWC, torch.from_numpy(pixels_HWC).permute(2, 0, 1)):
        np.testing.assert_array_equal(processor.to_uint8(form)[0, 0].numpy(), expected)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bit_grey_keeps_its_high_byte(mode):
    pixels = np.array([[0, 255, 256, 40000], [65535, 511, 512, 1]], dtype=np.uint16)
    order = ">u2" if mode == "I;16B" else "<u2"
    image = Image.frombytes(mode, (4, 2), pixels.astype(order).tobytes())
    images = processor_for(2, 4, num_channels=1).to_uint8(image)
    np.testing.assert_array_equal(images[0, 0].numpy(), pixels >> 8)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_without_a_fixed_range_are_refused(mode):
    with pytest.raises(ValueError, match=f"mode {mode} have no fixed range"):
        processor_for().to_uint8(Image.new(mode, (8, 8)))


# --- alpha -----------------------------------------------------------------------------------------------------------


def transparent_palette():
    image = Image.fromarray(random_pixels(8, 8, 3)).convert("P")
    image.info["transparency"] = image.getpixel((0, 0))
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGBA", (8, 8)),
        Image.new("LA", (8, 8)),
        transparent_palette(),
        random_pixels(8, 8, 4),
        random_pixels(8, 8, 2),
    ],
    ids=["RGBA", "LA", "P", "array RGBA", "array LA"],
)
def test_transparency_is_refused_without_a_background(image):
    with pytest.raises(ValueError, match="transparent in parts: set rgba_background"):
        processor_for().to_uint8(image)


def test_alpha_is_flattened_over_the_background():
    background = [255, 0, 51]
    processor = processor_for(rgba_background=background)
    pixels = random_pixels(8, 8, 4)
    image = Image.fromarray(pixels, "RGBA")
    canvas = Image.new("RGBA", image.size, (*background, 255))
    expected = np.asarray(Image.alpha_composite(canvas, image).convert("RGB")).astype(int)
    for form in (image, pixels):
        flattened = processor.to_uint8(form)[0].permute(1, 2, 0).numpy().astype(int)
        assert abs(flattened - expected).max() <= 1
    clear = Image.new("RGBA", (8, 8), (9, 9, 9, 0))
    assert torch.equal(processor.to_uint8(clear)[0, :, 0, 0], torch.tensor(background, dtype=torch.uint8))
    opaque = np.dstack([pixels[..., :3], np.full((8, 8), 255, np.uint8)])
    np.testing.assert_array_equal(processor.to_uint8(opaque)[0].permute(1, 2, 0).numpy(), pixels[..., :3])


def test_grey_alpha_and_transparent_palettes_are_flattened_too():
    processor = processor_for(num_channels=1, rgba_background=[200, 200, 200])
    grey_alpha = Image.fromarray(random_pixels(8, 8, 2), "LA")
    canvas = Image.new("RGBA", (8, 8), (200, 200, 200, 255))
    for image in (grey_alpha, transparent_palette()):
        expected = np.asarray(Image.alpha_composite(canvas, image.convert("RGBA")).convert("L")).astype(int)
        assert abs(processor.to_uint8(image)[0, 0].numpy().astype(int) - expected).max() <= 1
    array = np.asarray(grey_alpha)
    assert torch.equal(processor.to_uint8(array), processor.to_uint8(grey_alpha))


# --- resizing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [(8, 8), (32, 32), (13, 21), (28, 64)])
@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("pixels", [smooth_pixels(28, 30, 3), random_pixels(28, 30, 3)], ids=["smooth", "noise"])
def test_resizing_agrees_with_pillow(pixels, num_channels, target):
    image = Image.fromarray(pixels).convert("L" if num_channels == 1 else "RGB")
    expected = np.asarray(image.resize(target[::-1], Image.Resampling.BILINEAR)).astype(int)
    images = processor_for(*target, num_channels=num_channels).to_uint8(image)
    difference = abs(images[0].permute(1, 2, 0).squeeze(-1).numpy().astype(int) - expected)
    # Pillow rounds between its two passes, so a pixel may differ by one level.
    assert difference.max() <= 1
    assert difference.mean() < 0.2


def test_resizing_is_antialiased():
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (32, 16))
    images = processor_for(4, 4, num_channels=1).to_uint8(stripes)
    assert ((images > 100) & (images < 155)).all()


def test_another_size_is_refused_without_do_resize():
    processor = processor_for(do_resize=False)
    assert processor.to_uint8(random_pixels(8, 8, 3)).shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match="Expected images of 8x8, got 9x8; set do_resize=True"):
        processor.to_uint8(random_pixels(9, 8, 3))


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize(
    ("shape", "target", "before"),
    [
        ((40, 60), (16, 16), (16, 24)),  # landscape: the shorter side fits, left and right are cut
        ((61, 40), (16, 16), (24, 16)),  # 24.4 rows are rounded
        ((10, 20), (32, 32), (32, 64)),  # enlarged
        ((30, 30), (20, 10), (20, 20)),  # a target of other proportions
        ((16, 16), (16, 16), (16, 16)),
    ],
)
def test_center_crop_keeps_proportions(shape, target, before, num_channels):
    image = Image.fromarray(smooth_pixels(*shape, 3)).convert("L" if num_channels == 1 else "RGB")
    whole = np.asarray(image.resize(before[::-1], Image.Resampling.BILINEAR)).astype(int)
    top, left = (before[0] - target[0]) // 2, (before[1] - target[1]) // 2
    expected = whole[top : top + target[0], left : left + target[1]]
    images = processor_for(*target, num_channels=num_channels, do_center_crop=True).to_uint8(image)
    assert images.shape == (1, num_channels, *target)
    assert abs(images[0].permute(1, 2, 0).squeeze(-1).numpy().astype(int) - expected).max() <= 1
    if before != target:
        stretched = processor_for(*target, num_channels=num_channels).to_uint8(image)
        assert (images.int() - stretched.int()).abs().max() > 10


# --- refused input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    [
        random_pixels(3, 8, 8),
        random_pixels(8, 8, 5),
        random_pixels(8),
        random_pixels(2, 8, 8, 3),
    ],
    ids=["CHW", "five channels", "one dimension", "batch"],
)
def test_numpy_shapes_other_than_hw_and_hwc_are_refused(image):
    with pytest.raises(ValueError, match=r"numpy image must be \[H, W\] or \[H, W, C\]"):
        processor_for().to_uint8(image)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3), (2, 4, 8, 8), (1, 1, 3, 8, 8)])
def test_torch_shapes_other_than_chw_and_bchw_are_refused(shape):
    with pytest.raises(ValueError, match=r"torch image must be \[C, H, W\] or \[B, C, H, W\]"):
        processor_for().to_uint8(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize("value", [1.01, -0.01, 255.0, float("nan"), float("inf")])
@pytest.mark.parametrize("to_form", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_floats_outside_0_to_1_are_refused(value, to_form):
    image = np.zeros((3, 3, 3), dtype=np.float32)
    image[1, 1, 1] = value
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        processor_for().to_uint8(to_form(image))


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, bool])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match="must be uint8 or floating point"):
        processor_for().to_uint8(np.ones((8, 8), dtype=dtype))


def test_what_is_no_image_is_refused():
    with pytest.raises(TypeError, match="got str"):
        processor_for().to_uint8(["cat.png"])
    with pytest.raises(ValueError, match="the list is empty"):
        processor_for().to_uint8([])


# --- model space -----------------------------------------------------------------------------------------------------

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]


def test_normalize_is_the_formula_and_takes_uint8_and_floats():
    processor = processor_for(image_mean=MEAN, image_std=STD)
    images = torch.from_numpy(random_pixels(4, 3, 8, 8))
    expected = (images.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    normalized = processor.normalize(images)
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized.double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(processor.normalize(images.float() / 255), normalized)


def test_a_call_is_to_uint8_and_normalize_bit_for_bit():
    processor = processor_for(image_mean=MEAN, image_std=STD)
    images = [Image.fromarray(smooth_pixels(20, 20, 3)), random_pixels(8, 8)]
    batch = processor(images)
    assert list(batch) == processor.model_input_names == ["pixel_values"]
    assert batch["pixel_values"].dtype == torch.float32
    assert torch.equal(batch["pixel_values"], processor.normalize(processor.to_uint8(images)))
    as_numpy = processor(images, return_tensors="np")["pixel_values"]
    assert isinstance(as_numpy, np.ndarray)
    np.testing.assert_array_equal(as_numpy, batch["pixel_values"].numpy())


def test_an_unknown_option_of_a_call_is_an_error():
    with pytest.raises(TypeError, match="do_center_crop"):
        processor_for()(random_pixels(8, 8, 3), do_center_crop=True)


def test_denormalize_and_to_pil_undo_normalize():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, -1, -1)
    processor = processor_for(16, 16, image_mean=MEAN, image_std=STD)
    samples = processor.normalize(images)
    pixels = processor.denormalize(samples)
    torch.testing.assert_close(pixels, images / 255)
    restored = processor.to_pil(samples.requires_grad_())
    assert [image.mode for image in restored] == ["RGB", "RGB"]
    assert torch.equal(processor.to_uint8(restored), images)

    grey = processor_for(16, 16, num_channels=1, image_mean=[0.1307], image_std=[0.3081])
    restored = grey.to_pil(grey.normalize(images[:, :1]))
    assert [image.mode for image in restored] == ["L", "L"]
    assert torch.equal(grey.to_uint8(restored), images[:, :1])


def test_denormalize_clamps_and_both_ways_carry_gradients():
    processor = processor_for(image_mean=MEAN, image_std=STD)
    assert processor.denormalize(torch.full((1, 3, 2, 2), 99.0)).max() == 1
    assert processor.denormalize(torch.full((1, 3, 2, 2), -99.0)).min() == 0
    pixels = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(processor.denormalize(processor.normalize(pixels)).sum(), pixels)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))


def test_half_precision_becomes_float32():
    processor = processor_for()
    assert processor.normalize(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32
    assert processor.denormalize(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_normalize_stays_on_the_device():
    processor = processor_for(image_mean=MEAN, image_std=STD)
    images = torch.from_numpy(random_pixels(2, 3, 8, 8))
    on_device = processor.normalize(images.cuda())
    assert on_device.is_cuda
    torch.testing.assert_close(on_device.cpu(), processor.normalize(images))
    assert processor.denormalize(on_device).is_cuda


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 1, 8, 8), (2, 8, 8, 3)])
@pytest.mark.parametrize("method", ["normalize", "denormalize", "to_pil"])
def test_batches_of_another_shape_are_refused(method, shape):
    with pytest.raises(ValueError, match=r"Expected images \[B, 3, H, W\]"):
        getattr(processor_for(), method)(torch.zeros(shape))


def test_normalize_refuses_integers_other_than_uint8():
    with pytest.raises(TypeError, match=r"torch\.int64"):
        processor_for().normalize(torch.zeros(1, 3, 2, 2, dtype=torch.int64))


# --- construction, saving and loading --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": {"height": 8}}, "size must be"),
        ({"size": {"height": 8, "width": 0}}, "size must be"),
        ({"size": {"shortest_edge": 8}}, "size must be"),
        ({"num_channels": 2}, "num_channels must be"),
        ({"num_channels": 1, "image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1]}, "need 1 numbers each"),
        ({"image_mean": [0.5]}, "need 3 numbers each"),
        ({"image_std": [1.0, 0.0, 1.0]}, "image_std positive"),
        ({"image_mean": [0.0, float("nan"), 0.0]}, "image_mean must be finite"),
        ({"rgba_background": [255, 255]}, "rgba_background must be three numbers"),
        ({"rgba_background": [0, 0, 256]}, "rgba_background must be three numbers"),
    ],
)
def test_unfit_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HabaImageProcessor(**arguments)


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="no argument image_meen"):
        HabaImageProcessor(image_meen=[0.5, 0.5, 0.5])


def test_defaults_leave_pixels_in_0_to_1():
    processor = HabaImageProcessor()
    assert processor.size == {"height": 32, "width": 32}
    images = torch.from_numpy(random_pixels(1, 3, 32, 32))
    assert torch.equal(processor.normalize(images), images / 255)


@pytest.fixture
def saved(tmp_path):
    processor = processor_for(
        7, 9, image_mean=[0.1 + 0.2, 1 / 3, 0.4465], image_std=[0.2023, 2 / 3, 0.1], rgba_background=[255, 0, 1]
    )
    processor.save_pretrained(tmp_path / "artifact")
    return processor, tmp_path / "artifact"


def test_saving_and_loading_is_exact(saved):
    processor, folder = saved
    loaded = HabaImageProcessor.from_pretrained(folder)
    for name in ("size", "num_channels", "image_mean", "image_std", "rgba_background", "do_resize"):
        assert getattr(loaded, name) == getattr(processor, name)
    images = [random_pixels(30, 20, 3), random_pixels(5, 5)]
    assert torch.equal(loaded(images)["pixel_values"], processor(images)["pixel_values"])
    again = folder.parent / "again"
    loaded.save_pretrained(again)
    assert (again / "preprocessor_config.json").read_text() == (folder / "preprocessor_config.json").read_text()


def test_the_saved_file_holds_settings_only_and_the_code_travels(saved):
    _, folder = saved
    config = json.loads((folder / "preprocessor_config.json").read_text())
    assert config["image_processor_type"] == "HabaImageProcessor"
    assert config["auto_map"] == {"AutoImageProcessor": "processing_haba.HabaImageProcessor"}
    assert config.keys() == {
        *("auto_map", "image_processor_type"),
        *("do_center_crop", "do_resize", "image_mean", "image_std", "num_channels", "rgba_background", "size"),
    }
    assert (folder / "processing_haba.py").is_file()


def test_settings_can_be_overridden_at_load(saved):
    _, folder = saved
    loaded = HabaImageProcessor.from_pretrained(
        folder, num_channels=1, image_mean=[0.5], image_std=[0.5], rgba_background=None
    )
    assert loaded(random_pixels(8, 8, 3))["pixel_values"].shape == (1, 1, 7, 9)
    with pytest.raises(ValueError, match="need 1 numbers each"):
        HabaImageProcessor.from_pretrained(folder, num_channels=1)


def test_auto_image_processor_finds_the_class_of_the_package(saved):
    processor, folder = saved
    loaded = AutoImageProcessor.from_pretrained(folder)
    assert type(loaded) is HabaImageProcessor
    image = random_pixels(20, 20, 3)
    assert torch.equal(loaded(image)["pixel_values"], processor(image)["pixel_values"])


@pytest.fixture
def saved_whitened(tmp_path):
    whitening = ZcaWhitening.fit(torch.from_numpy(random_pixels(50, 3, 7, 9)))
    processor = processor_for(7, 9, whitening=whitening, do_center_crop=True)
    processor.save_pretrained(tmp_path / "artifact")
    return processor, tmp_path / "artifact"


@pytest.mark.parametrize("fixture", ["saved", "saved_whitened"])
def test_auto_image_processor_loads_the_code_without_the_package(fixture, request, tmp_path):
    processor, folder = request.getfixturevalue(fixture)
    pixels = random_pixels(20, 20, 3)
    np.save(tmp_path / "image.npy", pixels)
    script = textwrap.dedent(
        """
        import sys

        BLOCKED = {"haba_hf", "datasets", "accelerate", "sklearn", "torchvision"}

        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in BLOCKED:
                    raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)

        sys.meta_path.insert(0, Blocker())
        # transformers asks the metadata which packages there are; these are to look uninstalled to it as well.
        import importlib.util
        find_spec = importlib.util.find_spec
        importlib.util.find_spec = lambda name, package=None: None if name in BLOCKED else find_spec(name, package)

        import numpy as np
        import torch
        from transformers import AutoImageProcessor

        folder, image, output = sys.argv[1:]
        try:
            AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        except ValueError:
            pass
        else:
            raise AssertionError("loaded without trust_remote_code")
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
        torch.save(processor(np.load(image))["pixel_values"], output)
        assert not BLOCKED & {name.split(".")[0] for name in sys.modules}, "a blocked module was imported"
        processor.save_pretrained(folder + "-again")
        """
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(tmp_path / "image.npy"), str(tmp_path / "values.pt")],
        cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    values = torch.load(tmp_path / "values.pt", weights_only=True)
    assert torch.equal(values, processor(pixels)["pixel_values"])
    assert (tmp_path / "artifact-again" / "processing_haba.py").is_file()
