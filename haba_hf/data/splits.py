"""Splits of a data set, and how one is divided: stratified by class and seeded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .statistics import ImageFacts

# What data sets call their splits, in any case of the letters.
ROLES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}

# 256 images of 32x32: a ConvNet's widest activations of them take 134 MB.
PIXELS_AT_ONCE = 256 * 32 * 32


def role_of(name: str) -> str | None:
    """Which split a name means, `train`, `validation` or `test`; `None` if it is no name of one."""
    return next((role for role, names in ROLES.items() if name.lower() in names), None)


@dataclass
class Split:
    """
    Images and their labels.

    Args:
        images (`torch.Tensor`): uint8 [n, C, H, W], or of speech log spectrograms, float32 [n, 1, H, W]: what the
            processor normalizes. More than memory should hold are mapped from a file: read them by rows or in
            batches, and never write to them.
        labels (`torch.Tensor`): int64 [n].
        facts ([`ImageFacts`], *optional*): of mapped images, what reading them all has told.
        kept (`torch.Tensor`, *optional*): int64, in order: the images that classes consist of and that are drawn,
            where not all are. The others stay where they are, so that no image is copied.
    """

    images: torch.Tensor
    labels: torch.Tensor
    facts: ImageFacts | None = None
    kept: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def rows(self) -> torch.Tensor:
        """Indices (int64) of the images that are drawn from, in order."""
        return torch.arange(len(self)) if self.kept is None else self.kept

    def of_class(self, label: int) -> torch.Tensor:
        """Indices (int64) of the images of one class, in order."""
        return self.rows[self.labels[self.rows] == label]

    def of_classes(self, num_labels: int) -> list[torch.Tensor]:
        """The same of every class."""
        return [self.rows[of] for of in rows_of_classes(self.labels[self.rows], num_labels)]


def rows_of_classes(labels: torch.Tensor, num_labels: int = 0) -> list[torch.Tensor]:
    """
    Indices (int64) of the images of each class, in order, by one sort: of ImageNet's 1.3 million labels that takes 0.2
    seconds, where a look at all of them for each of its 1,000 classes takes 3.6.

    Args:
        labels (`torch.Tensor`): int64 [n].
        num_labels (`int`, *optional*, defaults to 0): classes, where the last may have no image.
    """
    counts = torch.bincount(labels, minlength=num_labels).tolist()
    return list(labels.argsort(stable=True).split(counts))


def hold_out(labels: torch.Tensor, fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices kept and held out, both in order: `fraction` of every class, but never all of it."""
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for members in filter(len, rows_of_classes(labels)):
        count = min(int(fraction * len(members) + 0.5), len(members) - 1)
        held_out[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


def subset(labels: torch.Tensor, size: int, seed: int) -> torch.Tensor:
    """
    Indices of `size` of the images, in order: every class in proportion, and with one image at least.

    Raises:
        `ValueError`: if there are more classes than `size`.
    """
    if size < len(labels.unique()):
        raise ValueError(
            f"max_train_samples is {size}, but every one of {len(labels.unique())} classes needs an image."
        )
    generator = torch.Generator().manual_seed(seed)
    place = torch.empty(len(labels), dtype=torch.float64)
    for members in filter(len, rows_of_classes(labels)):
        # Each class spreads its images evenly over [0, 1), the first at 0: the lowest places are a stratified choice.
        order = torch.randperm(len(members), generator=generator)
        place[members[order]] = torch.arange(len(members), dtype=torch.float64) / len(members)
    return place.argsort(stable=True)[:size].sort().values


def images_at_once(shape: Sequence[int]) -> int:
    """How many images of a shape (..., H, W) go through a network at a time: 256, or fewer if they are large."""
    return max(1, min(256, PIXELS_AT_ONCE // math.prod(shape[-2:])))


def hold_out_speakers(
    labels: torch.Tensor, speakers: list[str], fraction: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Indices kept and held out, both in order, so that no speaker is in both: about `fraction` of every class, but never
    all of it.

    Speakers come in random order, and each is held out if that brings the classes nearer to their fractions.

    Args:
        labels (`torch.Tensor`): int64 [n].
        speakers (`list[str]`): who speaks each of the n clips.
        fraction (`float`): of each class to hold out.
        seed (`int`): of the order.
    """
    names = sorted(set(speakers))
    number_of = {name: number for number, name in enumerate(names)}
    numbers = torch.tensor([number_of[name] for name in speakers], dtype=torch.int64)
    counts_SL = torch.zeros(len(names), int(labels.max()) + 1, dtype=torch.float64)
    counts_SL.index_put_((numbers, labels), torch.ones(len(labels), dtype=torch.float64), accumulate=True)
    total_L = counts_SL.sum(dim=0)
    missing_L = fraction * total_L
    chosen = torch.zeros(len(names), dtype=torch.bool)
    for number in torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist():
        left_L = missing_L - counts_SL[number]
        leaves_some = bool((left_L[total_L > 0] > ((fraction - 1) * total_L)[total_L > 0]).all())
        if leaves_some and left_L.square().sum() < missing_L.square().sum():
            missing_L, chosen[number] = left_L, True
    held_out = chosen[numbers]
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()
