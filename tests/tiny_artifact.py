"""A whole artifact, as distillation and evaluation leave it, in milliseconds."""

import dataclasses
from pathlib import Path

from haba_hf.artifact.budget import describe_storage, describe_training_set
from haba_hf.artifact.modeling_haba import HabaModel
from haba_hf.coresets import random_images, real_images_artifact, real_images_config
from haba_hf.data.corruptions import CORRUPTIONS
from haba_hf.evaluation import (
    FULL_DATA,
    RANDOM_REAL,
    AccuracyResult,
    ArchitectureRow,
    ReportRow,
    RobustnessResult,
    write_results,
)
from haba_hf.hub import plot_robustness, save_gallery
from haba_hf.recipes import parse_recipe
from haba_hf.utils.files import write_json
from haba_hf.utils.fingerprints import weights_fingerprint
from tiny import tiny_data, tiny_model

CLASS_NAMES = ["shirt", "boot", "a|b <i>[x](y)", "{{ 7 * 7 }}"]  # the last two want to be more than text
FINGERPRINT = "0123456789abcdef"

# What is published: code, and everything else of an artifact with its records.
CODE = {
    "card_haba.py",
    "files_haba.py",
    "configuration_haba.py",
    "datasets_haba.py",
    "hallucinator_haba.py",
    "modeling_haba.py",
    "output_haba.py",
    "processing_haba.py",
    "saving_haba.py",
    "storage_haba.py",
    "whitening_haba.py",
}
FILES = {
    ".eval_results/haba.yaml",
    "README.md",
    "config.json",
    "distillation.json",
    "gallery.png",
    "model.safetensors",
    "preprocessor_config.json",
    "recipe.yaml",
    "results.json",
}


def tiny_artifact(
    folder: Path,
    evaluated: bool = True,
    analysed: bool = False,
    rule: str | None = None,
    zca: bool = False,
    **settings,
) -> Path:
    """
    Writes `folder/artifact` and, of its evaluation, `folder/results.json`; returns the artifact's folder.

    `analysed`: other architectures and corruptions too. `rule`: a coreset of 2 images per class, chosen by that rule.
    """
    data = tiny_data(channels=1, zca=zca)
    if rule is None:
        model = tiny_model(data, **settings)
    else:
        model = real_images_artifact(data, random_images(data, 2, seed=0), real_images_config(data, 2))
    model.config.id2label = dict(enumerate(CLASS_NAMES))
    directory = folder / "artifact"
    model.save_pretrained(directory)
    data.processor.save_pretrained(directory)
    save_gallery(model, data.processor, directory / "gallery.png", bases_per_class=1)
    recipe = ["--dataset", "fashion_mnist", "--data_dir", "/home/someone/private/fashion", "--steps", "12"]
    parse_recipe([*recipe, "--output_dir", str(folder)]).write(directory / "recipe.yaml")
    facts = {"data_fingerprint": FINGERPRINT, "recipe_hash": "0123456789ab", "dataset": "fashion_mnist"}
    facts |= {"seconds": 34.5, "device": "a CPU", "versions": {"torch": "2.14.1"}}
    if rule is None:
        write_json(directory / "distillation.json", {**facts, "train_images": 54_000, "steps": 12})
    else:
        rows = {name: [4 * label, 4 * label + 1] for label, name in enumerate(CLASS_NAMES)}
        write_json(directory / "coreset.json", {**facts, "coreset": rule, "training_rows": rows})
    if evaluated:
        _write_results(folder, model)
    if analysed:
        _write_analyses(folder, model)
    return directory


def _write_results(folder: Path, model: HabaModel) -> None:
    shape = model.config.sample_shape
    storage = describe_storage(model.storage(), 54_000, shape)
    rows = [
        ReportRow("HaBa, 3 hallucinators", AccuracyResult(0.8125, 0.0123, [0.8, 0.825], 1.5), storage),
        ReportRow(RANDOM_REAL, AccuracyResult(0.7011, 0.0456, [0.68, 0.7222], 1.25), storage),
        ReportRow(
            FULL_DATA, AccuracyResult(0.9377, 0.0789, [0.9, 0.9754], 9.0), describe_training_set(54_000, shape, 4)
        ),
    ]
    write_results(folder / "results.json", rows, **_facts(folder, model))


def _write_analyses(folder: Path, model: HabaModel) -> None:
    rows = [
        ArchitectureRow("convnet", AccuracyResult(0.8125, 0.0123, [0.8, 0.825], 1.5), 1_234, 0.01),
        ArchitectureRow("vgg11", AccuracyResult(0.6543, 0.0321, [0.62, 0.6886], 2.5), 56_789, 0.01),
    ]
    facts = _facts(folder, model)
    write_json(folder / "cross_architecture.json", {"rows": [dataclasses.asdict(row) for row in rows], **facts})
    accuracies = {name: [[0.5, 0.52], [0.4, 0.42], [0.3, 0.32], [0.2, 0.22], [0.1, 0.12]] for name in CORRUPTIONS}
    result = RobustnessResult("HaBa, 3 hallucinators", [0.8, 0.825], accuracies)
    curve = {**dataclasses.asdict(result), "curve": result.curve()}
    write_json(folder / "robustness.json", {"systems": [curve], **facts})
    plot_robustness([result], folder / "robustness.png")


def _facts(folder: Path, model: HabaModel) -> dict:
    settings = {"network": "convnet", "student_epochs": 40, "evaluation_split": "test", "artifact": None}
    return {
        "artifact": str(folder / "artifact"),
        "data_fingerprint": FINGERPRINT,
        "weights_fingerprint": weights_fingerprint(model),
        "recipe_hash": "0123456789ab",
        "seed": 3,
        "settings": settings,
    }


def files_of(folder):
    """Contents by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
