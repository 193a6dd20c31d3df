"""What a recipe does, from real data to a table: the functions behind the scripts in training/."""

import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_model
from tqdm.auto import tqdm

from .coresets import choose_coreset, real_images_artifact, real_images_config
from .data import ImageData, Split, load_image_data
from .distillation import (
    Distiller,
    DistributionMatching,
    ExpertStore,
    FeatureAlignment,
    GradientMatching,
    IdcMatching,
    LabelDistillation,
    Objective,
    TrajectoryMatching,
    UnrolledTraining,
    initial_model,
)
from .evaluation import (
    FULL_DATA,
    RANDOM_REAL,
    AccuracyResult,
    EvaluationArguments,
    ReportRow,
    accuracy,
    evaluate_artifact,
    evaluate_full_data,
    evaluate_random_real,
    random_real_artifact,
    write_json,
    write_results,
)
from .evaluation.students import TRAINING, artifact_training, train_fresh_student
from .files import atomic_directory, check_writable
from .hub.artifact import weights_fingerprint
from .hub.figures import plot_training_curves, save_gallery
from .modeling_haba import HabaModel
from .networks import NetworkArguments
from .pairing import seeded_generator
from .processors import HabaProcessor, check_same_space, load_processor
from .recipe import Recipe
from .storage import (
    StorageFigures,
    check_budget,
    describe_storage,
    describe_training_set,
    equal_storage_images_per_class,
)

CORESET = "coreset.json"  # what tells a chosen artifact from a distilled one


def start_accelerator(**settings: Any) -> Accelerator:
    """
    An `Accelerator` whose processes know of each other.

    Raises:
        `ValueError`: if a launcher started several processes that would each run alone.
    """
    accelerator = Accelerator(**settings)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched, but each of them runs alone: on CPUs, set ACCELERATE_USE_CPU=1 for "
            "the launcher."
        )
    return accelerator


def distill(recipe: Recipe, accelerator: Accelerator) -> Path:
    """
    Distils the recipe's data (Algorithm 1), resuming an interrupted run, and writes `output_dir/artifact`: config,
    weights, processor, recipe, `distillation.json` (what was run, where, how long), gallery and training curves.

    Returns:
        The artifact's folder.

    Raises:
        `ValueError`, `FileNotFoundError`, `OSError`: on bad settings, before anything is computed.
        `FloatingPointError`: if a gradient becomes NaN or infinite.
    """
    arguments = recipe.distillation
    data = load_image_data(recipe.data, allow_missing_test=True)
    model = initial_model(recipe.model, data, arguments.seed)
    if recipe.model.storage_budget is not None:
        check_budget(model.config, recipe.model.storage_budget)
    accelerator.print(f"{data.name}: {len(data.train):,} training images -> {model.storage().floats:,} floats")
    distiller = Distiller(
        model,
        build_objective(recipe, data),
        arguments,
        recipe.network,
        data,
        accelerator,
        # Of the recipe and of the data themselves: a folder's images may have changed.
        recipe_hash=f"{recipe.hash_of('data', 'model', 'network', 'experts', 'distillation')}-{data.fingerprint}",
        validate=_validation(recipe, data, accelerator) if arguments.validate_every else None,
    )
    if arguments.report_to != "none":
        accelerator.init_trackers("haba", config={name: str(value) for name, value in recipe.to_dict().items()})
    started = time.perf_counter()
    model = distiller.run()
    seconds = time.perf_counter() - started
    path = Path(arguments.output_dir) / "artifact"
    if accelerator.is_main_process:
        write_artifact(path, model, data.processor, recipe, data, accelerator)
        accelerator.print(f"{path}: written after {seconds:.0f} s")
    accelerator.wait_for_everyone()
    return path


def build_objective(recipe: Recipe, data: ImageData) -> Objective:
    """The recipe's objective; trajectory matching opens its experts."""
    if recipe.distillation.objective == "dm":
        return DistributionMatching(recipe.network, recipe.distillation)
    if recipe.distillation.objective in ("dc", "dsa"):
        return GradientMatching(recipe.network, recipe.distillation)
    if recipe.distillation.objective == "idc":
        return IdcMatching(recipe.network, recipe.distillation)
    if recipe.distillation.objective == "cafe":
        return FeatureAlignment(recipe.network, recipe.distillation)
    if recipe.distillation.objective == "dd":
        return UnrolledTraining(recipe.network, recipe.distillation)
    if recipe.distillation.objective == "ld":
        return LabelDistillation(recipe.network, recipe.distillation)
    experts = ExpertStore(recipe.experts, recipe.network, data)
    return TrajectoryMatching(experts, recipe.network, recipe.distillation)


