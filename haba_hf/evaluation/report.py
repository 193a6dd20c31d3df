"""Results as a table and as JSON."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..artifact.budget import StorageFigures
from ..utils.files import write_json
from .students import AccuracyResult

# Systems that a card compares an artifact with.
RANDOM_REAL, FULL_DATA = "random real, equal storage", "full data"
RANDOM_STORED_ALIKE, RANDOM_EQUAL_BYTES = "random real, same storage", "random real, equal bytes"

COLUMNS = ("system", "accuracy (%)", "floats", "bytes", "images per class", "ratio", "steps", "samples", "seconds")
BALANCED = "balanced (%)"
FOOTNOTE = (
    "Accuracy: mean ± population standard deviation over {students} students. Ratio: floats over the values of the "
    "training set, each of which takes {bytes_per_value:.0f} byte(s). Steps: of SGD, of a student; samples: that it "
    "sees in them. Seconds: of training and scoring the students.\n"
)
BALANCED_NOTE = (
    "Balanced: the mean over the classes, which differs from accuracy where the split has more images of some.\n"
)
WHITENING_NOTE = (
    "Floats and bytes hold a ZCA whitening of {:,} bytes. Images per class leave it out, since plain images in its "
    "space need it as well.\n"
)


@dataclass
class ReportRow:
    """
    One system of the comparison.

    Args:
        system (`str`): its name, e.g. `"HaBa"`.
        accuracy ([`AccuracyResult`]): of its students.
        storage ([`StorageFigures`]): what it stores.
    """

    system: str
    accuracy: AccuracyResult
    storage: StorageFigures


def in_percent(mean: float, std: float) -> str:
    """An accuracy and its standard deviation, fractions of 1, as every table prints them."""
    return f"{100 * mean:.1f} ± {100 * std:.1f}"


def markdown_table(rows: Sequence[ReportRow]) -> str:
    """
    The rows as a Markdown table with a line below that says how to read it. Accuracies are in percent; balanced ones
    have a column if they differ, as printed.
    """
    balanced = [_balanced(row.accuracy) for row in rows]
    differs = any(
        of not in ("-", in_percent(row.accuracy.mean, row.accuracy.std))
        for of, row in zip(balanced, rows, strict=True)
    )
    cells = [[*COLUMNS], *map(_cells, rows)]
    if differs:
        for line, cell in zip(cells, [BALANCED, *balanced], strict=True):
            line.insert(2, cell)
    lines = [f"| {' | '.join(line)} |\n" for line in cells]
    lines.insert(1, f"|{'---|' * len(cells[0])}\n")
    students = "/".join(str(n) for n in sorted({len(row.accuracy.accuracies) for row in rows}))
    whitening = max(row.storage.whitening_bytes for row in rows)
    note = WHITENING_NOTE.format(whitening) if whitening else ""
    storage = rows[0].storage
    bytes_per_value = (storage.bytes / storage.bytes_ratio) / (storage.floats / storage.ratio)
    footnote = FOOTNOTE.format(students=students, bytes_per_value=bytes_per_value)
    return "".join(lines) + "\n" + footnote + (BALANCED_NOTE if differs else "") + note


def _cells(row: ReportRow) -> list[str]:
    accuracy, storage = row.accuracy, row.storage
    return [
        row.system,
        in_percent(accuracy.mean, accuracy.std),
        f"{storage.floats:,}",
        f"{storage.bytes:,}",
        f"{storage.images_per_class:.2f}",
        f"{storage.ratio:.3%}",
        _count(accuracy.steps),
        _count(accuracy.samples),
        f"{accuracy.seconds:.0f}",
    ]


def _balanced(accuracy: AccuracyResult) -> str:
    """Balanced accuracy as [`in_percent`]; older results have none."""
    if not accuracy.balanced_accuracies:
        return "-"
    return in_percent(statistics.fmean(accuracy.balanced_accuracies), statistics.pstdev(accuracy.balanced_accuracies))


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def write_results(path: str | Path, rows: Sequence[ReportRow], **facts: object) -> None:
    """
    Writes the rows, with every student's accuracy as a fraction of 1, and `facts` (recipe hash, data fingerprint,
    versions, ...) to a JSON file.

    Raises:
        `OSError`: if the file cannot be written; an older one is left whole.
    """
    write_json(path, {**facts, "rows": [asdict(row) for row in rows]})
