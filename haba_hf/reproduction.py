"""
A table of systems, each the run of one recipe, beside the figures of a paper.

A table is a YAML file in `training/tables/`:

```yaml
title: Fashion-MNIST, 1 image per class
source: the paper's supplement, Table 1   # where the figures called paper come from
set: {evaluation_seeds: 5}                # of all rows; a row's own set wins
rows:
  - {name: DM, recipe: fashion_mnist/dm-2pc-pixels, set: {bases_per_class: 1}, published: fashion_mnist/dm-1pc-pixels-paper}
  - {name: MTT, recipe: fashion_mnist/mtt-2pc-pixels}
  - {name: MTT w. HaBa, recipe: fashion_mnist/mtt-1pc, paper: 80.9 ± 0.7, against: MTT}
```

`published` names the recipe with the published settings: what a row sets otherwise is listed below the table. `against`
names an earlier row, whose mean is subtracted. The commands of a row run in processes of their own, and its record goes
to `<table>.jsonl` when the last of them is done, so that an interrupted table goes on where it stopped.
"""

import dataclasses
import hashlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .files import atomic_file
from .recipe import Recipe, parse_recipe, recipes_folder
from .sections import section_values

Record = dict[str, Any]


@dataclass
class TableRow:
    """
    One system of a table.

    Args:
        name (`str`): what the system is called; no two rows of a table share it.
        recipe (`str`): the recipe's name, such as `"mnist/dm-1pc"`.
        set (`dict`, *optional*): fields that this row sets otherwise than its recipe.
        paper (`str`, *optional*): the published accuracy in percent.
        published (`str`, *optional*): name of the recipe with the published settings.
        against (`str`, *optional*): name of the row that is subtracted from this one.
        coreset (`bool`, *optional*, defaults to `False`): the recipe chooses real images; nothing is distilled.
    """

    name: str
    recipe: str
    set: dict[str, Any] = field(default_factory=dict)
    paper: str = ""
    published: str | None = None
    against: str | None = None
    coreset: bool = False

    def words(self, overrides: Mapping[str, Any]) -> list[str]:
        """The row's command line; `overrides` win over its own fields."""
        return [str(_recipe_path(self.recipe)), *_words(self.set | dict(overrides))]

    def parse(self, overrides: Mapping[str, Any]) -> Recipe:
        """
        All settings of the row.

        Raises:
            `ValueError`, `FileNotFoundError`: if there is no such recipe or field.
        """
        return parse_recipe(self.words(overrides))

    def commands(self, recipe: Recipe) -> list[str]:
        """The commands of `haba` that fill the row, in order."""
        if self.coreset:
            return ["select", "evaluate"]
        return [*(["experts"] if recipe.distillation.objective == "mtt" else []), "distill", "evaluate"]


@dataclass
class Table:
    """A table's name, title, the source of its published figures, and its rows."""

    name: str
    title: str
    source: str
    rows: list[TableRow]


def tables_folder() -> Path:
    """The folder of the tables that come with the package."""
    return recipes_folder().with_name("tables")


def read_table(name: str) -> Table:
    """
    Reads a table by its name or from a YAML file.

    Raises:
        `FileNotFoundError`: if there is none, naming those there are.
        `ValueError`: if a key is unknown or missing, two rows share a name, or `against` names no earlier row.
    """
    path = Path(name) if name.endswith(".yaml") else tables_folder() / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in tables_folder().glob("*.yaml")))
        raise FileNotFoundError(f"There is no table {name}; there are {known}.")
    content = _checked(yaml.safe_load(path.read_text(encoding="utf-8")), {"title", "rows"}, {"source", "set"}, path)
    optional = {known.name for known in dataclasses.fields(TableRow)} - {"name", "recipe"}
    rows: list[TableRow] = []
    for number, entry in enumerate(content["rows"], start=1):
        entry = _checked(entry, {"name", "recipe"}, optional, f"{path}, row {number}")
        row = TableRow(**{**entry, "set": {**content.get("set", {}), **entry.get("set", {})}})
        earlier = {other.name for other in rows}
        if row.name in earlier:
            raise ValueError(f"{path}: two rows are called {row.name}.")
        if row.against is not None and row.against not in earlier:
            raise ValueError(f"{path}, row {row.name}: against names {row.against}, which is no earlier row.")
        rows.append(row)
    return Table(path.stem, content["title"], content.get("source", "the paper"), rows)


