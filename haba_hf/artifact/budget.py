"""Storage budgets: what an artifact costs, in which plain images, and beside the real training set.

The paper counts budgets in images (IPC against BPC); this module counts every float. The learned student learning rate
and soft labels are storage too.
"""

from dataclasses import dataclass
from math import prod

from .configuration_haba import HabaConfig
from .output_haba import StorageReport


@dataclass(frozen=True)
class StorageFigures:
    """
    A storage budget beside the real training set.

    Args:
        floats (`int`): numbers stored (of the training set itself: its pixel values).
        bytes (`int`): 4 a float in an artifact; in the training set 1 a pixel value, which is kept as uint8, or 4 a
            value of a spectrogram.
        images_per_class (`float`): the IPC that takes as many floats, apart from the whitening's.
        ratio (`float`): floats over the training set's pixel values, the paper's "ratio" (images / |train|).
        bytes_ratio (`float`): bytes over the training set's bytes, of images four times `ratio` for an artifact.
        whitening_bytes (`int`, *optional*, defaults to 0): those of `bytes` that a whitening takes.
    """

    floats: int
    bytes: int
    images_per_class: float
    ratio: float
    bytes_ratio: float
    whitening_bytes: int = 0


def describe_storage(
    report: StorageReport, num_train_images: int, image_shape: tuple[int, int, int], bytes_per_value: int = 1
) -> StorageFigures:
    """
    Sets an artifact's storage against the real training set it stands for.

    Args:
        report ([`StorageReport`]): `model.storage()`.
        num_train_images (`int`): real images.
        image_shape (`tuple[int, int, int]`): C, H, W of a real image.
        bytes_per_value (`int`, *optional*, defaults to 1): what a value of a real image takes.
    """
    values = _checked_values(num_train_images, image_shape)
    return StorageFigures(
        floats=report.floats,
        bytes=report.bytes,
        images_per_class=report.images_per_class,
        ratio=report.floats / values,
        bytes_ratio=report.bytes / (values * bytes_per_value),
        whitening_bytes=4 * report.whitening_floats,
    )


def describe_training_set(
    num_train_images: int, image_shape: tuple[int, int, int], num_labels: int, bytes_per_value: int = 1
) -> StorageFigures:
    """The real training set itself as a row of the same table: ratio 1, by default one byte a pixel value."""
    return describe_real_images(num_train_images, num_train_images, image_shape, num_labels, bytes_per_value)


def describe_real_images(
    num_images: int,
    num_train_images: int,
    image_shape: tuple[int, int, int],
    num_labels: int,
    bytes_per_value: int = 1,
    label_bytes: int = 0,
) -> StorageFigures:
    """
    Some of the training images, each value in the bytes that it has there.

    Args:
        label_bytes (`int`, *optional*, defaults to 0): of a number of their soft labels; 0 if labels are hard.
    """
    values, of_all = num_images * prod(image_shape), _checked_values(num_train_images, image_shape)
    labels = num_images * num_labels if label_bytes else 0
    floats, taken = values + labels, values * bytes_per_value + labels * label_bytes
    per_image_per_class = num_labels * prod(image_shape)
    return StorageFigures(
        floats, taken, floats / per_image_per_class, floats / of_all, taken / (of_all * bytes_per_value)
    )


