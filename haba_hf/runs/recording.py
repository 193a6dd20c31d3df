"""From a recipe to the experts of trajectory matching."""

from pathlib import Path

from accelerate import Accelerator

from ..data import ImageData, Splits
from ..distillation import record_experts
from ..recipes import Recipe
from .inputs import training_data


def record(recipe: Recipe, accelerator: Accelerator, given: ImageData | Splits | None = None) -> Path:
    """
    Records the recipe's experts, as many snapshots of each as its run can draw; those that are there are kept. Their
    data are the recipe's or, where they are in memory, `given`.

    Returns:
        Their folder, `experts_dir`.

    Raises:
        `ValueError`: if the folder holds other experts, or the data cannot be read.
        `OSError`: if the folder cannot be written.
        `FloatingPointError`: if an expert diverges.
    """
    data = training_data(recipe, given)
    record_experts(data, recipe.network, recipe.experts, recipe.trajectory_matching.num_snapshots, accelerator)
    return Path(recipe.experts.experts_dir)
