"""What a recipe asks of an artifact beside the table of results: other architectures, corrupted images, an embedding.
The functions behind training/evaluate.py --architectures, training/robustness.py and training/embed.py.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import cast

from accelerate import Accelerator
from torch import nn

from .data import ImageData, Split
from .data.corruptions import CORRUPTIONS, STANDARD_CORRUPTIONS, check_corruptible, corrupt, load_official
from .data.splits import subset
from .evaluation import (
    FULL_DATA,
    RANDOM_REAL,
    ArchitectureRow,
    RobustnessResult,
    TrainedStudents,
    embed_samples,
    evaluate_across,
    evaluate_artifact,
    evaluate_full_data,
    evaluate_random_real,
    score_under_corruption,
    write_json,
)
from .hub.artifact import weights_fingerprint
from .hub.figures import plot_embedding, plot_robustness, save_contact_sheet
from .modeling_haba import HabaModel
from .networks import FeatureNetwork, build_feature_network
from .recipe import Recipe
from .runs import evaluation_facts, open_evaluation, student_network, system_name
from .storage import equal_storage_images_per_class


def evaluate_architectures(recipe: Recipe, accelerator: Accelerator) -> list[ArchitectureRow]:
    """
    Trains students of the recipe's `architectures` on an artifact and scores them on `evaluation_split`. Depth and
    width of a ConvNet among them are the recipe's.

    Returns:
        The rows of the table, which are also written to `output_dir/cross_architecture.json`.

    Raises:
        `ValueError`: if a network does not take the samples, there is no such split, or the artifact is damaged or of
            other data.
        `OSError`: if there is no artifact, or `output_dir` cannot be written.
        `FloatingPointError`: if a student diverges; names the architecture.
    """
    artifact, model, processor, data, split = open_evaluation(recipe, accelerator)
    network = student_network(recipe)
    networks = [dataclasses.replace(network, network=name) for name in recipe.analysis.architectures]
    arguments, seed = recipe.evaluation, recipe.distillation.seed
    rows: list[ArchitectureRow] = []
    for row in evaluate_across(model, split, processor, networks, arguments, seed, accelerator):
        rows.append(row)
        if accelerator.is_main_process:  # row by row: an interruption loses no more than one
            facts = {
                "rows": [dataclasses.asdict(row) for row in rows],
                **_facts(recipe, artifact, model, data, accelerator),
            }
            write_json(Path(recipe.distillation.output_dir) / "cross_architecture.json", facts)
    return rows


def evaluate_robustness(recipe: Recipe, accelerator: Accelerator) -> list[RobustnessResult]:
    """
    Trains students on an artifact and scores them under the 19 corruptions of CIFAR-10-C at 5 severities; beside it,
    as `references` says, students of random real images at equal storage and of the full training set.

    Returns:
        The results, which are also written to `output_dir/robustness.json`, with the curve of the supplement's Fig. 2
        (`robustness.png`) and a contact sheet of the corruptions (`corruptions.png`).

    Raises:
        `ValueError`: if the images cannot be corrupted or are not those of `corruptions_dir`, there is no such split,
            or the artifact is damaged or of other data.
        `OSError`: if there is no artifact or no folder of corruptions, or `output_dir` cannot be written.
        `FloatingPointError`: if a student diverges.
    """
    artifact, model, processor, data, split = open_evaluation(recipe, accelerator)
    network, arguments, seed = student_network(recipe), recipe.evaluation, recipe.distillation.seed
    split = _at_most(split, recipe, data)
    corrupted = _corrupted_split(recipe, data, split)

    distilled = TrainedStudents(system_name(artifact, model), processor)
    distilled.clean = evaluate_artifact(
        model, split, processor, network, arguments, seed, accelerator, on_student=distilled.networks.__setitem__
    )
    systems = [distilled]
    if arguments.references in ("random", "all"):
        random_real = TrainedStudents(RANDOM_REAL, data.processor)
        per_class, add = equal_storage_images_per_class(model.config), random_real.networks.__setitem__
        random_real.clean = evaluate_random_real(data, split, per_class, network, arguments, seed, accelerator, add)
        systems.append(random_real)
    if arguments.references == "all":
        full = TrainedStudents(FULL_DATA, data.processor)
        add = full.networks.__setitem__
        full.clean = evaluate_full_data(data, split, network, arguments, seed, accelerator, add)
        systems.append(full)

    results = score_under_corruption(systems, corrupted, accelerator)
    if accelerator.is_main_process:
        output_dir = Path(recipe.distillation.output_dir)
        curves = [
            {
                **dataclasses.asdict(result),
                "curve": result.curve(),
                "standard_curve": result.curve(STANDARD_CORRUPTIONS),
            }
            for result in results
        ]
        write_json(
            output_dir / "robustness.json", {"systems": curves, **_facts(recipe, artifact, model, data, accelerator)}
        )
        plot_robustness(results, output_dir / "robustness.png")
        save_contact_sheet(split.images[0], output_dir / "corruptions.png", seed)
    accelerator.wait_for_everyone()
    return results


def embed(recipe: Recipe, accelerator: Accelerator) -> Path:
    """
    Trains a teacher, a network of the recipe's architecture, on the full training set, and draws samples and real
    images of `embedded_classes` in the plane by t-SNE of its features (supplement, Fig. 3).

    Returns:
        The picture, `output_dir/embedding.png`; the points are in `output_dir/embedding.json`.

    Raises:
        `ValueError`: if the network has no features, there is no such class or split, or the artifact is damaged or of
            other data.
        `OSError`: if there is no artifact, or `output_dir` cannot be written.
        `FloatingPointError`: if the teacher diverges.
    """
    artifact, model, processor, data, split = open_evaluation(recipe, accelerator)
    analysis, seed = recipe.analysis, recipe.distillation.seed
    build_feature_network(recipe.network, data.image_shape, data.num_labels, seed)  # refused now, not when trained
    data = dataclasses.replace(data, processor=processor)  # the teacher's space is the samples'
    arguments = dataclasses.replace(recipe.evaluation, real_evaluation_seeds=1)
    teachers: dict[int, nn.Module] = {}
    scored = evaluate_full_data(data, split, recipe.network, arguments, seed, accelerator, teachers.__setitem__)
    path = Path(recipe.distillation.output_dir) / "embedding.png"
    if accelerator.is_main_process:  # which has the teacher, the first of all students
        teacher = cast(FeatureNetwork, teachers[0])
        classes, images = analysis.embedded_classes, analysis.embedded_images
        embedding = embed_samples(model, data, teacher, classes, images, analysis.perplexity, seed)
        points = {name: tensor.tolist() for name, tensor in vars(embedding).items()}
        facts = _facts(recipe, artifact, model, data, accelerator)
        write_json(path.with_suffix(".json"), {"teacher_accuracy": scored.mean, **points, **facts})
        plot_embedding(embedding, data.class_names, path)
    accelerator.wait_for_everyone()
    return path


def _at_most(split: Split, recipe: Recipe, data: ImageData) -> Split:
    """The images of a split that are scored on under corruption."""
    size = recipe.analysis.corruption_images
    if size is None or size >= len(split):
        return split
    if size < data.num_labels:
        raise ValueError(f"corruption_images is {size}, but every one of {data.num_labels} classes needs an image.")
    rows = subset(split.labels, size, recipe.data.data_seed)
    return Split(split.images[rows], split.labels[rows])


def _corrupted_split(recipe: Recipe, data: ImageData, split: Split) -> Callable[[str, int], Split]:
    """The images under a corruption and severity: made from `split`, or read from `corruptions_dir`."""
    directory, seed = recipe.analysis.corruptions_dir, recipe.distillation.seed
    check_corruptible(split.images)
    if directory is None:
        return lambda corruption, severity: Split(corrupt(split.images, corruption, severity, seed), split.labels)
    for corruption in CORRUPTIONS:  # a file that is missing or damaged is an error now, not after hours
        official = load_official(directory, corruption, severity=1)
        shape, largest = tuple(official.images.shape[1:]), int(official.labels.max())
        if shape != data.image_shape or largest >= data.num_labels:
            raise ValueError(
                f"{directory} holds images {list(shape)} of {largest + 1} classes, but {data.name} has "
                f"{list(data.image_shape)} of {data.num_labels}: corruptions_dir is of other data."
            )
    return lambda corruption, severity: _at_most(load_official(directory, corruption, severity), recipe, data)


def _facts(recipe: Recipe, artifact: str, model: HabaModel, data: ImageData, accelerator: Accelerator) -> dict:
    facts = evaluation_facts(recipe, artifact, data, accelerator)
    facts["settings"] |= dataclasses.asdict(recipe.analysis)
    return {"weights_fingerprint": weights_fingerprint(model), **facts}
