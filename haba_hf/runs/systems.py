"""What students are trained on: an artifact, and what it is compared with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from accelerate import Accelerator

from ..artifact.budget import (
    StorageFigures,
    describe_real_images,
    describe_storage,
    describe_training_set,
    equal_bytes_images_per_class,
    equal_storage_images_per_class,
    same_storage_config,
    storage_of,
)
from ..artifact.configuration_haba import HabaConfig
from ..artifact.loading import HabaProcessor
from ..coresets import real_images_config
from ..data import ImageData, Split
from ..evaluation import (
    FULL_DATA,
    RANDOM_EQUAL_BYTES,
    RANDOM_REAL,
    RANDOM_STORED_ALIKE,
    AccuracyResult,
    EvaluationArguments,
    evaluate_artifact,
    evaluate_full_data,
    evaluate_random_real,
)
from ..networks import NetworkArguments
from ..recipes import Recipe
from .inputs import OpenedArtifact
from .provenance import student_network


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
    The artifact and, as `references` says, random real images (of [`random_real_configs`]) and the full training set.

    Raises:
        `ValueError`: if a class has no training image.
    """
    model, processor, data, split = opened.model, opened.processor, opened.data, opened.split
    protocol, references = _protocol(recipe, accelerator), recipe.evaluation.references
    sizes = (len(data.train), data.image_shape, data.bytes_per_value)
    students = partial(evaluate_artifact, model, split, processor, *protocol)
    systems = [System(opened.system, processor, describe_storage(model.storage(), *sizes), students)]
    if references != "none":
        alone = RANDOM_STORED_ALIKE if references == "same_storage" else None
        configs = {name: of for name, of in random_real_configs(model.config, data).items() if alone in (None, name)}
        systems += _random_real_systems(configs, data, split, protocol)
        for note in _notes_on_small_classes(configs, data):
            accelerator.print(note)
    if references == "all":
        systems.append(full_data_system(recipe, data, split, accelerator))
    return systems


def random_real_configs(config: HabaConfig, data: ImageData) -> dict[str, HabaConfig]:
    """
    What an artifact of real images is compared with, by the name in a table: plain pixels at equal floats, the
    artifact's own storage without hallucinators at equal floats, and plain pixels at equal bytes, as files of real
    images have them. Of equally many plain images one is left out: those at equal bytes, unless the artifact has fewer
    bits. No class has more than the images of the largest.
    """
    limit = max(len(rows) for rows in data.rows_of_classes(at_least=1))
    floats = min(equal_storage_images_per_class(config), limit)
    of_bytes = min(equal_bytes_images_per_class(config, data.bytes_per_value), limit)
    configs = {}
    if floats != of_bytes or config.storage_dtype == "float32":
        configs[RANDOM_REAL] = real_images_config(data, floats)
    alike = same_storage_config(config, limit)
    if alike is not None:
        configs[RANDOM_STORED_ALIKE] = alike
    if floats != of_bytes or config.storage_dtype != "float32":
        configs[RANDOM_EQUAL_BYTES] = real_images_config(data, of_bytes)
    return configs


def _notes_on_small_classes(configs: dict[str, HabaConfig], data: ImageData) -> list[str]:
    """Of classes with fewer images than they have places in a comparison: one sentence for the smallest."""
    sizes = dict(zip(data.class_names, map(len, data.rows_of_classes(at_least=1)), strict=True))
    name, has = min(sizes.items(), key=lambda size: size[1])
    asked = max((of.bases_per_class * of.num_formations for of in configs.values()), default=0)
    if asked <= has:
        return []
    return [
        f"Random real images: {asked} of each class, of which {name!r} has {has}; a class with fewer gives all, "
        "again and again."
    ]


def _random_real_systems(
    configs: dict[str, HabaConfig], data: ImageData, split: Split, protocol: tuple
) -> list[System]:
    sizes = (len(data.train), data.image_shape)
    systems = []
    for name, of in configs.items():
        if name == RANDOM_EQUAL_BYTES:
            figures = describe_real_images(of.num_bases, *sizes, data.num_labels, data.bytes_per_value)
        else:
            figures = describe_storage(storage_of(of), *sizes, data.bytes_per_value)
        students = partial(evaluate_random_real, data, split, of, *protocol)
        systems.append(System(name, data.processor, figures, students))
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
