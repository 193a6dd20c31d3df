"""ZCA whitening: its mathematics against numpy, scipy and scikit-learn, its files, and who refuses whom."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA
from transformers import AutoImageProcessor

import haba_hf.artifact.whitening_haba as whitening_haba
from haba_hf import HabaImageProcessor
from haba_hf.artifact.whitening_haba import WHITENING, ZcaWhitening
from tiny import tiny_data, tiny_model


@pytest.fixture
def images():
    """200 images 3x4x5 whose pixels correlate, as neighbours do."""
    random = np.random.default_rng(0)
    fields = random.normal(size=(200, 3, 5, 6))
    smooth = fields[:, :, 1:, 1:] + fields[:, :, :-1, 1:] + fields[:, :, 1:, :-1] + fields[:, :1, :-1, :-1]
    return torch.from_numpy((110 + 45 * smooth).clip(0, 255).astype(np.uint8))


def processor_of(images, **settings):
    _, channels, height, width = images.shape
    size = {"height": height, "width": width}
    return HabaImageProcessor(size=size, num_channels=channels, whitening=ZcaWhitening.fit(images), **settings)


# --- mathematics -----------------------------------------------------------------------------------------------------


def test_the_matrix_is_the_inverse_root_of_the_regularized_covariance(images):
    whitening = ZcaWhitening.fit(images)
    pixels = images.numpy().reshape(200, -1) / 255
    covariance = np.cov(pixels, rowvar=False)
    expected = np.linalg.inv(sqrtm(covariance + 0.1 * np.eye(60)))
    np.testing.assert_allclose(whitening.matrix_DD.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(whitening.mean_CHW.flatten().numpy(), pixels.mean(axis=0), atol=1e-7)
    whitened = whitening.whiten(images / 255).flatten(1).numpy()
    np.testing.assert_allclose(whitened, (pixels - pixels.mean(axis=0)) @ expected, atol=1e-5)


def test_without_regularization_it_is_scikit_learns_whitening_turned_back(images):
    whitened = ZcaWhitening.fit(images, epsilon=1e-12).whiten(images / 255).flatten(1).numpy()
    pixels = images.numpy().reshape(200, -1) / 255
    pca = PCA(whiten=True, svd_solver="full").fit(pixels)
    np.testing.assert_allclose(whitened, pca.transform(pixels) @ pca.components_, atol=2e-3)
    np.testing.assert_allclose(np.cov(whitened, rowvar=False), np.eye(60), atol=2e-3)


def test_the_covariance_is_exact_whatever_the_batches(images, monkeypatch):
    extremes = torch.cat([images, torch.full_like(images, 255), torch.zeros_like(images)])
    whitening = ZcaWhitening.fit(extremes)
    monkeypatch.setattr(whitening_haba, "FIT_BATCH_SIZE", 7)
    assert torch.equal(ZcaWhitening.fit(extremes).matrix_DD, whitening.matrix_DD)


def test_constant_pixels_and_few_images_are_no_trouble(images):
    images[:, 0] = 17
    whitening = ZcaWhitening.fit(images[:3])
    assert whitening.matrix_DD.isfinite().all()
    torch.testing.assert_close(whitening.matrix_DD[0, 0], torch.tensor(0.1**-0.5))  # variance 0


def test_whitening_is_undone_to_the_byte(images):
    processor = processor_of(images)
    samples = processor(list(images))["pixel_values"]
    assert torch.equal(samples, processor.normalize(images))
    assert samples.std() != pytest.approx((images / 255).std().item(), rel=0.5), "it does something"
    torch.testing.assert_close(processor.denormalize(samples), images / 255, atol=1e-5, rtol=0)
    assert torch.equal(processor.to_uint8(processor.to_pil(samples)), images)
    assert processor.denormalize(9 * samples).max() == 1 and processor.denormalize(9 * samples).min() == 0


def test_gradients_go_through_and_autocast_does_not_round(images):
    processor = processor_of(images)
    pixels = (images[:2] / 255).requires_grad_()
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((processor.normalize(pixels) * direction).sum(), pixels)
    torch.testing.assert_close(gradient.flatten(1), direction.flatten(1) @ processor.whitening.matrix_DD.T)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(processor.normalize(images), processor.normalize(images / 255))
        found = processor.normalize(images)
    assert found.dtype == torch.float32 and torch.equal(found, processor.normalize(images))


def test_images_that_cannot_be_whitened_are_refused(images):
    with pytest.raises(ValueError, match=r"matrix of 9\.7 GB: resize them to 64x64 or less"):
        ZcaWhitening.fit(torch.zeros(2, 3, 128, 128, dtype=torch.uint8))
    for unfit in (images[:1], images.float(), images[0]):
        with pytest.raises(ValueError, match="two uint8 images"):
            ZcaWhitening.fit(unfit)
    with pytest.raises(ValueError, match=r"whitening is of images \[3, 4, 5\] \(C, H, W\), got \[3, 5, 4\]"):
        processor_of(images).normalize(images.transpose(2, 3))
    with pytest.raises(ValueError, match="takes the place of image_mean and image_std"):
        processor_of(images, image_mean=[0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match="holds NaN"):
        ZcaWhitening(torch.zeros(1, 1, 2), torch.full((2, 2), float("nan")))
    with pytest.raises(ValueError, match=r"a matrix \[D, D\]"):
        ZcaWhitening(torch.zeros(1, 1, 2), torch.zeros(3, 3))


# --- files -----------------------------------------------------------------------------------------------------------


def test_the_processor_brings_its_whitening_along(images, tmp_path):
    processor = processor_of(images)
    processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert settings["whitening"] == processor.whitening.fingerprint
    assert (tmp_path / "whitening_haba.py").is_file()
    places = (tmp_path, str(tmp_path), tmp_path / "preprocessor_config.json")
    for loaded in (*map(HabaImageProcessor.from_pretrained, places), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is HabaImageProcessor
        assert loaded.whitening_fingerprint == processor.whitening_fingerprint
        assert torch.equal(loaded(list(images))["pixel_values"], processor(list(images))["pixel_values"])
        assert str(loaded) == str(processor)
    assert copy.deepcopy(processor).whitening is processor.whitening
    assert not list(tmp_path.glob(".*"))


def test_a_processor_without_its_whitening_does_not_load(images, tmp_path):
    processor = processor_of(images)
    processor.save_pretrained(tmp_path)
    file = tmp_path / WHITENING
    whole = file.read_bytes()
    for auto in (HabaImageProcessor, AutoImageProcessor):
        file.unlink()
        with pytest.raises(ValueError, match=r"whitens images, but its whitening\.safetensors is missing"):
            auto.from_pretrained(tmp_path)
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="is damaged"):
            auto.from_pretrained(tmp_path)
        ZcaWhitening.fit(images[:100]).save(file)
        with pytest.raises(ValueError, match=r"is another whitening .* than its settings name"):
            auto.from_pretrained(tmp_path)
        save_file({"weights": torch.zeros(2)}, file)
        with pytest.raises(ValueError, match="holds weights, not the mean and matrix"):
            auto.from_pretrained(tmp_path)
    file.write_bytes(whole)
    with pytest.raises(ValueError, match=r"the size asked for \[3, 8, 8\]"):
        HabaImageProcessor.from_pretrained(tmp_path, size={"height": 8, "width": 8})
    with pytest.raises(ValueError, match=r"load a saved processor by from_pretrained"):
        HabaImageProcessor(**json.loads((tmp_path / "preprocessor_config.json").read_text()))


def test_fingerprints_tell_whitenings_apart(images, tmp_path):
    whitening = ZcaWhitening.fit(images)
    whitening.save(tmp_path / WHITENING)
    assert load_file(tmp_path / WHITENING)["matrix"].shape == (60, 60)
    assert (
        ZcaWhitening.load(tmp_path / WHITENING).fingerprint
        == whitening.fingerprint
        == ZcaWhitening.fit(images).fingerprint
    )
    others = [ZcaWhitening.fit(images[1:]), ZcaWhitening.fit(images, epsilon=0.2)]
    assert len({whitening.fingerprint, *(other.fingerprint for other in others)}) == 3


# --- artifacts -------------------------------------------------------------------------------------------------------


def test_the_whitening_is_counted_as_a_part_of_its_own():
    plain, whitened = tiny_model(tiny_data()), tiny_model(tiny_data(zca=True))
    values = 3 * 8 * 8
    report = whitened.storage()
    assert "whitening" not in plain.storage().parts
    assert report.parts == {**plain.storage().parts, "whitening": values + values**2}
    assert report.whitening_floats == tiny_data(zca=True).processor.whitening.num_floats
    assert report.bytes == plain.storage().bytes + 4 * (values + values**2)
    assert report.images_per_class == plain.storage().images_per_class, "plain images need a whitening as well"
    assert whitened.config.num_floats == plain.config.num_floats


def test_images_and_samples_of_different_spaces_are_kept_apart(images):
    whitened, plain, other = tiny_data(zca=True), tiny_data(), tiny_data(zca=True, seed=1)
    model = tiny_model(whitened)
    whitened.processor.check_fits(model.config)
    plain.processor.check_fits(tiny_model(plain).config)
    with pytest.raises(ValueError, match=r"samples live in ZCA-whitened space .* but the processor does not whiten"):
        plain.processor.check_fits(model.config)
    with pytest.raises(ValueError, match="samples are not whitened, but the processor whitens by"):
        whitened.processor.check_fits(tiny_model(plain).config)
    with pytest.raises(ValueError, match=r"live in ZCA-whitened space \(\w+\), but the processor whitens by \w+"):
        other.processor.check_fits(model.config)
