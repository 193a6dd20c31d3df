"""From somebody's released set to an artifact, which is then evaluated, compared, drawn and published as ours.

Shape legend: N images, C/H/W of an image, L classes.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from ..artifact.processing_audio_haba import HabaAudioProcessor
from ..coresets import plain_artifact
from ..data import ImageData
from ..distillation import model_config
from ..hub.artifact import GALLERY
from ..hub.galleries import save_gallery
from ..hub.pictures import class_folders
from ..hub.records import DISTILLATION
from ..hub.released import ReleasedSet, read_released
from ..recipes import recipe_of
from ..utils.files import atomic_directory, check_writable, locked, write_json
from ..utils.text import some
from .inputs import training_data
from .provenance import draw, environment, source_facts, write_model

# What values of each space may be: learned pixels leave the range of real ones, but not by much.
MOST_NORMALIZED = 30.0
SLACK = 0.05
Space = Literal["normalized", "unit"]


def import_released(
    images: str | Path,
    labels: str | Path | None,
    output_dir: str | Path,
    *,
    dataset: str,
    data_dir: str | None = None,
    layout: str = "mtt",
    space: Space = "normalized",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    learning_rate: float = 0.01,
    formation_factor: int = 1,
) -> Path:
    """
    Writes `output_dir/artifact` (config, images as bases with K = 0, the data's processor, a recipe to evaluate it by,
    `distillation.json` with the names and SHA-256 of the files, gallery).

    Args:
        images (`str`), labels (`str`, *optional*), layout (`str`): of [`read_released`].
        output_dir (`str`): a folder without an artifact.
        dataset (`str`), data_dir (`str`, *optional*): the real data that it was made of, as in a recipe, whose
            classes, shape and normalization it has.
        space (`str`, *optional*, defaults to `"normalized"`): of values of float: normalized by channel, or `"unit"`,
            pixels in [0, 1]. Bytes are pixels.
        mean, std (`list[float]`, *optional*): what values were normalized by, by default as the data's processor does.
        class_names (`list[str]`, *optional*): in the order of the labels, by default what the files say, else that of
            the data. A folder's are matched with the data's, as they are or as [`class_folders`] writes them.
        learning_rate (`float`, *optional*, defaults to 0.01): of its students.
        formation_factor (`int`, *optional*, defaults to 1): tiles a side that an image is cut into (IDC).

    Returns:
        The artifact's folder.

    Raises:
        `ValueError`: if a file is not of its layout, values are not of the space, classes, counts or shapes do not
            fit the data, or there is an artifact already.
        `OSError`: if something cannot be read or written.
    """
    path = Path(output_dir) / "artifact"
    if path.exists():
        raise ValueError(f"{path} is there already: choose another folder.")
    released = read_released(images, labels, layout)
    recipe = recipe_of(
        dataset=dataset,
        data_dir=data_dir,
        num_hallucinators=0,
        formation_factor=formation_factor,
        label_kind="soft" if released.labels.ndim == 2 else "hard",
        student_learning_rate=learning_rate,
        output_dir=str(output_dir),
    )
    data = training_data(recipe)
    class_names = class_names or released.class_names
    images_NCHW, their_labels = _class_by_class(released, data, space, mean, std, class_names)
    sizes = dataclasses.replace(recipe.model, bases_per_class=len(images_NCHW) // data.num_labels)
    recipe = dataclasses.replace(recipe, model=sizes)
    model = plain_artifact(images_NCHW, model_config(sizes, data))
    if model.label_logits is not None:
        model.set_labels(their_labels)
    accelerator = Accelerator(cpu=True)
    check_writable(output_dir)
    with locked(output_dir), atomic_directory(path) as aside:
        files = [Path(file) for file in (images, labels) if file is not None]
        provenance = {
            **write_model(aside, model, data.processor, recipe),
            "imported": f"{', '.join(file.name for file in files)} (layout {layout})",
            "imported_sha256": ", ".join(map(_digest, files)),
            **source_facts(recipe, data),
            "bases_per_class": model.config.bases_per_class,
            "samples_per_class": model.config.samples_per_class,
            **environment(accelerator),
        }
        write_json(aside / DISTILLATION, provenance)
    draw(accelerator, path / GALLERY, lambda file: save_gallery(model, data.processor, file))
    order = ", ".join(f"{label} {name}" for label, name in enumerate(class_names or data.class_names))
    for note in (*released.notes, f"labels were taken as {order}"):
        accelerator.print(f"{path}: {note}")
    return path


def _digest(path: Path) -> str:
    """The first 16 digits of the SHA-256 of a file, or of the names and contents of a folder's."""
    digest = hashlib.sha256() if path.is_dir() else hashlib.sha256(path.read_bytes())
    for file in sorted(path.rglob("*")):
        if file.is_file():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _class_by_class(
    released: ReleasedSet,
    data: ImageData,
    space: Space,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    class_names: Sequence[str] | None,
) -> tuple[Tensor, Tensor]:
    """Images in model space and their labels, as many of every class, in the order of the data's classes."""
    images = released.images
    if released.class_names is not None and images.shape[1] == 1:  # pictures without color of data in color
        images = images.expand(-1, data.image_shape[0], -1, -1)
    if tuple(images.shape[1:]) != data.image_shape:
        shapes = ["x".join(map(str, shape)) for shape in (images.shape[1:], data.image_shape)]
        raise ValueError(f"The images are of {shapes[0]}, those of {data.name} of {shapes[1]}: name their data.")
    images_NCHW = _in_model_space(images, data, space, mean, std)
    soft = released.labels.ndim == 2
    labels = released.labels.argmax(dim=1) if soft else released.labels
    place = _places(class_names, data)
    if soft and released.labels.shape[1] != data.num_labels:
        raise ValueError(f"Labels are of {released.labels.shape[1]} classes, {data.name} has {data.num_labels}.")
    if not 0 <= int(labels.min()) <= int(labels.max()) < data.num_labels:
        raise ValueError(
            f"Labels are from {int(labels.min())} to {int(labels.max())}, {data.name} has classes 0 to "
            f"{data.num_labels - 1}."
        )
    labels = place[labels]
    counts = torch.bincount(labels, minlength=data.num_labels)
    if len(counts.unique()) > 1:
        raise ValueError(
            f"An artifact has as many images of every class, this set {int(counts.min())} to {int(counts.max())}: "
            "leave some out."
        )
    order = labels.argsort(stable=True)
    if soft:
        labels = torch.empty_like(released.labels)
        labels[:, place] = released.labels
    return images_NCHW[order], labels[order]


