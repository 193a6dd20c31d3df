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

from ..artifact.budget import check_budget, describe_training_set, storage_of
from ..artifact.configuration_haba import HabaConfig
from ..artifact.modeling_haba import HabaModel
from ..coresets import images_to_keep
from ..data import ImageData, Splits
from ..distillation import (
    DistillationArguments,
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
    model_config,
)
from ..distillation.distiller import METRICS
from ..evaluation import (
    EvaluationArguments,
    Teacher,
    evaluate_artifact,
    hallucinator_variety,
    labelled,
    teacher_settings,
    trained_teacher,
)
from ..evaluation.report import LEARNED, LEARNED_FROM_TEACHER, OF_TEACHER
from ..hub.artifact import GALLERY, TRAINING_CURVES
from ..hub.galleries import save_gallery
from ..hub.plots import plot_training_curves
from ..hub.records import DISTILLATION
from ..recipes import Recipe, section_values
from ..utils.allocator import peak_memory
from ..utils.files import atomic_directory, locked, write_json
from ..utils.fingerprints import weights_fingerprint
from .inputs import load_artifact, training_data
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
    recipe: Recipe,
    accelerator: Accelerator,
    given: ImageData | Splits | None = None,
    observer: Observer | None = None,
) -> Path:
    """
    Distils the recipe's data (Algorithm 1), resuming an interrupted run, and writes `output_dir/artifact`: config,
    weights, processor, recipe, `distillation.json` (what was run, where, how long), gallery and training curves.

    Args:
        recipe ([`Recipe`]): all settings.
        accelerator (`Accelerator`): device and processes.
        given ([`ImageData`] or `Mapping[str, datasets.Dataset]`, *optional*): the data, where they are in memory.
        observer ([`Observer`], *optional*): looks on.

    Returns:
        The artifact's folder.

    Raises:
        `ValueError`, `FileNotFoundError`, `OSError`: on bad settings, before anything is computed.
        `FloatingPointError`: if a gradient becomes NaN or infinite.
    """
    with locked(recipe.distillation.output_dir) if accelerator.is_main_process else nullcontext():
        return _distill(recipe, accelerator, given, observer)


def _distill(
    recipe: Recipe, accelerator: Accelerator, given: ImageData | Splits | None, observer: Observer | None
) -> Path:
    arguments = recipe.distillation
    data = training_data(recipe, given)
    if recipe.model.init_from is not None:
        load_artifact(recipe.model.init_from)  # it is what its record is about, or refused
    config = model_config(recipe.model, data)
    if recipe.model.storage_budget is not None:
        check_budget(config, recipe.model.storage_budget)
    accelerator.print(f"{data.summary()}\n  -> {storage_of(config).floats:,} floats")
    for note in _note_on_size(config, data):
        accelerator.print(note)
    objective = build_objective(recipe, data)
    drawn, pruning = _pruned(recipe, data, accelerator)
    model = initial_model(recipe.model, drawn, arguments.seed)
    started_from = weights_fingerprint(model) if recipe.model.init_from is not None else None
    teacher = _teacher(recipe, data, accelerator) if recipe.model.asks_a_teacher else None
    if teacher is not None and model.label_logits is not None:
        model.set_labels(teacher.labels(model))
    distiller = Distiller(
        model,
        objective,
        arguments,
        recipe.adversary,
        recipe.network,
        drawn,
        accelerator,
        # Of data and artifacts themselves, too: what is in a folder may have changed.
        settings=run_settings(recipe)
        | {"data_fingerprint": drawn.fingerprint, "started_from": started_from}
        | ({} if teacher is None else {"teacher": teacher.fingerprint, **teacher.settings}),
        defaults=run_settings(Recipe(distillation=DistillationArguments(objective=arguments.objective))),
        validate=_validation(recipe, data, accelerator, teacher) if arguments.validate_every else None,
        observer=observer,
    )
    if arguments.report_to != "none":
        accelerator.init_trackers("haba", config={name: str(value) for name, value in recipe.to_dict().items()})
    started = time.perf_counter()
    distiller.run()
    seconds = time.perf_counter() - started
    path = Path(arguments.output_dir) / "artifact"
    if accelerator.is_main_process:
        write_artifact(path, distiller, recipe, data, started_from, teacher, pruning)
        accelerator.print(f"{path}: written after {seconds:.0f} s")
    accelerator.wait_for_everyone()
    return path


def _pruned(recipe: Recipe, data: ImageData, accelerator: Accelerator) -> tuple[ImageData, dict[str, Any]]:
    """The data without what `pruning_ratio` leaves out, and its record; by the network of students."""
    ratio, seed = recipe.distillation.pruning_ratio, recipe.distillation.seed
    if not ratio:
        return data, {}
    kept, seconds = images_to_keep(data, ratio, student_network(recipe), recipe.coreset, seed, accelerator)
    accelerator.print(f"{len(kept):,} of {len(data.train):,} training images are left, those of least loss")
    return data.keeping(kept), {"kept_images": len(kept), "pruning_seconds": round(seconds, 3)}


