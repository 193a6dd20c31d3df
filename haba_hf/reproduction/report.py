"""A table's records as Markdown, beside the published figures."""

import math
from collections.abc import Sequence

from ..evaluation import in_percent
from ..recipe import Recipe, parse_recipe
from .records import Record
from .tables import Table, TableRow


def markdown(table: Table, records: Sequence[Record]) -> str:
    """The table, in the order of its rows, as Markdown; a row without a record says so."""
    notes: dict[str, int] = {}
    lines = []
    compared, published = any(row.against for row in table.rows), any(row.paper for row in table.rows)
    for row in table.rows:
        runs = [record for record in records if record["row"] == row.name]
        if not runs:
            lines.append([row.name, "not run", *[row.paper or "-"] * published, *["-"] * (4 + compared)])
        for record in runs:
            mark = ""
            if row.published is not None:
                recipe = row.parse(record["set"])
                at_its_size = f"--bases_per_class={recipe.model.bases_per_class}"
                differing = departures(recipe, parse_recipe([row.published, at_its_size]))
                if differing:
                    note = f"`{row.published}` sets otherwise: {', '.join(differing)}."
                    mark = f" [{notes.setdefault(note, len(notes) + 1)}]"
            lines.append(
                [
                    row.name + mark,
                    in_percent(record["mean"], record["std"]),
                    *[row.paper or "-"] * published,
                    *([_difference(row, record, records)] if compared else []),
                    f"{record['images_per_class']:.2f}",
                    f"{record['bytes']:,}",
                    "-"
                    if record["steps"] is None
                    else f"{record['steps']:,}" + "*" * (record["ended_by"] == "max_minutes"),
                    "-" if record["seconds"] is None else f"{record['seconds'] / 60:.1f}",
                ]
            )
    columns = ["system", "accuracy (%)", *["published (%)"] * published, *["difference"] * compared]
    columns += ["images per class", "bytes", "steps", "minutes"]
    return "\n".join(
        [
            f"# {table.title}\n",
            *("| " + " | ".join(cells) + " |" for cells in [columns, ["---"] * len(columns), *lines]),
            f"\n{_legend(table, records, compared, published)}",
            *(f"\n[{number}] {note}" for note, number in notes.items()),
            "",
        ]
    )


def _legend(table: Table, records: Sequence[Record], compared: bool, published: bool) -> str:
    """How to read the columns, and what the rows ran on."""
    students = "/".join(str(number) for number in sorted({len(record["accuracies"]) for record in records}))
    machines = sorted({f"{record['device']}, torch {record['versions']['torch']}" for record in records})
    sentences = [
        f"Test accuracy after the last epoch, mean ± population standard deviation over {students or 'no'} students.",
        *[f"Published: {table.source}."] * published,
        "Images per class: plain images that take as many floats.",
        "Minutes: of distillation (of a coreset: of choosing), by the clock.",
    ]
    if compared:
        sentences.append(
            "Difference: to the row named, ± its standard error over students; the runs behind the means are one each."
        )
    if any(record["ended_by"] == "max_minutes" for record in records):
        sentences.append("*: ended by its budget of time.")
    if machines:
        sentences.append(f"Ran on: {'; '.join(machines)}.")
    return " ".join(sentences) + f" `python training/reproduce.py {table.name}` fills the table."


def _difference(row: TableRow, record: Record, records: Sequence[Record]) -> str:
    """Mean minus that of the row it is compared with, of the same seed, and the standard error of that, in percent."""
    others = [other for other in records if (other["row"], other["seed"]) == (row.against, record["seed"])]
    if not others:
        return "-"
    errors = [run["std"] / math.sqrt(max(len(run["accuracies"]) - 1, 1)) for run in (record, others[0])]
    return f"{100 * (record['mean'] - others[0]['mean']):+.1f} ± {100 * math.hypot(*errors):.1f} ({row.against})"


def departures(recipe: Recipe, published: Recipe) -> list[str]:
    """What a recipe sets otherwise than the published one, each as `field ours (theirs)`."""
    ours, theirs = recipe.to_dict(result_only=True), published.to_dict(result_only=True)
    return [f"{name} {ours[name]} ({theirs[name]})" for name in ours if name != "seed" and ours[name] != theirs[name]]
