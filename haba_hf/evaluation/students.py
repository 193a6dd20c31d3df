"""Evaluation: fresh students trained on an artifact by online pairing and tested on real images, as in the paper.

All randomness comes from generators seeded by (seed, network index), so a result depends neither on the global random
state (which stays as it was) nor on how many processes share the students.

Shape legend: S students, L classes.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from ..artifact.loading import HabaProcessor
from ..artifact.modeling_haba import HabaModel
from ..data import Split
from ..networks import NetworkArguments, build_network
from ..utils.progress import Progress
from ..utils.seeds import derived_seed, seeded_generator
from .arguments import EvaluationArguments
from .protocols import OnEpoch, StudentTraining, artifact_training
from .training import Scorer

# The independent streams of one student: its weights; its batches, pairing and augmentation; its real images, if
# drawn.
WEIGHTS, TRAINING, IMAGES = range(3)


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
        steps (`int`, *optional*): SGD steps of a student.
        samples (`int`, *optional*): what a student has seen in all of them, counting each as often as it came.
        class_accuracies (`list[float]`, *optional*): of each class, the mean over the students; `None` of one without
            images in the split.
        balanced_accuracies (`list[float]`, *optional*): of each student, the mean over the classes that have images.
    """

    mean: float
    std: float
    accuracies: list[float]
    seconds: float
    validation_accuracies: list[float] = field(default_factory=list)
    steps: int | None = None
    samples: int | None = None
    class_accuracies: list[float | None] = field(default_factory=list)
    balanced_accuracies: list[float] = field(default_factory=list)


def train_fresh_student(
    index: int,
    training: StudentTraining,
    network_args: NetworkArguments,
    seed: int,
    image_shape: tuple[int, int, int],
    num_labels: int,
    processor: HabaProcessor | None,
    on_epoch: OnEpoch,
) -> nn.Module:
    """
    Student `index` of a recipe: its weights and all that its training draws are decided by (`seed`, `index`).

    Raises:
        `ValueError`: if it is a probe and there is no processor, or the network is unfit.
        `FloatingPointError`: if the student diverges; names the learning rate and the epoch.
    """
    network = build_network(network_args, image_shape, num_labels, derived_seed(seed, index, WEIGHTS), processor)
    return training.train(network, index, seeded_generator(seed, index, TRAINING), on_epoch)


def evaluate_students(
    training: StudentTraining,
    split: Split,
    processor: HabaProcessor,
    network_args: NetworkArguments,
    args: EvaluationArguments,
    seed: int,
    accelerator: Accelerator,
    *,
    num_labels: int,
    validation_split: Split | None = None,
    on_student: Callable[[int, nn.Module], None] | None = None,
) -> AccuracyResult:
    """
    The recipe that every system shares: trains `args.evaluation_seeds` students, spread over the processes, and scores
    each once, after its last epoch.

    Args:
        training ([`StudentTraining`]): how they are trained, and on what.
        split ([`Split`]): real images to score on.
        processor ([`HabaImageProcessor`]): takes them to model space.
        network_args ([`NetworkArguments`]): the student's architecture.
        args ([`EvaluationArguments`]): the recipe.
        seed (`int`): student i of two systems starts from the same weights if their seeds are equal.
        accelerator (`Accelerator`): device and processes; every process must make this call and gets the result.
        num_labels (`int`): L.
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
    sizes = (channels, height, width), num_labels
    scorer = Scorer(splits, processor, num_labels)
    indices = range(accelerator.process_index, args.evaluation_seeds, accelerator.num_processes)
    outcomes: list[tuple[int, list[list[int]], str]] = []  # of each split, how many of each class are right
    epochs, shown = len(indices) * training.epochs, accelerator.is_main_process
    with Progress("students", epochs, "epoch", shown=shown) as progress:
        for index in indices:
            try:
                network = train_fresh_student(
                    *(index, training, network_args, seed, *sizes, processor), lambda epoch, loss: progress.update()
                )
                rights = scorer(network)
            except FloatingPointError as error:
                # Raised after the gather, by all processes: one that left now would let the others wait for ever.
                outcomes.append((index, [], str(error)))
                break
            outcomes.append((index, rights, ""))
            if on_student is not None:
                on_student(index, network)
    outcomes = sorted(gather_object(outcomes))
    for index, _, problem in outcomes:
        if problem:
            raise FloatingPointError(f"Student {index} of {args.evaluation_seeds}: {problem}")
    accuracies, *others = (
        [sum(rights[i]) / len(scored) for _, rights, _ in outcomes] for i, scored in enumerate(splits)
    )
    right_SL = torch.tensor([rights[0] for _, rights, _ in outcomes], dtype=torch.float64)
    recall_SL = right_SL / torch.bincount(split.labels, minlength=num_labels)  # NaN of a class without images
    return AccuracyResult(
        mean=statistics.fmean(accuracies),
        std=statistics.pstdev(accuracies),
        accuracies=accuracies,
        seconds=time.perf_counter() - started,
        validation_accuracies=others[0] if others else [],
        steps=training.steps,
        samples=training.samples,
        class_accuracies=[None if math.isnan(mean) else mean for mean in recall_SL.mean(dim=0).tolist()],
        balanced_accuracies=recall_SL.nanmean(dim=1).tolist(),
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
    return evaluate_students(
        artifact_training(model, args, accelerator),
        split,
        processor,
        network_args,
        args,
        seed,
        accelerator,
        num_labels=model.config.num_labels,
        validation_split=validation_split,
        on_student=on_student,
    )


# The fields of a recipe that decide how a student is trained, beside those of its network.
TRAINED_BY = (
    *("evaluation_protocol", "student_epochs", "evaluation_steps", "evaluation_batch_size"),
    *("evaluation_learning_rate", "evaluation_momentum", "evaluation_weight_decay", "evaluation_schedule"),
    *("evaluation_dsa", "evaluation_cutmix"),
)


def student_training(network_args: NetworkArguments, args: EvaluationArguments) -> dict[str, Any]:
    """What an artifact's config keeps of how its students are trained."""
    return dataclasses.asdict(network_args) | {name: getattr(args, name) for name in TRAINED_BY}


