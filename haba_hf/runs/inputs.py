"""What every evaluation opens: the artifact, the data it fits, and the student's network."""

import dataclasses
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from ..artifact.budget import describe_basis
from ..artifact.loading import HabaProcessor, check_same_space, load_model_and_processor
from ..artifact.modeling_haba import HabaModel
from ..data import ImageData, Split, Splits, load_image_data
from ..evaluation.report import LEARNED_FROM_TEACHER, OF_TEACHER
from ..hub.artifact import check_fingerprints, fingerprints
from ..hub.records import CORESET, DISTILLATION, labels_on_record, read_record
from ..recipes import Recipe
from ..utils.files import check_writable
from ..utils.fingerprints import weights_fingerprint
from .provenance import environment, student_network


@dataclass(frozen=True)
class OpenedArtifact:
    """
    An artifact and what students of it are scored on, which are known to fit.

    Args:
        name (`str`): its folder or Hub id.
        system (`str`): what it is called in a table.
        model ([`HabaModel`]), processor ([`HabaImageProcessor`]): the artifact's.
        data ([`ImageData`]): the real data.
        split ([`Split`]): of the data, that is scored on.
        labels (`str`): what its students learn from, one of `haba_hf.evaluation.report.LABELS`.
        teacher (`dict`, *optional*): the record of the teacher that its labels are of, or were learned from.
    """

    name: str
    system: str
    model: HabaModel
    processor: HabaProcessor
    data: ImageData
    split: Split
    labels: str
    teacher: dict[str, Any] | None


def training_data(recipe: Recipe, given: ImageData | Splits | None = None) -> ImageData:
    """
    The recipe's data, which may have no test split: read from where it says or from splits in memory, or those that
    were read already.

    Raises:
        `ValueError`, `FileNotFoundError`: if the data cannot be read.
    """
    return given if isinstance(given, ImageData) else load_image_data(recipe.data, needs_test=False, splits=given)


def open_evaluation(recipe: Recipe, accelerator: Accelerator, splits: Splits | None = None) -> OpenedArtifact:
    """
    The recipe's artifact, its data (or, in memory, `splits`), and the split to score on.

    Raises:
        `ValueError`: if the artifact is damaged, or of other data or another space than the recipe's, or there is no
            such split.
        `OSError`: if there is no artifact, or `output_dir` cannot be written.
    """
    output_dir = recipe.distillation.output_dir
    artifact = recipe.evaluation.artifact or str(Path(output_dir) / "artifact")
    if recipe.evaluation.artifact is None and not Path(artifact).is_dir():
        raise FileNotFoundError(
            f"There is no artifact in {output_dir}: run haba distill with the same recipe (of a coreset: "
            "haba select), or set artifact."
        )
    model, processor, origin = load_artifact(artifact)
    if recipe.data.zca != (processor.whitening is not None):
        space = "are not whitened" if processor.whitening is None else "live in ZCA-whitened space"
        raise ValueError(
            f"The samples of {artifact} {space}, but the recipe says zca: {str(recipe.data.zca).lower()}."
        )
    data = load_image_data(recipe.data, needs_test=_on_test(recipe), whitening=processor.whitening, splits=splits)
    names = [model.config.id2label[label] for label in range(model.config.num_labels)]
    data = data.with_classes_of(names, f"the artifact {artifact}")
    if model.config.sample_shape != data.image_shape:
        raise ValueError(
            f"The artifact {artifact} is of samples {list(model.config.sample_shape)} (C, H, W), but {data.name} has "
            f"images {list(data.image_shape)}: choose the data it was distilled from, with the same resize."
        )
    split = _split_to_score(recipe, data, accelerator)
    check_same_space(processor, data.processor)
    labels = labels_on_record(model.config.label_kind, origin)
    teacher = origin.get("teacher") if labels in (OF_TEACHER, LEARNED_FROM_TEACHER) else None
    return OpenedArtifact(artifact, _system(model, origin), model, processor, data, split, labels, teacher)


def open_real_data(recipe: Recipe, accelerator: Accelerator, splits: Splits | None = None) -> tuple[ImageData, Split]:
    """
    The data and the split to score on, once `output_dir` is known to be writable.

    Raises:
        `ValueError`: if there is no such split, or the data cannot be read.
        `OSError`: if `output_dir` cannot be written.
    """
    data = load_image_data(recipe.data, needs_test=_on_test(recipe), splits=splits)
    return data, _split_to_score(recipe, data, accelerator)


def _on_test(recipe: Recipe) -> bool:
    return recipe.evaluation.evaluation_split == "test"


def _split_to_score(recipe: Recipe, data: ImageData, accelerator: Accelerator) -> Split:
    """The split, which is not empty; says what was read."""
    on_test = _on_test(recipe)
    split = data.test if on_test else data.validation
    if not split:
        advice = "add one" if on_test else "set validation_fraction above 0"
        raise ValueError(f"{data.name} has no {recipe.evaluation.evaluation_split} split to score on: {advice}.")
    if accelerator.is_main_process:
        check_writable(recipe.distillation.output_dir)
    accelerator.print(data.summary())
    return split


def load_artifact(artifact: str) -> tuple[HabaModel, HabaProcessor, dict[str, Any]]:
    """
    Model and processor from a folder or a Hub id, and the record of where they come from, empty if there is none.

    Raises:
        `ValueError`: if it is damaged, not a haba artifact, not what its record is about, or its processor lacks the
            whitening of its samples.
        `OSError`: if it does not exist or lacks a file.
    """
    if artifact.count("/") != 1 and not Path(artifact).is_dir():
        raise FileNotFoundError(f"There is no artifact {artifact}: it is neither a folder nor a Hub id (owner/name).")
    model, processor = load_model_and_processor(artifact)
    origin = _origin(artifact)
    check_fingerprints(artifact, fingerprints(model, processor), origin)
    return model, processor, origin


def _origin(artifact: str) -> dict[str, Any]:
    for name in (DISTILLATION, CORESET):
        path = Path(artifact) / name
        if not Path(artifact).is_dir():
            with suppress(EntryNotFoundError):  # not there, or, offline, not in the cache
                path = Path(hf_hub_download(artifact, name))
        record = read_record(path)
        if record:
            return record
    return {}


def _system(model: HabaModel, origin: dict[str, Any]) -> str:
    """What an artifact is called in a table."""
    hallucinators = model.config.num_hallucinators
    if hallucinators:
        return f"HaBa, {hallucinators} hallucinators"
    if "coreset" in origin:
        return f"coreset, {origin['coreset']}"
    if "imported" in origin:
        return f"imported, {origin['imported']}"
    config = model.config
    plain = (config.stored_shape, config.num_formations, config.storage_dtype) == (config.sample_shape, 1, "float32")
    return "plain pixels" if plain else describe_basis(config)


def evaluation_facts(
    recipe: Recipe, data: ImageData, accelerator: Accelerator, opened: OpenedArtifact | None, *sections: Any
) -> dict:
    """
    What the results of an evaluation are to be read with: of what they are, and the settings of students and of the
    other sections of the recipe that decided them.
    """
    settings = [dataclasses.asdict(section) for section in (student_network(recipe), recipe.evaluation, *sections)]
    return {
        **({} if opened is None else {"weights_fingerprint": weights_fingerprint(opened.model)}),
        "artifact": None if opened is None else opened.name,
        "recipe_hash": recipe.hash,
        "data_fingerprint": data.fingerprint,
        "seed": recipe.distillation.seed,
        "settings": {name: value for section in settings for name, value in section.items()},
        **environment(accelerator),
    }
