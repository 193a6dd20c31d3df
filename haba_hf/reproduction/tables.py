"""
A table of systems, each the run of one recipe, in a YAML file of `training/tables/`:

```yaml
title: Fashion-MNIST, 1 image per class
source: the paper's supplement, Table 1   # where the figures called paper come from
set: {evaluation_seeds: 5}                # of all rows; a row's own set wins
rows:
  - name: DM
    recipe: fashion_mnist/dm-2pc-pixels
    set: {bases_per_class: 1}
    published: fashion_mnist/dm-1pc-pixels-paper
  - {name: MTT, recipe: fashion_mnist/mtt-2pc-pixels}
  - {name: MTT w. HaBa, recipe: fashion_mnist/mtt-1pc, paper: 80.9 ± 0.7, against: MTT}
```

A row's `start` names an earlier distilled row, whose artifact it starts from (`init_from`); with `set: {references:
same_storage}` its record has random real images in the same storage too, with `random` every control.
A row's `kind` says what its students are trained on: a `distilled` artifact, a `coreset`, or the `full_data`.
`published` names the recipe with the published settings, which are taken at the row's bases per class: what a row sets
otherwise is listed below the table.
`against` names an earlier row, whose mean is subtracted.
`transfer: {architectures: [resnet18, vgg11], evaluation_steps: 300}` asks for students of other networks on the row's
samples, by these fields in place of its own.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..evaluation import EvaluationArguments
from ..recipes import Recipe, parse_recipe, recipes_folder

ROW_KINDS = ("distilled", "coreset", "full_data")
# What students of other networks may set: how they are trained on the artifact, and not what they are scored on.
TRANSFER_FIELDS = {"architectures"} | {
    known.name
    for known in dataclasses.fields(EvaluationArguments)
    if known.metadata.get("result", True) and known.name != "evaluation_split" and not known.name.startswith("real_")
}


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
        start (`str`, *optional*): name of the row whose artifact this one starts from.
        kind (`str`, *optional*, defaults to `"distilled"`): `"coreset"` if the recipe chooses real images,
            `"full_data"` if students are trained on all of them by the recipe's `real_student_*`.
        transfer (`dict`, *optional*): `architectures` whose students are trained on the row's artifact too, and fields
            that they set otherwise than the row.
    """

    name: str
    recipe: str
    set: dict[str, Any] = field(default_factory=dict)
    paper: str = ""
    published: str | None = None
    against: str | None = None
    start: str | None = None
    kind: str = "distilled"
    transfer: dict[str, Any] = field(default_factory=dict)

    @property
    def references(self) -> str:
        """What is evaluated beside the row's artifact: nothing, unless its own fields say so."""
        return self.set.get("references", "none")

    @property
    def asks_for_controls(self) -> bool:
        return self.references != "none"

    def words(self, overrides: Mapping[str, Any]) -> list[str]:
        """The row's command line; `overrides` win over its own fields."""
        subject = {"students_of": "full_data"} if self.kind == "full_data" else {}
        return [self.recipe, *_words(self.set | subject | dict(overrides))]

    def parse(self, overrides: Mapping[str, Any]) -> Recipe:
        """
        All settings of the row.

        Raises:
            `ValueError`, `FileNotFoundError`: if there is no such recipe or field.
        """
        return parse_recipe(self.words(overrides))

    def commands(self, recipe: Recipe) -> list[str]:
        """The commands of `haba` that fill the row, in order."""
        if self.kind == "full_data":
            return ["evaluate"]
        if self.kind == "coreset":
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
        `ValueError`: if it is not YAML, a key is unknown or missing, two rows share a name, or `against` or `start`
            names no earlier row.
    """
    path = Path(name) if name.endswith(".yaml") else tables_folder() / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in tables_folder().glob("*.yaml")))
        raise FileNotFoundError(f"There is no table {name}; there are {known}.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    content = _checked(content, {"title", "rows"}, {"source", "set"}, path)
    optional = {known.name for known in dataclasses.fields(TableRow)} - {"name", "recipe"}
    rows: list[TableRow] = []
    for number, entry in enumerate(content["rows"], start=1):
        entry = _checked(entry, {"name", "recipe"}, optional, f"{path}, row {number}")
        row = TableRow(**{**entry, "set": {**content.get("set", {}), **entry.get("set", {})}})
        earlier = {other.name for other in rows}
        if row.name in earlier:
            raise ValueError(f"{path}: two rows are called {row.name}.")
        if row.kind not in ROW_KINDS:
            raise ValueError(f"{path}, row {row.name}: kind must be {', '.join(ROW_KINDS)}, got {row.kind}.")
        _check_transfer(row, path)
        for key, other in (("against", row.against), ("start", row.start)):
            if other is not None and other not in earlier:
                raise ValueError(f"{path}, row {row.name}: {key} names {other}, which is no earlier row.")
        rows.append(row)
    return Table(path.stem, content["title"], content.get("source", "the paper"), rows)


def _check_transfer(row: TableRow, path: Path) -> None:
    """Other networks differ in how they are trained, and in nothing else."""
    if not row.transfer:
        return
    if row.kind == "full_data" or not row.transfer.get("architectures"):
        raise ValueError(f"{path}, row {row.name}: transfer needs architectures, and an artifact to teach them.")
    unknown = sorted(set(row.transfer) - TRANSFER_FIELDS)
    if unknown:
        known = ", ".join(sorted(TRANSFER_FIELDS))
        raise ValueError(f"{path}, row {row.name}: transfer may set {known}; it sets {', '.join(unknown)}.")


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
            f"{place}: it needs {', '.join(sorted(required))} and may have {', '.join(sorted(optional))}; it has "
            f"{found}."
        )
    return content
