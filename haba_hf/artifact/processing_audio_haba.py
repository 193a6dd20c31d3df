"""Spoken clips to model space and back: what an artifact of speech needs to meet real sound, and to be heard."""

# Shape suffixes: B clips, S sound samples of a clip, F frequencies, T frames; of a spectrogram, as of an image, C = 1
# channel, H height (frequency, the lowest first) and W width (time).

import os
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import BatchFeature, FeatureExtractionMixin
from transformers.utils import FEATURE_EXTRACTOR_NAME

from .configuration_haba import HabaConfig
from .files_haba import checked_size, read_as_settings, read_settings

FRAMES_MULTIPLE = 8  # frames are padded with silence to a multiple of it: 125 to 128
FITS = ("end", "center", "refuse")
GRIFFIN_LIM_STEPS = 64
LARGEST_TERM = 640  # of the ratio of two rates, by the smaller: 11,025 to 16,000 Hz is 441 to 640
LOUDEST = 2.0  # decoders give [-1, 1], and lossy ones a little more

# Five colors of matplotlib's magma, silence first, and the deviation from the mean that the last one stands for.
COLORS = np.array([(0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191)])
BRIGHTEST = 4.0


class HabaAudioProcessor(FeatureExtractionMixin):
    r"""
    Turns clips of speech into the space in which bases and samples live: `(log(|STFT| + log_offset) -
    spectrogram_mean) / spectrogram_std`, with one mean and deviation for all frequencies (IDC; Kim et al., ICML 2022,
    for Mini Speech Commands).

    A clip is resampled to `sampling_rate` and brought to `clip_seconds`; the magnitudes of its short-time Fourier
    transform (Hann window, centered frames, zeros beyond the ends) are padded with silent frames to a multiple of 8,
    half of them in front, and resized to `size` (bilinear, not antialiased). One second at 16 kHz gives 128
    frequencies x 125 frames, then 128x128, then 64x64. With `mel_bins` the frequencies are gathered in mel bands
    first.

    `processor(sounds, sampling_rate=16000)` equals `processor.normalize(processor.to_spectrograms(sounds, 16000))`.

    Args:
        sampling_rate (`int`, *optional*, defaults to 16000): in Hz, that clips are resampled to.
        clip_seconds (`float`, *optional*, defaults to 1.0): length of a clip.
        fit_clips (`str`, *optional*, defaults to `"end"`):
            Clips of another length are padded with silence or trimmed at their `"end"`, on both sides (`"center"`), or
            refused (`"refuse"`).
        n_fft (`int`, *optional*, defaults to 255): sound samples of a frame.
        hop_length (`int`, *optional*, defaults to 128): sound samples from one frame to the next.
        mel_bins (`int`, *optional*): mel bands (HTK's scale); by default the frequencies stay linear.
        size (`dict`, *optional*, defaults to `{"height": 64, "width": 64}`):
            Height (frequency) and width (time) of a spectrogram in model space.
        log_offset (`float`, *optional*, defaults to 1e-3): added before the logarithm.
        spectrogram_mean, spectrogram_std (`float`, *optional*, default to 0.0 and 1.0):
            Mean and standard deviation of all values of the training set's log spectrograms.

    Raises:
        `ValueError`: if an argument is out of range.
        `TypeError`: if an argument is unknown.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - the name and form transformers reads
    whitening = whitening_fingerprint = None  # spectrograms are standardized, never whitened

    def __init__(
        self,
        sampling_rate: int = 16_000,
        clip_seconds: float = 1.0,
        fit_clips: str = "end",
        n_fft: int = 255,
        hop_length: int = 128,
        mel_bins: int | None = None,
        size: dict[str, int] | None = None,
        log_offset: float = 1e-3,
        spectrogram_mean: float = 0.0,
        spectrogram_std: float = 1.0,
        **kwargs: Any,
    ) -> None:
        # What transformers itself writes into preprocessor_config.json.
        unknown = kwargs.keys() - {"feature_extractor_type", "processor_class", "auto_map"}
        if unknown:
            raise TypeError(f"HabaAudioProcessor has no argument {', '.join(sorted(unknown))}.")
        super().__init__(**kwargs)
        size = checked_size(size, 64)
        counts = {"sampling_rate": sampling_rate, "n_fft": n_fft, "hop_length": hop_length}
        if mel_bins is not None:
            counts["mel_bins"] = mel_bins
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if fit_clips not in FITS:
            raise ValueError(f"fit_clips must be one of {', '.join(FITS)}, got {fit_clips!r}.")
        if not log_offset > 0:
            raise ValueError(f"log_offset must be positive, got {log_offset}.")
        if not np.isfinite(spectrogram_mean) or not 0 < spectrogram_std < np.inf:
            raise ValueError(
                "spectrogram_mean must be finite and spectrogram_std positive, "
                f"got {spectrogram_mean} and {spectrogram_std}."
            )
        self.sampling_rate = sampling_rate
        self.clip_seconds = clip_seconds
        self.fit_clips = fit_clips
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.mel_bins = mel_bins
        self.size = size
        self.log_offset = log_offset
        self.spectrogram_mean = spectrogram_mean
        self.spectrogram_std = spectrogram_std
        if self.clip_samples < n_fft:
            raise ValueError(
                f"A clip of {clip_seconds:g} s has {self.clip_samples} sound samples, fewer than a frame of n_fft "
                f"{n_fft}: raise clip_seconds."
            )

    @classmethod
    def get_feature_extractor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers, from `preprocessor_config.json` alone."""
        settings = read_settings(pretrained_model_name_or_path, FEATURE_EXTRACTOR_NAME, kwargs)
        _, others = super().get_feature_extractor_dict(pretrained_model_name_or_path, **kwargs)
        return settings, others

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; settings that fit no field are a `ValueError`."""
        with read_as_settings(FEATURE_EXTRACTOR_NAME):
            return super().from_dict(feature_extractor_dict, **kwargs)

    def check_fits(self, config: HabaConfig) -> None:
        """
        Refuses to bring clips and the samples of an artifact together that live in different spaces.

        Raises:
            `ValueError`: if the artifact's samples are whitened images, or of another size.
        """
        found = (1, self.size["height"], self.size["width"])
        if found != config.sample_shape:
            raise ValueError(
                f"The processor makes spectrograms {list(found)} (C, H, W), but the artifact's samples are "
                f"{list(config.sample_shape)}: use the processor saved with it."
            )
        if config.whitening is not None:
            raise ValueError("The artifact's samples are whitened images, but the processor is of speech.")

    @property
    def clip_samples(self) -> int:
        """Sound samples of a clip."""
        return round(self.sampling_rate * self.clip_seconds)

    @property
    def front_end(self) -> dict[str, Any]:
        """The settings that a spectrogram depends on before it is normalized."""
        return {
            "sampling_rate": self.sampling_rate,
            "clip_seconds": self.clip_seconds,
            "fit_clips": self.fit_clips,
            "n_fft": self.n_fft,
            "hop_length": self.hop_length,
            "mel_bins": self.mel_bins,
            "size": self.size,
            "log_offset": self.log_offset,
        }

    def __call__(self, sounds: Any, sampling_rate: int, return_tensors: str = "pt") -> BatchFeature:
        """
        Sounds to normalized spectrograms.

        Args:
            sounds: one sound or a list of them, as [`~HabaAudioProcessor.to_clip`] takes them.
            sampling_rate (`int`): theirs, in Hz; they are resampled if it is not the processor's.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"` for torch, `"np"` for numpy.

        Returns:
            `BatchFeature` with `pixel_values`, float32 [B, 1, H, W].
        """
        pixel_values_BCHW = self.normalize(self.to_spectrograms(sounds, sampling_rate))
        return BatchFeature(data={"pixel_values": pixel_values_BCHW}, tensor_type=return_tensors)

    def to_spectrograms(self, sounds: Any, sampling_rate: int) -> torch.Tensor:
        """
        Sounds to log spectrograms that are not normalized; the arguments are those of a call.

        Returns:
            `torch.Tensor`, float32 [B, 1, H, W].
        """
        sounds = list(sounds) if isinstance(sounds, (list, tuple)) else [sounds]
        if not sounds:
            raise ValueError("There are no sounds to process: the list is empty.")
        return self.spectrograms_of(torch.stack([self.to_clip(sound, sampling_rate) for sound in sounds]))

    def to_clip(self, sound: Any, sampling_rate: int) -> torch.Tensor:
        """
        One sound at the processor's rate and length.

        Args:
            sound (`torch.Tensor` or `np.ndarray`): floating point [S] in [-1, 1], one channel.
            sampling_rate (`int`): in Hz.

        Returns:
            `torch.Tensor`, float32 [clip_samples].

        Raises:
            `ValueError`: if the sound is empty, not finite, of another scale, of several channels, or, while
                `fit_clips` is `"refuse"`, of another length than a clip.
            `TypeError`: if it is no array of floating-point numbers.
        """
        if isinstance(sound, np.ndarray):
            sound = torch.from_numpy(sound)
        if not isinstance(sound, torch.Tensor) or not sound.is_floating_point():
            kind = sound.dtype if isinstance(sound, torch.Tensor) else type(sound).__name__
            raise TypeError(f"A sound is an array of floating-point numbers in [-1, 1], got {kind}.")
        if sound.ndim != 1:
            raise ValueError(f"A sound has one channel, [S], got {list(sound.shape)}: take the mean of its channels.")
        if not len(sound):
            raise ValueError("The sound is empty.")
        if not bool(sound.isfinite().all()):
            raise ValueError("The sound has values that are NaN or infinite.")
        if sound.abs().max() > LOUDEST:
            raise ValueError(
                f"The sound has values up to {sound.abs().max().item():g}, but is wanted in [-1, 1]: divide 16-bit "
                "samples by 32768."
            )
        if sampling_rate < 1:
            raise ValueError(f"sampling_rate must be at least 1, got {sampling_rate}.")
        sound_S = sound.to(torch.float32)
        if sampling_rate != self.sampling_rate:
            sound_S = _resampler(sampling_rate, self.sampling_rate)(sound_S)
        return self._fit(sound_S)

    def spectrograms_of(self, clips_BS: torch.Tensor) -> torch.Tensor:
        """Clips [B, clip_samples] at the processor's rate to log spectrograms, float32 [B, 1, H, W]."""
        magnitudes_BFT = torch.stft(
            clips_BS,
            self.n_fft,
            self.hop_length,
            window=torch.hann_window(self.n_fft, device=clips_BS.device),
            center=True,
            pad_mode="constant",
            return_complex=True,
        ).abs()
        if self.mel_bins is not None:
            bands_FM = _torchaudio().functional.melscale_fbanks(
                self._num_frequencies, 0.0, self.sampling_rate / 2, self.mel_bins, self.sampling_rate
            )
            magnitudes_BFT = bands_FM.T.to(clips_BS.device) @ magnitudes_BFT
        padded_B1FT = F.pad(magnitudes_BFT, self._padding())[:, None]
        resized_BCHW = F.interpolate(padded_B1FT, size=(self.size["height"], self.size["width"]), mode="bilinear")
        return torch.log(resized_BCHW + self.log_offset)

    def normalize(self, spectrograms: torch.Tensor) -> torch.Tensor:
        """
        Log spectrograms, floating point [B, 1, H, W], to model space, float32, on their device.

        Raises:
            `ValueError`: if they have another shape.
            `TypeError`: if they are no floating-point numbers.
        """
        self._check_batch(spectrograms)
        if not spectrograms.is_floating_point():
            raise TypeError(f"normalize takes floating-point log spectrograms, got {spectrograms.dtype}.")
        return (spectrograms.to(torch.float32) - self.spectrogram_mean) / self.spectrogram_std

    def denormalize(self, samples: torch.Tensor) -> torch.Tensor:
        """Model space to log spectrograms, float32 [B, 1, H, W], none below silence, `log(log_offset)`."""
        self._check_batch(samples)
        spectrograms = samples.to(torch.float32) * self.spectrogram_std + self.spectrogram_mean
        return spectrograms.clamp_min(float(np.log(self.log_offset)))

    def to_sound(self, samples: torch.Tensor, steps: int = GRIFFIN_LIM_STEPS) -> torch.Tensor:
        """
        Samples to sound: magnitudes are resized back and their phases found by the Griffin-Lim algorithm.

        The phases start at random, always the same, and the global random state is left as it was.

        Args:
            samples (`torch.Tensor`): floating point [B, 1, H, W] in model space.
            steps (`int`, *optional*, defaults to 64): of the algorithm.

        Returns:
            `torch.Tensor`, float32 [B, clip_samples] on the CPU, at `sampling_rate`; not bounded to [-1, 1].

        Raises:
            `ImportError`: if torchaudio is not there.
        """
        torchaudio = _torchaudio()
        magnitudes_BCHW = self.denormalize(samples.detach().cpu()).exp() - self.log_offset
        before, after = self._padding()
        bands = self.mel_bins or self._num_frequencies
        frames = self._num_frames
        resized_BCHW = F.interpolate(magnitudes_BCHW, size=(bands, before + frames + after), mode="bilinear")
        magnitudes_BFT = resized_BCHW[:, 0, :, before : before + frames].clamp_min(0)
        if self.mel_bins is not None:
            inverse = torchaudio.transforms.InverseMelScale(
                self._num_frequencies, self.mel_bins, self.sampling_rate, driver="gelsd"
            )
            magnitudes_BFT = inverse(magnitudes_BFT)
        # Beyond the center of the last frame a window that falls to zero would be divided by.
        covered = (frames - 1) * self.hop_length + self.n_fft % 2
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            sounds_BS = torchaudio.functional.griffinlim(
                magnitudes_BFT,
                window=torch.hann_window(self.n_fft),
                n_fft=self.n_fft,
                hop_length=self.hop_length,
                win_length=self.n_fft,
                power=1.0,
                n_iter=steps,
                momentum=0.99,
                length=covered,
                rand_init=True,
            )
        return F.pad(sounds_BS, (0, self.clip_samples - covered))

    def to_pil(self, samples: torch.Tensor) -> list[Any]:
        """
        Samples [B, 1, H, W] in model space to a list of B PIL images (RGB): time to the right, frequency upwards, dark
        for silence, bright for 4 standard deviations above the mean.
        """
        from PIL import Image  # the rest of the class works without Pillow

        silence = (float(np.log(self.log_offset)) - self.spectrogram_mean) / self.spectrogram_std
        model_BHW = self.normalize(self.denormalize(samples.detach().cpu()))[:, 0].flip(1).numpy()
        levels_BHW = ((model_BHW - silence) / (BRIGHTEST - silence)).clip(0, 1) * (len(COLORS) - 1)
        steps = np.arange(len(COLORS))
        colored_BHWC = np.stack([np.interp(levels_BHW, steps, COLORS[:, channel]) for channel in range(3)], axis=-1)
        return [Image.fromarray(picture) for picture in np.rint(colored_BHWC).astype(np.uint8)]

    @property
    def _num_frequencies(self) -> int:
        return self.n_fft // 2 + 1

    @property
    def _num_frames(self) -> int:
        return 1 + (self.clip_samples + 2 * (self.n_fft // 2) - self.n_fft) // self.hop_length

    def _padding(self) -> tuple[int, int]:
        """Silent frames in front and behind."""
        missing = -self._num_frames % FRAMES_MULTIPLE
        return missing // 2, missing - missing // 2

    def _fit(self, sound_S: torch.Tensor) -> torch.Tensor:
        missing = self.clip_samples - len(sound_S)
        if missing == 0:
            return sound_S
        if self.fit_clips == "refuse":
            raise ValueError(
                f"The sound has {len(sound_S) / self.sampling_rate:g} s and not the {self.clip_seconds:g} s of a "
                'clip: set fit_clips to "end" or "center" to have it padded or trimmed.'
            )
        before = missing // 2 if self.fit_clips == "center" else 0
        return F.pad(sound_S, (before, missing - before))  # a negative padding trims

    def _check_batch(self, spectrograms: torch.Tensor) -> None:
        expected = [1, self.size["height"], self.size["width"]]
        if spectrograms.ndim != 4 or list(spectrograms.shape[1:]) != expected:
            raise ValueError(f"Expected spectrograms [B, {str(expected)[1:]}, got {list(spectrograms.shape)}.")


@lru_cache(maxsize=32)
def _resampler(rate: int, wanted: int) -> Any:
    """
    torchaudio's, kept for each rate. Its kernel grows with the terms of the ratio, to some 350 MB from 22,254 to
    16,000 Hz: they are kept small, by less than three millionths of the rate.
    """
    ratio = Fraction(max(rate, wanted), min(rate, wanted)).limit_denominator(LARGEST_TERM)
    terms = (ratio.numerator, ratio.denominator) if rate > wanted else (ratio.denominator, ratio.numerator)
    return _torchaudio().transforms.Resample(*terms)


def _torchaudio() -> Any:
    try:  # only to resample, for mel bands and to hear samples; a build for another torch raises OSError
        import torchaudio
    except (ImportError, OSError) as error:
        raise ImportError(f"This needs torchaudio, which cannot be imported here ({error}): install it.") from error
    return torchaudio
