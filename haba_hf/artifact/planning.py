"""
The planner: what a storage budget has room for, over how bases are stored and what hallucinators cost (supplement,
Figure 1 and Table 7).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from .budget import budget_floats, per_basis_per_class
from .configuration_haba import HabaConfig

Layout = Mapping[str, Any]  # the fields of a HabaConfig that say how a basis is stored
PLAIN: Layout = {}


@dataclass(frozen=True)
class StoragePlan:
    """
    A way to spend a storage budget.

    Args:
        config ([`HabaConfig`]): of the artifact.
        floats (`int`): numbers stored.
        bytes (`int`): what they take.
        images_per_class (`float`): the IPC that takes as many floats.
        budget_share (`float`): the share of the budget, of floats or of bytes; above 1 the plan exceeds it.
    """

    config: HabaConfig
    floats: int
    bytes: int
    images_per_class: float
    budget_share: float


def storage_layouts(sample_shape: tuple[int, int, int]) -> list[Layout]:
    """
    Ways to store a basis that the planner tries: plain pixels; multi-formation of 2 x 2 tiles; pixels, and of color
    luma with half as large chroma, at 1/2, 3/8 and 1/4 of a sample's height and width; and an eighth, a sixteenth and
    a thirty-second of the frequencies, of either chroma a quarter as many.
    """
    channels, height, width = sample_shape
    layouts: list[Layout] = [PLAIN]
    if not (height % 2 or width % 2):
        layouts.append({"formation_factor": 2})
    for share in (1 / 2, 3 / 8, 1 / 4):
        size = {"basis_height": max(1, round(share * height)), "basis_width": max(1, round(share * width))}
        layouts.append(size)
        if channels == 3:
            layouts.append({"basis_storage": "luma_chroma", **size})
    counts = dict.fromkeys(max(1, height * width // part) for part in (8, 16, 32))
    layouts += [{"basis_storage": "frequencies", "basis_frequencies": count} for count in counts]
    return layouts


def measured_layout(sample_shape: tuple[int, int, int], images_per_class: float) -> Layout:
    """
    How to store bases where a recipe leaves it to the budget (`bases_per_class: auto`), the best of what
    `training/results/storage.md` has measured for color and for one channel: a sixteenth of the frequencies, of either
    chroma a quarter as many, and from the floats of 10 images per class on pixels of half the height and width.

    Args:
        sample_shape (`tuple[int, int, int]`): C, H, W of a sample.
        images_per_class (`float`): the budget, in floats.
    """
    _, height, width = sample_shape
    if images_per_class >= 10:
        return {"basis_height": max(1, height // 2), "basis_width": max(1, width // 2)}
    return {"basis_storage": "frequencies", "basis_frequencies": max(1, height * width // 16)}


def plan_storage(
    num_labels: int,
    sample_shape: tuple[int, int, int],
    *,
    images_per_class: float | None = None,
    max_bytes: int | None = None,
    layouts: Sequence[Layout] = (PLAIN,),
    depths: Sequence[int] = (1, 2),
    num_hallucinators: Sequence[int] = (2, 5),
    map_sizes: Sequence[int | None] = (None,),
    basis_channels: Sequence[int] | None = None,
    share_encoder_decoder: Sequence[bool] = (False, True),
    label_kind: str = "hard",
    storage_dtype: str = "float32",
    strict: bool = True,
) -> list[StoragePlan]:
    """
    How many bases per class a budget has room for, with every combination of storage, hallucinators and basis channels
    asked for; a combination that does not fit together is left out.

    Args:
        num_labels (`int`): classes.
        sample_shape (`tuple[int, int, int]`): C, H, W of a sample.
        images_per_class (`float`, *optional*): the budget as plain images per class, in floats.
        max_bytes (`int`, *optional*): the budget as bytes of weights; give one of the two.
        layouts (`Sequence[Mapping]`, *optional*): how bases are stored, by default plain pixels;
            [`storage_layouts`] has more.
        depths (`Sequence[int]`, *optional*, defaults to `(1, 2)`): values of `hallucinator_depth`.
        num_hallucinators (`Sequence[int]`, *optional*, defaults to `(2, 5)`): values of K; 0 is bases alone.
        map_sizes (`Sequence[int | None]`, *optional*, defaults to `(None,)`): sides of the grid of scale and shift;
            `None` is the feature map's own.
        basis_channels (`Sequence[int]`, *optional*): values of C', by default 1 and C. Depth 0 has no convolutions
            that change channels or could be shared, and appears with C and unshared only.
        share_encoder_decoder (`Sequence[bool]`, *optional*, defaults to `(False, True)`): unshared, shared or both.
        label_kind (`str`, *optional*, defaults to `"hard"`): `"soft"` labels take room too.
        storage_dtype (`str`, *optional*, defaults to `"float32"`): the bits of a number.
        strict (`bool`, *optional*, defaults to `True`): the most bases per class that fit, and no row where not even
            one does. `False`: the number nearest to the budget, at least 1, which is how the paper sets 9 bases and 5
            hallucinators against 10 images per class; `budget_share` says by how much a row exceeds.

    Returns:
        The plans, those of the most samples first, of equally many the smaller first.

    Raises:
        `ValueError`: if not exactly one positive budget is given, or a size is out of range.
    """
    floats_per_image = num_labels * prod(sample_shape)
    in_bytes = max_bytes is not None
    if max_bytes is not None and images_per_class is None:
        budget = max_bytes
    elif images_per_class is not None and max_bytes is None:
        budget = budget_floats(images_per_class, floats_per_image)
    else:
        raise ValueError("Give a storage budget either as images_per_class or as max_bytes.")
    if in_bytes and budget < 4:
        raise ValueError(f"A storage budget has room for one float of 4 bytes at least, got {max_bytes} bytes.")
    channels, height, width = sample_shape
    plans = []
    for layout, (hallucinators, depth, map_size, shared), basis in product(
        layouts,
        _hallucinator_settings(num_hallucinators, depths, map_sizes, share_encoder_decoder),
        dict.fromkeys(basis_channels or (1, channels)),
    ):
        if (depth == 0 or not hallucinators) and basis != channels:
            continue
        settings = {
            "num_labels": num_labels,
            "num_hallucinators": hallucinators,
            "hallucinator_depth": depth,
            "basis_channels": basis,
            "share_encoder_decoder": shared,
            "label_kind": label_kind,
            "storage_dtype": storage_dtype,
            "sample_channels": channels,
            "sample_height": height,
            "sample_width": width,
            **layout,
        }
        if basis != channels and layout.get("basis_storage") == "luma_chroma":
            continue  # it is of color
        if hallucinators and map_size is not None:
            if map_size > min(HabaConfig(**settings).feature_shape[1:]):
                continue
            settings |= {"hallucinator_map_height": map_size, "hallucinator_map_width": map_size}
        config = HabaConfig(**settings)
        sizes = config.part_bytes if in_bytes else config.storage_parts
        per_basis, others = per_basis_per_class(sizes, config.bases_per_class)
        room = budget - others
        bases_per_class = room // per_basis if strict else max(1, (2 * room + per_basis) // (2 * per_basis))
        if bases_per_class < 1:
            continue
        config = HabaConfig(**settings, bases_per_class=bases_per_class)
        floats, taken = config.num_floats, config.num_bytes
        share = (taken if in_bytes else floats) / budget
        plans.append(StoragePlan(config, floats, taken, floats / floats_per_image, share))
    return sorted(plans, key=lambda plan: (-plan.config.num_samples, plan.floats))


def _hallucinator_settings(
    numbers: Sequence[int], depths: Sequence[int], map_sizes: Sequence[int | None], shared: Sequence[bool]
) -> list[tuple[int, int, int | None, bool]]:
    """K, depth, grid and sharing, every one that tells artifacts apart once."""
    settings: dict[tuple[int, int, int | None, bool], None] = {}
    for number, depth, map_size, share in product(numbers, depths, map_sizes, shared):
        if number == 0:
            settings[0, 1, None, False] = None
        elif depth or not share:
            settings[number, depth, map_size, share] = None
    return list(settings)
