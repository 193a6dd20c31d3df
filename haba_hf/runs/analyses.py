"""What a recipe asks of an artifact beside its table of results: other architectures, corruptions, an embedding."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import cast

from accelerate import Accelerator
from torch import nn

from ..data import ImageData, Split
from ..data.corruptions import CORRUPTIONS, STANDARD_CORRUPTIONS, check_corruptible, corrupt, load_official
from ..data.splits import subset
from ..evaluation import (
    ArchitectureRow,
    RobustnessResult,
    TrainedStudents,
    embed_samples,
    evaluate_across,
    evaluate_full_data,
    score_under_attack,
    score_under_corruption,
)
from ..hub.galleries import save_contact_sheet
from ..hub.plots import plot_embedding, plot_robustness
from ..hub.records import CROSS_ARCHITECTURE, ROBUSTNESS
from ..networks import FeatureNetwork, build_feature_network
from ..recipes import Recipe
from ..utils.files import write_json
from .inputs import evaluation_facts, open_evaluation
from .provenance import draw, student_network
from .systems import compared_systems


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
    opened = open_evaluation(recipe, accelerator)
    network = student_network(recipe)
    networks = [dataclasses.replace(network, network=name) for name in recipe.cross_architecture.architectures]
    arguments, seed = recipe.evaluation, recipe.distillation.seed
    facts = evaluation_facts(recipe, opened.data, accelerator, opened, recipe.cross_architecture)
    rows: list[ArchitectureRow] = []
    for row in evaluate_across(opened.model, opened.split, opened.processor, networks, arguments, seed, accelerator):
        rows.append(row)
        if accelerator.is_main_process:  # row by row: an interruption loses no more than one
            path = Path(recipe.distillation.output_dir) / CROSS_ARCHITECTURE
            write_json(path, {"rows": [dataclasses.asdict(row) for row in rows], **facts})
    return rows


def evaluate_robustness(recipe: Recipe, accelerator: Accelerator) -> list[RobustnessResult]:
    """
    Trains students on an artifact and scores them under the 19 corruptions of CIFAR-10-C at 5 severities and, with
    `attack_epsilons`, attacked by FGSM and PGD; beside it, as `references` says, students of random real images at
    equal storage and of the full training set.

    Returns:
        The results, which are also written to `output_dir/robustness.json`, with the curve of the supplement's Fig. 2
        (`robustness.png`) and a contact sheet of the corruptions (`corruptions.png`).

    Raises:
        `ValueError`: if the images cannot be corrupted or are not those of `corruptions_dir`, there is no such split,
            or the artifact is damaged or of other data.
        `OSError`: if there is no artifact or no folder of corruptions, or `output_dir` cannot be written.
        `FloatingPointError`: if a student diverges.
    """
    opened = open_evaluation(recipe, accelerator)
    opened = dataclasses.replace(opened, split=_at_most(opened.split, recipe, opened.data))
    corrupted = _corrupted_split(recipe, opened.data, opened.split)
    trained = []
    for system in compared_systems(recipe, opened, accelerator):
        networks: dict[int, nn.Module] = {}
        clean = system.evaluate(on_student=networks.__setitem__)
        trained.append(TrainedStudents(system.title, system.processor, networks, clean))
    results = score_under_corruption(trained, corrupted, accelerator)
    if (epsilons := recipe.robustness.attack_epsilons) is not None:
        epsilons, steps, seed = sorted(set(epsilons)), recipe.robustness.attack_steps, recipe.distillation.seed
        attacked = score_under_attack(trained, opened.split, epsilons, steps, seed, accelerator)
        results = [
            dataclasses.replace(result, attacks=attacks, epsilons=epsilons)
            for result, attacks in zip(results, attacked, strict=True)
        ]
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
        facts = evaluation_facts(recipe, opened.data, accelerator, opened, recipe.robustness)
        write_json(output_dir / ROBUSTNESS, {"systems": curves, **facts})
        first, seed = opened.split.images[0], recipe.distillation.seed
        draw(accelerator, output_dir / "robustness.png", lambda file: plot_robustness(results, file))
        draw(accelerator, output_dir / "corruptions.png", lambda file: save_contact_sheet(first, file, seed))
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
    opened = open_evaluation(recipe, accelerator)
    settings, seed = recipe.embedding, recipe.distillation.seed
    data = dataclasses.replace(opened.data, processor=opened.processor)  # the teacher's space is the samples'
    sizes = data.image_shape, data.num_labels
    build_feature_network(recipe.network, *sizes, seed, data.processor)  # refused now, not when trained
    arguments = dataclasses.replace(recipe.evaluation, real_evaluation_seeds=1)
    teachers: dict[int, nn.Module] = {}
    scored = evaluate_full_data(data, opened.split, recipe.network, arguments, seed, accelerator, teachers.__setitem__)
    path = Path(recipe.distillation.output_dir) / "embedding.png"
    if accelerator.is_main_process:  # which has the teacher, the first of all students
        teacher = cast(FeatureNetwork, teachers[0])
        classes, images = settings.embedded_classes, settings.embedded_images
        embedding = embed_samples(opened.model, data, teacher, classes, images, settings.perplexity, seed)
        points = {name: tensor.tolist() for name, tensor in vars(embedding).items()}
        facts = evaluation_facts(recipe, data, accelerator, opened, settings)
        write_json(path.with_suffix(".json"), {"teacher_accuracy": scored.mean, **points, **facts})
        plot_embedding(embedding, data.class_names, path)
    accelerator.wait_for_everyone()
    return path


def _at_most(split: Split, recipe: Recipe, data: ImageData) -> Split:
    """The images of a split that are scored on under corruption."""
    size = recipe.robustness.corruption_images
    if size is None or size >= len(split):
        return split
    if size < data.num_labels:
        raise ValueError(f"corruption_images is {size}, but every one of {data.num_labels} classes needs an image.")
    rows = subset(split.labels, size, recipe.data.data_seed)
    return Split(split.images[rows], split.labels[rows])


def _corrupted_split(recipe: Recipe, data: ImageData, split: Split) -> Callable[[str, int], Split]:
    """The images under a corruption and severity: made from `split`, or read from `corruptions_dir`."""
    directory, seed = recipe.robustness.corruptions_dir, recipe.distillation.seed
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
