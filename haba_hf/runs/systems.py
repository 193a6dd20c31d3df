"""What students are trained on: an artifact, and what it is compared with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from accelerate import Accelerator

from ..artifact.budget import StorageFigures, describe_storage, describe_training_set, equal_storage_images_per_class
from ..artifact.loading import HabaProcessor
from ..data import ImageData, Split
from ..evaluation import (
    FULL_DATA,
    RANDOM_REAL,
    AccuracyResult,
    EvaluationArguments,
    evaluate_artifact,
    evaluate_full_data,
    evaluate_random_real,
    random_real_artifact,
)
from ..networks import NetworkArguments
from ..recipes import Recipe
from .inputs import OpenedArtifact, student_network


@dataclass(frozen=True)
class System:
    """
    One row of a comparison, before its students are trained.

    Args:
        name (`str`): what it is called.
        processor ([`HabaImageProcessor`]): takes images to the space its students are trained in.
        storage ([`StorageFigures`]): what it stores.
        evaluate (`Callable[..., AccuracyResult]`): trains and scores its students, which it gives to `on_student`, an
            optional argument, as [`evaluate_artifact`] does.
    """

    name: str
    processor: HabaProcessor
    storage: StorageFigures
    evaluate: Callable[..., AccuracyResult]


def compared_systems(recipe: Recipe, opened: OpenedArtifact, accelerator: Accelerator) -> list[System]:
    """
    The artifact and, as `references` says, random real images at equal storage and the full training set.

    Raises:
        `ValueError`: if a class has too few real images.
    """
    model, processor, data, split = opened.model, opened.processor, opened.data, opened.split
    protocol, references = _protocol(recipe, accelerator), recipe.evaluation.references
    sizes = (len(data.train), data.image_shape, data.bytes_per_value)
    students = partial(evaluate_artifact, model, split, processor, *protocol)
    systems = [System(opened.system, processor, describe_storage(model.storage(), *sizes), students)]
    if references in ("random", "all"):
        per_class = equal_storage_images_per_class(model.config)
        plain = random_real_artifact(data, per_class, recipe.distillation.seed)
        students = partial(evaluate_random_real, data, split, per_class, *protocol)
        systems.append(System(RANDOM_REAL, data.processor, describe_storage(plain.storage(), *sizes), students))
    if references == "all":
        systems.append(full_data_system(recipe, data, split, accelerator))
    return systems


def full_data_system(recipe: Recipe, data: ImageData, split: Split, accelerator: Accelerator) -> System:
    """The full training set."""
    storage = describe_training_set(len(data.train), data.image_shape, data.num_labels, data.bytes_per_value)
    students = partial(evaluate_full_data, data, split, *_protocol(recipe, accelerator))
    return System(FULL_DATA, data.processor, storage, students)


def _protocol(
    recipe: Recipe, accelerator: Accelerator
) -> tuple[NetworkArguments, EvaluationArguments, int, Accelerator]:
    """How students are trained, the same for every system: the last arguments of every `evaluate_*`."""
    return student_network(recipe), recipe.evaluation, recipe.distillation.seed, accelerator