def row_folder(table: Table, row: TableRow, output_root: Path) -> Path:
    """Where a row's artifact, checkpoints and logs are."""
    return output_root / table.name / re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")


def run_row(row: TableRow, folder: Path, settings: Mapping[str, Any], launch: Sequence[str]) -> None:
    """
    Runs a row's commands under `accelerate launch`, going on from what an interrupted run has left.

    Args:
        row ([`TableRow`]): which.
        folder (`Path`): for artifact, checkpoints and logs.
        settings (`Mapping`): fields of the recipe that win over the row's.
        launch (`Sequence[str]`): options of `accelerate launch`.

    Raises:
        `ValueError`, `FileNotFoundError`: if the row's settings are wrong.
        `RuntimeError`: if a command fails, naming it.
    """
    settings = {**settings, "output_dir": str(folder), "references": "none", "report_to": "none"}
    for command in row.commands(row.parse(settings)):
        words = ["-m", "haba_hf.cli", command, *row.words(settings)]
        if subprocess.run([sys.executable, "-m", "accelerate.commands.launch", *launch, *words]).returncode:
            raise RuntimeError(f"{row.name}: haba {command} failed; what it said is above.")


def record_of(row: TableRow, folder: Path, overrides: Mapping[str, Any]) -> Record:
    """
    What is kept of a finished run: its settings, its students' accuracies as fractions of 1, floats, bytes, steps,
    seconds, peak memory in bytes, and what it ran on.

    Raises:
        `FileNotFoundError`: if a file of the run is missing.
    """
    recipe = row.parse(overrides)
    artifact = folder / "artifact"
    made = json.loads((artifact / ("coreset.json" if row.coreset else "distillation.json")).read_text())
    results = json.loads((folder / "results.json").read_text())
    scored = results["rows"][0]
    return {
        "row": row.name,
        "recipe": row.recipe,
        "set": {name: value for name, value in (row.set | dict(overrides)).items() if name in _result_values(recipe)},
        "settings_hash": settings_hash(row, overrides),
        "seed": recipe.distillation.seed,
        "dataset": made["dataset"],
        "data_fingerprint": made["data_fingerprint"],
        "bases_per_class": recipe.model.bases_per_class,
        "num_hallucinators": recipe.model.num_hallucinators,
        **{name: scored["accuracy"][name] for name in ("mean", "std", "accuracies")},
        **{name: scored["storage"][name] for name in ("floats", "bytes", "images_per_class")},
        **{name: made.get(name) for name in ("steps", "seconds", "ended_by", "peak_memory_bytes")},
        "evaluation_seconds": round(scored["accuracy"]["seconds"], 1),
        **{name: results[name] for name in ("device", "processes", "threads", "mixed_precision", "python", "versions")},
    }


def settings_hash(row: TableRow, overrides: Mapping[str, Any]) -> str:
    """
    Tells the settings of two runs of a row apart: over what recipe, row and command line say, so that a record stays
    valid when the package learns a new field. Fields that do not change a result are left out.
    """
    given = yaml.safe_load(_recipe_path(row.recipe).read_text(encoding="utf-8")) | row.set | dict(overrides)
    counting = _result_values(row.parse(overrides))
    chosen = {name: counting[name] for name in sorted(given) if name in counting and name != "seed"}
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:12]


def departures(recipe: Recipe, published: Recipe) -> list[str]:
    """What a recipe sets otherwise than the published one, each as `field ours (theirs)`."""
    ours, theirs = _result_values(recipe), _result_values(published)
    return [f"{name} {ours[name]} ({theirs[name]})" for name in ours if name != "seed" and ours[name] != theirs[name]]


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


