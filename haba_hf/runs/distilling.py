"""From a recipe to a distilled artifact."""

import copy
import dataclasses
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..artifact.budget import check_budget, describe_training_set
from ..artifact.modeling_haba import HabaModel
from ..data import ImageData, Splits, load_image_data
from ..distillation import (
    Distiller,
    DistributionMatching,
    ExpertStore,
    FeatureAlignment,
    GradientMatching,
    IdcMatching,
    LabelDistillation,
    LinearGradientMatching,
    Objective,
    Observer,
    TrajectoryMatching,
    UnrolledTraining,
    initial_model,
)
from ..evaluation import EvaluationArguments, evaluate_artifact
from ..hub.artifact import GALLERY, TRAINING_CURVES
from ..hub.galleries import save_gallery
from ..hub.plots import plot_training_curves
from ..hub.records import DISTILLATION
from ..recipes import Recipe, section_values
from ..utils.allocator import peak_memory
from ..utils.files import atomic_directory, locked, write_json
from ..utils.fingerprints import weights_fingerprint
from .inputs import load_artifact
from .provenance import draw, environment, source_facts, student_network, write_model

# What a run computes depends on these sections, and on those of its objective alone.
RUN_SECTIONS = ("data", "model", "network", "distillation", "adversary")
OBJECTIVE_SECTIONS = {
    "dm": ["distribution_matching"],
    "mtt": ["experts", "trajectory_matching"],
    "dc": ["gradient_matching"],
    "dsa": ["gradient_matching"],
    "idc": ["gradient_matching", "idc"],
    "cafe": ["feature_alignment"],
    "dd": [],
    "ld": ["label_distillation"],
    "linear": ["linear_gradient_matching"],
}


def distill(
    recipe: Recipe, accelerator: Accelerator, splits: Splits | None = None, observer: Observer | None = None
) -> Path:
    """
    Distils the recipe's data (Algorithm 1), resuming an interrupted run, and writes `output_dir/artifact`: config,
    weights, processor, recipe, `distillation.json` (what was run, where, how long), gallery and training curves.

    Args:
        recipe ([`Recipe`]): all settings.
        accelerator (`Accelerator`): device and processes.
        splits (`Mapping[str, datasets.Dataset]`, *optional*): the data, where they are in memory.
        observer ([`Observer`], *optional*): looks on.

    Returns:
        The artifact's folder.

    Raises:
        `ValueError`, `FileNotFoundError`, `OSError`: on bad settings, before anything is computed.
        `FloatingPointError`: if a gradient becomes NaN or infinite.
    """
    with locked(recipe.distillation.output_dir) if accelerator.is_main_process else nullcontext():
        return _distill(recipe, accelerator, splits, observer)


def _distill(recipe: Recipe, accelerator: Accelerator, splits: Splits | None, observer: Observer | None) -> Path:
    arguments = recipe.distillation
    data = load_image_data(recipe.data, needs_test=False, splits=splits)
    if recipe.model.init_from is not None:
        load_artifact(recipe.model.init_from)  # it is what its record is about, or refused
    model = initial_model(recipe.model, data, arguments.seed)
    started_from = weights_fingerprint(model) if recipe.model.init_from is not None else None
    if recipe.model.storage_budget is not None:
        check_budget(model.config, recipe.model.storage_budget)
    accelerator.print(f"{data.summary()}\n  -> {model.storage().floats:,} floats")
    for note in _note_on_size(model, data):
        accelerator.print(note)
    distiller = Distiller(
        model,
        build_objective(recipe, data),
        arguments,
        recipe.adversary,
        recipe.network,
        data,
        accelerator,
        # Of data and artifacts themselves, too: what is in a folder may have changed.
        settings=run_settings(recipe) | {"data_fingerprint": data.fingerprint, "started_from": started_from},
        validate=_validation(recipe, data, accelerator) if arguments.validate_every else None,
        observer=observer,
    )
    if arguments.report_to != "none":
        accelerator.init_trackers("haba", config={name: str(value) for name, value in recipe.to_dict().items()})
    started = time.perf_counter()
    distiller.run()
    seconds = time.perf_counter() - started
    path = Path(arguments.output_dir) / "artifact"
    if accelerator.is_main_process:
        write_artifact(path, distiller, recipe, data, started_from)
        accelerator.print(f"{path}: written after {seconds:.0f} s")
    accelerator.wait_for_everyone()
    return path


