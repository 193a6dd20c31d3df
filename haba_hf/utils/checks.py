"""What the sections of settings refuse in common."""

import math
import reprlib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

# Whatever torch takes as a seed.
MOST_SEED = 2**63 - 1
# Beyond them a slip of the keyboard fills the memory before anything else can be said.
MOST_WIDTH, MOST_DEPTH, MOST_PIXELS = 8192, 16, 4096


@dataclass
class Settings:
    """
    A section of settings. Made in Python, too, it refuses what does not fit a field.

    Raises:
        `ValueError`: if a value is of another type than its field; names the field and what it takes.
    """

    def __post_init__(self) -> None:
        for name, hint in _hints(cast(Any, type(self))).items():
            value = getattr(self, name)
            if isinstance(value, tuple):  # as good as a list in Python, but no recipe could hold it
                value = list(value)
                setattr(self, name, value)
            if not fits(value, hint):
                raise ValueError(f"{name}: expected {describe_type(hint)}, got {reprlib.repr(value)}")


@cache
def _hints(section: type) -> Mapping[str, Any]:
    return get_type_hints(section)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type of a field; a whole number is a number too, and no bool is either."""
    arguments = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if get_origin(hint) is list:
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    if get_origin(hint) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if hint is types.NoneType:
        return value is None
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, hint)


def describe_type(hint: Any) -> str:
    """What a field takes, in words."""
    plain = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
    if hint in plain:
        return plain[hint]
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(str(choice) for choice in arguments)
    if get_origin(hint) is list:
        return f"a list, each {describe_type(arguments[0])}"
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [describe_type(argument) for argument in arguments if argument is not types.NoneType]
        return ", or ".join(kinds) + (", or none" if types.NoneType in arguments else "")
    raise TypeError(f"a recipe cannot hold a field of type {hint}")


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
