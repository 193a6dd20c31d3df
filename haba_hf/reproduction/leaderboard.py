"""The best on record for every data set and size in bytes: training/results/leaderboard.md, made from the records."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation import in_percent
from ..evaluation.report import HARD
from ..hub.artifact import Artifact, read_artifact
from ..recipes import Recipe
from ..runs import student_network
from ..utils.markdown import table_text
from .records import Record, labels_of, read_records, title_of
from .report import is_of_earlier_settings
from .tables import Table, TableRow, read_table
from .transfer import NETWORKS, accuracies, transfer_of

BEST = 3  # systems of a size
FLOAT_BYTES = 4
# Sizes in images per class, as float32; a system belongs to the first that has room for it.
SIZES = {0.55: "half an image", 1.1: "1 image", 2.2: "2 images", 11: "10 images"}
OTHER_NETWORKS = {network: name for network, name in NETWORKS.items() if network != "convnet"}
COLUMNS = (
    "accuracy (%)",
    "system",
    "labels",
    "bytes",
    "samples a class",
    "minutes",
    *OTHER_NETWORKS.values(),
    "students",
    "table",
)
INTRODUCTION = f"""# Leaderboard

The best {BEST} systems on record for every data set and size, by test accuracy of fresh students, and below them the
best of random real images of that size. *Size*: bytes, in images per class of float32, so that fewer bits count; it
holds whatever has no more bytes and more than the size before. *Bytes* of a whitened system hold the matrix of ZCA,
which its size leaves out. *Minutes*: of distillation, with that of the artifact it started from, by the clock of the
machine of its table. *ResNet18* and so on: the same samples, other students, where the row asks for them or the
artifact is published with their record. Compare rows whose *students* are the same. Soft labels, a distribution for
each basis in place of its class, stand apart; *bytes* count them. Runs of settings that have changed since are left
out.

**To enter a row**: choose settings on the validation split; add the row to a table of `training/tables/`, with
`transfer: {{architectures: [resnet18, vgg11, alexnet, transformers/vit]}}` for the other networks; run `python
training/reproduce.py TABLE --rows ROW`, which trains five students, scores each once on the test split after its last
step, and keeps the record; then `python -m haba_hf.reproduction`, which writes this page.
"""


@dataclass
class _Entry:
    """A run or a control of it; of a run, its row and what its artifact's students of other networks reach."""

    table: Table
    row: TableRow
    record: Record
    scored: Record  # the record, or the control
    minutes: float | None
    transfers: dict[str, str]

    @property
    def is_control(self) -> bool:
        return self.scored is not self.record

    @property
    def labels(self) -> str:
        return self.scored.get("labels", HARD) if self.is_control else labels_of(self.row, self.record)

    @property
    def is_real(self) -> bool:
        return self.is_control or self.row.kind == "coreset"

    @property
    def size(self) -> str | None:
        floats_of_images = self.scored["floats"] / self.scored["images_per_class"]
        images = self.scored["bytes"] / FLOAT_BYTES / floats_of_images
        return next((name for most, name in SIZES.items() if images <= most), None)


def leaderboard(results: Path, published: Iterable[Path]) -> str:
    """
    The page.

    Args:
        results (`Path`): the folder of the records, `<table>.jsonl`.
        published (`Iterable[Path]`): folders of artifacts, whose students of other networks are shown with the run
            that they are of.
    """
    artifacts = [read_artifact(folder) for folder in published]
    entries = [entry for path in sorted(results.glob("*.jsonl")) for entry in _entries(path, artifacts)]
    lines = [INTRODUCTION]
    for dataset in sorted({entry.record["dataset"] for entry in entries}):
        lines.append(f"## {title_of(dataset)}\n")
        for size in SIZES.values():
            of_size = [entry for entry in entries if entry.record["dataset"] == dataset and entry.size == size]
            lines += _section(f"{size} per class", [entry for entry in of_size if entry.labels == HARD])
            lines += _section(f"{size} per class, soft labels", [entry for entry in of_size if entry.labels != HARD])
    return "\n".join(lines).rstrip() + "\n"


