"""Tables in Markdown, which pages, cards and the terminal show."""

from collections.abc import Iterable, Sequence


def table_text(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Columns and rows of cells as lines, each with its end. Cells are Markdown: other text is escaped before."""
    return "".join(_line(cells) for cells in (columns, ["---"] * len(columns), *rows))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"
