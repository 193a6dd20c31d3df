"""From an artifact to a table: fresh students of it, and what it is compared with."""

from pathlib import Path

from accelerate import Accelerator

from ..data import Splits
from ..evaluation import EvaluationArguments, ReportRow, write_results
from ..evaluation.scores import scores_of
from ..hub.records import RESULTS
from ..recipes import Recipe
from .inputs import evaluation_facts, open_evaluation, open_real_data
from .systems import compared_systems, full_data_system


def evaluate(recipe: Recipe, accelerator: Accelerator, splits: Splits | None = None) -> list[ReportRow]:
    """
    Trains fresh students on an artifact and scores them once on `evaluation_split`; beside it, under the same recipe,
    random real images at equal storage and the full training set. With `students_of: full_data`, that alone.

    Args:
        recipe ([`Recipe`]): all settings.
        accelerator (`Accelerator`): device and processes.
        splits (`Mapping[str, datasets.Dataset]`, *optional*): the data, where they are in memory.

    Returns:
        The rows of the table, which are also written to the [`results_file`] in `output_dir`.

    Raises:
        `ValueError`: if there is no such split, or the artifact is damaged or of other data.
        `OSError`: if there is no artifact, or `output_dir` cannot be written.
        `FloatingPointError`: if a student diverges.
    """
    arguments = recipe.evaluation
    if arguments.students_of == "full_data":
        data, split = open_real_data(recipe, accelerator, splits)
        systems = [full_data_system(recipe, data, split, accelerator)]
        facts = evaluation_facts(recipe, data, accelerator, None)
    else:
        opened = open_evaluation(recipe, accelerator, splits)
        systems = compared_systems(recipe, opened, accelerator)
        facts = evaluation_facts(recipe, opened.data, accelerator, opened)
    rows: list[ReportRow] = []
    for system in systems:
        rows.append(ReportRow(system.name, system.evaluate(), system.storage, system.labels))
        if accelerator.is_main_process:  # row by row: an interruption loses no more than one
            path = Path(recipe.distillation.output_dir) / results_file(arguments)
            write_results(path, rows, scores=scores_of(rows), **facts)
    return rows


def results_file(arguments: EvaluationArguments) -> str:
    """The file in `output_dir` that `evaluate` writes."""
    if arguments.students_of == "full_data":
        return "full_data.json"
    return {"test": RESULTS, "validation": "validation.json"}[arguments.evaluation_split]
