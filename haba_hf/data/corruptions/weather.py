"""Corruptions by weather and light. The form of a corruption is that of `noise.py`.

Shape legend: n images, H/W of an image.
"""

import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from scipy import ndimage

from .blur import blurred, trail, zoomed

LUMA = np.array([0.299, 0.587, 0.114])
ICE = np.array([0.82, 0.92, 1.0])
WATER = np.array([175, 238, 238]) / 255
MUD = np.array([63, 42, 20]) / 255


def snow(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Flakes with a trail, falling and mirrored, over an image that is lighter than it was."""
    mean, std, zoom, threshold, radius, trail_std, kept = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    flakes = zoomed(random.normal(mean, std, images.shape[:3])[..., None], zoom)
    flakes = np.where(flakes < threshold, 0, flakes).clip(0, 1)
    flakes = trail(flakes, radius, trail_std, random.uniform(-135, -45, len(images)))
    grey = (images @ LUMA)[..., None]
    lighter = kept * images + (1 - kept) * np.maximum(images, 1.5 * grey + 0.5)
    return lighter + flakes + flakes[:, ::-1, ::-1]


def frost(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """
    Ice laid over the image. Published with crops of photographs of frost; here the ice is generated: needles of three
    directions on a cloudy ground.
    """
    kept, ice = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    count, height, width, _ = images.shape
    clouds = plasma(count, max(height, width), 1.6, random)[:, :height, :width]
    needles = np.zeros_like(clouds)
    first = random.uniform(0, 360, len(images))
    for turn in (0, 60, 120):
        seeds = random.random(clouds.shape) < 0.04
        needles = np.maximum(needles, trail(seeds.astype(float), 6, 4, first + turn))
    needles /= needles.max(axis=(1, 2), keepdims=True)
    coverage = (0.25 + 0.55 * clouds + 0.5 * needles).clip(0, 1)
    return kept * images + ice * coverage[..., None] * ICE


def fog(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Clouds added, then all of it scaled back to the image's brightness."""
    strength, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    count, height, width, _ = images.shape
    clouds = plasma(count, max(height, width), decay, random)[:, :height, :width, None]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    # An image all black stays black.
    return (images + strength * clouds) * brightest / (brightest + strength)


def brightness(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """More of the value of hue, saturation and value."""
    hsv = rgb_to_hsv(images)
    hsv[..., 2] = (hsv[..., 2] + (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]).clip(0, 1)
    return hsv_to_rgb(hsv)


def spatter(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Drops of water on the lens (severity 1 to 3), or of mud (4 and 5)."""
    mean, std, blur_std, threshold, strength = (
        (0.62, 0.1, 0.7, 0.7, 0.5),
        (0.65, 0.1, 0.8, 0.7, 0.5),
        (0.65, 0.3, 1, 0.69, 0.5),
        (0.65, 0.1, 0.7, 0.69, 0.6),
        (0.65, 0.1, 0.5, 0.68, 0.6),
    )[severity - 1]
    liquid = blurred(random.normal(mean, std, images.shape[:3]), blur_std)
    if severity <= 3:
        liquid = np.where(liquid < threshold, 0, liquid)
        shine = np.stack([_shine(drops) for drops in liquid])
        return images + strength * shine[..., None] * WATER
    mud = blurred((liquid > threshold).astype(float), strength)  # here the last number is a standard deviation
    mud = np.where(mud < 0.8, 0, mud)[..., None]
    return images * (1 - mud) + mud * MUD


def plasma(count: int, side: int, decay: float, random: np.random.Generator) -> np.ndarray:
    """
    Clouds by the diamond-square algorithm on a torus: the middle of known points is their mean and noise whose
    amplitude falls by `decay ** 2` each time that the grid is halved.

    Returns:
        `np.ndarray`: `[count, 2^k, 2^k]` with 2^k of `side` or more, each image spread over [0, 1].
    """
    step = size = 1 << max(side - 1, 1).bit_length()
    heights = np.zeros((count, size, size))
    amplitude = 1.0
    while step >= 2:
        half = step // 2

        def midpoint(total: np.ndarray, amplitude: float = amplitude) -> np.ndarray:
            return total / 4 + random.uniform(-amplitude, amplitude, total.shape)

        corners = heights[:, ::step, ::step]
        right, below = np.roll(corners, -1, axis=2), np.roll(corners, -1, axis=1)
        centers = midpoint(corners + right + below + np.roll(below, -1, axis=2))
        heights[:, half::step, half::step] = centers
        heights[:, ::step, half::step] = midpoint(corners + right + centers + np.roll(centers, 1, axis=1))
        heights[:, half::step, ::step] = midpoint(corners + below + centers + np.roll(centers, 1, axis=2))
        step, amplitude = half, amplitude / decay**2
    heights -= heights.min(axis=(1, 2), keepdims=True)
    return heights / heights.max(axis=(1, 2), keepdims=True)


def _shine(drops: np.ndarray) -> np.ndarray:
    """How much light the drops `[H, W]` (0 where there are none) of one image throw, up to 1 where it is most."""
    wet = drops > 0
    outline = wet & ~ndimage.binary_erosion(wet)
    if not outline.any():
        return np.zeros_like(drops)
    depth = ndimage.distance_transform_edt(~outline).clip(max=20)
    depth = ndimage.uniform_filter(depth, 3, mode="mirror").astype(np.uint8)
    embossed = ndimage.correlate(_equalized(depth), np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror")
    light = drops * ndimage.uniform_filter(embossed.clip(0, 255), 3, mode="mirror")
    return light / light.max() if light.max() > 0 else light


def _equalized(values: np.ndarray) -> np.ndarray:
    """Histogram equalization of bytes to 0 .. 255; the lowest value becomes 0."""
    counts = np.bincount(values.ravel(), minlength=256).cumsum()
    lowest = counts[values.min()]
    return (counts - lowest)[values] * (255 / max(values.size - lowest, 1))
