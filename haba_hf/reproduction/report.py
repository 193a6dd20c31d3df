"""A table's records as Markdown, beside the published figures."""

from collections.abc import Sequence
from typing import Any

from ..evaluation import in_percent
from ..evaluation.report import HARD
from ..recipes import Recipe, parse_recipe
from ..utils.markdown import table_text
from .records import Record, difference, labels_of, set_against, settings_hash
from .tables import Table, TableRow
from .transfer import transfer_table

COLUMNS = (
    "system",
    "labels",
    "accuracy (%)",
    "published (%)",
    "difference",
    "images per class",
    "bytes",
    "samples a class",
    "steps",
    "L_DD",
    "minutes",
)

EARLIER = " °"  # marks a run of other settings than its row has today
WHITENED = (
    "Bytes of whitened rows hold the matrix of ZCA, which images per class leave out: plain images in its space need "
    "it as well."
)


def markdown(table: Table, records: Sequence[Record]) -> str:
    """The table, in the order of its rows, as Markdown; a row without a record says so."""
    notes: dict[str, int] = {}
    lines: list[dict[str, str]] = []
    whitened = False
    for row in table.rows:
        runs = [record for record in records if record["row"] == row.name]
        for record in runs:
            lines += [_cells(row, record, records, notes), *map(_control, record.get("controls", []))]
            whitened |= row.parse(record["set"]).data.zca
        if not runs:
            lines.append(_not_run(row))
    decoded = any("samples_per_class" in record for record in records)
    compared, published = any(row.against for row in table.rows), any(row.paper for row in table.rows)
    earlier = any(line["system"].endswith(EARLIER) for line in lines)
    logged = any("l_dd" in record for record in records)
    soft = any(line.get("labels", HARD) != HARD for line in lines)
    left_out = {"difference": not compared, "published (%)": not published, "samples a class": not decoded}
    left_out |= {"labels": not soft, "L_DD": not logged}
    legend = _legend(table, records, compared, published, earlier, soft, whitened)
    columns = [name for name in COLUMNS if not left_out.get(name)]
    cells = ([line.get(name, "-") for name in columns] for line in lines)
    return "\n".join(
        [
            f"# {table.title}\n",
            table_text(columns, cells),
            legend,
            *(f"\n{part}" for part in transfer_table(table, records)),
            *(f"\n[{number}] {note}" for note, number in notes.items()),
            "",
        ]
    )


def _not_run(row: TableRow) -> dict[str, str]:
    return {"system": row.name, "accuracy (%)": "not run", "published (%)": row.paper or "-"}


def _cells(row: TableRow, record: Record, records: Sequence[Record], notes: dict[str, int]) -> dict[str, str]:
    """A run by column; what it sets otherwise than published goes to `notes`, each with its number."""
    cells = {
        "system": row.name + _mark(row, record, notes),
        "labels": labels_of(row, record),
        **_scored(record),
        "published (%)": row.paper or "-",
        "difference": _difference(row, record, records),
    }
    if "samples_per_class" in record:
        cells["samples a class"] = f"{record['samples_per_class']:,}"
    if record["steps"] is not None:
        cells["steps"] = f"{record['steps']:,}{'*' if record['ended_by'] == 'max_minutes' else ''}"
    if "l_dd" in record:
        first, *_, fifth, last = map(_number, record["l_dd"])
        cells["L_DD"] = f"{first}; {fifth}, {last}"
    if record["seconds"] is not None:
        cells["minutes"] = f"{record['seconds'] / 60:.1f}"
    return cells


