"""Evaluation: fresh students trained on an artifact by online pairing and tested on real images, as in the paper.

All randomness comes from generators seeded by (seed, network index), so a result depends neither on the global random
state (which stays as it was) nor on how many processes share the students.

Shape legend: L classes.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from tqdm.auto import tqdm

from ..checks import check_counts, check_positive
from ..data import Split
from ..data.augmentation import DSA_STRATEGY, DsaAugmentation
from ..data.cutmix import CutMix
from ..modeling_haba import HabaModel
from ..networks import NetworkArguments, build_network
from ..pairing import materialize_if_small, paired_batches
from ..processors import HabaProcessor
from ..seeds import derived_seed, seeded_generator
from .schedule import scheduled_batch, stored_step_sizes, train_by_schedule
from .training import Batches, Schedule, accuracy, train_student

# The independent streams of one student: its weights; its batches, pairing and augmentation; its real images, if
# drawn.
WEIGHTS, TRAINING, IMAGES = range(3)


@dataclass
class EvaluationArguments:
    """How students are trained on an artifact, and on the real data it is compared with."""

    artifact: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of the artifact; by default output_dir/artifact.", "result": False},
    )
    students_of: Literal["artifact", "full_data"] = field(
        default="artifact",
        metadata={
            "help": "What students are trained on: the artifact and its references, or the full real data alone, "
            "which needs no artifact and goes to full_data.json.",
            "result": False,
        },
    )
    references: Literal["all", "random", "none"] = field(
        default="all",
        metadata={
            "help": "What is evaluated beside the artifact: random real images at equal storage and the full data, "
            "the random images alone, or nothing.",
            "result": False,
        },
    )
    evaluation_split: Literal["test", "validation"] = field(
        default="test",
        metadata={
            "help": "Where students are scored: test for results; validation to choose settings by, such as "
            "evaluation_learning_rate and student_epochs.",
            "result": False,
        },
    )
    evaluation_protocol: Literal["sgd", "schedule"] = field(
        default="sgd",
        metadata={
            "help": "Students of the artifact are trained by SGD over student_epochs, or by its own schedule of step "
            "sizes (dd); what it is compared with always by SGD."
        },
    )
    student_width: int | None = field(
        default=None, metadata={"help": "Channels of the students' ConvNet; by default network_width."}
    )
    evaluation_seeds: int = field(default=5, metadata={"help": "Students, each with its own initialization."})
    student_epochs: int = field(default=1000, metadata={"help": "Epochs of a student; one epoch is every basis once."})
    evaluation_batch_size: int = field(default=256, metadata={"help": "Batch size of students."})
    evaluation_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of students; by default the one stored in the artifact."}
    )
    evaluation_momentum: float = field(default=0.9, metadata={"help": "SGD momentum of students."})
    evaluation_weight_decay: float = field(default=5e-4, metadata={"help": "SGD weight decay of students."})
    evaluation_dsa: str = field(
        default=DSA_STRATEGY, metadata={"help": "DSA operations joined by underscores, stages by +, or 'none'."}
    )
    evaluation_cutmix: float = field(default=0.0, metadata={"help": "Probability of a batch to be mixed by CutMix."})
    evaluation_schedule: Schedule = field(
        default="half",
        metadata={
            "help": "Learning rate: a tenth after half of the epochs, or a fifth after 2/3 and again after 5/6."
        },
    )
    real_evaluation_seeds: int | None = field(
        default=None, metadata={"help": "Students of the full real data; by default evaluation_seeds."}
    )
    real_student_epochs: int = field(default=50, metadata={"help": "Epochs of a student of the full real data."})
    real_student_learning_rate: float = field(
        default=0.01, metadata={"help": "Learning rate of a student of the full real data."}
    )

    def __post_init__(self):
        check_counts(self, "evaluation_seeds", "student_epochs", "evaluation_batch_size", "student_width")
        check_counts(self, "real_evaluation_seeds", "real_student_epochs")
        check_positive(self, "evaluation_learning_rate", "real_student_learning_rate")
        # What they refuse is refused now, not after hours of distillation.
        DsaAugmentation(self.evaluation_dsa)
        CutMix(self.evaluation_cutmix)


@dataclass
class AccuracyResult:
    """
    Accuracies of several students as fractions of 1.

    Args:
        mean (`float`): over the students.
        std (`float`): population standard deviation (ddof = 0), as the paper's code computes it.
        accuracies (`list[float]`): of each student, in the order of their index.
        seconds (`float`): wall-clock time of training and testing them all.
        validation_accuracies (`list[float]`, *optional*): of the same students on the validation split, if one was
            given.
    """

    mean: float
    std: float
    accuracies: list[float]
    seconds: float
    validation_accuracies: list[float] = field(default_factory=list)


def train_fresh_student(
    index: int,
    batches_of_epoch: Callable[[int], Batches],
    generator: torch.Generator,
    network_args: NetworkArguments,
    args: EvaluationArguments,
    seed: int,
    *,
    image_shape: tuple[int, int, int],
    num_labels: int,
    epochs: int,
    learning_rate: float | list[float],
    accelerator: Accelerator,
    on_epoch: Callable[[int, float], None],
) -> nn.Module:
    """
    Student `index` of a recipe: initialized from (`seed`, `index`), trained by [`train_student`] with the recipe's
    momentum, weight decay and augmentation, which draws from `generator` as its batches do, in the accelerator's mixed
    precision. Where `learning_rate` is a list, the step sizes of an artifact's schedule, it is trained by
    [`train_by_schedule`].

    Raises:
        `FloatingPointError`: if the student diverges; names the learning rate and the epoch.
    """
    network = build_network(network_args, image_shape, num_labels, derived_seed(seed, index, WEIGHTS))
    augmentation = DsaAugmentation(args.evaluation_dsa, per_sample=True)
    if isinstance(learning_rate, list):
        return train_by_schedule(
            network,
            batches_of_epoch,
            learning_rate,
            augmentation=augmentation,
            generator=generator,
            device=accelerator.device,
            on_step=on_epoch,
        )
    return train_student(
        network,
        batches_of_epoch,
        epochs,
        learning_rate,
        momentum=args.evaluation_momentum,
        weight_decay=args.evaluation_weight_decay,
        schedule=args.evaluation_schedule,
        augmentation=augmentation,
        cutmix=CutMix(args.evaluation_cutmix),
        generator=generator,
        device=accelerator.device,
        autocast=accelerator.autocast,
        on_epoch=on_epoch,
    )


def evaluate_students(
    batches_of_student: Callable[[int, torch.Generator], Callable[[int], Batches]],
    split: Split,
    processor: HabaProcessor,
    network_args: NetworkArguments,
    args: EvaluationArguments,
    seed: int,
    accelerator: Accelerator,
    *,
    num_labels: int,
    epochs: int,
    learning_rate: float | list[float],
    validation_split: Split | None = None,
    on_student: Callable[[int, nn.Module], None] | None = None,
) -> AccuracyResult:
    """
    The recipe that every system shares: trains `args.evaluation_seeds` students, spread over the processes, and scores
    each once, after its last epoch.

    Args:
        batches_of_student (`Callable[[int, torch.Generator], Callable]`): given a student's index and its generator,
            returns the `batches_of_epoch` of [`train_student`].
        split ([`Split`]): real images to score on.
        processor ([`HabaImageProcessor`]): takes them to model space.
        network_args ([`NetworkArguments`]): the student's architecture.
        args ([`EvaluationArguments`]): the recipe.
        seed (`int`): student i of two systems starts from the same weights if their seeds are equal.
        accelerator (`Accelerator`): device and processes; every process must make this call and gets the result.
        num_labels (`int`): L.
        epochs (`int`): epochs of a student.
        learning_rate (`float`): of a student, or the step sizes of its schedule, one for each epoch.
        validation_split ([`Split`], *optional*): scored too, after the last epoch.
        on_student (`Callable[[int, nn.Module], None]`, *optional*): given each trained student of this process and its
            index.

    Raises:
        `FloatingPointError`: on every process, if a student diverges; names the learning rate and the epoch.
        `ValueError`: if a split is empty or has labels of other classes.
    """
    started = time.perf_counter()
    splits = [split] if validation_split is None else [split, validation_split]
    for scored in splits:
        if not len(scored) or not 0 <= int(scored.labels.min()) <= int(scored.labels.max()) < num_labels:
            raise ValueError(
                f"Students of {num_labels} classes need images to be scored on, of classes 0..{num_labels - 1}."
            )
    _, channels, height, width = split.images.shape
    indices = range(accelerator.process_index, args.evaluation_seeds, accelerator.num_processes)
    outcomes: list[tuple[int, list[float], str]] = []
    disable = None if accelerator.is_main_process else True  # None: shown only on a terminal
    with tqdm(total=len(indices) * epochs, desc="students", unit="epoch", leave=False, disable=disable) as progress:
        for index in indices:
            generator = seeded_generator(seed, index, TRAINING)
            try:
                network = train_fresh_student(
                    index,
                    batches_of_student(index, generator),
                    generator,
                    network_args,
                    args,
                    seed,
                    image_shape=(channels, height, width),
                    num_labels=num_labels,
                    epochs=epochs,
                    learning_rate=learning_rate,
                    accelerator=accelerator,
                    on_epoch=lambda epoch, loss: progress.update(),
                )
                scores = [accuracy(network, scored.images, scored.labels, processor) for scored in splits]
            except FloatingPointError as error:
                # Raised after the gather, by all processes: one that left now would let the others wait for ever.
                outcomes.append((index, [], str(error)))
                break
            outcomes.append((index, scores, ""))
            if on_student is not None:
                on_student(index, network)
    outcomes = sorted(gather_object(outcomes))
    for index, _, problem in outcomes:
        if problem:
            raise FloatingPointError(f"Student {index} of {args.evaluation_seeds}: {problem}")
    accuracies, *others = ([scores[i] for _, scores, _ in outcomes] for i in range(len(splits)))
    return AccuracyResult(
        mean=statistics.fmean(accuracies),
        std=statistics.pstdev(accuracies),
        accuracies=accuracies,
        seconds=time.perf_counter() - started,
        validation_accuracies=others[0] if others else [],
    )


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


@dataclass(frozen=True)
class ArtifactTraining:
    """How students of an artifact are trained: what [`evaluate_students`] takes under the same names."""

    batches_of_student: Callable[[int, torch.Generator], Callable[[int], Batches]]
    epochs: int
    learning_rate: float | list[float]


def artifact_training(model: HabaModel, args: EvaluationArguments, device: torch.device) -> ArtifactTraining:
    """
    SGD with online pairing, or (`evaluation_protocol="schedule"`) the artifact's T step sizes on its T shares, where
    an epoch is one step.

    Raises:
        `ValueError`: if the artifact has no learning rate, or no step sizes, to train by.
    """
    if args.evaluation_protocol == "schedule":
        step_sizes = stored_step_sizes(model)
        return ArtifactTraining(
            lambda index, generator: lambda step: [scheduled_batch(model, step, generator)],
            epochs=len(step_sizes),
            learning_rate=step_sizes,
        )
    materialized = materialize_if_small(model, device)
    return ArtifactTraining(
        lambda index, generator: (
            lambda epoch: paired_batches(model, args.evaluation_batch_size, generator, materialized)
        ),
        epochs=args.student_epochs,
        learning_rate=artifact_learning_rate(model, args),
    )


def evaluate_artifact(
    model: HabaModel,
    split: Split,
    processor: HabaProcessor,
    network_args: NetworkArguments,
    args: EvaluationArguments,
    seed: int,
    accelerator: Accelerator,
    validation_split: Split | None = None,
    on_student: Callable[[int, nn.Module], None] | None = None,
) -> AccuracyResult:
    """
    Mean and standard deviation of the accuracy of fresh students trained on the artifact.

    Args:
        model ([`HabaModel`]): the artifact; not changed, not moved.
        split ([`Split`]): real images to score on: the test split, or the validation split while distilling.
        processor ([`HabaImageProcessor`]): the artifact's.
        network_args ([`NetworkArguments`]): the student's architecture.
        args ([`EvaluationArguments`]): the recipe.
        seed (`int`): of initializations, pairing and augmentation.
        accelerator (`Accelerator`): device and processes; every process must make this call and gets the result.
        validation_split ([`Split`], *optional*): scored too, after the last epoch.
        on_student (`Callable[[int, nn.Module], None]`, *optional*): given each trained student of this process and its
            index.

    Returns:
        [`AccuracyResult`].

    Raises:
        `ValueError`: if the images do not have the shape of the artifact's samples or the processor takes them to
            another space, or the artifact lacks what the protocol trains by.
        `FloatingPointError`: if a student diverges; names the learning rate and the epoch.
    """
    image_shape = tuple(split.images.shape[1:])
    if image_shape != model.config.sample_shape:
        raise ValueError(
            f"The artifact's samples are {list(model.config.sample_shape)} but the images {list(image_shape)} "
            "(C, H, W): load the data in the artifact's size and color, as processor.to_uint8 gives it."
        )
    processor.check_fits(model.config)
    training = artifact_training(model, args, accelerator.device)
    return evaluate_students(
        training.batches_of_student,
        split,
        processor,
        network_args,
        args,
        seed,
        accelerator,
        num_labels=model.config.num_labels,
        epochs=training.epochs,
        learning_rate=training.learning_rate,
        validation_split=validation_split,
        on_student=on_student,
    )