def _note_on_size(model: HabaModel, data: ImageData) -> list[str]:
    """A sentence if the artifact takes more bytes than the training set's own values, and is none to distil to."""
    sizes = len(data.train), data.image_shape, data.num_labels, data.bytes_per_value
    taken, given = model.storage().bytes, describe_training_set(*sizes).bytes
    if taken < given:
        return []
    shape = " ".join(map(str, data.image_shape))
    return [
        f"The artifact takes {taken:,} bytes, as much as the {given:,} of the training set: lower bases_per_class or "
        f"storage_budget. For a tenth of it: haba plan --max_bytes {max(given // 10, 1)} --num_labels "
        f"{data.num_labels} --sample_shape {shape}"
    ]


def run_settings(recipe: Recipe) -> dict[str, Any]:
    """
    What a checkpoint depends on, by name: another objective's section leaves it valid. Validation is a part of it
    where it chooses the step that is kept.
    """
    arguments, sections = recipe.distillation, recipe.sections()
    names = [*RUN_SECTIONS, *OBJECTIVE_SECTIONS[arguments.objective], *(["evaluation"] if arguments.keep_best else [])]
    settings = {name: value for of in names for name, value in section_values(sections[of], result_only=True).items()}
    rule = ("validate_every", "validation_seeds", "validation_epochs") if arguments.keep_best else ()
    return settings | {name: getattr(arguments, name) for name in rule}


def build_objective(recipe: Recipe, data: ImageData) -> Objective:
    """The recipe's objective; trajectory matching opens its experts."""
    network, arguments = recipe.network, recipe.distillation
    match arguments.objective:
        case "dm":
            return DistributionMatching(network, arguments, recipe.distribution_matching)
        case "mtt":
            experts = ExpertStore(recipe.experts, network, data)
            return TrajectoryMatching(experts, network, arguments, recipe.trajectory_matching)
        case "dc" | "dsa":
            return GradientMatching(network, arguments, recipe.gradient_matching)
        case "idc":
            return IdcMatching(network, arguments, recipe.gradient_matching, recipe.idc)
        case "cafe":
            return FeatureAlignment(network, arguments, recipe.feature_alignment)
        case "dd":
            return UnrolledTraining(network, arguments)
        case "ld":
            return LabelDistillation(network, arguments, recipe.label_distillation)
        case "linear":
            return LinearGradientMatching(network, arguments, recipe.linear_gradient_matching)


def write_artifact(
    path: Path, distiller: Distiller, recipe: Recipe, data: ImageData, started_from: str | None = None
) -> None:
    """
    The folder of a run's artifact in one piece, with where it comes from (of `init_from` the fingerprint of the
    weights that it started with); then its pictures.
    """
    model, accelerator, device = distiller.model, distiller.accelerator, distiller.accelerator.device
    with atomic_directory(path) as aside:
        provenance = {
            **write_model(aside, model, data.processor, recipe),
            **source_facts(recipe, data),
            "bases_per_class": model.config.bases_per_class,
            "samples_per_class": model.config.samples_per_class,
            "steps": distiller.step_number,
            "seconds": round(distiller.seconds, 1),
            "ended_by": distiller.ended_by,
            **({} if distiller.best is None else {"kept_step": distiller.best["step"]}),
            **({} if started_from is None else {"started_from": started_from}),
            "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory(),
            **environment(accelerator),
        }
        write_json(aside / DISTILLATION, provenance)
    # Ornaments after it, each by itself: a picture that cannot be drawn costs no artifact.
    metrics = Path(recipe.distillation.output_dir) / "metrics.jsonl"
    draw(accelerator, path / GALLERY, lambda file: save_gallery(model, data.processor, file))
    draw(accelerator, path / TRAINING_CURVES, lambda file: plot_training_curves(metrics, file))


def _validation(recipe: Recipe, data: ImageData, accelerator: Accelerator) -> Callable[[HabaModel, int], float]:
    if not len(data.validation):
        raise ValueError("validate_every needs a validation split: set validation_fraction above 0.")
    if recipe.evaluation.evaluation_protocol == "schedule" and not recipe.model.num_step_sizes:
        raise ValueError("evaluation_protocol schedule needs step sizes: set num_step_sizes, or the protocol to sgd.")
    arguments: EvaluationArguments = dataclasses.replace(
        recipe.evaluation,
        evaluation_seeds=recipe.distillation.validation_seeds,
        student_epochs=recipe.distillation.validation_epochs or recipe.evaluation.student_epochs,
        evaluation_steps=None if recipe.distillation.validation_epochs else recipe.evaluation.evaluation_steps,
    )

    def validate(model: HabaModel, step: int) -> float:
        if model.config.storage_dtype != "float32":  # as it would be loaded again; the run goes on in float32
            model = copy.deepcopy(model)
            model.round_to_storage()
        result = evaluate_artifact(
            model, data.validation, data.processor, student_network(recipe), arguments, step, accelerator
        )
        return 100 * result.mean

    return validate