def train_student(
    model: HabaModel,
    network: nn.Module | str | None = None,
    *,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    processor: HabaProcessor | None = None,
    **settings: Any,
) -> nn.Module:
    """
    Trains one network on an artifact in the way that its students were measured: online pairing, learning rate, steps,
    batches and augmentation as its config says.

    Args:
        model ([`HabaModel`]): the artifact; not changed, not moved.
        network (`nn.Module` or `str`, *optional*): what to train, images `[B, C, H, W]` to logits `[B, L]` (or an
            image classifier of transformers); or the name of an architecture; by default a fresh student of the
            artifact's own.
        seed (`int`, *optional*, defaults to 0): of initialization, pairing and augmentation. It is student 0 of an
            evaluation with the same seed.
        accelerator (`Accelerator`, *optional*): device and precision; by default what Accelerate finds.
        processor ([`HabaImageProcessor`], *optional*): the artifact's, which a probe needs.
        settings: fields of a recipe in place of the artifact's, such as `evaluation_learning_rate=0.01`.

    Returns:
        `nn.Module`: the network, on the accelerator's device and in evaluation mode.

    Raises:
        `ValueError`: if the artifact does not say how its students are trained and no settings do, or a setting is
            unknown or unfit.
        `FloatingPointError`: if it diverges.
    """
    known = {setting.name for setting in dataclasses.fields(NetworkArguments)}
    chosen = dict(model.config.student_training or {})
    unknown = sorted((chosen.keys() | settings.keys()) - known - set(TRAINED_BY))
    if unknown:
        raise ValueError(f"There is no setting {', '.join(unknown)} of a student: choose {', '.join(TRAINED_BY)}.")
    if not chosen and not settings:
        raise ValueError(
            "The artifact does not say how its students are trained: give evaluation_learning_rate, evaluation_steps "
            "or student_epochs, evaluation_batch_size and evaluation_dsa."
        )
    chosen |= settings | ({"network": network} if isinstance(network, str) else {})
    network_args = NetworkArguments(**{name: value for name, value in chosen.items() if name in known})
    args = EvaluationArguments(**{name: value for name, value in chosen.items() if name not in known})
    training = artifact_training(model, args, accelerator or Accelerator())
    if network is None or isinstance(network, str):
        shape, num_labels = model.config.sample_shape, model.config.num_labels
        return train_fresh_student(
            0, training, network_args, seed, shape, num_labels, processor, lambda epoch, loss: None
        )
    return training.train(network, 0, seeded_generator(seed, 0, TRAINING), lambda epoch, loss: None)
