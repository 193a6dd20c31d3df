"""What the sections of settings refuse in common."""

import math
from typing import Any

# Whatever torch takes as a seed.
MOST_SEED = 2**63 - 1
# Beyond them a slip of the keyboard fills the memory before anything else can be said.
MOST_WIDTH, MOST_DEPTH, MOST_PIXELS = 8192, 16, 4096


def check_counts(section: Any, *names: str, most: float = math.inf) -> None:
    """
    Raises:
        `ValueError`: if a field of a section that counts something is below 1 or above `most`. `None` leaves the
            count open.
    """
    for name in names:
        count = vars(section)[name]
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}.")
    check_between(section, 1, most, *names)


def check_positive(section: Any, *names: str) -> None:
    """
    Raises:
        `ValueError`: if a field of a section is 0, negative or NaN. `None` leaves it open.
    """
    for name in names:
        value = vars(section)[name]
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}.")


def check_between(section: Any, least: float, most: float, *names: str) -> None:
    """
    Raises:
        `ValueError`: if a field of a section is below `least`, above `most` or NaN. `None` leaves it open.
    """
    for name in names:
        value = vars(section)[name]
        if value is not None and not least <= value <= most:
            bounds = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:,.12g}"
            raise ValueError(f"{name} must be {bounds}, got {value}.")


def check_momentum(section: Any, *names: str) -> None:
    """
    Raises:
        `ValueError`: if a field of a section that decays a mean is not in [0, 1).
    """
    for name in names:
        if not 0 <= vars(section)[name] < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {vars(section)[name]}.")
