"""Corruptions that add noise, pixel value by pixel value.

Every corruption takes pixels in [0, 1] `[n, H, W, C]` in float64, a severity of 1 to 5 and a numpy generator, and
gives pixels that may leave [0, 1].
"""

import numpy as np


def gaussian_noise(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Normal noise."""
    std = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return images + random.normal(0, std, images.shape)


def shot_noise(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Poisson noise of so many photons at full brightness."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return random.poisson(images * photons) / photons


def impulse_noise(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Values replaced by black or white, each half of the time."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    replaced = random.random(images.shape) < amount
    return np.where(replaced, random.integers(0, 2, images.shape), images)


def speckle_noise(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Normal noise in proportion to the value."""
    std = (0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1]
    return images + images * random.normal(0, std, images.shape)


def to_bytes(images: np.ndarray) -> np.ndarray:
    """[0, 1] to 0 .. 255, cut off and not rounded, as in the published files."""
    return (images * 255 + 1e-6).astype(np.uint8)  # a value that was a byte stays it in spite of rounding errors
