"""Results as a table and as JSON."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..artifact.budget import StorageFigures
from ..utils.files import write_json
from ..utils.markdown import table_text
from .students import AccuracyResult

# Systems that a card compares an artifact with.
RANDOM_REAL, FULL_DATA = "random real, equal storage", "full data"
RANDOM_STORED_ALIKE, RANDOM_EQUAL_BYTES = "random real, same storage", "random real, equal bytes"
# What students learn from: the class, or soft labels, of whatever origin (imported, or of an older run), learned with
# the bases, given by a teacher, or learned from a teacher's on.
HARD, SOFT, LEARNED, OF_TEACHER, LEARNED_FROM_TEACHER = "hard", "soft", "learned", "teacher", "learned from a teacher"
LABELS = (HARD, SOFT, LEARNED, OF_TEACHER, LEARNED_FROM_TEACHER)

ACCURACY, BALANCED = "accuracy (%)", "balanced (%)"
FOOTNOTE = (
    "Accuracy: mean ± population standard deviation over {students} students. Ratio: floats over the values of the "
    "training set, each of which takes {bytes_per_value:.0f} byte(s). Steps: of SGD, of a student; samples: that it "
    "sees in them. Seconds: of training and scoring the students.\n"
)
BALANCED_NOTE = (
    "Balanced: the mean over the classes, which differs from accuracy where the split has more images of some.\n"
)
LABELS_NOTE = "Labels: what students learn from; soft ones (all but hard) are counted in floats and bytes.\n"
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
        labels (`str`, *optional*, defaults to `"hard"`): one of `LABELS`.
    """

    system: str
    accuracy: AccuracyResult
    storage: StorageFigures
    labels: str = HARD


def in_percent(mean: float, std: float) -> str:
    """An accuracy and its standard deviation, fractions of 1, as every table prints them."""
    return f"{100 * mean:.1f} ± {100 * std:.1f}"


def markdown_table(rows: Sequence[ReportRow]) -> str:
    """
    The rows as a Markdown table with a line below that says how to read it. Accuracies are in percent; balanced ones
    have a column if they differ, as printed. Where any labels are soft, a column says which labels students had.
    """
    lines = [_cells(row) for row in rows]
    soft = any(row.labels != HARD for row in rows)
    differs = any(cells[BALANCED] not in ("-", cells[ACCURACY]) for cells in lines)
    left_out = {name for name, shown in (("labels", soft), (BALANCED, differs)) if not shown}
    columns = [name for name in lines[0] if name not in left_out]
    table = table_text(columns, ([cells[name] for name in columns] for cells in lines))
    students = "/".join(str(n) for n in sorted({len(row.accuracy.accuracies) for row in rows}))
    whitening = max(row.storage.whitening_bytes for row in rows)
    note = WHITENING_NOTE.format(whitening) if whitening else ""
    storage = rows[0].storage
    bytes_per_value = (storage.bytes / storage.bytes_ratio) / (storage.floats / storage.ratio)
    footnote = FOOTNOTE.format(students=students, bytes_per_value=bytes_per_value)
    notes = (LABELS_NOTE if soft else "") + (BALANCED_NOTE if differs else "") + note
    return table + "\n" + footnote + notes


def _cells(row: ReportRow) -> dict[str, str]:
    """A row by column."""
    accuracy, storage = row.accuracy, row.storage
    return {
        "system": row.system,
        "labels": row.labels,
        ACCURACY: in_percent(accuracy.mean, accuracy.std),
        BALANCED: _balanced(accuracy),
        "floats": f"{storage.floats:,}",
        "bytes": f"{storage.bytes:,}",
        "images per class": f"{storage.images_per_class:.2f}",
        "ratio": f"{storage.ratio:.3%}",
        "steps": _count(accuracy.steps),
        "samples": _count(accuracy.samples),
        "seconds": f"{accuracy.seconds:.0f}",
    }


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
