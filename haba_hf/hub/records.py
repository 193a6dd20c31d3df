"""
The records of an artifact's folder: where it comes from, and what was measured of it.

Others may have written them, so all that cards and tables rely on is checked when they are read.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from ..artifact.budget import StorageFigures
from ..evaluation import (
    AccuracyResult,
    ArchitectureRow,
    ReportRow,
    RobustnessResult,
    architecture_table,
    markdown_table,
    robustness_table,
)
from ..evaluation.report import HARD, LABELS, SOFT
from ..utils.text import plain

# Where an artifact comes from, in its own folder: distilled or, of a coreset, chosen.
RECIPE, DISTILLATION, CORESET = "recipe.yaml", "distillation.json", "coreset.json"
ORIGINS = (RECIPE, DISTILLATION, CORESET)
# What was measured of it, there or in the folder of the run.
RESULTS, CROSS_ARCHITECTURE, ROBUSTNESS = "results.json", "cross_architecture.json", "robustness.json"
MEASUREMENTS = (RESULTS, CROSS_ARCHITECTURE, ROBUSTNESS)
RECORDS = (*ORIGINS, *MEASUREMENTS)
MOST_BYTES = 2**24

Record = dict[str, Any]

# What the fields that are printed hold, where a record has them.
WORDS = [
    *("recipe_hash", "dataset", "data_fingerprint", "weights_fingerprint", "processor_fingerprint", "started_from"),
    *("coreset", "imported", "imported_sha256", "ended_by", "device", "mixed_precision", "python", "evaluation_split"),
    *("labels", "network", "fingerprint", "experts_mixed_precision"),
]
COUNTS = [
    *("train_images", "bases_per_class", "samples_per_class", "steps", "kept_step", "processes", "threads"),
    *("peak_memory_bytes", "student_epochs", "evaluation_steps", "evaluation_batch_size", "real_student_epochs"),
    *("network_depth", "network_width", "kept_images"),
]
NUMBERS = ("seconds", "pruning_seconds", "evaluation_learning_rate", "validation_accuracy", "teacher_temperature")
TABLES = ("versions", "settings", "training_rows", "teacher")
LISTS = ("train_images_per_class",)
# May be null.
OPEN = ("ended_by", "peak_memory_bytes", "evaluation_steps", "evaluation_learning_rate", "validation_accuracy")
# What is printed of a teacher, and of its settings.
TEACHER = {"settings", "fingerprint", "seconds", "validation_accuracy"}
TAUGHT_BY = {"network", "network_depth", "network_width", "real_student_epochs", "teacher_temperature"}
KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(WORDS, (str, "text")),
    **dict.fromkeys(COUNTS, (int, "a whole number")),
    **dict.fromkeys(NUMBERS, ((int, float), "a number")),
    **dict.fromkeys(TABLES, (dict, "names and values")),
    **dict.fromkeys(LISTS, (list, "whole numbers")),
}


def read_record(path: Path) -> Record:
    """
    A record, empty where there is no file.

    Raises:
        `ValueError`: if it cannot be read, or a field that is printed holds something else.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes are too many")
        text = path.read_text(encoding="utf-8")
        record = json.loads(text, parse_constant=_refuse_constant) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read ({plain(error)}): mend or remove it.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} is not a record of names and values: mend or remove it.")
    # A recipe is flat; a YAML file of nested aliases would fill the memory when it is written again.
    if path.suffix == ".yaml" and any(_is_nested(value) for value in record.values()):
        raise ValueError(f"{path} is no recipe, whose values are numbers, words or lists of them: mend or remove it.")
    if path.suffix == ".json":
        _check_kinds(path, record)
        teacher = record.get("teacher") or {}
        for part in (record.get("settings"), teacher, teacher.get("settings")):
            _check_kinds(path, part or {})
        if teacher and not (teacher.keys() >= TEACHER and teacher["settings"].keys() >= TAUGHT_BY):
            raise ValueError(f"{path} does not say how the teacher of its labels was trained: mend or remove it.")
    return record


def read_origin(directory: Path) -> tuple[Record, Record, Record]:
    """
    The recipe, and the record of a distillation or of a choice, of which an artifact has one at most.

    Raises:
        `ValueError`: as of [`read_record`], or if it has both.
    """
    recipe, distillation, coreset = (read_record(directory / name) for name in ORIGINS)
    if distillation and coreset:
        raise ValueError(
            f"{directory} holds {DISTILLATION} and {CORESET}, but an artifact is either distilled or chosen: remove "
            "the one that is not of it."
        )
    if coreset and "coreset" not in coreset:
        raise ValueError(f"{directory / CORESET} does not say by which rule images were chosen: mend or remove it.")
    return recipe, distillation, coreset