def _entries(path: Path, artifacts: list[Artifact]) -> Iterable[_Entry]:
    table, records = read_table(path.stem), read_records(path)
    rows = {row.name: row for row in table.rows}
    for record in records:
        row = rows[record["row"]]
        if row.kind == "full_data" or is_of_earlier_settings(row, record):
            continue
        transfers = _transfers(row, record, artifacts)
        yield _Entry(table, row, record, record, _minutes(row, record, records), transfers)
        for control in record.get("controls", []):
            yield _Entry(table, row, record, control, None, {})


def _minutes(row: TableRow, record: Record, records: list[Record]) -> float | None:
    """Of the run and of the one it started from; unknown where one is."""
    starts = [other for other in records if other["row"] == row.start][:1]
    seconds = [run["seconds"] for run in (record, *starts)]
    return None if None in seconds or (row.start is not None and not starts) else sum(seconds) / 60


def _transfers(row: TableRow, record: Record, artifacts: list[Artifact]) -> dict[str, str]:
    """
    By network, of the record, or of the published artifact whose students these are: no two runs have the same
    accuracies.
    """
    if (transfer := transfer_of(row, record)) is not None:
        return accuracies(transfer)
    for artifact in artifacts:
        if artifact.rows and artifact.rows[0].accuracy.accuracies == record["accuracies"]:
            return {of.architecture: in_percent(of.accuracy.mean, of.accuracy.std) for of in artifact.architectures}
    return {}


def _section(title: str, entries: list[_Entry]) -> list[str]:
    """A table of the best of a size and the best of real images; nothing where there are none."""
    if not entries:
        return []
    unique: dict[tuple[float, ...], _Entry] = {}  # a system may be in several tables
    for entry in sorted(entries, key=lambda entry: -entry.scored["mean"]):
        unique.setdefault(tuple(entry.scored["accuracies"]), entry)
    learned, real = ([entry for entry in unique.values() if entry.is_real == wanted] for wanted in (False, True))
    rows = [_cells(entry) for entry in learned[:BEST] + real[:1]]
    columns = [name for name in COLUMNS if name != "labels" or any(row[name] != HARD for row in rows)]
    return [
        f"**{title[0].upper()}{title[1:]}**\n",
        table_text(columns, ([row.get(name, "-") for name in columns] for row in rows)),
    ]


def _cells(entry: _Entry) -> dict[str, str]:
    scored, record = entry.scored, entry.record
    recipe = entry.row.parse(record["set"])
    cells: dict[str, Any] = {
        "accuracy (%)": in_percent(scored["mean"], scored["std"]),
        "system": scored["system"] if entry.is_control else entry.row.name,
        "labels": entry.labels,
        "bytes": f"{scored['bytes']:,}",
        "students": _students(recipe, scored),
        "table": f"[{entry.table.name}]({entry.table.name}.md)",
        **{name: entry.transfers[network] for network, name in OTHER_NETWORKS.items() if network in entry.transfers},
    }
    if not entry.is_control and "samples_per_class" in record:
        cells["samples a class"] = f"{record['samples_per_class']:,}"
    if entry.minutes is not None:
        cells["minutes"] = f"{entry.minutes:.0f}"
    return cells


def _students(recipe: Recipe, scored: Record) -> str:
    """Network and training of the students, so that unlike ones are seen to be."""
    network, evaluation = student_network(recipe), recipe.evaluation
    name = network.network
    if name == "convnet":
        name = f"ConvNet-{network.network_depth}, {network.network_width} wide"
    steps = evaluation.evaluation_steps
    training = f"{steps:,} steps" if steps else f"{evaluation.student_epochs:,} epochs"
    return f"{len(scored['accuracies'])} of {name}, {training}"
