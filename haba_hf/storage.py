"""Storage budgets: what an artifact costs, in which plain images, and beside the real training set.

The paper counts budgets in images (IPC against BPC); this module counts every float. The learned student learning rate
and soft labels are storage too.
"""

from dataclasses import dataclass
from math import prod

from .configuration_haba import HabaConfig
from .modeling_haba import StorageReport


@dataclass(frozen=True)
class StorageFigures:
    """
    A storage budget beside the real training set.

    Args:
        floats (`int`): numbers stored (of the training set itself: its pixel values).
        bytes (`int`): 4 a float in an artifact, 1 a pixel value in the training set, which is kept as uint8.
        images_per_class (`float`): the IPC that takes as many floats.
        ratio (`float`): floats over the training set's pixel values, the paper's "ratio" (images / |train|).
        bytes_ratio (`float`): bytes over the training set's bytes, four times `ratio` for an artifact.
    """

    floats: int
    bytes: int
    images_per_class: float
    ratio: float
    bytes_ratio: float

    def __str__(self) -> str:
        return (
            f"{self.floats:,} floats, {self.bytes:,} bytes, as much as {self.images_per_class:.2f} images per class "
            f"({self.ratio:.3%} of the training set in images, {self.bytes_ratio:.3%} in bytes)"
        )


def describe_storage(
    report: StorageReport, num_train_images: int, image_shape: tuple[int, int, int]
) -> StorageFigures:
    """
    Sets an artifact's storage against the real training set it stands for.

    Args:
        report ([`StorageReport`]): `model.storage()`.
        num_train_images (`int`): real images.
        image_shape (`tuple[int, int, int]`): C, H, W of a real image.
    """
    values = _checked_values(num_train_images, image_shape)
    return StorageFigures(
        floats=report.floats,
        bytes=report.bytes,
        images_per_class=report.images_per_class,
        ratio=report.floats / values,
        bytes_ratio=report.bytes / values,
    )


def describe_training_set(num_train_images: int, image_shape: tuple[int, int, int], num_labels: int) -> StorageFigures:
    """The real training set itself as a row of the same table: ratio 1, one byte a pixel value."""
    values = _checked_values(num_train_images, image_shape)
    return StorageFigures(values, values, num_train_images / num_labels, ratio=1.0, bytes_ratio=1.0)


def equal_storage_images_per_class(config: HabaConfig) -> int:
    """
    Plain images per class at equal storage: the most that cost no more than the artifact (rounded down, at least 1).

    The few floats that every artifact spends on its student learning rate are the plain images' too and do not count.
    Counted exactly, 5 default hallucinators cost a little over 1 image per class on CIFAR-10 and MNIST, so 9 bases per
    class give 10 and 1 gives 2; on CIFAR-100 they cost a tenth of it, so 1 gives 1.
    """
    return max(1, (config.num_floats - 1) // _floats_per_image_per_class(config))


def affordable_bases_per_class(config: HabaConfig, images_per_class: int) -> int:
    """
    The budget planner: the most bases per class that, with the config's hallucinators and labels, cost no more floats
    than `images_per_class` plain images. The config's own `bases_per_class` plays no part.

    Raises:
        `ValueError`: if not even one basis per class fits.
    """
    budget = images_per_class * _floats_per_image_per_class(config)
    labels = config.num_labels if config.label_kind == "soft" else 0
    per_basis = config.num_labels * (prod(config.basis_shape) + labels)
    hallucinators = config.num_floats - 1 - config.bases_per_class * per_basis
    bases_per_class = (budget - hallucinators) // per_basis
    if bases_per_class < 1:
        raise ValueError(
            f"{images_per_class} images per class pay for {budget:,} floats, but {config.num_hallucinators} "
            f"hallucinators ({hallucinators:,}) and one basis per class ({per_basis:,}) need more: "
            "lower num_hallucinators or hallucinator_depth, or raise the budget."
        )
    return bases_per_class


def _floats_per_image_per_class(config: HabaConfig) -> int:
    return config.num_labels * prod(config.sample_shape)


def _checked_values(num_train_images: int, image_shape: tuple[int, int, int]) -> int:
    if num_train_images < 1:
        raise ValueError(f"A training set has at least one image, got num_train_images={num_train_images}.")
    return num_train_images * prod(image_shape)
