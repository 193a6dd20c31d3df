"""What an artifact and its results are to be read with, and the artifact's files that every method writes alike."""

import dataclasses
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..artifact.loading import HabaProcessor
from ..artifact.modeling_haba import HabaModel
from ..data import ImageData
from ..evaluation import student_training
from ..hub.artifact import fingerprints
from ..hub.records import RECIPE
from ..networks import NetworkArguments
from ..recipes import Recipe


def environment(accelerator: Accelerator) -> dict:
    """Hardware and versions, as results are to be read with them."""
    libraries = ("haba_hf", "torch", "transformers", "datasets", "accelerate")
    device = accelerator.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "mixed_precision": accelerator.mixed_precision,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in libraries},
    }


def source_facts(recipe: Recipe, data: ImageData) -> dict[str, Any]:
    """Which recipe and which real data an artifact is of."""
    return {
        "recipe_hash": recipe.hash,
        "dataset": data.name,
        "data_fingerprint": data.fingerprint,
        "train_images": len(data.train),
        "train_images_per_class": data.train_images_per_class(),
    }


def _cpu_name() -> str:
    """The processor's name; Linux keeps it where `platform` does not look."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "cpu"


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


def draw(accelerator: Accelerator, path: Path, save: Callable[[Path], None]) -> None:
    """A picture beside an artifact that is whole without it: what hinders it is said, and costs nothing else."""
    try:
        save(path)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        accelerator.print(f"{path} was not drawn: {error}")


def write_model(folder: Path, model: HabaModel, processor: HabaProcessor, recipe: Recipe) -> dict[str, str]:
    """
    The artifact itself, which says how its students are trained, its processor and its recipe, into a folder.

    Returns:
        The fingerprints of weights and processor, for the record of where they come from.
    """
    model.config.student_training = student_training(student_network(recipe), recipe.evaluation)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    recipe.write(folder / RECIPE)
    return fingerprints(model, processor)
