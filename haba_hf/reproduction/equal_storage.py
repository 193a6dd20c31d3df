"""What hallucinators are worth at equal storage: training/results/equal_storage.md and its picture, of the records."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ..evaluation import in_percent
from ..hub.tiles import DPI, save_figure
from ..utils.markdown import table_text
from .records import Record, difference, read_records, set_against, title_of
from .report import is_of_earlier_settings
from .tables import Table, read_table

MOST_FLOATS = 1.1  # of the run with hallucinators, as a share of those of the run without
PICTURE = "equal_storage.png"
COLUMNS = (
    *("difference", "with (%)", "without (%)", "run", "set against", "images per class", "samples a class", "variety"),
    *("steps", "table"),
)
INTRODUCTION = f"""# At equal storage

Does the factorization pay? Every run on record with hallucinators beside the run without them that its table sets
against it, of the same objective and data, whose floats it exceeds by {MOST_FLOATS - 1:.0%} at most. *Difference*:
test accuracy in points, ± its standard error over the students of both; one run stands behind each. Where two
numbers stand in a cell, the second is without hallucinators. *Images per class*: plain images of as many floats.
*Variety*: the variance between the samples that the hallucinators make of one basis, as a share of that between all
samples; near 0 they are copies. *Steps*: of distillation. Runs of settings that have changed since are left out. This
page is written by `python -m haba_hf.reproduction`.

![Differences and their standard errors]({PICTURE})
"""
PARTS = {
    True: ("Beside images of full size", "The paper's question: some bases and hallucinators, or more images."),
    False: ("Beside bases that are stored small", "Hallucinators in place of some of the small bases."),
}


@dataclass
class Comparison:
    """A run with hallucinators, and the run without them that it is set against."""

    table: Table
    record: Record
    other: Record
    beside_pixels: bool

    @property
    def difference(self) -> tuple[float, float]:
        """In points, and its standard error."""
        mean, error = difference(self.record, self.other)
        return 100 * mean, 100 * error


def comparisons(results: Path) -> list[Comparison]:
    """
    All of them, by data set, storage and difference.

    Args:
        results (`Path`): the folder of the records, `<table>.jsonl`.
    """
    found = [comparison for path in sorted(results.glob("*.jsonl")) for comparison in _of_table(path)]
    return sorted(
        found, key=lambda one: (one.record["dataset"], round(one.other["images_per_class"]), -one.difference[0])
    )


def equal_storage(compared: Sequence[Comparison]) -> str:
    """The page."""
    lines = [INTRODUCTION]
    for beside_pixels, (title, introduction) in PARTS.items():
        lines += [f"## {title}\n", f"{introduction}\n"]
        part = [one for one in compared if one.beside_pixels == beside_pixels]
        for dataset in sorted({one.record["dataset"] for one in part}):
            rows = [_cells(one) for one in part if one.record["dataset"] == dataset]
            lines += [f"**{title_of(dataset)}**\n", table_text(COLUMNS, rows)]
    return "\n".join(lines).rstrip() + "\n"


def plot_equal_storage(compared: Sequence[Comparison], path: Path) -> None:
    """
    Draws a comparison a line, in the order of the page, with two standard errors to either side.

    Raises:
        `OSError`: if the file cannot be written.
    """
    ordered = [one for beside_pixels in PARTS for one in compared if one.beside_pixels == beside_pixels]
    figure = Figure(figsize=(11, 1 + 0.19 * len(ordered)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for beside_pixels, (title, _) in PARTS.items():
        places = [place for place, one in enumerate(ordered) if one.beside_pixels == beside_pixels]
        means, errors = zip(*(ordered[place].difference for place in places), strict=True) if places else ((), ())
        axes.errorbar(
            means, places, xerr=[2 * error for error in errors], fmt="o", markersize=4, linewidth=1, label=title
        )
    axes.axvline(0, color="black", linewidth=0.8)
    names = [f"{title_of(one.record['dataset'])} · {_place(one)}" for one in ordered]
    axes.set_yticks(range(len(ordered)), names, fontsize=7, parse_math=False)
    axes.set_ylim(len(ordered) - 0.5, -0.5)
    axes.set_xlabel("accuracy with hallucinators less without, in points, and two standard errors", fontsize=9)
    axes.set_title("data set · floats in images per class: with hallucinators", fontsize=9, loc="left")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower left", fontsize=8)
    save_figure(figure, path)


def _of_table(path: Path) -> Iterable[Comparison]:
    table, records = read_table(path.stem), read_records(path)
    rows = {row.name: row for row in table.rows}
    for record in records:
        row = rows[record["row"]]
        other = set_against(row, record, records)
        if other is None or not record["num_hallucinators"]:
            continue
        if other["num_hallucinators"] != 0 or record["floats"] > MOST_FLOATS * other["floats"]:
            continue
        if any(is_of_earlier_settings(rows[run["row"]], run) for run in (record, other)):
            continue
        model = rows[other["row"]].parse(other["set"]).model
        of_full_size = (model.basis_storage, model.basis_height, model.basis_width) == ("pixels", None, None)
        yield Comparison(table, record, other, of_full_size)


def _cells(one: Comparison) -> list[str]:
    mean, error = one.difference
    with_and_without = one.record, one.other
    return [
        f"{mean:+.1f} ± {error:.1f}",
        *(in_percent(run["mean"], run["std"]) for run in with_and_without),
        *(run["row"] for run in with_and_without),
        _pair([f"{run['images_per_class']:.2f}" for run in with_and_without]),
        _pair([f"{run['samples_per_class']:,}" if "samples_per_class" in run else "-" for run in with_and_without]),
        f"{one.record['hallucinator_variety']:.2f}" if "hallucinator_variety" in one.record else "-",
        _pair([f"{run['steps']:,}" for run in with_and_without]),
        f"[{one.table.name}]({one.table.name}.md)",
    ]


def _place(one: Comparison) -> str:
    """Its line in the picture; rows of many sizes have theirs in their names."""
    name = one.record["row"]
    return name if name[0].isdigit() else f"{one.other['images_per_class']:.0f}: {name}"


def _pair(values: Sequence[str]) -> str:
    return values[0] if values[0] == values[1] else ", ".join(values)
