"""
Sections of settings, each a dataclass, read from one flat YAML file and the command line.

HfArgumentParser lays out the command line. Files and command line then go through one conversion, so that a value
means the same in both places and an error names the field, what it takes and where it was set.
"""

import argparse
import dataclasses
import math
import re
import reprlib
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from ..utils.checks import describe_type
from ..utils.shipped import recipe_path, unknown_field

COMMAND_LINE = "command line"
BOOLEAN_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
NULL_WORDS = ("none", "null")
MOST_BYTES = 2**20
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, in C, where libyaml is there
_NOT_GIVEN: Any = object()


class RecipeError(ValueError):
    """A setting that does not exist or does not fit its field; the message names the field and where it was set."""


def parse_sections(
    section_types: Iterable[type], argv: Sequence[str] | None = None, description: str | None = None
) -> tuple[Any, ...]:
    """
    Read `[RECIPE] [--field value ...]` into one instance of each dataclass of `section_types`, in their order.

    RECIPE is as in [`recipe_path`]. The command line wins over the file, the file over the defaults.

    Args:
        section_types (`Iterable[type]`): dataclasses; no two may share the name of a field.
        argv (`Sequence[str]`, *optional*, defaults to the arguments of the process): what follows the script's name.
        description (`str`, *optional*): what `--help` says first; a script passes its docstring.

    Fields may be `str`, `int`, `float`, `bool`, a `Literal`, a list of these, and any of them or `None`.

    Raises:
        `RecipeError`: if a field is unknown or set twice, or a value does not fit its field.
        `FileNotFoundError`: if there is no such recipe.
        `TypeError`: if two sections share a field name, or a field has a type that cannot be read.
    """
    section_types = tuple(section_types)
    hints = _hints(section_types)
    recipe, given = _parse_command_line(section_types, argv, description)
    values: dict[str, Any] = {}
    if recipe is not None:
        path = recipe_path(recipe)
        for name, value in _read_recipe_file(path).items():
            if name not in hints:
                raise RecipeError(f"{path}: {unknown_field(str(name), hints)}")
            values[name] = _convert(value, hints[name], f"{path}: {name}")
    values |= {name: _convert(value, hints[name], f"{COMMAND_LINE}: {name}") for name, value in given.items()}

    return sections_of(section_types, values)


def sections_of(section_types: tuple[type, ...], values: Mapping[str, Any]) -> tuple[Any, ...]:
    """
    One instance of each dataclass, in order, of values by the names of their fields.

    Raises:
        `RecipeError`: if a field is unknown, or one without default is missing.
        `ValueError`: if a section refuses a value.
    """
    hints = _hints(section_types)
    for name in values:
        if name not in hints:
            raise RecipeError(unknown_field(name, hints))
    sections = []
    for section_type in section_types:
        chosen = {}
        for section_field in _settable(section_type):
            if section_field.name in values:
                chosen[section_field.name] = values[section_field.name]
            elif _default(section_field) is dataclasses.MISSING:
                raise RecipeError(f"{section_field.name} has no default: set it in a recipe or on the command line")
        sections.append(section_type(**chosen))
    return tuple(sections)


@cache
def _hints(section_types: tuple[type, ...]) -> Mapping[str, Any]:
    """The types of all fields, by name."""
    hints: dict[str, Any] = {}
    for section_type in section_types:
        types_by_name = get_type_hints(section_type)
        for section_field in _settable(section_type):
            if section_field.name in hints:
                raise TypeError(f"the field {section_field.name!r} is in more than one section")
            hints[section_field.name] = types_by_name[section_field.name]
    return hints


def section_values(section: Any, result_only: bool = False) -> dict[str, Any]:
    """
    The fields of a section and their values, a whole number in a float field as a float, so equal settings look equal.

    Args:
        section (a dataclass instance): the section.
        result_only (`bool`, *optional*, defaults to `False`): leave out the fields with metadata `{"result": False}`.
    """
    hints, values = get_type_hints(type(section)), dataclasses.asdict(section)
    return {
        section_field.name: _convert(values[section_field.name], hints[section_field.name], section_field.name)
        for section_field in _settable(section)
        if not result_only or section_field.metadata.get("result", True)
    }


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        advice = "; write --field=value if the value begins with a dash" if message.endswith("argument") else ""
        raise RecipeError(f"{COMMAND_LINE}: {message}{advice}")


def fields_in_words(section_type: type) -> dict[str, tuple[str, str, str]]:
    """Of every field of a section its type, its default and its help, in words."""
    hints, words = get_type_hints(section_type), {}
    for section_field in _settable(section_type):
        default = _default(section_field)
        shown = "required" if default is dataclasses.MISSING else f"default: {'none' if default is None else default}"
        words[section_field.name] = (
            describe_type(hints[section_field.name]),
            shown,
            section_field.metadata.get("help", ""),
        )
    return words