def write_artifact(
    path: Path,
    model: HabaModel,
    processor: HabaProcessor,
    recipe: Recipe,
    data: ImageData,
    accelerator: Accelerator,
) -> None:
    """The artifact's folder in one piece, with its pictures and where it comes from."""
    metrics = Path(recipe.distillation.output_dir) / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    with atomic_directory(path) as aside:
        _write_model(aside, model, processor, recipe)
        provenance = {
            "recipe_hash": recipe.hash,
            "dataset": data.name,
            "data_fingerprint": data.fingerprint,
            "train_images": len(data.train),
            "steps": lines[-1]["step"],
            "seconds": round(sum(line["seconds"] for line in lines), 1),
            "peak_memory_bytes": peak_memory(accelerator.device),
            **environment(accelerator),
        }
        write_json(aside / "distillation.json", provenance)
        save_gallery(model, processor, aside / "gallery.png", bases_per_class=min(3, model.config.bases_per_class))
        plot_training_curves(metrics, aside / "training_curves.png")


def select_coreset(recipe: Recipe, accelerator: Accelerator) -> Path:
    """
    Chooses the recipe's coreset, `bases_per_class` real images of each class, and writes `output_dir/artifact`:
    config, images, processor, recipe, `coreset.json` (which rows of the training split, where and how long it took)
    and gallery. The main process does it, the others wait.

    Returns:
        The artifact's folder.

    Raises:
        `ValueError`: if the recipe asks for more than plain real images or a class has too few, or `output_dir` or
            `coreset_dir` holds something else.
        `OSError`: if a folder cannot be written.
        `FloatingPointError`: if the expert diverges.
    """
    settings, seed = recipe.model, recipe.distillation.seed
    if settings.num_hallucinators or settings.basis_channels or settings.label_kind != "hard":
        raise ValueError(
            "A coreset is real images with their labels, bases_per_class of each class: set num_hallucinators to 0 "
            "and label_kind to hard, and leave basis_channels out."
        )
    path = Path(recipe.distillation.output_dir) / "artifact"
    if path.exists() and not (path / CORESET).exists():
        raise ValueError(f"{path} is no coreset but was distilled: choose another output_dir, or remove it.")
    data = load_image_data(recipe.data, allow_missing_test=True)
    config = real_images_config(data, settings.bases_per_class, settings.student_learning_rate)
    if settings.storage_budget is not None:
        check_budget(config, settings.storage_budget)
    if accelerator.is_main_process:
        check_writable(recipe.distillation.output_dir)
        coreset = choose_coreset(data, config.bases_per_class, recipe.network, recipe.coreset, seed, accelerator)
        rows_of_class = coreset.rows.view(data.num_labels, -1).tolist()
        with atomic_directory(path) as aside:
            model = real_images_artifact(data, coreset.rows, config)
            _write_model(aside, model, data.processor, recipe)
            provenance = {
                "coreset": recipe.coreset.coreset,
                "recipe_hash": recipe.hash,
                "dataset": data.name,
                "data_fingerprint": data.fingerprint,
                "training_rows": dict(zip(data.class_names, rows_of_class, strict=True)),
                "seconds": round(coreset.seconds, 1),
                **environment(accelerator),
            }
            write_json(aside / CORESET, provenance)
            save_gallery(model, data.processor, aside / "gallery.png")
        accelerator.print(f"{path}: {len(coreset.rows)} of {len(data.train):,} training images")
    accelerator.wait_for_everyone()
    return path


