"""
The runs of a table's rows, and what is kept of them.

The commands of a row run in processes of their own, and its record goes to `<table>.jsonl` when the last of them is
done, so that an interrupted table goes on where it stopped.
"""

import hashlib
import itertools
import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from ..distillation.distiller import METRICS
from ..evaluation.report import HARD, LEARNED
from ..hub.plots import read_curves
from ..hub.records import CORESET, DISTILLATION
from ..hub.sources import source_of
from ..recipes import recipe_path
from ..runs import results_file
from ..utils.files import atomic_file
from .tables import Table, TableRow

Record = dict[str, Any]

# What a record says of the machine and its software.
RAN_ON = ("device", "processes", "threads", "mixed_precision", "python", "versions")
PARTS = 6  # of a run, whose mean losses are kept
# The file of an artifact that says how it was made.
MADE = {"distilled": DISTILLATION, "coreset": CORESET}


def row_folder(table: Table, row: TableRow, output_root: Path) -> Path:
    """Where a row's artifact, checkpoints and logs are."""
    return output_root / table.name / re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")


def run_row(
    row: TableRow, folder: Path, settings: Mapping[str, Any], launch: Sequence[str], *, evaluate: bool = True
) -> None:
    """
    Runs a row's commands, going on from what an interrupted run has left.

    Args:
        row ([`TableRow`]): which.
        folder (`Path`): for artifact, checkpoints and logs.
        settings (`Mapping`): fields of the recipe that win over the row's.
        launch (`Sequence[str]`): options of `accelerate launch`; without any, each command is one process.
        evaluate (`bool`, *optional*, defaults to `True`): `False`, where only the artifact is wanted.

    Raises:
        `ValueError`, `FileNotFoundError`: if the row's settings are wrong.
        `RuntimeError`: if a command fails, naming it.
    """
    settings = {**settings, "output_dir": str(folder), "references": row.references}
    for command in row.commands(row.parse(settings)):
        if evaluate or command != "evaluate":
            run_command(row, command, settings, launch)


def run_command(row: TableRow, command: str, settings: Mapping[str, Any], launch: Sequence[str]) -> None:
    """
    Runs one command of `haba` with a row's recipe, in a process of its own or those of `accelerate launch`.

    Raises:
        `RuntimeError`: if it fails, naming it.
    """
    launcher = ["-m", "accelerate.commands.launch", *launch] if launch else []
    words = row.words({**settings, "report_to": "none"})
    if subprocess.run([sys.executable, *launcher, "-m", "haba_hf.cli", command, *words]).returncode:
        raise RuntimeError(f"{row.name}: haba {command} failed; what it said is above.")


def record_of(row: TableRow, folder: Path, overrides: Mapping[str, Any]) -> Record:
    """
    What is kept of a finished run: its settings, its students' accuracies as fractions of 1, floats, bytes, steps,
    seconds, peak memory in bytes, L_DD as of [`mean_losses`], the variety of its hallucinators, and what it ran on.

    Raises:
        `FileNotFoundError`: if a file of the run is missing.
    """
    recipe = row.parse(overrides)
    counting = recipe.to_dict(result_only=True)
    made = json.loads((folder / "artifact" / MADE[row.kind]).read_text()) if row.kind in MADE else {}
    results = json.loads((folder / results_file(recipe.evaluation)).read_text())
    scored, *others = results["rows"]
    controls = [{"system": other["system"], **_scores(other)} for other in others]
    return {
        "row": row.name,
        "recipe": row.recipe,
        "set": {name: value for name, value in (row.set | dict(overrides)).items() if name in counting},
        "overrides": {name: value for name, value in overrides.items() if name in counting},
        "settings_hash": settings_hash(row, overrides),
        "seed": recipe.distillation.seed,
        "dataset": recipe.data.dataset,
        "data_fingerprint": results["data_fingerprint"],
        "bases_per_class": made.get("bases_per_class", recipe.model.bases_per_class) if made else None,
        "num_hallucinators": recipe.model.num_hallucinators if made else None,
        **_scores(scored),
        **{name: made[name] for name in ("samples_per_class", "hallucinator_variety") if name in made},
        **{name: made.get(name) for name in ("steps", "seconds", "ended_by", "peak_memory_bytes")},
        **({"l_dd": losses} if (losses := mean_losses(folder / METRICS)) else {}),
        "evaluation_seconds": round(scored["accuracy"]["seconds"], 3),
        **{name: results[name] for name in RAN_ON},
        **({"controls": controls} if row.asks_for_controls else {}),
    }