@cache  # it takes longer to make than all else of reading a recipe
def _parser(section_types: tuple[type, ...]) -> _Parser:
    """The parser of a command line, which leaves values as words."""
    hints = _hints(section_types)
    # HfArgumentParser only collects the words of each field. Its conversion of values would not serve the file, says
    # less when it fails, and it hands the metadata of a field to argparse, which refuses keys such as "result".
    stand_ins: list[Any] = []
    for section_type in section_types:
        stand_in_fields = []
        in_words = fields_in_words(section_type)
        for section_field in _settable(section_type):
            hint = hints[section_field.name]
            kind_in_words, shown, text = in_words[section_field.name]
            text = f"{text} ({kind_in_words}; {shown})".strip()
            default = (_default(section_field) is True) if hint is bool else None
            stand_in = dataclasses.field(default=default, metadata={"help": text.replace("%", "%%")})
            is_list = any(get_origin(part) is list for part in (hint, *get_args(hint)))
            kind = bool if hint is bool else list[str] if is_list else str
            stand_in_fields.append((section_field.name, kind, stand_in))
        group = {"_argument_group_name": section_type.__name__}
        stand_ins.append(dataclasses.make_dataclass(section_type.__name__, stand_in_fields, namespace=group))

    parser = _Parser(
        stand_ins,
        usage="%(prog)s [recipe.yaml] [--field value ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("recipe", nargs="?", help="YAML file of fields and values")
    parser.set_defaults(**dict.fromkeys(hints, _NOT_GIVEN))
    return parser


def _parse_command_line(
    section_types: tuple[type, ...], argv: Sequence[str] | None, description: str | None
) -> tuple[str | None, dict[str, Any]]:
    """The path of the recipe, if one was given, and the raw values of the fields that were given."""
    parser, hints = _parser(section_types), _hints(section_types)
    parser.prog, parser.description = Path(sys.argv[0]).name, description
    namespace, rest = parser.parse_known_args(argv)
    for word in rest:
        if word.startswith("-"):
            name = word.lstrip("-").split("=")[0].replace("-", "_")
            raise RecipeError(f"{COMMAND_LINE}: {unknown_field(name, hints)}")
    if rest:
        raise RecipeError(f"{COMMAND_LINE}: expected one recipe file and --field value pairs, got {rest[0]!r} too")
    given = {name: value for name, value in vars(namespace).items() if name in hints and value is not _NOT_GIVEN}
    return namespace.recipe, given


def _read_recipe_file(path: Path) -> dict[Any, Any]:
    if path.stat().st_size > MOST_BYTES:
        raise RecipeError(f"{path}: {path.stat().st_size:,} bytes are no recipe, which is lines of `field: value`")
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=LOADER)):
            raise RecipeError(f"{path}: a recipe has no aliases (*name): write the value where it is meant")
        tree, values = yaml.compose(text, Loader=LOADER), yaml.load(text, Loader=LOADER)
    except RecipeError:
        raise
    except RecursionError:
        raise RecipeError(f"{path}: a recipe is lines of `field: value`, this file is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe is lines of `field: value`, this file holds a {type(values).__name__}")
    names = [str(key.value) for key, _ in tree.value]
    for name in names:
        if names.count(name) > 1:  # YAML would silently keep the last one
            raise RecipeError(f"{path}: {name} is set more than once")
    for key, node in tree.value:
        for scalar in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if str(scalar.tag).endswith(":int") and not re.fullmatch(r"[-+]?(0|[1-9][0-9_]*)", scalar.value):
                raise RecipeError(  # YAML 1.1 reads 010 as 8 and 1:30 as 90
                    f"{path}: {key.value}: write {scalar.value} as a plain whole number; YAML would read another one"
                )
    return values


def _settable(section: Any) -> list[dataclasses.Field]:
    return [section_field for section_field in dataclasses.fields(section) if section_field.init]


def _default(section_field: dataclasses.Field) -> Any:
    if section_field.default_factory is not dataclasses.MISSING:
        return section_field.default_factory()
    return section_field.default


def _convert(value: Any, hint: Any, name: str) -> Any:
    """The value as the type `hint`, from a word of the command line or what YAML made of it."""
    try:
        return _fit(value, hint)
    except ValueError:
        advice = ""
        if isinstance(value, bool):
            advice = " (YAML reads yes, no, on and off without quotes as true and false)"
        raise RecipeError(f"{name}: expected {describe_type(hint)}, got {reprlib.repr(value)}{advice}") from None


def _fit(value: Any, hint: Any) -> Any:
    arguments = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [argument for argument in arguments if argument is not types.NoneType]
        # a choice may be called "none"
        is_choice = any(get_origin(kind) is Literal and value in get_args(kind) for kind in kinds)
        is_null = value is None or (value in (*NULL_WORDS, ["none"], ["null"]) and not is_choice)
        if is_null and types.NoneType in arguments:
            return None
        for kind in kinds:
            with suppress(ValueError):
                return _fit(value, kind)
        raise ValueError
    if get_origin(hint) is list and isinstance(value, list):
        return [_fit(item, arguments[0]) for item in value]
    if get_origin(hint) is Literal:
        for choice in arguments:
            if value == str(choice) or (value == choice and type(value) is type(choice)):
                return choice
    elif hint is bool and isinstance(value, bool | str):
        if str(value).lower() in BOOLEAN_WORDS:
            return BOOLEAN_WORDS[str(value).lower()]
    elif hint is int and isinstance(value, int | str) and not isinstance(value, bool):
        return int(value)
    elif hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        if math.isfinite(number := float(value)):  # YAML 1.1 reads 1e-7 as text
            return number
    elif hint is str and isinstance(value, str):
        return value
    raise ValueError