def _places(class_names: Sequence[str] | None, data: ImageData) -> Tensor:
    """Where each of their labels is among the data's classes."""
    if class_names is None:
        return torch.arange(data.num_labels)
    for known in (data.class_names, class_folders(data.class_names)):
        if sorted(class_names) == sorted(known):
            return torch.tensor([known.index(name) for name in class_names])
    raise ValueError(
        f"The classes are {some(class_names)}, those of {data.name} {', '.join(data.class_names)}: call them alike, "
        "or give class_names in the order of the labels, which of a folder is that of its sorted names."
    )


def _in_model_space(
    images_NCHW: Tensor, data: ImageData, space: Space, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Tensor:
    """Values as the data's processor normalizes them."""
    is_pixels = images_NCHW.dtype == torch.uint8 or space == "unit" or mean is not None
    if is_pixels and isinstance(data.processor, HabaAudioProcessor):
        raise ValueError(f"{data.name} is sound, whose spectrograms are no pixels: import them normalized, as float.")
    if images_NCHW.dtype == torch.uint8:
        return data.processor.normalize(images_NCHW)
    least, most = images_NCHW.min().item(), images_NCHW.max().item()
    found = f"Values are from {least:.3g} to {most:.3g}"
    if space == "unit":
        if least < -SLACK or most > 1 + SLACK:
            raise ValueError(f"{found}, not pixels in [0, 1]: is the space normalized?")
        pixels_NCHW = images_NCHW.clamp(0, 1)
    else:
        if max(-least, most) > MOST_NORMALIZED:
            raise ValueError(f"{found}, which no normalized pixels are: save bytes as uint8, or divide by 255.")
        if least >= 0 and most <= 1:
            raise ValueError(f"{found}, as of pixels that are not normalized: is the space unit?")
        if mean is None or std is None:
            return images_NCHW
        if not len(mean) == len(std) == images_NCHW.shape[1]:
            raise ValueError(f"mean and std have one number for each of {images_NCHW.shape[1]} channels.")
        pixels_NCHW = images_NCHW * _by_channel(std) + _by_channel(mean)
    return data.processor.normalize(pixels_NCHW)


def _by_channel(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(list(numbers)).view(-1, 1, 1)
