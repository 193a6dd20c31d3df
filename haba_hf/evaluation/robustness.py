"""Accuracy under the corruptions of CIFAR-10-C (supplement, Fig. 2) and under attack: students are trained on clean
samples, once, and scored on every corruption and severity, or on images perturbed against each of them.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from ..artifact.loading import HabaProcessor
from ..data import Split
from ..data.corruptions import CORRUPTIONS, SEVERITIES, STANDARD_CORRUPTIONS
from ..utils.checks import Settings, check_counts
from ..utils.markdown import table_text
from ..utils.progress import Progress
from .attacks import ATTACKS, PGD, attack
from .report import in_percent
from .students import AccuracyResult
from .training import accuracy


@dataclass
class RobustnessArguments(Settings):
    """Corrupted images of the split that is scored on, and images perturbed against each student."""

    corruptions_dir: str | None = field(
        default=None,
        metadata={
            "help": "Unpacked folder of CIFAR-10-C (.npy files); by default the images scored on are corrupted here.",
            "result": False,
        },
    )
    corruption_images: int | None = field(
        default=None,
        metadata={
            "help": "Images scored on under each corruption and attack, stratified by class; by default all.",
            "result": False,
        },
    )
    attack_epsilons: list[float] | None = field(
        default=None,
        metadata={
            "help": "Attack students too, by FGSM and PGD within these distances of a pixel, in 1/255 of its range, "
            "such as 1 2 4 8; by default not.",
            "result": False,
        },
    )
    attack_steps: int = field(default=10, metadata={"help": "Steps of PGD.", "result": False})

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "corruption_images", "attack_steps")
        epsilons = self.attack_epsilons
        if epsilons is not None and not (epsilons and all(0 < epsilon <= 255 for epsilon in epsilons)):
            raise ValueError(
                f"attack_epsilons are above 0 and at most 255, in 1/255 of a pixel's range, got {epsilons}."
            )


@dataclass
class TrainedStudents:
    """
    The students of one system.

    Args:
        system (`str`): its name.
        processor ([`HabaImageProcessor`]): takes images to the space the students were trained in.
        networks (`dict[int, nn.Module]`): those of this process, by index, as `on_student` of [`evaluate_artifact`]
            gives them.
        clean ([`AccuracyResult`]): of all of them on clean images.
    """

    system: str
    processor: HabaProcessor
    networks: dict[int, nn.Module]
    clean: AccuracyResult


@dataclass
class RobustnessResult:
    """
    Accuracies of one system's students, as fractions of 1.

    Args:
        system (`str`): its name.
        clean (`list[float]`): of each student on clean images.
        accuracies (`dict[str, list[list[float]]]`): of each corruption, for the severities 1 to 5, of each student.
        attacks (`dict[str, list[list[float]]]`, *optional*): of FGSM and PGD, for each epsilon, of each student; empty
            if none was asked for.
        epsilons (`list[float]`, *optional*): in 1/255 of a pixel's range.
    """

    system: str
    clean: list[float]
    accuracies: dict[str, list[list[float]]]
    attacks: dict[str, list[list[float]]] = field(default_factory=dict)
    epsilons: list[float] = field(default_factory=list)

    def attack_curve(self, name: str) -> list[tuple[float, float]]:
        """Mean and population standard deviation over the students, on clean images and at each epsilon."""
        points = [self.clean, *self.attacks[name]]
        return [(statistics.fmean(scores), statistics.pstdev(scores)) for scores in points]

    def curve(self, corruptions: Sequence[str] = CORRUPTIONS) -> list[tuple[float, float]]:
        """
        Mean and population standard deviation over the students of each one's mean over some corruptions, on clean
        images and at the severities 1 to 5.
        """
        points = [self.clean]
        for level in range(len(SEVERITIES)):
            of_students = zip(*(self.accuracies[corruption][level] for corruption in corruptions), strict=True)
            points.append([statistics.fmean(scores) for scores in of_students])
        return [(statistics.fmean(scores), statistics.pstdev(scores)) for scores in points]


Condition = tuple[str, float]  # a corruption and its severity, or an attack and its epsilon
Score = Callable[[nn.Module, HabaProcessor], float]  # of a student, under a condition
Conditions = dict[Condition, Callable[[], Score]]


def score_under_corruption(
    systems: Sequence[TrainedStudents], corrupted: Callable[[str, int], Split], accelerator: Accelerator
) -> list[RobustnessResult]:
    """
    Scores all students on all corruptions; each set of corrupted images is made once and serves every student.

    Args:
        systems (`Sequence[TrainedStudents]`): the students of this process, with their clean accuracies.
        corrupted (`Callable[[str, int], Split]`): the corrupted images, given a corruption and a severity.
        accelerator (`Accelerator`): processes; every process must make this call and gets the results.

    Raises:
        `FloatingPointError`: if a student's logits are NaN or infinite.
    """

    def under(corruption: str, severity: int) -> Score:
        split = corrupted(corruption, severity)
        return lambda network, processor: accuracy(network, split.images, split.labels, processor)

    conditions: Conditions = {
        (corruption, severity): partial(under, corruption, severity)
        for corruption in CORRUPTIONS
        for severity in SEVERITIES
    }
    return [
        RobustnessResult(students.system, students.clean.accuracies, _by_name(scores))
        for students, scores in zip(systems, _scores(systems, conditions, accelerator, "corruptions"), strict=True)
    ]


def score_under_attack(
    systems: Sequence[TrainedStudents],
    split: Split,
    epsilons: Sequence[float],
    steps: int,
    seed: int,
    accelerator: Accelerator,
) -> list[dict[str, list[list[float]]]]:
    """
    Scores all students on images perturbed against each of them.

    Args:
        systems (`Sequence[TrainedStudents]`): the students of this process.
        split ([`Split`]): uint8 images.
        epsilons (`Sequence[float]`): in 1/255 of a pixel's range.
        steps (`int`): of PGD.
        seed (`int`): of PGD's starts.
        accelerator (`Accelerator`): processes; every process must make this call and gets the results.

    Returns:
        Of each system what `attacks` of a [`RobustnessResult`] holds.

    Raises:
        `FloatingPointError`: if a student's logits are NaN or infinite.
    """

    def under(name: str, epsilon: float) -> Score:
        def score(network: nn.Module, processor: HabaProcessor) -> float:
            of_pgd = steps if name == PGD else None
            images = attack(network, split.images, split.labels, processor, epsilon, of_pgd, seed)
            return accuracy(network, images, split.labels, processor)

        return score

    conditions: Conditions = {
        (name, epsilon): partial(under, name, epsilon) for name in ATTACKS for epsilon in epsilons
    }
    return [_by_name(scores) for scores in _scores(systems, conditions, accelerator, "attacks")]


def _scores(
    systems: Sequence[TrainedStudents],
    conditions: Conditions,
    accelerator: Accelerator,
    what: str,
) -> list[dict[Condition, list[float]]]:
    """Of each system under each condition the scores of all students, those of other processes too, by index."""
    outcomes: list[tuple[str, Condition, int, float]] = []
    with Progress(what, len(conditions), what.removesuffix("s"), shown=accelerator.is_main_process) as progress:
        for condition, prepare in conditions.items():
            if any(students.networks for students in systems):  # more processes than students: nothing to do
                score = prepare()
                for students in systems:
                    for index, network in students.networks.items():
                        outcomes.append((students.system, condition, index, score(network, students.processor)))
            progress.update()
    found = {outcome[:3]: outcome[3] for outcome in gather_object(outcomes)}
    return [
        {
            condition: [found[students.system, condition, index] for index in range(len(students.clean.accuracies))]
            for condition in conditions
        }
        for students in systems
    ]


def _by_name(scores: Mapping[Condition, list[float]]) -> dict[str, list[list[float]]]:
    """The scores of each corruption or attack, in the order of its levels."""
    named: dict[str, list[list[float]]] = {}
    for (name, _), of_students in scores.items():
        named.setdefault(name, []).append(of_students)
    return named


def robustness_table(results: Sequence[RobustnessResult]) -> str:
    """
    Mean accuracies in percent as a Markdown table: over all 19 corruptions, and over the 15 standard ones. Below it
    one of the attacks, if any.
    """
    header = ["system", "corruptions", "clean", *(f"severity {severity}" for severity in SEVERITIES)]
    lines = []
    for corruptions in (CORRUPTIONS, STANDARD_CORRUPTIONS):
        for result in results:
            points = [in_percent(mean, std) for mean, std in result.curve(corruptions)]
            lines.append([result.system, str(len(corruptions)), *points])
    return table_text(header, lines) + _attack_table(results)


def _attack_table(results: Sequence[RobustnessResult]) -> str:
    if not any(result.attacks for result in results):
        return ""
    epsilons = results[0].epsilons
    header = ["system", "attack", "clean", *(f"{epsilon:g}/255" for epsilon in epsilons)]
    lines = []
    for name in ATTACKS:
        for result in results:
            points = [in_percent(mean, std) for mean, std in result.attack_curve(name)]
            if result.epsilons != epsilons or len(points) != 1 + len(epsilons):
                raise ValueError("Systems of one table are attacked within the same epsilons.")
            lines.append([result.system, name, *points])
    introduction = "\nUnder attack, every pixel perturbed by no more than epsilon (L-infinity):\n\n"
    return introduction + table_text(header, lines)
