"""What one pass over the images of a split tells: the statistics of their channels, and a fingerprint."""

# Shape suffixes: n images, C channels, V = 256 values of a pixel.

import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from ..artifact.whitening_haba import EPSILON

IMAGES_AT_ONCE = 256


@dataclass(frozen=True)
class ImageFacts:
    """
    What one pass over the images of a split has told, kept so that none is needed again.

    Args:
        channel_counts (`list[list[int]]` `[C][256]`): of [`channel_counts`].
        fingerprint, whitened_fingerprint (`str`): of images and labels, see [`end_fingerprint`].
    """

    channel_counts: list[list[int]]
    fingerprint: str
    whitened_fingerprint: str


def channel_counts(images: torch.Tensor) -> torch.Tensor:
    """How often each value occurs in each channel of uint8 images [n, C, H, W]: int64 [C, 256]."""
    counts_CV = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for block in images.split(IMAGES_AT_ONCE):
        for channel, counts_V in enumerate(counts_CV):
            counts_V += torch.bincount(block[:, channel].flatten(), minlength=256)
    return counts_CV


def statistics_of_counts(counts_CV: torch.Tensor) -> tuple[list[float], list[float]]:
    """
    Exact mean and standard deviation of each channel, for pixels in [0, 1], from [`channel_counts`].

    Raises:
        `ValueError`: if a channel is constant.
    """
    values_V = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel, counts_V in enumerate(counts_CV):
        weights_V = counts_V / counts_V.sum(dtype=torch.float64)
        mean = (weights_V * values_V).sum()
        std = (weights_V * (values_V - mean) ** 2).sum().sqrt()
        if std == 0:
            raise ValueError(f"Channel {channel} has the same value in all training images; they hold no information.")
        means.append(mean.item())
        stds.append(std.item())
    return means, stds


def channel_statistics(images: torch.Tensor) -> tuple[list[float], list[float]]:
    """
    Exact mean and standard deviation of each channel of uint8 images [n, C, H, W], for pixels in [0, 1].

    Raises:
        `ValueError`: if a channel is constant.
    """
    return statistics_of_counts(channel_counts(images))


def begin_fingerprint(shape: tuple[int, ...]) -> Any:
    """The SHA-256 of images of a shape (n, C, H, W), to be fed their pixels in order."""
    return hashlib.sha256(repr(tuple(shape)).encode())


def end_fingerprint(digest: Any, labels: torch.Tensor, zca: bool) -> str:
    """The first 16 hexadecimal digits, once labels [n] and whether images are whitened went in; leaves `digest`."""
    digest = digest.copy()
    digest.update(labels.numpy().data)
    if zca:  # not the matrix, whose last digits are the machine's
        digest.update(f"zca {EPSILON}".encode())
    return digest.hexdigest()[:16]