def _teacher(recipe: Recipe, data: ImageData, accelerator: Accelerator) -> Teacher:
    """The recipe's: a network of its own architecture, trained as a student of the full real data."""
    if recipe.model.label_kind == "teacher" and recipe.distillation.objective == "ld":
        raise ValueError(
            "Label distillation (ld) learns labels: set label_kind to soft, and label_init to teacher to start from a "
            "teacher's."
        )
    settings = teacher_settings(recipe.network, recipe.evaluation, recipe.teacher, recipe.distillation.seed)
    teacher = trained_teacher(settings, recipe.teacher.teacher_dir, data, accelerator)
    score = teacher.validation_accuracy
    reached = "" if score is None else f", {score:.1%} of the validation split"
    accelerator.print(f"Labels are of a teacher of {settings['real_student_epochs']} epochs{reached}")
    return teacher


def _note_on_size(config: HabaConfig, data: ImageData) -> list[str]:
    """A sentence if the artifact takes more bytes than the training set's own values, and is none to distil to."""
    sizes = len(data.train), data.image_shape, data.num_labels, data.bytes_per_value
    taken, given = config.num_bytes, describe_training_set(*sizes).bytes
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
    names = [
        *(*RUN_SECTIONS, *OBJECTIVE_SECTIONS[arguments.objective]),
        *(["evaluation"] if arguments.keep_best else []),
        *(["coreset"] if arguments.pruning_ratio else []),
    ]
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
    path: Path,
    distiller: Distiller,
    recipe: Recipe,
    data: ImageData,
    started_from: str | None = None,
    teacher: Teacher | None = None,
    pruning: dict[str, Any] | None = None,
) -> None:
    """
    The folder of a run's artifact in one piece, with where it comes from (of `init_from` the fingerprint of the
    weights that it started with, of a teacher's labels the teacher, of `pruning_ratio` how many images were left and
    how long their expert took); then its pictures.
    """
    model, accelerator, device = distiller.model, distiller.accelerator, distiller.accelerator.device
    if teacher is not None and model.label_logits is None:
        model = labelled(model, teacher)
    variety = hallucinator_variety(model)
    with atomic_directory(path) as aside:
        provenance = {
            **write_model(aside, model, data.processor, recipe),
            **source_facts(recipe, data),
            "bases_per_class": model.config.bases_per_class,
            "samples_per_class": model.config.samples_per_class,
            "steps": distiller.step_number,
            "seconds": round(distiller.seconds, 3),
            "ended_by": distiller.ended_by,
            **({} if distiller.best is None else {"kept_step": distiller.best["step"]}),
            **({} if started_from is None else {"started_from": started_from}),
            **({} if variety is None else {"hallucinator_variety": round(variety, 4)}),
            **({} if model.label_logits is None else {"labels": _labels(recipe)}),
            **({} if teacher is None else {"teacher": teacher.record()}),
            **(pruning or {}),
            "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory(),
            **environment(accelerator),
            "mixed_precision": "no",  # steps are of float32 however they were launched; experts may not be
            **_experts(distiller.objective),
        }
        write_json(aside / DISTILLATION, provenance)
    # Ornaments after it, each by itself: a picture that cannot be drawn costs no artifact.
    metrics = Path(recipe.distillation.output_dir) / METRICS
    draw(accelerator, path / GALLERY, lambda file: save_gallery(model, data.processor, file))
    draw(accelerator, path / TRAINING_CURVES, lambda file: plot_training_curves(metrics, file))


def _experts(objective: Objective) -> dict[str, str]:
    if not isinstance(objective, TrajectoryMatching):
        return {}
    return {"experts_mixed_precision": objective.experts.mixed_precision}


def _labels(recipe: Recipe) -> str:
    """Where the soft labels of a run's artifact come from."""
    if recipe.model.label_kind == "teacher":
        return OF_TEACHER
    return LEARNED_FROM_TEACHER if recipe.model.asks_a_teacher else LEARNED


def _validation(
    recipe: Recipe, data: ImageData, accelerator: Accelerator, teacher: Teacher | None
) -> Callable[[HabaModel, int], float]:
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
        if teacher is not None and model.label_logits is None:
            model = labelled(model, teacher)
        elif model.config.storage_dtype != "float32":  # as it would be loaded again; the run goes on in float32
            model = copy.deepcopy(model)
            model.round_to_storage()
        result = evaluate_artifact(
            model, data.validation, data.processor, student_network(recipe), arguments, step, accelerator
        )
        return 100 * result.mean

    return validate
