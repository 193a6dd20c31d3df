"""The front end against numpy, sound in and out, and the processor's way to disk and back."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoProcessor

from haba_hf import HabaAudioProcessor, HabaImageProcessor
from haba_hf.artifact.loading import check_same_space, load_processor
from speech_clips import RATE, pitch_of, tone
from tiny import tiny_data, tiny_model


def numpy_spectrogram(clip, n_fft=255, hop=128, side=64, offset=1e-3):
    """The published front end, frame by frame."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.pad(clip.astype(np.float64), n_fft // 2)
    starts = range(0, len(padded) - n_fft + 1, hop)
    frames_FT = np.stack([np.abs(np.fft.rfft(window * padded[start : start + n_fft])) for start in starts], axis=1)
    square = np.pad(frames_FT, ((0, 0), (1, 2)))
    assert frames_FT.shape == (128, 125) and square.shape == (128, 128)
    # Bilinear from 128 to 64: every value lies in the middle of a 2x2 square.
    halved = square.reshape(side, 2, side, 2).mean(axis=(1, 3))
    return np.log(halved + offset)


def test_the_front_end_is_what_numpy_computes():
    clip = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32) + tone(440)
    processor = HabaAudioProcessor(spectrogram_mean=-2.5, spectrogram_std=1.5)
    expected = numpy_spectrogram(clip)
    found = processor.to_spectrograms(clip, RATE)
    assert found.shape == (1, 1, 64, 64) and found.dtype == torch.float32
    np.testing.assert_allclose(found[0, 0].numpy(), expected, rtol=0, atol=2e-4)
    pixels = processor([clip, clip], sampling_rate=RATE, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(pixels, np.stack([(expected + 2.5) / 1.5] * 2)[:, None], rtol=0, atol=2e-4)


def test_mel_bands_gather_the_frequencies():
    """HTK's scale, triangles from band to band."""
    clip = np.random.default_rng(1).normal(0, 0.1, 1024).astype(np.float32)
    size = {"height": 5, "width": 8}
    processor = HabaAudioProcessor(clip_seconds=1024 / RATE, n_fft=256, hop_length=128, mel_bins=5, size=size)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    padded = np.pad(clip.astype(np.float64), 128)
    frames_FT = np.stack([np.abs(np.fft.rfft(window * padded[i : i + 256])) for i in range(0, 1025, 128)], axis=1)
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 7) / 2595) - 1)
    frequencies = np.arange(129) * RATE / 256
    bands = [np.interp(frequencies, edges[i : i + 3], [0, 1, 0], left=0, right=0) for i in range(5)]
    mel_MT = np.pad(np.array(bands) @ frames_FT, ((0, 0), (3, 4)))  # 9 frames to 16
    expected = np.log(mel_MT.reshape(5, 8, 2).mean(axis=2) + 1e-3)
    np.testing.assert_allclose(processor.to_spectrograms(clip, RATE)[0, 0].numpy(), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_another_rate_is_resampled_to_the_same_pitch(rate):
    processor = HabaAudioProcessor()
    clip = processor.to_clip(tone(1000, rate=rate), rate)
    assert clip.shape == (RATE,)
    assert pitch_of(clip.numpy(), RATE) == pytest.approx(1000, abs=1)
    inside = slice(1000, -1000)
    np.testing.assert_allclose(clip.numpy()[inside], tone(1000)[inside], atol=0.01)


@pytest.mark.parametrize("fit", ["end", "center"])
def test_clips_are_padded_and_trimmed_as_told(fit):
    processor = HabaAudioProcessor(fit_clips=fit, clip_seconds=1 / 16, n_fft=64)
    sound = np.arange(1, 1201, dtype=np.float32) / 1200
    start = 100 if fit == "center" else 0
    assert np.array_equal(processor.to_clip(sound, RATE).numpy(), sound[start : start + 1000])
    short = processor.to_clip(sound[:900], RATE).numpy()
    start = 50 if fit == "center" else 0
    assert np.array_equal(short[start : start + 900], sound[:900])
    assert np.count_nonzero(short) == 900


@pytest.mark.parametrize(
    ("sound", "rate", "error", "says"),
    [
        (np.zeros(0, dtype=np.float32), RATE, ValueError, "The sound is empty"),
        (
            np.zeros((2, RATE), dtype=np.float32),
            RATE,
            ValueError,
            r"one channel, \[S\], got \[2, 16000\]: take the mean",
        ),
        (np.zeros(RATE, dtype=np.int16), RATE, TypeError, r"floating-point numbers in \[-1, 1\], got torch.int16"),
        ([0.0, 1.0], RATE, TypeError, "got float"),
        (np.full(RATE, np.nan, dtype=np.float32), RATE, ValueError, "NaN or infinite"),
        (np.zeros(RATE, dtype=np.float32), 0, ValueError, "sampling_rate must be at least 1, got 0"),
        (np.zeros(800, dtype=np.float32), RATE, ValueError, r"0\.05 s and not the 1 s of a clip: set fit_clips"),
        ([], RATE, ValueError, "the list is empty"),
    ],
)
def test_unfit_sounds_are_refused(sound, rate, error, says):
    with pytest.raises(error, match=says):
        HabaAudioProcessor(fit_clips="refuse")(sound, sampling_rate=rate)


def test_a_silent_clip_is_the_floor():
    spectrogram = HabaAudioProcessor().to_spectrograms(torch.zeros(RATE), RATE)
    torch.testing.assert_close(spectrogram, torch.full((1, 1, 64, 64), float(np.log(1e-3))))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size": {"height": 64}}, "size must be"),
        ({"n_fft": 0}, "n_fft must be at least 1"),
        ({"mel_bins": 0}, "mel_bins must be at least 1"),
        ({"fit_clips": "loop"}, "fit_clips must be one of end, center, refuse"),
        ({"log_offset": 0.0}, "log_offset must be positive"),
        ({"spectrogram_std": 0.0}, "spectrogram_std positive"),
        ({"clip_seconds": 0.01}, "fewer than a frame of n_fft 255"),
    ],
)
def test_unfit_settings_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        HabaAudioProcessor(**settings)
    with pytest.raises(TypeError, match="has no argument hop"):
        HabaAudioProcessor(hop=3)


