"""What comes with the package and is found by name, without anything else of it: recipes, and their fields."""

import difflib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

# Of every section of a recipe, in order: what it says of itself, and its fields with their type, default and help, in
# words. `python -m haba_hf.recipes` writes it from the sections, and a test holds it against them: it is what `haba`
# reads to help, or to tell a slip of the keyboard, before torch could be imported.
FIELDS = Path(__file__).parents[1] / "recipes" / "fields.json"


def shipped_folder(name: str) -> Path:
    """A folder that comes with the package: inside it in a wheel, beside it in the repository."""
    package = Path(__file__).parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def recipes_folder() -> Path:
    """The folder of the recipes that come with the package."""
    return shipped_folder("training/recipes")


def hub_cards_folder() -> Path:
    """The folder of the cards' templates and of the published artifacts."""
    return shipped_folder("hub_cards")


def recipe_path(recipe: str | Path) -> Path:
    """
    The file of a recipe: itself, or the one of that name (`"mnist/dm-1pc"`) that comes with the package.

    Raises:
        `FileNotFoundError`: if there is neither, naming those that come near.
    """
    path, named = Path(recipe), recipes_folder() / f"{recipe}.yaml"
    if not path.is_file() and not named.is_file():
        raise FileNotFoundError(f"there is no recipe {recipe}; {near_recipes(path)}")
    return path if path.is_file() else named


def recipe_names() -> list[str]:
    """The recipes that come with the package, such as `"mnist/dm-1pc"`."""
    folder = recipes_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def recipe_header(recipe: str | Path) -> str:
    """What the comment at the head of a recipe says, as one line."""
    lines = recipe_path(recipe).read_text(encoding="utf-8").splitlines()
    comments = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.lstrip("# ") for line in comments)


def first_sentence(text: str) -> str:
    """Up to the first point that a new sentence follows; that of "w. HaBa" ends none."""
    return re.split(r"(?<!\bw)\. (?=[A-Z])|: ", text, maxsplit=1)[0]


def near_recipes(path: Path) -> str:
    """What to say of a recipe that does not exist: those whose names come near."""
    folder = path if path.is_dir() else path.parent
    found = {
        **{"/".join(file.parts[-2:]): str(file) for file in sorted(folder.glob("*.yaml"))},
        **{f"{name}.yaml": name for name in recipe_names()},
    }
    near = difflib.get_close_matches("/".join(path.with_suffix(".yaml").parts[-2:]), found, n=4, cutoff=0.5)
    if not near:
        return "haba list recipes names those that come with haba_hf"
    return "did you mean " + " or ".join(found[name] for name in near) + "?"


def published_artifacts() -> dict[str, Path]:
    """The folders of the artifacts that come with haba_hf, by name."""
    return {path.parent.name: path.parent for path in sorted(hub_cards_folder().glob("published/*/config.json"))}


def published_artifact(name: str) -> Path:
    """
    The folder of an artifact that comes with haba_hf: in a checkout of all in `hub_cards/published`, without one of
    `digits-dm-1pc`.

    Raises:
        `FileNotFoundError`: if there is none of that name; names those there are.
    """
    there = published_artifacts()
    if name not in there:
        raise FileNotFoundError(f"No artifact {name} comes with haba_hf here; there are {', '.join(there)}.")
    return there[name]


@cache
def fields() -> Mapping[str, Mapping[str, Any]]:
    """The content of [`FIELDS`]."""
    return json.loads(FIELDS.read_text(encoding="utf-8"))


def did_you_mean(name: str, names: Iterable[str], otherwise: str) -> str:
    """A question for the nearest of some names, or, if none comes near, something else."""
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise


def unknown_field(name: str, names: Iterable[str]) -> str:
    """What to say of a field that does not exist."""
    return f"unknown field {name!r}; {did_you_mean(name, names, '--help lists the fields')}"