def evaluate(recipe: Recipe, accelerator: Accelerator) -> list[ReportRow]:
    """
    Trains fresh students on an artifact and scores them once on `evaluation_split`; beside it, under the same recipe,
    random real images at equal storage and the full training set.

    Returns:
        The rows of the table, which are also written to `output_dir/results.json` (of the validation split:
        `validation.json`).

    Raises:
        `ValueError`: if there is no such split, or the artifact is damaged or of other data.
        `OSError`: if there is no artifact, or `output_dir` cannot be written.
    """
    artifact, model, processor, data, split = open_evaluation(recipe, accelerator)
    network = student_network(recipe)
    arguments, seed = recipe.evaluation, recipe.distillation.seed
    results = {"test": "results.json", "validation": "validation.json"}[arguments.evaluation_split]
    train_images, shape, value_bytes = len(data.train), data.image_shape, data.bytes_per_value

    rows: list[ReportRow] = []

    def add(system: str, result: AccuracyResult, storage: StorageFigures) -> None:
        rows.append(ReportRow(system, result, storage))
        if accelerator.is_main_process:  # row by row: an interruption loses no more than one
            path = Path(recipe.distillation.output_dir) / results
            facts = evaluation_facts(recipe, artifact, data, accelerator)
            write_results(path, rows, weights_fingerprint=weights_fingerprint(model), **facts)

    result = evaluate_artifact(model, split, processor, network, arguments, seed, accelerator)
    add(system_name(artifact, model), result, describe_storage(model.storage(), train_images, shape, value_bytes))
    if arguments.references in ("random", "all"):
        images_per_class = equal_storage_images_per_class(model.config)
        result = evaluate_random_real(data, split, images_per_class, network, arguments, seed, accelerator)
        plain = random_real_artifact(data, images_per_class, seed).storage()
        add(RANDOM_REAL, result, describe_storage(plain, train_images, shape, value_bytes))
    if arguments.references == "all":
        result = evaluate_full_data(data, split, network, arguments, seed, accelerator)
        add(FULL_DATA, result, describe_training_set(train_images, shape, data.num_labels, value_bytes))
    return rows


def train_one_student(recipe: Recipe, accelerator: Accelerator) -> float:
    """
    Trains one student on an artifact by online pairing, scores it once on `evaluation_split` and writes it to
    `output_dir/student`: `model.safetensors`, `student.json` (architecture, classes, training) and the artifact's
    processor.

    It is the first student of [`evaluate`], bit for bit. Of several processes each trains the same one.

    Returns:
        Its accuracy as a fraction of 1.

    Raises:
        `ValueError`: if there is no such split, or the artifact is damaged or of other data.
        `OSError`: if there is no artifact, or `output_dir` cannot be written.
        `FloatingPointError`: if the student diverges.
    """
    artifact, model, processor, data, split = open_evaluation(recipe, accelerator)
    architecture, arguments, seed = student_network(recipe), recipe.evaluation, recipe.distillation.seed
    generator = seeded_generator(seed, 0, TRAINING)
    training = artifact_training(model, arguments, accelerator.device)
    disable = None if accelerator.is_main_process else True  # None: shown only on a terminal
    with tqdm(desc="student", total=training.epochs, unit="epoch", disable=disable) as progress:
        network = train_fresh_student(
            0,
            training.batches_of_student(0, generator),
            generator,
            architecture,
            arguments,
            seed,
            image_shape=data.image_shape,
            num_labels=data.num_labels,
            epochs=training.epochs,
            learning_rate=training.learning_rate,
            accelerator=accelerator,
            on_epoch=lambda epoch, loss: progress.update(),
        )
    score = accuracy(network, split.images, split.labels, processor)
    if accelerator.is_main_process:
        with atomic_directory(Path(recipe.distillation.output_dir) / "student") as aside:
            save_model(network, str(aside / "model.safetensors"))
            processor.save_pretrained(aside)
            settings = {
                "accuracy": score,
                "network": dataclasses.asdict(architecture),
                "image_shape": data.image_shape,
                "class_names": data.class_names,
                "training": {
                    **dataclasses.asdict(arguments),
                    "evaluation_learning_rate": training.learning_rate,
                    "seed": seed,
                },
                "artifact": artifact,
                "recipe_hash": recipe.hash,
                "data_fingerprint": data.fingerprint,
                **environment(accelerator),
            }
            write_json(aside / "student.json", settings)
    accelerator.wait_for_everyone()
    return score


def load_artifact(artifact: str) -> tuple[HabaModel, HabaProcessor]:
    """
    Model and processor from a folder or a Hub id.

    Raises:
        `ValueError`: if it is damaged or not a haba artifact.
        `OSError`: if it does not exist or lacks a file.
    """
    if artifact.count("/") != 1 and not Path(artifact).is_dir():
        raise FileNotFoundError(f"There is no artifact {artifact}: it is neither a folder nor a Hub id (owner/name).")
    model = HabaModel.from_pretrained(artifact)
    return model, load_processor(artifact)


def environment(accelerator: Accelerator) -> dict:
    """Hardware and versions, as results are to be read with them."""
    libraries = ("haba_hf", "torch", "transformers", "datasets", "accelerate")
    device = accelerator.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or device.type,
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "mixed_precision": accelerator.mixed_precision,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in libraries},
    }


