"""Text that others wrote, in files and folder names: shown, never obeyed."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

# What is not seen but acts: control characters (a terminal's escape sequences), formatting (the direction of text),
# halves of characters, separators of lines and paragraphs.
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
MOST_CHARACTERS = 2_000
MOST_NAMED = 5

MARKS = re.compile(r"([\\`*_\[\]<>|#~!$&@])")
LINKS = re.compile(r"(?i)(:)(?=//)|(?<=\bwww)(\.)")  # Markdown of the Hub makes links of bare addresses


def plain(text: Any) -> str:
    """Text as one line of characters that are seen, cut where it fills a screen."""
    line = " ".join(str(text).split())
    line = "".join(character for character in line if unicodedata.category(character) not in UNSEEN)
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}…"


def file_word(text: str) -> str:
    """Text as a part of a file's name: what is no letter, digit, `_` or `-` is `_`, so that it leads nowhere else."""
    return re.sub(r"[^\w-]", "_", text)


def some(names: Iterable[Any], separator: str = ", ") -> str:
    """The first names of a list, and how many more there are."""
    known = [plain(name) for name in names]
    more = f"{separator}and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    return separator.join(known[:MOST_NAMED]) + more


def escape_markdown(text: Any) -> str:
    """Text as one line of Markdown that shows it and does nothing else: no link, no HTML, no table cell."""
    return LINKS.sub(lambda found: rf"\{found[0]}", MARKS.sub(r"\\\1", plain(text)))
