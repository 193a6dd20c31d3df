"""What an artifact is compared with under one recipe: random real images at equal storage, and all real images."""

import dataclasses
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import nn

from ..artifact.configuration_haba import HabaConfig
from ..artifact.modeling_haba import HabaModel
from ..artifact.pairing import materialize_if_small
from ..coresets import random_images, real_images_artifact
from ..data import ImageData, Split
from ..networks import NetworkArguments
from ..utils.seeds import derived_seed
from .arguments import EvaluationArguments
from .protocols import (
    Embed,
    artifact_learning_rate,
    batches_of_pairing,
    student_epochs,
    training_by_sgd,
    training_on_real_data,
)
from .students import IMAGES, AccuracyResult, evaluate_students
from .teacher import Teacher, labelled
from .training import Batches


def random_real_artifact(data: ImageData, config: HabaConfig, seed: int, teacher: Teacher | None = None) -> HabaModel:
    """
    Real training images as an artifact, stored as its config says, the same number of every class, drawn uniformly
    without replacement; with multi-formation one for each tile. A class of fewer images gives all that it has, again
    and again.

    Args:
        data ([`ImageData`]): the real data.
        config ([`HabaConfig`]): without hallucinators (K = 0); [`real_images_config`] gives that of plain pixels,
            [`same_storage_config`] that of another artifact's storage.
        seed (`int`): of the draw; the global random state is neither used nor changed.
        teacher ([`Teacher`], *optional*): gives the labels, which are soft then.

    Returns:
        [`HabaModel`]: its bases are the images in model space.

    Raises:
        `ValueError`: if a class has no training image.
    """
    rows = random_images(data, config.bases_per_class * config.num_formations, seed, repeat=True)
    model = real_images_artifact(data, rows, config)
    return model if teacher is None else labelled(model, teacher)


def evaluate_random_real(
    data: ImageData,
    split: Split,
    config: HabaConfig,
    network_args: NetworkArguments,
    args: EvaluationArguments,
    seed: int,
    accelerator: Accelerator,
    on_student: Callable[[int, nn.Module], None] | None = None,
    teacher: Teacher | None = None,
) -> AccuracyResult:
    """
    Students of random real images: every student has a draw of its own, so that the standard deviation covers the
    draw.

    Args:
        data ([`ImageData`]): the real data.
        split ([`Split`]): real images to score on.
        config ([`HabaConfig`]): how many images, and how they are stored, as of [`random_real_artifact`].
        network_args ([`NetworkArguments`]): the student's architecture.
        args ([`EvaluationArguments`]): the recipe; without `evaluation_learning_rate`, [`HabaConfig`]'s default is
            used.
        seed (`int`): of draws, initializations and augmentation.
        accelerator (`Accelerator`): device and processes; every process must make this call and gets the result.
        on_student (`Callable[[int, nn.Module], None]`, *optional*): given each trained student of this process and its
            index.
        teacher ([`Teacher`], *optional*): gives the images their labels, which are soft then.

    Raises:
        `ValueError`: if a class has no training image.
        `FloatingPointError`: if a student diverges; names the learning rate and the epoch.
    """
    # Drawn before any student trains: a class without images is an error at once, on every process.
    learning_rate = artifact_learning_rate(random_real_artifact(data, config, seed), args)

    def batches_of_student(index: int, generator: torch.Generator, embed: Embed) -> Callable[[int], Batches]:
        model = random_real_artifact(data, config, derived_seed(seed, index, IMAGES), teacher)
        materialized = materialize_if_small(model, accelerator.device)
        return batches_of_pairing(model, args.evaluation_batch_size, generator, materialized, embed)

    epochs = student_epochs(args, config.epoch_samples)
    return evaluate_students(
        training_by_sgd(batches_of_student, config.epoch_samples, epochs, learning_rate, args, accelerator),
        split,
        data.processor,
        network_args,
        args,
        seed,
        accelerator,
        num_labels=data.num_labels,
        on_student=on_student,
    )


def evaluate_full_data(
    data: ImageData,
    split: Split,
    network_args: NetworkArguments,
    args: EvaluationArguments,
    seed: int,
    accelerator: Accelerator,
    on_student: Callable[[int, nn.Module], None] | None = None,
) -> AccuracyResult:
    """
    Students of the whole training split: what distillation could at best recover. The recipe is the artifacts', with
    `real_student_epochs`, `real_student_learning_rate` and `real_evaluation_seeds` in place of theirs.

    Args:
        data ([`ImageData`]): the real data.
        split ([`Split`]): real images to score on.
        network_args ([`NetworkArguments`]): the student's architecture.
        args ([`EvaluationArguments`]): the recipe.
        seed (`int`): of initializations, order and augmentation.
        accelerator (`Accelerator`): device and processes; every process must make this call and gets the result.
        on_student (`Callable[[int, nn.Module], None]`, *optional*): given each trained student of this process and its
            index.

    Raises:
        `FloatingPointError`: if a student diverges; names the learning rate and the epoch.
    """
    return evaluate_students(
        training_on_real_data(data, args, accelerator),
        split,
        data.processor,
        network_args,
        dataclasses.replace(args, evaluation_seeds=args.real_evaluation_seeds or args.evaluation_seeds),
        seed,
        accelerator,
        num_labels=data.num_labels,
        on_student=on_student,
    )