def system_name(artifact: str, model: HabaModel) -> str:
    """What an artifact is called in a table."""
    provenance = Path(artifact) / CORESET
    if provenance.is_file():
        return f"coreset, {json.loads(provenance.read_text())['coreset']}"
    hallucinators = model.config.num_hallucinators
    return f"HaBa, {hallucinators} hallucinators" if hallucinators else "plain pixels"


def peak_memory(device: torch.device) -> int | None:
    """The most bytes this process has held: on a GPU of its memory. `None` on systems that do not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # everywhere else in KiB


def student_network(recipe: Recipe) -> NetworkArguments:
    """
    The evaluated student's architecture: the recipe's network, at `student_width` if that is set.

    Raises:
        `ValueError`: if `student_width` is set for a network that is no ConvNet.
    """
    if recipe.evaluation.student_width is not None and recipe.network.network != "convnet":
        raise ValueError(f"student_width is a ConvNet's; leave it out for the network {recipe.network.network}.")
    width = recipe.evaluation.student_width or recipe.network.network_width
    return dataclasses.replace(recipe.network, network_width=width)


def _write_model(folder: Path, model: HabaModel, processor: HabaProcessor, recipe: Recipe) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    recipe.write(folder / "recipe.yaml")


def open_evaluation(
    recipe: Recipe, accelerator: Accelerator
) -> tuple[str, HabaModel, HabaProcessor, ImageData, Split]:
    """The artifact's name, model and processor, the data and the split to score on, once they are known to fit."""
    output_dir = recipe.distillation.output_dir
    artifact = recipe.evaluation.artifact or str(Path(output_dir) / "artifact")
    if recipe.evaluation.artifact is None and not Path(artifact).is_dir():
        raise FileNotFoundError(
            f"There is no artifact in {output_dir}: run training/distill.py with the same recipe (of a coreset: "
            "training/select_coreset.py), or set artifact."
        )
    model, processor = load_artifact(artifact)
    on_test = recipe.evaluation.evaluation_split == "test"
    data = load_image_data(recipe.data, allow_missing_test=not on_test)
    split = data.test if on_test else data.validation
    if not split:
        advice = "add one" if on_test else "set validation_fraction above 0"
        raise ValueError(f"{data.name} has no {recipe.evaluation.evaluation_split} split to score on: {advice}.")
    expected, found = (model.config.num_labels, *model.config.sample_shape), (data.num_labels, *data.image_shape)
    if expected != found:
        raise ValueError(
            f"The artifact {artifact} is of {expected[0]} classes and samples {list(expected[1:])} (C, H, W), but "
            f"{data.name} has {found[0]} classes and images {list(found[1:])}: choose the data it was distilled from, "
            "with the same resize."
        )
    check_same_space(processor, data.processor)
    if accelerator.is_main_process:
        check_writable(output_dir)
    return artifact, model, processor, data, split


def evaluation_facts(recipe: Recipe, artifact: str, data: ImageData, accelerator: Accelerator) -> dict:
    """What the results of an evaluation are to be read with."""
    return {
        "artifact": artifact,
        "recipe_hash": recipe.hash,
        "data_fingerprint": data.fingerprint,
        "seed": recipe.distillation.seed,
        "settings": {**dataclasses.asdict(student_network(recipe)), **dataclasses.asdict(recipe.evaluation)},
        **environment(accelerator),
    }


def _validation(recipe: Recipe, data: ImageData, accelerator: Accelerator) -> Callable[[HabaModel, int], float]:
    if not len(data.validation):
        raise ValueError("validate_every needs a validation split: set validation_fraction above 0.")
    if recipe.evaluation.evaluation_protocol == "schedule" and not recipe.model.num_step_sizes:
        raise ValueError("evaluation_protocol schedule needs step sizes: set num_step_sizes, or the protocol to sgd.")
    arguments: EvaluationArguments = dataclasses.replace(
        recipe.evaluation,
        evaluation_seeds=recipe.distillation.validation_seeds,
        student_epochs=recipe.distillation.validation_epochs or recipe.evaluation.student_epochs,
    )

    def validate(model: HabaModel, step: int) -> float:
        result = evaluate_artifact(
            model, data.validation, data.processor, student_network(recipe), arguments, step, accelerator
        )
        return 100 * result.mean

    return validate