def equal_storage_images_per_class(config: HabaConfig, label_kind: str = "hard") -> int:
    """
    Plain images per class at equal storage, with labels of some kind: the most that cost no more than the artifact
    (rounded down, at least 1).

    The few floats that every artifact spends on its student learning rate are the plain images' too and do not count.
    Counted exactly, 5 default hallucinators cost a little over 1 image per class on CIFAR-10 and MNIST, so 9 bases per
    class give 10 and 1 gives 2; on CIFAR-100 they cost a tenth of it, so 1 gives 1.
    """
    return max(1, (config.num_floats - 1) // (_floats_per_image_per_class(config) + _label_floats(config, label_kind)))


def equal_bytes_images_per_class(config: HabaConfig, bytes_per_value: int = 1, label_kind: str = "hard") -> int:
    """
    Real images per class at equal bytes, with labels of some kind: the most that take no more bytes than the artifact
    (rounded down, at least 1), each value in the bytes that it has in the training set, and a number of a label in
    those that the artifact's have.
    """
    labels = _label_floats(config, label_kind) * config.bytes_per_number["labels"]
    return max(1, config.num_bytes // (_floats_per_image_per_class(config) * bytes_per_value + labels))


def same_storage_config(config: HabaConfig, images_of_a_class: int, label_kind: str = "hard") -> HabaConfig | None:
    """
    The config of real images in an artifact's storage: without hallucinators, with labels of some kind, and with the
    most bases per class that its floats pay for and a class has images for. `None` if that storage is plain pixels, or
    needs hallucinators to give its samples their channels.
    """
    plain = config.stored_shape == config.sample_shape and config.num_formations == 1
    if plain or config.basis_shape[0] != config.sample_channels:
        return None
    alone = {"bases_per_class": 1, "num_hallucinators": 0, "label_kind": label_kind, "num_step_sizes": 0}
    one = HabaConfig.from_dict(config.to_dict() | alone)
    per_basis, _ = per_basis_per_class(one.storage_parts, 1)
    bases_per_class = min((config.num_floats - 1) // per_basis, images_of_a_class // config.num_formations)
    return HabaConfig.from_dict(one.to_dict() | {"bases_per_class": max(1, bases_per_class)})


def storage_of(config: HabaConfig) -> StorageReport:
    """What a [`HabaModel`] of a config stores, without making it."""
    parts = config.storage_parts
    if config.whitening is not None:
        parts["whitening"] = config.whitening_floats
    return StorageReport(parts, _floats_per_image_per_class(config), config.bytes_per_number)


def affordable_bases_per_class(config: HabaConfig, images_per_class: float) -> int:
    """
    The most bases per class that, with the config's hallucinators and labels, cost no more floats than
    `images_per_class` plain images. The config's own `bases_per_class` plays no part.

    Raises:
        `ValueError`: if not even one basis per class fits, or the budget is not positive.
    """
    budget = budget_floats(images_per_class, _floats_per_image_per_class(config))
    per_basis, others = per_basis_per_class(config.storage_parts, config.bases_per_class)
    bases_per_class = (budget - others) // per_basis
    if bases_per_class < 1:
        raise ValueError(
            f"{images_per_class:g} images per class pay for {budget - 1:,} floats, but {config.num_hallucinators} "
            f"hallucinators ({others - 1:,}) and one basis per class ({per_basis:,}) need more: "
            "lower num_hallucinators or hallucinator_depth, or raise the budget."
        )
    return bases_per_class


def check_budget(config: HabaConfig, images_per_class: float) -> None:
    """
    Refuses an artifact that takes more floats than `images_per_class` plain images per class.

    Raises:
        `ValueError`: if it does; says what fits. Also if the budget is not positive.
    """
    budget = budget_floats(images_per_class, _floats_per_image_per_class(config))
    if config.num_floats > budget:
        bases_per_class = affordable_bases_per_class(config, images_per_class)
        raise ValueError(
            f"{config.bases_per_class} bases per class with {config.num_hallucinators} hallucinators take "
            f"{config.num_floats / budget:.3g} times the storage budget of {images_per_class:g} images per class "
            f"({config.num_floats:,} of {budget:,} floats): lower bases_per_class to {bases_per_class}, or raise "
            "storage_budget."
        )


def describe_basis(config: HabaConfig) -> str:
    """How a basis is stored, in a few words, such as `"luma 12x12, chroma 6x6"`."""
    channels, height, width = config.basis_shape
    shapes = [f"{rows}x{columns}" for rows, columns in config.plane_shapes]
    if config.basis_storage == "luma_chroma":
        words = f"luma {shapes[0]}, chroma {shapes[1]}"
    elif config.basis_storage == "frequencies":
        numbers = config.plane_numbers
        words = f"{numbers[0]} frequencies" + (f", chroma {numbers[1]}" if config.has_chroma else "")
    else:
        words = f"{height}x{width} pixels" + (f" of {channels} channels" if channels > 1 else "")
    if config.num_formations > 1:
        words += f", {config.formation_grid[0]}x{config.formation_grid[1]} tiles"
    return words + ("" if config.storage_dtype == "float32" else f", {config.storage_dtype}")


def budget_floats(images_per_class: float, floats_per_image_per_class: int) -> int:
    """What an artifact of so many plain images per class takes, its student learning rate included."""
    if not images_per_class > 0:
        raise ValueError(f"A storage budget is a positive number of images per class, got {images_per_class:g}.")
    return int(images_per_class * floats_per_image_per_class) + 1


def per_basis_per_class(sizes: dict[str, int], bases_per_class: int) -> tuple[int, int]:
    """
    What one basis per class takes with its label and scales, and all that is no basis, of the `sizes` of an artifact's
    parts in floats (`config.storage_parts`) or bytes (`config.part_bytes`).
    """
    of_bases = sum(sizes.get(part, 0) for part in ("bases", "labels", "basis_scales"))
    return of_bases // bases_per_class, sum(sizes.values()) - of_bases


def _floats_per_image_per_class(config: HabaConfig) -> int:
    return config.num_labels * prod(config.sample_shape)


def _label_floats(config: HabaConfig, label_kind: str) -> int:
    """Of the labels of an image per class."""
    return config.num_labels**2 if label_kind == "soft" else 0


def _checked_values(num_train_images: int, image_shape: tuple[int, int, int]) -> int:
    if num_train_images < 1:
        raise ValueError(f"A training set has at least one image, got num_train_images={num_train_images}.")
    return num_train_images * prod(image_shape)
