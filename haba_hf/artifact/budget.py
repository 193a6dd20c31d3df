"""Storage budgets: what an artifact costs, in which plain images, and beside the real training set; and the planner of
what a budget has room for.

The paper counts budgets in images (IPC against BPC); this module counts every float. The learned student learning rate
and soft labels are storage too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
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
    values = _checked_values(num_train_images, image_shape)
    return StorageFigures(values, values * bytes_per_value, num_train_images / num_labels, ratio=1.0, bytes_ratio=1.0)


def equal_storage_images_per_class(config: HabaConfig) -> int:
    """
    Plain images per class at equal storage: the most that cost no more than the artifact (rounded down, at least 1).

    The few floats that every artifact spends on its student learning rate are the plain images' too and do not count.
    Counted exactly, 5 default hallucinators cost a little over 1 image per class on CIFAR-10 and MNIST, so 9 bases per
    class give 10 and 1 gives 2; on CIFAR-100 they cost a tenth of it, so 1 gives 1.
    """
    return max(1, (config.num_floats - 1) // _floats_per_image_per_class(config))


def affordable_bases_per_class(config: HabaConfig, images_per_class: float) -> int:
    """
    The most bases per class that, with the config's hallucinators and labels, cost no more floats than
    `images_per_class` plain images. The config's own `bases_per_class` plays no part.

    Raises:
        `ValueError`: if not even one basis per class fits, or the budget is not positive.
    """
    budget = _budget_floats(images_per_class, _floats_per_image_per_class(config))
    per_basis, others = _floats_per_basis_per_class(config)
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
    budget = _budget_floats(images_per_class, _floats_per_image_per_class(config))
    if config.num_floats > budget:
        bases_per_class = affordable_bases_per_class(config, images_per_class)
        raise ValueError(
            f"{config.bases_per_class} bases per class with {config.num_hallucinators} hallucinators take "
            f"{config.num_floats / budget:.3g} times the storage budget of {images_per_class:g} images per class "
            f"({config.num_floats:,} of {budget:,} floats): lower bases_per_class to {bases_per_class}, or raise "
            "storage_budget."
        )


@dataclass(frozen=True)
class StoragePlan:
    """
    A way to spend a storage budget.

    Args:
        config ([`HabaConfig`]): of the artifact.
        floats (`int`): numbers stored.
        bytes (`int`): 4 a float.
        images_per_class (`float`): the IPC that takes as many floats.
        budget_share (`float`): floats over the budget's; above 1 the plan exceeds it.
    """

    config: HabaConfig
    floats: int
    bytes: int
    images_per_class: float
    budget_share: float


def plan_storage(
    num_labels: int,
    sample_shape: tuple[int, int, int],
    *,
    images_per_class: float | None = None,
    max_bytes: int | None = None,
    depths: Sequence[int] = (1, 2),
    num_hallucinators: Sequence[int] = (2, 5),
    basis_channels: Sequence[int] | None = None,
    share_encoder_decoder: Sequence[bool] = (False, True),
    label_kind: str = "hard",
    strict: bool = True,
) -> list[StoragePlan]:
    """
    The budget planner (supplement, Figure 1): how many bases per class a budget has room for, with every combination
    of hallucinators and basis channels asked for.

    Args:
        num_labels (`int`): classes.
        sample_shape (`tuple[int, int, int]`): C, H, W of a sample.
        images_per_class (`float`, *optional*): the budget as plain images per class.
        max_bytes (`int`, *optional*): the budget as bytes of weights; give one of the two.
        depths (`Sequence[int]`, *optional*, defaults to `(1, 2)`): values of `hallucinator_depth`.
        num_hallucinators (`Sequence[int]`, *optional*, defaults to `(2, 5)`): values of K, from 1.
        basis_channels (`Sequence[int]`, *optional*): values of C', by default 1 and C. Depth 0 has no convolutions
            that change channels or could be shared, and appears with C and unshared only.
        share_encoder_decoder (`Sequence[bool]`, *optional*, defaults to `(False, True)`): unshared, shared or both.
        label_kind (`str`, *optional*, defaults to `"hard"`): `"soft"` labels take room too.
        strict (`bool`, *optional*, defaults to `True`): the most bases per class that fit, and no row where not even
            one does. `False`: the number nearest to the budget, at least 1, which is how the paper sets 9 bases and 5
            hallucinators against 10 images per class; `budget_share` says by how much a row exceeds.

    Returns:
        The plans, those of the most samples (N x K) first, of equally many the smaller first.

    Raises:
        `ValueError`: if not exactly one positive budget is given, K is below 1, or [`HabaConfig`] refuses a size.
    """
    floats_per_image = num_labels * prod(sample_shape)
    if images_per_class is not None and max_bytes is None:
        budget = _budget_floats(images_per_class, floats_per_image)
    elif max_bytes is not None and images_per_class is None:
        budget = max_bytes // 4
    else:
        raise ValueError("Give a storage budget either as images_per_class or as max_bytes.")
    if budget < 1:
        raise ValueError(f"A storage budget has room for one float of 4 bytes at least, got {max_bytes} bytes.")
    if min(num_hallucinators) < 1:
        raise ValueError("A plan has at least one hallucinator: plain pixels fill a budget of n images with n images.")
    channels, height, width = sample_shape
    plans = []
    for depth, hallucinators, basis, shared in product(
        depths, num_hallucinators, dict.fromkeys(basis_channels or (1, channels)), share_encoder_decoder
    ):
        if depth == 0 and (basis != channels or shared):
            continue
        settings = {
            "num_labels": num_labels,
            "num_hallucinators": hallucinators,
            "hallucinator_depth": depth,
            "basis_channels": basis,
            "share_encoder_decoder": shared,
            "label_kind": label_kind,
            "sample_channels": channels,
            "sample_height": height,
            "sample_width": width,
        }
        config = HabaConfig(**settings)
        per_basis, others = _floats_per_basis_per_class(config)
        room = budget - others
        bases_per_class = room // per_basis if strict else max(1, (2 * room + per_basis) // (2 * per_basis))
        if bases_per_class < 1:
            continue
        config = HabaConfig(**settings, bases_per_class=bases_per_class)
        floats = config.num_floats
        plans.append(StoragePlan(config, floats, 4 * floats, floats / floats_per_image, floats / budget))
    return sorted(plans, key=lambda plan: (-plan.config.num_samples, plan.floats))


def _budget_floats(images_per_class: float, floats_per_image_per_class: int) -> int:
    """What an artifact of so many plain images per class takes, its student learning rate included."""
    if not images_per_class > 0:
        raise ValueError(f"A storage budget is a positive number of images per class, got {images_per_class:g}.")
    return int(images_per_class * floats_per_image_per_class) + 1


def _floats_per_basis_per_class(config: HabaConfig) -> tuple[int, int]:
    """Floats that one basis per class takes, and all floats that are no basis and no basis's label."""
    labels = config.num_labels if config.label_kind == "soft" else 0
    per_basis = config.num_labels * (prod(config.basis_shape) + labels)
    return per_basis, config.num_floats - config.bases_per_class * per_basis


def _floats_per_image_per_class(config: HabaConfig) -> int:
    return config.num_labels * prod(config.sample_shape)


def _checked_values(num_train_images: int, image_shape: tuple[int, int, int]) -> int:
    if num_train_images < 1:
        raise ValueError(f"A training set has at least one image, got num_train_images={num_train_images}.")
    return num_train_images * prod(image_shape)
