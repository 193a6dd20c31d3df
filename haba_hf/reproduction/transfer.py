"""Do a row's samples teach other networks too? Their students beside those of the row, kept in its record."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation import in_percent
from ..hub.records import CROSS_ARCHITECTURE
from ..runs import results_file
from ..utils.markdown import table_text
from .records import RAN_ON, Record, accuracies_of, run_command
from .tables import Table, TableRow

NETWORKS = {
    "convnet": "ConvNet",
    "resnet18": "ResNet18",
    "vgg11": "VGG11",
    "alexnet": "AlexNet",
    "transformers/vit": "ViT",
}
TITLE = "**Other networks, the same samples**"
LEGEND = (
    "Test accuracy in percent, mean ± population standard deviation over students, each at the learning rate that the "
    "row's own have; none is tuned."
)


def transfer_of(row: TableRow, record: Record) -> Record | None:
    """The students of other networks of a record; none where the row asks for none, or for others."""
    transfer = record.get("transfer")
    return transfer if row.transfer and transfer is not None and transfer["set"] == row.transfer else None


def has_artifact(row: TableRow, record: Record, folder: Path, overrides: Mapping[str, Any]) -> bool:
    """Whether a row's folder holds the very artifact of a record: no two runs have the same accuracies."""
    results = folder / results_file(row.parse(overrides).evaluation)
    if not results.exists() or not (folder / "artifact").is_dir():
        return False
    return json.loads(results.read_text())["rows"][0]["accuracy"]["accuracies"] == record["accuracies"]


def run_transfer(row: TableRow, folder: Path, settings: Mapping[str, Any], launch: Sequence[str]) -> Record:
    """
    Trains students of the row's other networks on the artifact in its folder.

    Args:
        row ([`TableRow`]): which.
        folder (`Path`): of the row's finished run.
        settings (`Mapping`): fields of the recipe that win over the row's.
        launch (`Sequence[str]`): options of `accelerate launch`; without any, the command is one process.

    Returns:
        `dict`: the row's `transfer`, every network's accuracies as fractions of 1, and what they ran on.

    Raises:
        `ValueError`, `FileNotFoundError`: if the row's settings are wrong.
        `RuntimeError`: if the command fails.
    """
    run_command(row, "evaluate", {**row.transfer, **settings, "output_dir": str(folder)}, launch)
    measured = json.loads((folder / CROSS_ARCHITECTURE).read_text())
    return {
        "set": row.transfer,
        "rows": [
            {
                "network": of["architecture"],
                **accuracies_of(of["accuracy"]),
                "seconds": round(of["accuracy"]["seconds"], 3),
                **{name: of[name] for name in ("parameters", "learning_rate")},
            }
            for of in measured["rows"]
        ],
        **{name: measured[name] for name in RAN_ON},
    }


def accuracies(transfer: Record) -> dict[str, str]:
    """By network, the mean and deviation of its students in percent."""
    return {of["network"]: in_percent(of["mean"], of["std"]) for of in transfer["rows"]}


def transfer_table(table: Table, records: Sequence[Record]) -> list[str]:
    """A second table, of the rows that have such students, as paragraphs; none without any."""
    pairs = ((row, record) for row in table.rows for record in records if record["row"] == row.name)
    kept = [(row.name, transfer) for row, record in pairs if (transfer := transfer_of(row, record)) is not None]
    if not kept:
        return []
    networks = list(dict.fromkeys(of["network"] for _, transfer in kept for of in transfer["rows"]))
    columns = ["system", *(NETWORKS.get(name, name) for name in networks), "students", "steps"]
    lines = []
    for name, transfer in kept:
        cells = accuracies(transfer)
        students = sorted({len(of["accuracies"]) for of in transfer["rows"]})
        steps = sorted({of["student_steps"] for of in transfer["rows"]})
        numbers = (", ".join(f"{number:,}" for number in counts) for counts in (students, steps))
        lines.append([name, *(cells.get(network, "-") for network in networks), *numbers])
    return [TITLE, f"{table_text(columns, lines)}\n{LEGEND}"]
