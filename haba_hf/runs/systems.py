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
    Teacher,
    evaluate_artifact,
    evaluate_full_data,
    evaluate_random_real,
    trained_teacher,
)
from ..evaluation.report import HARD, OF_TEACHER
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
        labels (`str`): what its students learn from, one of `haba_hf.evaluation.report.LABELS`.
        evaluate (`Callable[..., AccuracyResult]`): trains and scores its students, which it gives to `on_student`, an
            optional argument, as [`evaluate_artifact`] does.
    """

    name: str
    processor: HabaProcessor
    storage: StorageFigures
    labels: str
    evaluate: Callable[..., AccuracyResult]

    @property
    def title(self) -> str:
        """Its name, and which labels its students had where these are soft: for tables without a column of them."""
        return self.name if self.labels == HARD else f"{self.name} (labels: {self.labels})"


def compared_systems(recipe: Recipe, opened: OpenedArtifact, accelerator: Accelerator) -> list[System]:
    """
    The artifact and, as `references` says, random real images (of [`random_real_configs`]) and the full training set.
    Where the artifact's labels are a teacher's, at their end or at their start, random real images have labels of the
    same teacher; otherwise their labels are hard, as those of the full training set always are.

    Raises:
        `ValueError`: if a class has no training image, or the teacher's record does not say how it was trained.
        `FloatingPointError`: if the teacher is trained again and diverges.
    """
    model, processor, data, split = opened.model, opened.processor, opened.data, opened.split
    protocol, references = _protocol(recipe, accelerator), recipe.evaluation.references
    sizes = (len(data.train), data.image_shape, data.bytes_per_value)
    students = partial(evaluate_artifact, model, split, processor, *protocol)
    systems = [System(opened.system, processor, describe_storage(model.storage(), *sizes), opened.labels, students)]
    if references != "none":
        alone = RANDOM_STORED_ALIKE if references == "same_storage" else None
        teacher = _teacher_of(opened, recipe, accelerator)
        label_kind = "hard" if teacher is None else "soft"
        all_configs = random_real_configs(model.config, data, label_kind)
        configs = {name: of for name, of in all_configs.items() if alone in (None, name)}
        systems += _random_real_systems(configs, model.config, data, split, protocol, teacher)
        for note in _notes_on_small_classes(configs, data):
            accelerator.print(note)
    if references == "all":
        systems.append(full_data_system(recipe, data, split, accelerator))
    return systems


def _teacher_of(opened: OpenedArtifact, recipe: Recipe, accelerator: Accelerator) -> Teacher | None:
    """The teacher of an artifact's labels, if they are one's: from `teacher_dir`, or trained again."""
    if opened.teacher is None:
        return None
    teacher = trained_teacher(opened.teacher["settings"], recipe.teacher.teacher_dir, opened.data, accelerator)
    if teacher.fingerprint != opened.teacher["fingerprint"]:
        accelerator.print(
            f"The teacher of {opened.name} is not in {recipe.teacher.teacher_dir}: trained again as it was, it has "
            "other weights (of another machine, or other data), and random real images have its labels."
        )
    return teacher


def random_real_configs(config: HabaConfig, data: ImageData, label_kind: str = "hard") -> dict[str, HabaConfig]:
    """
    What an artifact of real images is compared with, by the name in a table: plain pixels at equal floats, the
    artifact's own storage without hallucinators at equal floats, and plain pixels at equal bytes, as files of real
    images have them. Of equally many plain images one is left out: those at equal bytes, unless the artifact has fewer
    bits. No class has more than the images of the largest. Soft labels of theirs count as the artifact's do.
    """
    limit = max(len(rows) for rows in data.rows_of_classes(at_least=1))
    floats = min(equal_storage_images_per_class(config, label_kind), limit)
    of_bytes = min(equal_bytes_images_per_class(config, data.bytes_per_value, label_kind), limit)
    configs = {}
    if floats != of_bytes or config.storage_dtype == "float32":
        configs[RANDOM_REAL] = real_images_config(data, floats, label_kind=label_kind)
    alike = same_storage_config(config, limit, label_kind)
    if alike is not None:
        configs[RANDOM_STORED_ALIKE] = alike
    if floats != of_bytes or config.storage_dtype != "float32":
        configs[RANDOM_EQUAL_BYTES] = real_images_config(data, of_bytes, label_kind=label_kind)
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
    configs: dict[str, HabaConfig],
    artifact: HabaConfig,
    data: ImageData,
    split: Split,
    protocol: tuple[NetworkArguments, EvaluationArguments, int, Accelerator],
    teacher: Teacher | None,
) -> list[System]:
    sizes = (len(data.train), data.image_shape)
    label_bytes = 0 if teacher is None else artifact.bytes_per_number["labels"]
    systems = []
    for name, of in configs.items():
        if name == RANDOM_EQUAL_BYTES:
            figures = describe_real_images(of.num_bases, *sizes, data.num_labels, data.bytes_per_value, label_bytes)
        else:
            figures = describe_storage(storage_of(of), *sizes, data.bytes_per_value)
        students = partial(evaluate_random_real, data, split, of, *protocol, teacher=teacher)
        systems.append(System(name, data.processor, figures, HARD if teacher is None else OF_TEACHER, students))
    return systems


def full_data_system(recipe: Recipe, data: ImageData, split: Split, accelerator: Accelerator) -> System:
    """The full training set."""
    storage = describe_training_set(len(data.train), data.image_shape, data.num_labels, data.bytes_per_value)
    students = partial(evaluate_full_data, data, split, *_protocol(recipe, accelerator))
    return System(FULL_DATA, data.processor, storage, HARD, students)


def _protocol(
    recipe: Recipe, accelerator: Accelerator
) -> tuple[NetworkArguments, EvaluationArguments, int, Accelerator]:
    """How students are trained, the same for every system: the last arguments of every `evaluate_*`."""
    return student_network(recipe), recipe.evaluation, recipe.distillation.seed, accelerator
