"""Markdown that pages are made of."""

from collections.abc import Iterable, Sequence


def markdown_table(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a table; a `|` in a cell is shown."""
    return [_line(cells) for cells in (columns, ["---"] * len(columns), *rows)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
