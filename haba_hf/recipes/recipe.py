"""
A recipe: every setting of one run, in one flat YAML file that the command line may override.

    python training/distill.py training/recipes/digits/dm-1pc.yaml --bases_per_class 2 --resize none

The command line wins over the file, the file over the defaults. Each room of the package declares its own section, a
dataclass, and the names of the fields are unique over all sections. A field with metadata `{"result": False}` does not
change what a run computes (a folder, a tracker) and stays out of the hash that tells two recipes apart.

What a user can get wrong is raised as `ValueError`, `FileNotFoundError` or another `OSError` whose message is one
sentence that says what to do; `run_script` prints that sentence in place of a traceback.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from transformers.utils.logging import disable_progress_bar

from ..coresets import CoresetArguments
from ..data import DataArguments
from ..distillation import (
    AdversaryArguments,
    DistillationArguments,
    DistributionMatchingArguments,
    ExpertArguments,
    FeatureAlignmentArguments,
    GradientMatchingArguments,
    IdcArguments,
    LabelDistillationArguments,
    LinearGradientMatchingArguments,
    ModelArguments,
    TrajectoryMatchingArguments,
)
from ..evaluation import (
    CrossArchitectureArguments,
    EmbeddingArguments,
    EvaluationArguments,
    RobustnessArguments,
    TeacherArguments,
)
from ..networks import NetworkArguments
from ..utils.allocator import keep_freed_memory
from ..utils.files import atomic_file
from ..utils.interrupts import GO_ON, Terminated, ended_by_its_reader, terminated_like_interrupted
from ..utils.text import plain
from .sections import RecipeError, fields_in_words, parse_sections, section_values, sections_of


@dataclass
class Recipe:
    """All settings of one run, section by section."""

    data: DataArguments = field(default_factory=DataArguments)
    model: ModelArguments = field(default_factory=ModelArguments)
    network: NetworkArguments = field(default_factory=NetworkArguments)
    experts: ExpertArguments = field(default_factory=ExpertArguments)
    coreset: CoresetArguments = field(default_factory=CoresetArguments)
    distillation: DistillationArguments = field(default_factory=DistillationArguments)
    adversary: AdversaryArguments = field(default_factory=AdversaryArguments)
    distribution_matching: DistributionMatchingArguments = field(default_factory=DistributionMatchingArguments)
    trajectory_matching: TrajectoryMatchingArguments = field(default_factory=TrajectoryMatchingArguments)
    gradient_matching: GradientMatchingArguments = field(default_factory=GradientMatchingArguments)
    idc: IdcArguments = field(default_factory=IdcArguments)
    feature_alignment: FeatureAlignmentArguments = field(default_factory=FeatureAlignmentArguments)
    label_distillation: LabelDistillationArguments = field(default_factory=LabelDistillationArguments)
    linear_gradient_matching: LinearGradientMatchingArguments = field(default_factory=LinearGradientMatchingArguments)
    evaluation: EvaluationArguments = field(default_factory=EvaluationArguments)
    teacher: TeacherArguments = field(default_factory=TeacherArguments)
    cross_architecture: CrossArchitectureArguments = field(default_factory=CrossArchitectureArguments)
    robustness: RobustnessArguments = field(default_factory=RobustnessArguments)
    embedding: EmbeddingArguments = field(default_factory=EmbeddingArguments)

    def sections(self) -> dict[str, Any]:
        """The sections by name, in order."""
        return dict(vars(self))

    def to_dict(self, result_only: bool = False) -> dict[str, Any]:
        """All fields of all sections in one flat dictionary, or those alone that change the result."""
        values = [section_values(section, result_only) for section in self.sections().values()]
        return {name: value for section in values for name, value in section.items()}

    @property
    def hash(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of all fields that change the result."""
        return self.hash_of(*self.sections())

    def hash_of(self, *section_names: str) -> str:
        """
        Like `hash`, over some sections only: what was made by a part of the recipe stays valid while that part stays.

        Args:
            section_names (`str`): names of fields of `Recipe`, such as `"data"` and `"network"`.
        """
        sections = self.sections()
        chosen = {name: section_values(sections[name], result_only=True) for name in section_names}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]

    def write(self, path: str | Path) -> None:
        """
        Write the recipe as a YAML file that `parse_recipe` reads back. The file appears whole or not at all.

        Raises:
            `OSError`: if the file cannot be written.
        """
        parts = [
            f"# {name}\n{yaml.safe_dump(section_values(section), sort_keys=False, allow_unicode=True)}"
            for name, section in self.sections().items()
        ]
        with atomic_file(path) as aside:
            aside.write_text("\n".join(parts), encoding="utf-8")


def parse_recipe(argv: Sequence[str] | None = None, description: str | None = None) -> Recipe:
    """
    Read a recipe from a command line: `[RECIPE] [--field value ...]`, where RECIPE is a file or a name as in
    [`recipe_path`].

    Args:
        argv (`Sequence[str]`, *optional*, defaults to the arguments of the process): what follows the script's name.
        description (`str`, *optional*): what `--help` says first; a script passes its docstring.

    Raises:
        `RecipeError`: if a field is unknown, or a value does not fit its field.
        `FileNotFoundError`: if there is no such recipe.
    """
    return Recipe(*parse_sections(get_type_hints(Recipe).values(), argv, description))


def field_index() -> dict[str, dict[str, Any]]:
    """What `fields.json` holds: of every section its title and, of each field, type, default and help in words."""
    return {
        name: {
            "title": (kind.__doc__ or "").strip().splitlines()[0],
            "fields": {field: list(words) for field, words in fields_in_words(kind).items()},
        }
        for name, kind in get_type_hints(Recipe).items()
    }


def recipe_of(**fields: Any) -> Recipe:
    """
    A recipe from fields in Python, each of its own type; the others have their defaults.

    Raises:
        `RecipeError`: if a field is unknown; names the nearest.
        `ValueError`: if a value does not fit its field.
    """
    return Recipe(*sections_of(tuple(get_type_hints(Recipe).values()), fields))


def data_arguments_of(recipe: Mapping[str, Any], **changes: Any) -> DataArguments:
    """
    The section of data of a recipe that was saved, with some of its fields set otherwise.

    Raises:
        `ValueError`: if a value does not fit its field.
    """
    known = {section_field.name for section_field in fields(DataArguments)}
    values = {name: value for name, value in {**recipe, **changes}.items() if name in known}
    (arguments,) = sections_of((DataArguments,), values)
    return arguments


def run_script(main: Callable[[], None]) -> None:
    """
    Run the `main` of a script; print what the user got wrong in one line on stderr and exit with status 2. After
    Ctrl-C or SIGTERM, print how to go on and exit with status 130 or 143.

    With the environment variable `HABA_DEBUG` set, the error is raised with its traceback instead.
    """
    disable_progress_bar()  # transformers' own, for a file of some kilobytes
    keep_freed_memory()
    try:
        with terminated_like_interrupted(), ended_by_its_reader():
            main()
    except (KeyboardInterrupt, Terminated) as stop:
        print(f"stopped: {str(stop) or GO_ON}", file=sys.stderr)
        sys.exit(stop.code if isinstance(stop, Terminated) else 130)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        if os.environ.get("HABA_DEBUG"):
            raise
        message = plain(error) or type(error).__name__
        hint = "" if isinstance(error, RecipeError) else " (HABA_DEBUG=1 shows where)"
        print(f"error: {message}{hint}", file=sys.stderr)
        sys.exit(2)
