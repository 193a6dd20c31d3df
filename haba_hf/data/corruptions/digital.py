"""Corruptions by image processing. The form of a corruption is that of `noise.py`.

Shape legend: n images, H/W of an image, C channels.
"""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from torch.nn import functional as F

from .blur import blurred
from .noise import to_bytes


def contrast(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Values closer to the mean of their channel."""
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    means = images.mean(axis=(1, 2), keepdims=True)
    return (images - means) * factor + means


def saturate(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Less (severity 1 and 2), then more of the saturation of hue, saturation and value."""
    factor, added = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    hsv = rgb_to_hsv(images)
    hsv[..., 1] = (hsv[..., 1] * factor + added).clip(0, 1)
    return hsv_to_rgb(hsv)


def jpeg_compression(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Saved as JPEG of a low quality and read again."""
    quality = (80, 65, 58, 50, 40)[severity - 1]

    def compressed(picture: Image.Image) -> Image.Image:
        file = BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _pictured(images, compressed)


def pixelate(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """Resized to fewer pixels and back, with a box as filter."""
    scale = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]

    def resized(picture: Image.Image) -> Image.Image:
        small = (int(picture.width * scale), int(picture.height * scale))
        return picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BOX)

    return _pictured(images, resized)


def elastic_transform(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """
    A random affine map, then small displacements that vary smoothly: the higher the severity, the less of the first
    and the rougher the second.
    """
    strength, std, affine = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[severity - 1]
    count, height, width, _ = images.shape
    side = min(height, width)
    grid = np.moveaxis(np.mgrid[:height, :width], 0, -1).astype(float)  # [H, W, 2]: row and column

    # The map that takes three points of a square to three random points near them, looked up backwards.
    center, arm = np.array([height // 2, width // 2]), side // 3
    points = center + arm * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = points + random.uniform(-affine * side, affine * side, (count, 3, 2))
    ones = np.ones((count, 3, 1))
    backwards = np.linalg.solve(np.concatenate([moved, ones], axis=2), np.broadcast_to(points, moved.shape))
    places = grid @ backwards[:, None, :2] + backwards[:, None, 2:]
    images = _looked_up(images, places, mirror_at_centers=True)
    if strength == 0:
        return images

    noise = random.uniform(-1, 1, (2, count, height, width))
    shifts = [strength * side * blurred(part, std * side, mode="reflect", truncate=3) for part in noise]
    return _looked_up(images, grid + np.stack(shifts, axis=-1), mirror_at_centers=False)


def _pictured(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Images `[n, H, W, 3]` in [0, 1], each changed as a PIL image."""
    pictures = (Image.fromarray(pixels) for pixels in to_bytes(images))
    return np.array([np.asarray(change(picture)) for picture in pictures]) / 255


def _looked_up(images: np.ndarray, places: np.ndarray, mirror_at_centers: bool) -> np.ndarray:
    """
    Linear interpolation of `[n, H, W, C]` at rows and columns `[n, H, W, 2]`. The border mirrors at the centers of its
    pixels, or at their outer edges.
    """
    sizes = np.array(images.shape[1:3])
    scaled = 2 * places / (sizes - 1) - 1 if mirror_at_centers else (2 * places + 1) / sizes - 1
    found = F.grid_sample(
        torch.from_numpy(images).permute(0, 3, 1, 2),
        torch.from_numpy(scaled).flip(-1),
        padding_mode="reflection",
        align_corners=mirror_at_centers,
    )
    return found.permute(0, 2, 3, 1).numpy()
