"""What `haba info` and the Space say of an artifact: sizes, storage budget, provenance and what was measured."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..artifact.budget import describe_basis
from ..data.image_data import MOST_CLASSES_LISTED
from ..evaluation import (
    FULL_DATA,
    RANDOM_EQUAL_BYTES,
    RANDOM_REAL,
    RANDOM_STORED_ALIKE,
    ReportRow,
    architecture_table,
    in_percent,
    markdown_table,
    robustness_table,
)
from ..evaluation.attacks import ATTACKS
from ..evaluation.report import HARD, LEARNED, LEARNED_FROM_TEACHER, OF_TEACHER, SOFT
from ..utils.text import escape_markdown, plain
from .artifact import WEIGHTS, Artifact
from .records import CORESET, CROSS_ARCHITECTURE, DISTILLATION, RESULTS, ROBUSTNESS, measurement_path, read_record

# Of a record's fields, those that fill a screen, or are told in words.
LONG_FIELDS = ("versions", "training_rows", "train_images_per_class", "teacher", "hallucinator_variety")


def list_artifacts(folder: str | Path) -> list[dict[str, str]]:
    """
    The artifacts below a folder by what their own files say, without loading weights: `folder`, `dataset`, and the
    `accuracy` of their students, empty where it was not measured.
    """
    found = []
    for config in sorted(Path(folder).rglob("config.json")):
        directory = config.parent
        if not (directory / WEIGHTS).is_file():
            continue
        try:
            model_type = json.loads(config.read_text(encoding="utf-8"))["model_type"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # some other model's
        if model_type != "haba":
            continue
        origin = read_record(directory / DISTILLATION) or read_record(directory / CORESET)
        results = read_record(measurement_path(directory, RESULTS))
        accuracy = next((row["accuracy"] for row in results.get("rows", [])), None)
        found.append(
            {
                "folder": str(directory),
                "dataset": plain(origin.get("dataset", "")),
                "accuracy": "" if accuracy is None else in_percent(accuracy["mean"], accuracy["std"]) + " %",
            }
        )
    return found


def artifact_facts(artifact: Artifact) -> dict[str, Any]:
    """The facts as one object that JSON can hold; the artifact's own row comes first in each list of accuracies."""
    config, storage, step_sizes = artifact.model.config, artifact.model.storage(), artifact.model.step_sizes
    return {
        "chosen": bool(artifact.coreset),
        "num_labels": config.num_labels,
        "bases_per_class": config.bases_per_class,
        "num_hallucinators": config.num_hallucinators,
        "num_formations": config.num_formations,
        "num_samples": config.num_samples,
        "sample_shape": list(config.sample_shape),
        "label_kind": config.label_kind,
        "labels": artifact.labels,
        "floats": storage.floats,
        "bytes": storage.bytes,
        "parts": storage.parts,
        "part_bytes": storage.part_bytes,
        "basis": describe_basis(config),
        "storage_dtype": config.storage_dtype,
        "hallucinator_variety": artifact.hallucinator_variety,
        "images_per_class": storage.images_per_class,
        "whitening": config.whitening,
        "student_learning_rate": artifact.model.student_learning_rate.item(),
        "step_sizes": None if step_sizes is None else step_sizes.tolist(),
        "distillation": artifact.distillation,
        "coreset": artifact.coreset,
        "accuracy": [{"system": row.system, **asdict(row.accuracy)} for row in artifact.rows],
        "architectures": [
            {"architecture": row.architecture, **asdict(row.accuracy)} for row in artifact.architectures
        ],
        "robustness": [
            {
                "system": row.system,
                "curve": row.curve(),
                "epsilons": row.epsilons,
                "attack_curves": {name: row.attack_curve(name) for name in ATTACKS if row.attacks},
            }
            for row in artifact.robustness
        ],
    }


def artifact_summary(artifact: Artifact, show: Callable[[Any], str] = plain) -> list[str]:
    """
    The facts as paragraphs, the tables in Markdown.

    Args:
        artifact ([`Artifact`]): whose.
        show (`Callable[[Any], str]`, *optional*): what makes the text of its files fit for where it is shown, by
            default a terminal; [`escape_markdown`] for a page.
    """
    config, storage, step_sizes = artifact.model.config, artifact.model.storage(), artifact.model.step_sizes
    shape = "x".join(map(str, config.sample_shape))
    formations = f", each cut into {config.num_formations} samples" if config.num_formations > 1 else ""
    if artifact.coreset:
        rule = show(artifact.coreset["coreset"])
        what = (
            f"coreset ({rule}), chosen and not distilled: {config.bases_per_class} real images per class{formations}"
        )
    else:
        bases = "basis" if config.bases_per_class == 1 else "bases"
        what = (
            f"{config.bases_per_class} {bases} per class ({describe_basis(config)}), {config.num_hallucinators} "
            f"hallucinators{formations}"
        )
    apart = " without the whitening" if storage.whitening_floats else ""
    learning = f"student learning rate {artifact.model.student_learning_rate.item():.4g}"
    if step_sizes is not None:
        learning += (
            f"; {len(step_sizes)} step sizes from {step_sizes.min().item():.4g} to {step_sizes.max().item():.4g}"
        )
    origin = [show(f"{name} {value}") for name, value in artifact.origin.items() if name not in LONG_FIELDS]
    return [
        f"{config.num_labels} classes, {what}: {config.num_samples:,} samples of {shape}, {config.label_kind} labels",
        f"{storage.floats:,} floats, {storage.bytes:,} bytes, as much as {storage.images_per_class:.2f} images per "
        f"class{apart} ({', '.join(f'{part} {floats:,}' for part, floats in storage.parts.items())})",
        learning,
        *_variety(artifact),
        *([f"labels: {labels}"] if (labels := labels_in_words(artifact, show)) else []),
        ", ".join(origin) or "no distillation.json: where it comes from is not on record",
        *([] if artifact.rows else ["no results.json: its accuracy is not on record"]),
        *measured_tables(artifact, show).values(),
        *_class_accuracies(artifact, show),
    ]


