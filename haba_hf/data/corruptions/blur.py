"""Corruptions that blur. The form of a corruption is that of `noise.py`.

Shape legend: n images, H/W of an image, C channels.
"""

import math

import numpy as np
from scipy import ndimage

from .noise import to_bytes


def gaussian_blur(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """A Gaussian kernel, its standard deviation in pixels."""
    return blurred(images, (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1])


def glass_blur(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Pixels take the value of a near one, between two Gaussian blurs."""
    std, reach, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity - 1]
    images = to_bytes(blurred(images, std)) / 255  # as published
    count, height, width, _ = images.shape
    every = np.arange(count)
    for _ in range(rounds):
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                down, right = random.integers(-reach, reach, (2, count))
                # Meant as an exchange, but the published code copies one way: its arrays share memory.
                images[:, row, column] = images[every, row + down, column + right]
    return blurred(images, std)


def defocus_blur(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """A disk as kernel, softened by a Gaussian cut to 3x3."""
    radius, std = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    offsets = np.arange(-3, 4)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(float)
    soft = np.exp(-np.square([-1, 0, 1]) / (2 * std**2))
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(soft, soft) / soft.sum() ** 2, mode="constant")
    return ndimage.convolve(images, kernel[None, :, :, None], mode="mirror")


def motion_blur(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """A trail at an angle of its own in every image, within 45 degrees of the horizontal."""
    radius, std = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    return trail(images, radius, std, random.uniform(-45, 45, len(images)))


def zoom_blur(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """The mean of the image and of its zooms by 1, 1.01, ..., up to 1.06 (severity 1) to 1.25 (severity 5)."""
    count = (7, 12, 16, 21, 26)[severity - 1]  # of np.arange(1, 1.06, 0.01) and so on, as numpy rounds
    zooms = [1 + step / 100 for step in range(count)]
    return (images + sum(zoomed(images, zoom) for zoom in zooms)) / (len(zooms) + 1)


def blurred(images: np.ndarray, std: float, mode: str = "nearest", truncate: float = 4.0) -> np.ndarray:
    """`[n, H, W]` or `[n, H, W, C]` under a Gaussian of so many pixels."""
    stds = (0, std, std, 0)[: images.ndim]
    return ndimage.gaussian_filter(images, stds, mode=mode, truncate=truncate)


def trail(images: np.ndarray, radius: int, std: float, degrees: np.ndarray) -> np.ndarray:
    """
    Motion blur as ImageMagick has it: every pixel is the mean of the 2 * radius + 1 pixels on a ray from it, weighted
    by one half of a Gaussian, each the nearest to its place on the ray. Beyond the border the last pixel repeats.

    Args:
        degrees (`np.ndarray` `[n]`): of each image's ray; 0 points to the right, 90 down.
    """
    count, height, width = images.shape[:3]
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * std**2))
    radians = np.radians(degrees)[:, None, None]
    every, rows, columns = np.ogrid[:count, :height, :width]
    result = np.zeros_like(images)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        down = np.ceil(step * np.sin(radians) - 0.5).astype(int)
        right = np.ceil(step * np.cos(radians) - 0.5).astype(int)
        result += weight * images[every, (rows + down).clip(0, height - 1), (columns + right).clip(0, width - 1)]
    return result


def zoomed(images: np.ndarray, zoom: float) -> np.ndarray:
    """The middle of `[n, H, W, C]`, enlarged to H x W by linear interpolation."""
    down, across = (_zoom_matrix(side, zoom) for side in images.shape[1:3])
    images_nCHW = np.ascontiguousarray(images.transpose(0, 3, 1, 2))  # many times faster to multiply
    return (down @ images_nCHW @ across.T).transpose(0, 2, 3, 1)


def _zoom_matrix(side: int, zoom: float) -> np.ndarray:
    """`[side, side]`: takes the pixels of a line to its zoomed middle, on a grid that keeps the ends in place."""
    cropped = math.ceil(side / zoom)
    enlarged = round(cropped * zoom)
    places = (np.arange(side) + (enlarged - side) // 2) * (cropped - 1) / (enlarged - 1) + (side - cropped) // 2
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(side)))
