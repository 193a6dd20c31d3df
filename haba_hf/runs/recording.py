"""From a recipe to the experts of trajectory matching."""

from pathlib import Path

from accelerate import Accelerator

from ..data import Splits, load_image_data
from ..distillation import record_experts
from ..recipes import Recipe


def record(recipe: Recipe, accelerator: Accelerator, splits: Splits | None = None) -> Path:
    """
    Records the recipe's experts, as many snapshots of each as its run can draw; those that are there are kept. Their
    data are the recipe's or, in memory, `splits`.

    Returns:
        Their folder, `experts_dir`.

    Raises:
        `ValueError`: if the folder holds other experts, or the data cannot be read.
        `OSError`: if the folder cannot be written.
        `FloatingPointError`: if an expert diverges.
    """
    data = load_image_data(recipe.data, needs_test=False, splits=splits)
    record_experts(data, recipe.network, recipe.experts, recipe.trajectory_matching.num_snapshots, accelerator)
    return Path(recipe.experts.experts_dir)