def _variety(artifact: Artifact) -> list[str]:
    """A sentence, where there are two hallucinators or more."""
    variety = artifact.hallucinator_variety
    if variety is None:
        return []
    return [f"samples that hallucinators make of one basis have {variety:.2f} of the variance of all samples"]


def _class_accuracies(artifact: Artifact, show: Callable[[Any], str]) -> list[str]:
    """A sentence on the accuracy of each class; of many classes, the worst and the best."""
    found = artifact.rows[0].accuracy.class_accuracies if artifact.rows else []
    scored = [(of, artifact.model.config.id2label[label]) for label, of in enumerate(found) if of is not None]
    if not scored:
        return []
    shown, which = scored, "each class"
    if len(scored) > MOST_CLASSES_LISTED:
        scored.sort(key=lambda pair: pair[0])
        shown, which = [*scored[:3], *scored[-3:]], f"the three worst and best of {len(scored)} classes"
    listed = ", ".join(f"{show(name)} {100 * of:.1f}" for of, name in shown)
    return [f"Accuracy (%) of {which}: {listed}"]


def labels_in_words(artifact: Artifact, show: Callable[[Any], str] = plain) -> str:
    """
    Where soft labels come from, and of a teacher what it is and what it reaches; empty if labels are hard.

    Args:
        artifact ([`Artifact`]): whose.
        show (`Callable[[Any], str]`, *optional*): as of [`artifact_summary`].
    """
    words = {
        HARD: "",
        SOFT: "soft, of an origin that is not on record",
        LEARNED: "learned with the bases",
        OF_TEACHER: "given by a teacher",
        LEARNED_FROM_TEACHER: "learned with the bases, from a teacher's on",
    }[artifact.labels]
    teacher = artifact.distillation.get("teacher")
    if not (words and teacher):
        return words
    settings, reached = teacher["settings"], teacher["validation_accuracy"]
    width = f" of depth {settings['network_depth']} and width {settings['network_width']}"
    of = f"{settings['network']}{width if settings['network'] == 'convnet' else ''}"
    told = f"{of}, {settings['real_student_epochs']} epochs on all real images in {teacher['seconds']:.0f} s"
    scored = "" if reached is None else f", {100 * reached:.1f} % of the validation split"
    return f"{words}: {show(told)}{scored}, temperature {settings['teacher_temperature']:g}"


def headline(artifact: Artifact) -> str:
    """For a page in Markdown, what students reach on the artifact beside real images; empty if it was not measured."""
    if not artifact.rows:
        return ""
    own, settings = artifact.rows[0], artifact.results.get("settings") or {}
    split = escape_markdown(settings.get("evaluation_split", "test"))
    others = {
        RANDOM_REAL: "random real images of as many floats",
        RANDOM_EQUAL_BYTES: "random real images of as many bytes",
        RANDOM_STORED_ALIKE: "random real images stored alike",
        FULL_DATA: "all real images",
    }
    rows = [(name, row) for system, name in others.items() if (row := artifact.row(system))]
    soft = "" if own.labels == HARD else ", soft labels among them"
    beside = [f"on {name}{_labels(row)} {in_percent(row.accuracy.mean, row.accuracy.std)} %" for name, row in rows]
    sentence = (
        f"of the {split} split is classified right by students that saw nothing but these "
        f"{own.storage.bytes:,} bytes{soft}{'; ' if beside else ''}{', '.join(beside)}."
    )
    return f"# {in_percent(own.accuracy.mean, own.accuracy.std)} %\n\n{sentence}"


def _labels(row: ReportRow) -> str:
    return "" if row.labels == HARD else f" with labels of the {row.labels}"


def measured_tables(artifact: Artifact, show: Callable[[Any], str]) -> dict[str, str]:
    """What was measured, a Markdown table for each file, with names that `show` makes fit for it."""

    def named(rows: list, name: str) -> list:
        return [replace(row, **{name: show(vars(row)[name])}) for row in rows]

    tables = {}
    if artifact.rows:
        tables[RESULTS] = markdown_table(named(artifact.rows, "system"))
    if artifact.architectures:
        tables[CROSS_ARCHITECTURE] = architecture_table(named(artifact.architectures, "architecture"))
    if artifact.robustness:
        tables[ROBUSTNESS] = robustness_table(named(artifact.robustness, "system"))
    return tables
