"""Tables in Markdown, which pages, cards and the terminal show."""

from collections.abc import Iterable, Sequence


def table_text(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Columns and rows of cells as lines, each with its end; a `|` in a cell is shown."""
    return "".join(_line(cells) for cells in (columns, ["---"] * len(columns), *rows))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"
