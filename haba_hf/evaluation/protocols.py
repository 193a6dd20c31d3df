"""How the students of a system are trained: by SGD, or by the schedule that an artifact was distilled with."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from ..artifact.modeling_haba import HabaModel
from ..artifact.pairing import materialize_if_small, paired_batches
from ..data.augmentation import DsaAugmentation
from ..data.cutmix import CutMix
from .arguments import EvaluationArguments
from .schedule import scheduled_batch, stored_step_sizes, train_by_schedule
from .training import Batches, train_by_sgd

OnEpoch = Callable[[int, float], None]  # told each epoch and its mean loss


@dataclass(frozen=True)
class StudentTraining:
    """
    How the students of one system are trained.

    Args:
        train (`Callable[[nn.Module, int, torch.Generator, OnEpoch], nn.Module]`): trains a fresh network as student
            `index` and returns it; the generator is that student's own.
        epochs (`int`): of a student, or the steps of a schedule.
        learning_rate (`float`): of a student, or the step sizes of a schedule.
        steps (`int`): SGD steps of a student in all.
        samples (`int`): what it sees in all of them.
    """

    train: Callable[[nn.Module, int, torch.Generator, OnEpoch], nn.Module]
    epochs: int
    learning_rate: float | list[float]
    steps: int
    samples: int


def training_by_sgd(
    batches_of_student: Callable[[int, torch.Generator], Callable[[int], Batches]],
    epoch_samples: int,
    epochs: int,
    learning_rate: float,
    args: EvaluationArguments,
    accelerator: Accelerator,
) -> StudentTraining:
    """
    Training by [`train_by_sgd`] with the recipe's momentum, weight decay, schedule, augmentation and CutMix, in the
    accelerator's mixed precision.

    Args:
        batches_of_student (`Callable[[int, torch.Generator], Callable]`): given a student's index and its generator,
            returns the `batches_of_epoch` of [`train_by_sgd`].
        epoch_samples (`int`): samples of an epoch.
        epochs (`int`): of a student.
        learning_rate (`float`): before its decay.
        args ([`EvaluationArguments`]): the recipe.
        accelerator (`Accelerator`): device and precision.
    """

    def train(network: nn.Module, index: int, generator: torch.Generator, on_epoch: OnEpoch) -> nn.Module:
        return train_by_sgd(
            network,
            batches_of_student(index, generator),
            epochs,
            learning_rate,
            momentum=args.evaluation_momentum,
            weight_decay=args.evaluation_weight_decay,
            schedule=args.evaluation_schedule,
            augmentation=DsaAugmentation(args.evaluation_dsa, per_sample=True),
            cutmix=CutMix(args.evaluation_cutmix),
            generator=generator,
            device=accelerator.device,
            autocast=accelerator.autocast,
            on_epoch=on_epoch,
        )

    steps = epochs * -(-epoch_samples // args.evaluation_batch_size)
    return StudentTraining(train, epochs, learning_rate, steps, epochs * epoch_samples)


def training_by_schedule(model: HabaModel, args: EvaluationArguments, accelerator: Accelerator) -> StudentTraining:
    """
    Training by the artifact's own T step sizes on its T shares (see [`train_by_schedule`]), in float32; of the recipe
    it takes the augmentation alone.

    Raises:
        `ValueError`: if the artifact has no step sizes.
    """
    step_sizes = stored_step_sizes(model)

    def train(network: nn.Module, index: int, generator: torch.Generator, on_epoch: OnEpoch) -> nn.Module:
        return train_by_schedule(
            network,
            lambda step: scheduled_batch(model, step, generator),
            step_sizes,
            augmentation=DsaAugmentation(args.evaluation_dsa, per_sample=True),
            generator=generator,
            device=accelerator.device,
            on_step=on_epoch,
        )

    steps = len(step_sizes)
    return StudentTraining(train, steps, step_sizes, steps, steps * len(model.share(0)))


def artifact_training(model: HabaModel, args: EvaluationArguments, accelerator: Accelerator) -> StudentTraining:
    """
    SGD with online pairing, or (`evaluation_protocol="schedule"`) the artifact's own schedule.

    Raises:
        `ValueError`: if the artifact has no learning rate, or no step sizes, to train by.
    """
    if args.evaluation_protocol == "schedule":
        return training_by_schedule(model, args, accelerator)
    materialized = materialize_if_small(model, accelerator.device)

    def batches_of_student(index: int, generator: torch.Generator) -> Callable[[int], Batches]:
        return lambda epoch: paired_batches(model, args.evaluation_batch_size, generator, materialized)

    epoch_samples = model.config.epoch_samples
    epochs, learning_rate = student_epochs(args, epoch_samples), artifact_learning_rate(model, args)
    return training_by_sgd(batches_of_student, epoch_samples, epochs, learning_rate, args, accelerator)


def student_epochs(args: EvaluationArguments, epoch_samples: int) -> int:
    """`args.student_epochs`, or as many as take at least `args.evaluation_steps` steps."""
    if args.evaluation_steps is None:
        return args.student_epochs
    return -(-args.evaluation_steps // -(-epoch_samples // args.evaluation_batch_size))


def artifact_learning_rate(model: HabaModel, args: EvaluationArguments) -> float:
    """`args.evaluation_learning_rate`, or by default the student learning rate stored in the artifact.

    Raises:
        `ValueError`: if the stored one is not positive.
    """
    if args.evaluation_learning_rate is not None:
        return args.evaluation_learning_rate
    learning_rate = model.student_learning_rate.item()
    if not learning_rate > 0:
        raise ValueError(
            f"The artifact's student learning rate is {learning_rate:g}, which trains nothing: "
            "set evaluation_learning_rate."
        )
    return learning_rate