def markdown(table: Table, records: Sequence[Record]) -> str:
    """The table, in the order of its rows, as Markdown; a row without a record says so."""
    notes: dict[str, int] = {}
    lines = []
    compared = any(row.against for row in table.rows)
    for row in table.rows:
        runs = [record for record in records if record["row"] == row.name]
        if not runs:
            lines.append([row.name, "not run", row.paper or "–", *["–"] * (4 + compared)])
        for record in runs:
            mark = ""
            if row.published is not None:
                differing = departures(row.parse(record["set"]), _published(row.published))
                if differing:
                    note = f"`{row.published}` sets otherwise: {', '.join(differing)}."
                    mark = f" [{notes.setdefault(note, len(notes) + 1)}]"
            lines.append(
                [
                    row.name + mark,
                    f"{100 * record['mean']:.1f} ± {100 * record['std']:.1f}",
                    row.paper or "–",
                    *([_difference(row, record, records)] if compared else []),
                    f"{record['images_per_class']:.2f}",
                    f"{record['bytes']:,}",
                    "–" if record["steps"] is None else f"{record['steps']:,}" + "*" * (record["ended_by"] == "max_minutes"),
                    f"{record['seconds'] / 60:.1f}",
                ]
            )
    columns = ["system", "accuracy (%)", "published (%)", *(["difference"] if compared else [])]
    columns += ["images per class", "bytes", "steps", "minutes"]
    return "\n".join(
        [
            f"# {table.title}\n",
            *("| " + " | ".join(cells) + " |" for cells in [columns, ["---"] * len(columns), *lines]),
            f"\n{_legend(table, records, compared)}",
            *(f"\n[{number}] {note}" for note, number in notes.items()),
            "",
        ]
    )


def _legend(table: Table, records: Sequence[Record], compared: bool) -> str:
    """How to read the columns, and what the rows ran on."""
    students = "/".join(str(number) for number in sorted({len(record["accuracies"]) for record in records}))
    machines = sorted({f"{record['device']}, torch {record['versions']['torch']}" for record in records})
    sentences = [
        f"Test accuracy after the last epoch, mean ± population standard deviation over {students or 'no'} students.",
        f"Published: {table.source}.",
        "Images per class: plain images that take as many floats. Minutes: of distillation (of a coreset: of choosing).",
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
    """Mean minus that of the row it is set against with the same seed, and the standard error of that, in percent."""
    others = [other for other in records if (other["row"], other["seed"]) == (row.against, record["seed"])]
    if not others:
        return "–"
    errors = [run["std"] / math.sqrt(max(len(run["accuracies"]) - 1, 1)) for run in (record, others[0])]
    return f"{100 * (record['mean'] - others[0]['mean']):+.1f} ± {100 * math.hypot(*errors):.1f} ({row.against})"


def _key(record: Record) -> tuple[str, int]:
    return record["row"], record["seed"]


def _published(name: str) -> Recipe:
    return parse_recipe([str(_recipe_path(name))])


def _recipe_path(name: str) -> Path:
    path = recipes_folder() / f"{name}.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe {name} in {recipes_folder()}.")
    return path


def _result_values(recipe: Recipe) -> dict[str, Any]:
    """All fields that change a result, and their values."""
    sections = recipe.sections().values()
    return {name: value for section in sections for name, value in section_values(section, result_only=True).items()}


def _words(settings: Mapping[str, Any]) -> list[str]:
    """Fields as the command line takes them."""
    words = []
    for name, value in settings.items():
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        else:
            words.append(f"--{name}={'none' if value is None else value}")
    return words


def _checked(content: Any, required: set[str], optional: set[str], place: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or not required <= set(content) or set(content) - required - optional:
        found = ", ".join(content) if isinstance(content, dict) else repr(content)
        raise ValueError(
            f"{place}: it needs {', '.join(sorted(required))} and may have {', '.join(sorted(optional))}; it has {found}."
        )
    return content