def test_normalize_and_denormalize_are_inverse_above_silence():
    processor = HabaAudioProcessor(spectrogram_mean=-4.0, spectrogram_std=2.0)
    spectrograms = torch.empty(3, 1, 64, 64).uniform_(-6.9, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(processor.denormalize(processor.normalize(spectrograms)), spectrograms)
    assert processor.denormalize(torch.full((1, 1, 64, 64), -9.0)).unique().tolist() == [pytest.approx(np.log(1e-3))]
    with pytest.raises(ValueError, match=r"Expected spectrograms \[B, 1, 64, 64\], got \[2, 1, 64, 32\]"):
        processor.normalize(torch.zeros(2, 1, 64, 32))
    with pytest.raises(TypeError, match="uint8"):
        processor.normalize(torch.zeros(1, 1, 64, 64, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("settings", "width"), [({}, RATE / 255), ({"n_fft": 1024, "mel_bins": 64}, 100)], ids=["stft", "mel"]
)
def test_griffin_lim_gives_back_the_pitch_of_a_tone(settings, width):
    """To within a frequency of the front end; always the same, and no louder than it came in by much."""
    processor = HabaAudioProcessor(spectrogram_mean=-4.0, spectrogram_std=2.0, **settings)
    samples = processor(tone(1000), sampling_rate=RATE)["pixel_values"]
    state = torch.random.get_rng_state()
    sounds = processor.to_sound(samples, steps=16)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sounds.shape == (1, RATE) and sounds.isfinite().all()
    assert pitch_of(sounds[0].numpy(), RATE) == pytest.approx(1000, abs=width)
    assert 0.2 < sounds.abs().max() < 1.5
    assert torch.equal(processor.to_sound(samples, steps=16), sounds)


def test_pictures_have_low_frequencies_below_and_silence_dark():
    processor = HabaAudioProcessor(spectrogram_mean=-4.0, spectrogram_std=2.0)
    sound = tone(1000)
    sound[: RATE // 2] = 0
    (picture,) = processor.to_pil(processor(sound, sampling_rate=RATE)["pixel_values"])
    pixels = np.asarray(picture).astype(int).sum(axis=2)
    assert picture.mode == "RGB" and pixels.shape == (64, 64)
    row, column = np.unravel_index(pixels.argmax(), pixels.shape)
    assert row == 64 - 1 - 1000 // 125, "1000 Hz is in the ninth of 64 bands of 125 Hz, counted from below"
    assert column >= 31, "the second half of the clip"
    assert pixels[:, :30].max() <= 4


def test_save_and_load(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = tiny_data(channels=1)
    tiny_model(data).save_pretrained(tmp_path)
    processor = HabaAudioProcessor(sampling_rate=8000, mel_bins=40, n_fft=512, spectrogram_mean=-3.25)
    processor.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert written["auto_map"] == {"AutoFeatureExtractor": "processing_audio_haba.HabaAudioProcessor"}
    for loaded in (
        HabaAudioProcessor.from_pretrained(tmp_path),
        AutoFeatureExtractor.from_pretrained(tmp_path, trust_remote_code=False),
        AutoProcessor.from_pretrained(tmp_path, trust_remote_code=False),
        load_processor(tmp_path),
    ):
        assert type(loaded) is HabaAudioProcessor
        assert loaded.front_end == processor.front_end and loaded.spectrogram_mean == -3.25


def test_the_right_processor_is_loaded_and_others_are_refused(tmp_path):
    HabaImageProcessor(num_channels=1).save_pretrained(tmp_path)
    assert type(load_processor(tmp_path)) is HabaImageProcessor
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor"}')
    with pytest.raises(ValueError, match="is of no processor of haba_hf"):
        load_processor(tmp_path)


def test_spectrograms_of_other_settings_are_no_test_data():
    audio = HabaAudioProcessor()
    check_same_space(audio, HabaAudioProcessor(spectrogram_mean=-1.0))  # the artifact's own mean is what counts
    check_same_space(HabaImageProcessor(), HabaImageProcessor())
    with pytest.raises(ValueError, match="made by n_fft 255, mel_bins None: load the data with the front end"):
        check_same_space(audio, HabaAudioProcessor(n_fft=1024, mel_bins=64))
    with pytest.raises(ValueError, match="is of images and the other of speech"):
        check_same_space(audio, HabaImageProcessor(num_channels=1))


WITHOUT_HABA_HF = """
import sys
sys.modules["haba_hf"] = None  # importing it is an ImportError
sys.modules["torchaudio"] = None

import numpy as np
from transformers import AutoFeatureExtractor

processor = AutoFeatureExtractor.from_pretrained(sys.argv[1], trust_remote_code=True)
pixels = processor(np.zeros(16000, dtype=np.float32), sampling_rate=16000)["pixel_values"]
print(type(processor).__name__, list(pixels.shape), round(pixels.max().item(), 4))
try:
    processor(np.zeros(8000, dtype=np.float32), sampling_rate=8000)
except ImportError as error:
    print("torchaudio" in str(error))
"""


@pytest.mark.slow
def test_a_new_process_without_haba_hf_and_torchaudio(tmp_path):
    artifact = tmp_path / "artifact"
    tiny_model(tiny_data(channels=1)).save_pretrained(artifact)
    HabaAudioProcessor(spectrogram_std=2.0).save_pretrained(artifact)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", WITHOUT_HABA_HF, str(artifact)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"HabaAudioProcessor [1, 1, 64, 64] {np.log(1e-3) / 2:.4f}", "True"]


@pytest.mark.parametrize("rate", [22_254, 12_345, 1, 192_001])
def test_odd_rates_cost_little_and_keep_the_pitch(rate):
    processor = HabaAudioProcessor(sampling_rate=RATE)
    started = time.perf_counter()
    clip = processor.to_clip(tone(440, rate=rate) if rate > 1 else torch.ones(3), rate)
    assert time.perf_counter() - started < 5
    if rate > 1:
        assert len(clip) == RATE and abs(pitch_of(clip.numpy(), RATE) - 440) < 1.5


def test_sound_of_another_scale_is_refused():
    with pytest.raises(ValueError, match=r"values up to 16384, but is wanted in \[-1, 1\]: divide 16-bit samples"):
        HabaAudioProcessor().to_clip(tone(440) * 32768, RATE)
