"""What the sections of settings refuse in common."""

from typing import Any


def check_counts(section: Any, *names: str) -> None:
    """
    Raises:
        `ValueError`: if a field of a section that counts something is below 1. `None` leaves the count open.
    """
    for name in names:
        count = vars(section)[name]
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}.")


def check_positive(section: Any, *names: str) -> None:
    """
    Raises:
        `ValueError`: if a field of a section is 0, negative or NaN. `None` leaves it open.
    """
    for name in names:
        value = vars(section)[name]
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}.")