def mean_losses(log: Path) -> list[float]:
    """Mean L_DD of each sixth of a run, from its log: whether it still falls. Empty without one, or of a few steps."""
    losses = list(read_curves(log).get("l_dd", {}).values()) if log.exists() else []
    ends = [len(losses) * part // PARTS for part in range(PARTS + 1)]
    if len(losses) < PARTS:
        return []
    return [float(f"{fmean(losses[first:end]):.4g}") for first, end in itertools.pairwise(ends)]


def _scores(row: Record) -> Record:
    """Accuracies, storage, students' training and, if they are soft, labels of a row of results."""
    return {
        **accuracies_of(row["accuracy"]),
        **{name: row["storage"][name] for name in ("floats", "bytes", "images_per_class")},
        **({} if row.get("labels", HARD) == HARD else {"labels": row["labels"]}),
    }


def accuracies_of(accuracy: Record) -> Record:
    """What is kept of students: accuracies as fractions of 1, and their training, which older results leave out."""
    training = {f"student_{name}": accuracy[name] for name in ("steps", "samples") if accuracy.get(name) is not None}
    return {**{name: accuracy[name] for name in ("mean", "std", "accuracies")}, **training}


def set_against(row: TableRow, record: Record, records: Sequence[Record]) -> Record | None:
    """The run that a row is compared with, of the same seed."""
    key = (row.against, record["seed"])
    return next((other for other in records if (other["row"], other["seed"]) == key), None)


def difference(record: Record, other: Record) -> tuple[float, float]:
    """Mean accuracy of one run less that of another, and its standard error over the students of both."""
    errors = [run["std"] / math.sqrt(max(len(run["accuracies"]) - 1, 1)) for run in (record, other)]
    return record["mean"] - other["mean"], math.hypot(*errors)


def title_of(dataset: str) -> str:
    """What a data set is called."""
    source = source_of({"dataset": dataset}, {})
    return source.title if source else dataset


def labels_of(row: TableRow, record: Record) -> str:
    """What the students of a run learned from; of older records their recipe tells."""
    of_recipe = HARD if row.parse(record["set"]).model.label_kind == HARD else LEARNED
    return record.get("labels", of_recipe)


def settings_hash(row: TableRow, overrides: Mapping[str, Any]) -> str:
    """
    Tells the settings of two runs of a row apart: over what recipe, row and command line say, so that a record stays
    valid when the package learns a new field. Fields that do not change a result are left out.
    """
    given = yaml.safe_load(recipe_path(row.recipe).read_text(encoding="utf-8")) | row.set | dict(overrides)
    counting = row.parse(overrides).to_dict(result_only=True)
    chosen = {name: counting[name] for name in sorted(given) if name in counting and name != "seed"}
    if row.start is not None:
        chosen["init_from"] = row.start
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:12]


def read_records(path: Path) -> list[Record]:
    """The records of a table, none if there is no such file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def keep_record(path: Path, record: Record) -> None:
    """
    Puts a record in the place of the older one of its row and seed, or behind all others.

    Raises:
        `OSError`: if the file cannot be written; it is then left whole.
    """
    records = read_records(path)
    same = [number for number, old in enumerate(records) if _key(old) == _key(record)]
    if same:
        records[same[0]] = record
    else:
        records.append(record)
    with atomic_file(path) as aside:
        lines = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in records)
        aside.write_text("".join(lines), encoding="utf-8")


def _key(record: Record) -> tuple[str, int]:
    return record["row"], record["seed"]