def _number(value: float) -> str:
    """In three digits at least."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _control(control: Record) -> dict[str, str]:
    """What a row is compared with, as a line below it."""
    labels = control.get("labels", HARD)
    return {"system": f"beside it: {control['system']}", "labels": labels, **_scored(control)}


def _scored(record: Record) -> dict[str, str]:
    return {
        "accuracy (%)": in_percent(record["mean"], record["std"]),
        "images per class": f"{record['images_per_class']:.2f}",
        "bytes": f"{record['bytes']:,}",
    }


def _mark(row: TableRow, record: Record, notes: dict[str, int]) -> str:
    """The number of the note that lists a run's departures; empty without any, or without published settings."""
    if is_of_earlier_settings(row, record):
        return EARLIER
    if row.published is None:
        return ""
    recipe = row.parse(record["set"])
    at_its_size = f"--bases_per_class={recipe.model.bases_per_class}"
    differing = departures(recipe, parse_recipe([row.published, at_its_size]))
    note = f"`{row.published}` sets otherwise: {', '.join(differing)}."
    return f" [{notes.setdefault(note, len(notes) + 1)}]" if differing else ""


def is_of_earlier_settings(row: TableRow, record: Record) -> bool:
    """Whether the row or its recipe has changed since; what a run of today would give is then not known."""
    # Older records do not tell what a command line set: what their row does not set.
    given = {name: value for name, value in record["set"].items() if name not in row.set}
    return record["settings_hash"] != settings_hash(row, record.get("overrides", given))


def _legend(
    table: Table, records: Sequence[Record], compared: bool, published: bool, earlier: bool, soft: bool, whitened: bool
) -> str:
    """How to read the columns, and what the rows ran on."""
    students = " or ".join(str(number) for number in sorted({len(record["accuracies"]) for record in records}))
    machines = sorted({f"{record['device']}, torch {record['versions']['torch']}" for record in records})
    sentences = [
        f"Test accuracy after the last epoch, mean ± population standard deviation over {students or 'no'} students.",
        *([f"Published: {table.source}."] if published else []),
        "Images per class: plain images that take as many floats.",
        *_students(records),
        *(["Labels: soft ones, all but hard, are counted in images per class and bytes."] if soft else []),
        *([WHITENED] if whitened else []),
        "Minutes: of distillation (of a coreset: of choosing), by the clock.",
    ]
    if any("l_dd" in record for record in records):
        sentences.append("L_DD: mean over the first sixth of a run; over its fifth and its last.")
    if compared:
        sentences.append(
            "Difference: to the row named, ± its standard error over students; the runs behind the means are one each."
        )
    if any(record["ended_by"] == "max_minutes" for record in records):
        sentences.append("*: ended by its budget of time.")
    if earlier:
        sentences.append(f"{EARLIER.strip()}: run before its recipe was changed, and to be run again.")
    if machines:
        sentences.append(f"Ran on: {'; '.join(machines)}.")
    return " ".join(sentences) + f" `python training/reproduce.py {table.name}` fills the table."


def _students(records: Sequence[Record]) -> list[str]:
    """How long students trained, and whether all records say so; one sentence or none."""
    runs = [run for record in records for run in (record, *record.get("controls", []))]
    steps = sorted({run["student_steps"] for run in runs if "student_steps" in run})
    if not steps:
        return []
    took = f"Students took {steps[0]:,}" + (f" to {steps[-1]:,}" if len(steps) > 1 else "") + " steps of SGD"
    return [took + ("." if all("student_steps" in run for run in runs) else ", as far as it is on record.")]


def _difference(row: TableRow, record: Record, records: Sequence[Record]) -> str:
    """Mean minus that of the row it is compared with, of the same seed, and the standard error of that, in percent."""
    other = set_against(row, record, records)
    if other is None:
        return "-"
    mean, error = difference(record, other)
    return f"{100 * mean:+.1f} ± {100 * error:.1f} ({row.against})"


def departures(recipe: Recipe, published: Recipe) -> list[str]:
    """What a recipe sets otherwise than the published one, each as `field ours (theirs)`."""
    ours, theirs = _settings(recipe), _settings(published)
    return [f"{name} {ours[name]} ({theirs[name]})" for name in ours if name != "seed" and ours[name] != theirs[name]]


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What decides a result; students have the network's width where they are given none."""
    settings = recipe.to_dict(result_only=True)
    return settings | {"student_width": settings["student_width"] or settings["network_width"]}
