"""From an artifact to a table: fresh students of it, and what they are set against."""

from pathlib import Path

from accelerate import Accelerator

from ..evaluation import (
    FULL_DATA,
    RANDOM_REAL,
    AccuracyResult,
    EvaluationArguments,
    ReportRow,
    evaluate_artifact,
    evaluate_full_data,
    evaluate_random_real,
    random_real_artifact,
    write_results,
)
from ..hub.artifact import weights_fingerprint
from ..recipe import Recipe
from ..storage import StorageFigures, describe_storage, describe_training_set, equal_storage_images_per_class
from .inputs import evaluation_facts, open_evaluation, open_real_data, student_network, system_name


def evaluate(recipe: Recipe, accelerator: Accelerator) -> list[ReportRow]:
    """
    Trains fresh students on an artifact and scores them once on `evaluation_split`; beside it, under the same recipe,
    random real images at equal storage and the full training set. With `students_of: full_data`, that alone.

    Returns:
        The rows of the table, which are also written to the [`results_file`] in `output_dir`.

    Raises:
        `ValueError`: if there is no such split, or the artifact is damaged or of other data.
        `OSError`: if there is no artifact, or `output_dir` cannot be written.
    """
    arguments, seed, network = recipe.evaluation, recipe.distillation.seed, student_network(recipe)
    rows: list[ReportRow] = []
    if arguments.students_of == "full_data":
        data, split = open_real_data(recipe, accelerator)
        facts = evaluation_facts(recipe, None, data, accelerator)
    else:
        artifact, model, processor, data, split = open_evaluation(recipe, accelerator)
        facts = {
            "weights_fingerprint": weights_fingerprint(model),
            **evaluation_facts(recipe, artifact, data, accelerator),
        }
    train_images, shape, value_bytes = len(data.train), data.image_shape, data.bytes_per_value

    def add(system: str, result: AccuracyResult, storage: StorageFigures) -> None:
        rows.append(ReportRow(system, result, storage))
        if accelerator.is_main_process:  # row by row: an interruption loses no more than one
            write_results(Path(recipe.distillation.output_dir) / results_file(arguments), rows, **facts)

    if arguments.students_of == "artifact":
        result = evaluate_artifact(model, split, processor, network, arguments, seed, accelerator)
        add(system_name(artifact, model), result, describe_storage(model.storage(), train_images, shape, value_bytes))
        if arguments.references in ("random", "all"):
            images_per_class = equal_storage_images_per_class(model.config)
            result = evaluate_random_real(data, split, images_per_class, network, arguments, seed, accelerator)
            plain = random_real_artifact(data, images_per_class, seed).storage()
            add(RANDOM_REAL, result, describe_storage(plain, train_images, shape, value_bytes))
    if arguments.students_of == "full_data" or arguments.references == "all":
        result = evaluate_full_data(data, split, network, arguments, seed, accelerator)
        add(FULL_DATA, result, describe_training_set(train_images, shape, data.num_labels, value_bytes))
    return rows


def results_file(arguments: EvaluationArguments) -> str:
    """The file in `output_dir` that `evaluate` writes."""
    if arguments.students_of == "full_data":
        return "full_data.json"
    return {"test": "results.json", "validation": "validation.json"}[arguments.evaluation_split]
