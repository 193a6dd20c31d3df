"""Clips of speech in milliseconds: words that are tones, spoken by speakers who differ in pitch and noise."""

from pathlib import Path

import numpy as np
import soundfile

WORDS = {"left": 500.0, "right": 1500.0, "up": 3000.0}  # Hz
RATE = 16_000


def tone(frequency: float, seconds: float = 1.0, rate: int = RATE, level: float = 0.5) -> np.ndarray:
    """A sine, float32."""
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def clip_of(word: str, speaker: int, number: int) -> np.ndarray:
    """One clip, told apart from every other."""
    random = np.random.default_rng([speaker, number, len(word)])
    noise = random.normal(0, 0.02, RATE)
    return (tone(WORDS[word] * (1 + 0.02 * speaker)) + noise).astype(np.float32)


def write_clips(folder: Path, speakers: range, clips_per_speaker: int = 1) -> Path:
    """`folder/<word>/<speaker>_nohash_<number>.wav`, as in TensorFlow's mini_speech_commands."""
    for word in WORDS:
        (folder / word).mkdir(parents=True, exist_ok=True)
        for speaker in speakers:
            for number in range(clips_per_speaker):
                path = folder / word / f"{speaker:08x}_nohash_{number}.wav"
                soundfile.write(path, clip_of(word, speaker, number), RATE, subtype="PCM_16")
    return folder


def pitch_of(sound: np.ndarray, rate: int) -> float:
    """The frequency of the strongest partial, in Hz."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(spectrum.argmax() * rate / len(sound))
