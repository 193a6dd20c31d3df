"""
Distilled sets in the layouts of released code, out and in. Most are pickles of tensors: those that are written are
never uploaded, and one is read only where the user names it, by torch's reader of tensors alone.

Shape legend: N images, C/H/W of an image, L classes.
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils.files import atomic_directory, check_empty, write_json
from .artifact import Artifact, processor_settings
from .pictures import read_pictures

LAYOUTS = {
    "mtt": "images.pt and labels.pt, tensors (MTT, FTD, DATM, FreD ...)",
    "dc": "one file with a list of [images, labels] under `data`, one for each experiment (DC, DSA, DM, CAFE)",
    "idc": "one file with [images, labels] (IDC)",
    "npz": "one file with arrays `images` and `labels`",
    "folder": "a folder of pictures, <class>/*.png",
}
IMAGES, LABELS, RATE, ABOUT = "images_best.pt", "labels_best.pt", "lr_best.pt", "about.json"


@dataclass
class ReleasedSet:
    """
    Args:
        images (`torch.Tensor`): `[N, C, H, W]`, uint8 or float32, in whatever space they were saved.
        labels (`torch.Tensor`): int64 `[N]`, or float32 `[N, L]`.
        notes (`list[str]`): what of the files was left out.
        class_names (`list[str]`, *optional*): in the order of the labels, where the files say it.
    """

    images: Tensor
    labels: Tensor
    notes: list[str]
    class_names: list[str] | None = None


def write_released(artifact: Artifact, directory: str | Path) -> Path:
    """
    All samples as `images_best.pt` (float32 `[N, C, H, W]`, normalized), `labels_best.pt` (int64 `[N]`, or float32
    `[N, L]` if soft) and `lr_best.pt`, the layout of MTT's release, which DD-Ranking, DC-BENCH, BEARD and
    DD-RobustBench read. The rate is that of the students that were measured, if it is set for them, else the stored
    one. `about.json` says what the tensors do not: classes, mean and deviation of the channels.

    Args:
        artifact ([`Artifact`]): whose samples.
        directory (`str`): a new or empty folder.

    Raises:
        `ValueError`: if the folder holds anything, or the artifact trains students by step sizes of their own, for
            which the layout has no place.
        `OSError`: if it cannot be written.
    """
    directory, model = Path(directory), artifact.model
    check_empty(directory, "samples")
    if model.step_sizes is not None:
        raise ValueError("Its students take steps of learned sizes, which the layout mtt has no place for.")
    with torch.no_grad():
        output = model.materialize()
    measured_by = (model.config.student_training or {}).get("evaluation_learning_rate")
    rate = model.student_learning_rate.detach().cpu() if measured_by is None else torch.tensor(float(measured_by))
    about = {
        "class_names": [str(model.config.id2label[label]) for label in range(model.config.num_labels)],
        "student_training": model.config.student_training,
        **processor_settings(artifact.processor),
    }
    with atomic_directory(directory) as aside:
        torch.save(output["samples"].float().cpu().contiguous(), aside / IMAGES)
        torch.save(output["labels"].detach().cpu().contiguous(), aside / LABELS)
        torch.save(rate, aside / RATE)
        write_json(aside / ABOUT, about)
    return directory


def read_released(images: str | Path, labels: str | Path | None, layout: str) -> ReleasedSet:
    """
    Images and labels of somebody's release.

    Args:
        images (`str`): the file of images, or of both; the folder of pictures.
        labels (`str`, *optional*): the file of labels, of the layout mtt.
        layout (`str`): one of `LAYOUTS`.

    Raises:
        `ValueError`: if there is no such layout, or a file is not of it: another structure, other shapes, values that
            are no finite numbers, or anything beside tensors and plain containers, which is never run.
        `OSError`: if a file cannot be read.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"There is no layout {layout!r}: choose {', '.join(LAYOUTS)}.")
    if (labels is not None) != (layout == "mtt"):
        advice = "name labels" if layout == "mtt" else "leave labels out"
        raise ValueError(f"The layout {layout} is {LAYOUTS[layout]}: {advice}.")
    if layout == "folder":
        return ReleasedSet(*read_pictures(images))
    notes: list[str] = []
    if layout == "mtt":
        found = _load(images), _load(labels or "")
    elif layout == "npz":
        found = _load_arrays(Path(images))
    else:
        content = _load(images)
        if layout == "dc":
            experiments = content.get("data") if isinstance(content, Mapping) else None
            if not isinstance(experiments, list) or not experiments:
                raise ValueError(f"{images} is not of the layout dc, {LAYOUTS['dc']}.")
            if len(experiments) > 1:
                notes.append(f"of {len(experiments)} experiments the first was taken")
            content = experiments[0]
        if not isinstance(content, list | tuple) or len(content) < 2:
            raise ValueError(f"{images} is not of the layout {layout}, {LAYOUTS[layout]}.")
        found = content[0], content[1]
    return ReleasedSet(*_checked(*found, f"{images} and {labels}" if labels else str(images)), notes)


def _load(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a file of tensors that torch.load reads with weights_only=True, which is all that is read "
            "here: save its tensors anew, by torch.save of tensors, lists and numbers alone."
        ) from error


def _load_arrays(path: Path) -> tuple[Any, Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    except (ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise ValueError(f"{path} is not of the layout npz, {LAYOUTS['npz']}.") from error


def _checked(images: Any, labels: Any, files: str) -> tuple[Tensor, Tensor]:
    """Tensors of the shapes and kinds that they have to be of."""
    if not (torch.is_tensor(images) and torch.is_tensor(labels)):
        raise ValueError(f"{files}: images and labels are tensors in every layout, these are not.")
    images, labels = images.detach(), labels.detach()
    if images.ndim != 4 or labels.ndim not in (1, 2) or len(images) != len(labels) or not len(images):
        raise ValueError(
            f"{files}: expected images [N, C, H, W] and labels [N] or [N, classes], got {list(images.shape)} and "
            f"{list(labels.shape)}."
        )
    if images.dtype != torch.uint8:
        images = images.float()
    labels = labels.float() if labels.ndim == 2 else labels
    if labels.ndim == 1 and (labels.is_complex() or (labels != labels.long()).any()):
        raise ValueError(f"{files}: labels are whole numbers from 0, or a row of probabilities for each image.")
    if not (images.isfinite().all() and labels.isfinite().all()):
        raise ValueError(f"{files}: images or labels hold values that are no finite numbers.")
    return images, labels if labels.ndim == 2 else labels.long()
