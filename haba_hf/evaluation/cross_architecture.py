"""Students of other architectures than the one an artifact was distilled with: does it teach them too?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from accelerate import Accelerator

from ..artifact.loading import HabaProcessor
from ..artifact.modeling_haba import HabaModel
from ..data import Split
from ..networks import NetworkArguments, build_network, check_network_name
from ..utils.checks import Settings
from ..utils.markdown import table_text
from .arguments import EvaluationArguments
from .protocols import artifact_learning_rate
from .report import in_percent
from .students import AccuracyResult, evaluate_artifact


@dataclass
class CrossArchitectureArguments(Settings):
    """Students of other architectures."""

    architectures: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Networks whose students evaluate.py compares, in place of the table of results; by default none. "
            "Each is trained at the same learning rate.",
            "result": False,
        },
    )

    def __post_init__(self):
        super().__post_init__()
        for name in self.architectures:
            check_network_name(name)


@dataclass
class ArchitectureRow:
    """
    Students of one architecture.

    Args:
        architecture (`str`): its name, as `NetworkArguments.network`.
        accuracy ([`AccuracyResult`]): of its students.
        parameters (`int`): of one student.
        learning_rate (`float`): that they were trained at.
    """

    architecture: str
    accuracy: AccuracyResult
    parameters: int
    learning_rate: float


def evaluate_across(
    model: HabaModel,
    split: Split,
    processor: HabaProcessor,
    networks: Sequence[NetworkArguments],
    args: EvaluationArguments,
    seed: int,
    accelerator: Accelerator,
) -> Iterator[ArchitectureRow]:
    """
    [`evaluate_artifact`] with one architecture after the other, under the same recipe. Every architecture is trained
    at the learning rate stored in the artifact, unless `args.evaluation_learning_rate` is given: none is tuned, as in
    the paper's protocol, so that networks which need another one are at a disadvantage.

    Args:
        model ([`HabaModel`]): the artifact; not changed, not moved.
        split ([`Split`]): real images to score on.
        processor ([`HabaImageProcessor`]): the artifact's.
        networks (`Sequence[NetworkArguments]`): the architectures.
        args ([`EvaluationArguments`]): the recipe.
        seed (`int`): of initializations, pairing and augmentation.
        accelerator (`Accelerator`): device and processes; every process must run through all rows and gets them.

    Yields:
        [`ArchitectureRow`]: as soon as it is known.

    Raises:
        `ValueError`: before any student is trained, if an architecture does not take the artifact's samples.
        `FloatingPointError`: if a student diverges; names the architecture, the learning rate and the epoch.
    """
    shape, num_labels = model.config.sample_shape, model.config.num_labels
    sizes = []
    for network in networks:
        built = build_network(network, shape, num_labels, 0, processor)
        sizes.append(sum(parameter.numel() for parameter in built.parameters()))
    learning_rate = artifact_learning_rate(model, args)
    for network, parameters in zip(networks, sizes, strict=True):
        try:
            result = evaluate_artifact(model, split, processor, network, args, seed, accelerator)
        except FloatingPointError as error:
            raise FloatingPointError(f"{network.network}: {error}") from error
        yield ArchitectureRow(network.network, result, parameters, learning_rate)


def architecture_table(rows: Sequence[ArchitectureRow]) -> str:
    """The rows as a Markdown table with a line below that says how to read it. Accuracies are in percent."""
    columns = ["architecture", "accuracy (%)", "parameters", "seconds"]
    lines = (
        [
            row.architecture,
            in_percent(row.accuracy.mean, row.accuracy.std),
            f"{row.parameters:,}",
            f"{row.accuracy.seconds:.0f}",
        ]
        for row in rows
    )
    students = len(rows[0].accuracy.accuracies)
    footnote = (
        f"Accuracy: mean ± population standard deviation over {students} students, all trained at learning rate "
        f"{rows[0].learning_rate:g}.\n"
    )
    return table_text(columns, lines) + "\n" + footnote