def labels_on_record(label_kind: str, origin: Record) -> str:
    """
    What students of an artifact learn from, one of `LABELS`.

    Raises:
        `ValueError`: if the record of where it comes from says something else.
    """
    if label_kind == "hard":
        return HARD
    labels = origin.get("labels", SOFT)
    if labels not in LABELS:
        raise ValueError(f"The labels on record are {plain(labels)}, not {', '.join(LABELS)}: mend or remove them.")
    return labels


def measurement_path(directory: Path, name: str) -> Path:
    """Where a measurement of an artifact is: in its folder, else in that of the run whose `artifact` it is."""
    path = directory / name
    if not path.is_file() and directory.resolve().name == "artifact":
        path = directory.resolve().parent / name
    return path


def read_measurements(directory: Path, fingerprint: str, origin: Record) -> dict[Path, tuple[Record, list[Any]]]:
    """
    Records and their rows: the folder's own, else those of the run (`output_dir/results.json`); all are of these
    weights.

    Args:
        directory (`Path`): the artifact's.
        fingerprint (`str`): of its weights.
        origin (`dict`): where it comes from.

    Raises:
        `ValueError`: if one cannot be read, or is of another artifact.
    """
    measurements = {}
    for name in MEASUREMENTS:
        path = measurement_path(directory, name)
        record = read_record(path)
        if not record:
            continue
        rows = _rows_of(path, record)
        same_data = record.get("data_fingerprint") == origin.get("data_fingerprint")
        # Older measurements carry no fingerprint of weights: they are checked against the data alone.
        if not same_data or record.get("weights_fingerprint", fingerprint) != fingerprint:
            raise ValueError(f"{path} is of another artifact than {directory}: evaluate this one again.")
        measurements[path] = record, rows
    return measurements


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _is_nested(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    return any(isinstance(part, (dict, list)) for part in parts)


def _check_kinds(path: Path, record: Record) -> None:
    for name, value in record.items():
        if name not in KINDS or (value is None and name in OPEN):
            continue
        kind, words = KINDS[name]
        is_one = isinstance(value, kind) and not isinstance(value, bool)
        if name in LISTS:
            is_one = is_one and all(type(number) is int for number in value)
        if not is_one or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{name} in {path} is not {words}: mend or remove the file.")


def _check_numbers(record: Mapping[str, Any]) -> None:
    """A row's fields are finite numbers or lists of them."""
    for name, value in record.items():
        numbers = value if isinstance(value, list) else [value]
        for number in numbers:
            if isinstance(number, bool) or not (number is None or math.isfinite(number)):
                raise ValueError(f"{name} {number}")


def _accuracy(record: Record) -> AccuracyResult:
    _check_numbers(record)
    result = AccuracyResult(**record)
    math.fsum([result.mean, result.std, result.seconds, *result.accuracies])  # all of them are there
    math.fsum([*result.balanced_accuracies, *(of or 0 for of in result.class_accuracies)])
    return result


def _report_row(row: Record) -> ReportRow:
    _check_numbers(row["storage"])
    labels = LABELS[LABELS.index(row.get("labels", HARD))]
    return ReportRow(str(row["system"]), _accuracy(row["accuracy"]), StorageFigures(**row["storage"]), labels)


def _architecture_row(row: Record) -> ArchitectureRow:
    _check_numbers({name: row[name] for name in ("parameters", "learning_rate")})
    accuracy = _accuracy(row["accuracy"])
    return ArchitectureRow(**row | {"architecture": str(row["architecture"]), "accuracy": accuracy})


def _robustness_result(row: Record) -> RobustnessResult:
    attacks, epsilons = row.get("attacks") or {}, row.get("epsilons") or []  # older results have none
    return RobustnessResult(str(row["system"]), row["clean"], row["accuracies"], attacks, epsilons)


# Of each measurement: the artifact's field, where the file has its rows, how one is read, and the table they make.
ROWS: dict[str, tuple[str, str, Callable[[Record], Any], Callable[[list[Any]], str]]] = {
    RESULTS: ("rows", "rows", _report_row, markdown_table),
    CROSS_ARCHITECTURE: ("architectures", "rows", _architecture_row, architecture_table),
    ROBUSTNESS: ("robustness", "systems", _robustness_result, robustness_table),
}


def _rows_of(path: Path, record: Record) -> list[Any]:
    _, key, read, table = ROWS[path.name]
    try:
        rows = [read(row) for row in record[key]]
        rows[0]
        table(rows)  # what cannot be printed is none
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{path} is not what an evaluation writes: evaluate the artifact again.") from error
    return rows
