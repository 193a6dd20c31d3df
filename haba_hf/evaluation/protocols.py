"""How the students of a system are trained: by SGD, or by the schedule that an artifact was distilled with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..artifact.modeling_haba import HabaModel
from ..artifact.pairing import materialize_if_small, paired_batches
from ..data import ImageData
from ..data.augmentation import DsaAugmentation
from ..data.cutmix import CutMix
from ..networks import Probe
from .arguments import EvaluationArguments
from .schedule import scheduled_batch, stored_step_sizes, train_by_schedule
from .training import Batches, features_of, train_by_sgd

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


# Takes samples to the features that a probe trains its classifier on; `None` of a student that is trained on samples.
Embed = Callable[[Tensor], Tensor] | None


def training_by_sgd(
    batches_of_student: Callable[[int, torch.Generator, Embed], Callable[[int], Batches]],
    epoch_samples: int,
    epochs: int,
    learning_rate: float,
    args: EvaluationArguments,
    accelerator: Accelerator,
) -> StudentTraining:
    """
    Training by [`train_by_sgd`] with the recipe's momentum, weight decay, schedule, augmentation and CutMix, in the
    accelerator's mixed precision. Where nothing augments, the features of a probe's samples are computed once.

    Args:
        batches_of_student (`Callable[[int, torch.Generator, Embed], Callable]`): given a student's index, its
            generator and what takes samples to features, if anything does, returns the `batches_of_epoch` of
            [`train_by_sgd`].
        epoch_samples (`int`): samples of an epoch.
        epochs (`int`): of a student.
        learning_rate (`float`): before its decay.
        args ([`EvaluationArguments`]): the recipe.
        accelerator (`Accelerator`): device and precision.
    """

    augmentation, cutmix = DsaAugmentation(args.evaluation_dsa, per_sample=True), CutMix(args.evaluation_cutmix)

    def train(network: nn.Module, index: int, generator: torch.Generator, on_epoch: OnEpoch) -> nn.Module:
        trained, embed = network, None
        if isinstance(network, Probe) and not augmentation.stages and not args.evaluation_cutmix:
            trained, embed = network.classifier, partial(features_of, network.to(accelerator.device))
        train_by_sgd(
            trained,
            batches_of_student(index, generator, embed),
            epochs,
            learning_rate,
            momentum=args.evaluation_momentum,
            weight_decay=args.evaluation_weight_decay,
            schedule=args.evaluation_schedule,
            augmentation=augmentation,
            cutmix=cutmix,
            generator=generator,
            device=accelerator.device,
            autocast=accelerator.autocast,
            on_epoch=on_epoch,
        )
        return network.eval()

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

    def batches_of_student(index: int, generator: torch.Generator, embed: Embed) -> Callable[[int], Batches]:
        return batches_of_pairing(model, args.evaluation_batch_size, generator, materialized, embed)

    epoch_samples = model.config.epoch_samples
    epochs, learning_rate = student_epochs(args, epoch_samples), artifact_learning_rate(model, args)
    return training_by_sgd(batches_of_student, epoch_samples, epochs, learning_rate, args, accelerator)


def batches_of_pairing(
    model: HabaModel,
    batch_size: int,
    generator: torch.Generator,
    materialized: tuple[Tensor, Tensor] | None,
    embed: Embed,
) -> Callable[[int], Batches]:
    """The batches of an epoch of [`paired_batches`], of features where `embed` gives them."""
    if embed is not None and materialized is not None:
        materialized, embed = (embed(materialized[0]), materialized[1]), None

    def batches_of_epoch(epoch: int) -> Batches:
        for samples, labels in paired_batches(model, batch_size, generator, materialized):
            yield samples if embed is None else embed(samples), labels

    return batches_of_epoch


def training_on_real_data(data: ImageData, args: EvaluationArguments, accelerator: Accelerator) -> StudentTraining:
    """
    SGD on the whole training split, with `real_student_epochs` and `real_student_learning_rate` in place of the
    artifact's. The images stay on the device, if they fit, as they are in the split and are normalized batch by batch.
    """
    device, labels = accelerator.device, data.train.labels.to(accelerator.device)

    def batches_of_student(index: int, generator: torch.Generator, embed: Embed) -> Callable[[int], Batches]:
        features = None
        if embed is not None:
            parts = torch.arange(len(labels), device=device).split(args.evaluation_batch_size)
            features = torch.cat([embed(data.normalized(rows, device)) for rows in parts])

        def batches_of_epoch(epoch: int) -> Batches:
            order = torch.randperm(len(labels), generator=generator).to(device)
            for rows in order.split(args.evaluation_batch_size):
                yield data.normalized(rows, device) if features is None else features[rows], labels[rows]

        return batches_of_epoch

    epochs, learning_rate = args.real_student_epochs, args.real_student_learning_rate
    return training_by_sgd(batches_of_student, len(labels), epochs, learning_rate, args, accelerator)


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
