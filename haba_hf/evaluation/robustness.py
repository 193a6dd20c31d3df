"""Accuracy under the corruptions of CIFAR-10-C (supplement, Fig. 2): students are trained on clean samples, once, and
scored on every corruption and severity.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from ..artifact.loading import HabaProcessor
from ..data import Split
from ..data.corruptions import CORRUPTIONS, SEVERITIES, STANDARD_CORRUPTIONS
from ..utils.checks import Settings, check_counts
from ..utils.progress import Progress
from .report import in_percent
from .students import AccuracyResult
from .training import accuracy


@dataclass
class RobustnessArguments(Settings):
    """Corrupted images of the split that is scored on."""

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
            "help": "Images scored on under each corruption, stratified by class; by default all.",
            "result": False,
        },
    )

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "corruption_images")


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
    """

    system: str
    clean: list[float]
    accuracies: dict[str, list[list[float]]]

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
    outcomes: list[tuple[str, str, int, int, float]] = []
    total, shown = len(CORRUPTIONS) * len(SEVERITIES), accelerator.is_main_process
    with Progress("corruptions", total, "corruption", shown=shown) as progress:
        for corruption in CORRUPTIONS:
            for severity in SEVERITIES:
                if any(students.networks for students in systems):  # more processes than students: nothing to do
                    split = corrupted(corruption, severity)
                    for students in systems:
                        for index, network in students.networks.items():
                            score = accuracy(network, split.images, split.labels, students.processor)
                            outcomes.append((students.system, corruption, severity, index, score))
                progress.update()
    scores = {outcome[:4]: outcome[4] for outcome in gather_object(outcomes)}
    results = []
    for students in systems:
        indices = range(len(students.clean.accuracies))
        accuracies = {
            corruption: [
                [scores[students.system, corruption, severity, index] for index in indices] for severity in SEVERITIES
            ]
            for corruption in CORRUPTIONS
        }
        results.append(RobustnessResult(students.system, students.clean.accuracies, accuracies))
    return results


def robustness_table(results: Sequence[RobustnessResult]) -> str:
    """Mean accuracies in percent as a Markdown table: over all 19 corruptions, and over the 15 standard ones."""
    header = ["system", "corruptions", "clean", *(f"severity {severity}" for severity in SEVERITIES)]
    lines = [header, ["---"] * len(header)]
    for corruptions in (CORRUPTIONS, STANDARD_CORRUPTIONS):
        for result in results:
            points = [in_percent(mean, std) for mean, std in result.curve(corruptions)]
            lines.append([result.system, str(len(corruptions)), *points])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
