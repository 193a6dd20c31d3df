"""Pictures of an artifact: bases as they are stored, the samples they make, and real images beside them.

Shape legend: P bases, K hallucinators, M formations, R rows, T tiles in a row, C/H/W of a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..artifact.configuration_haba import HabaConfig
from ..artifact.loading import HabaProcessor
from ..artifact.modeling_haba import HabaModel
from ..artifact.processing_audio_haba import HabaAudioProcessor
from ..data import ImageData
from ..data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from .artifact import Artifact
from .mixtures import mix_hallucinators
from .stored import pictures, stored_caption, stored_columns, stored_pictures
from .tiles import GAP_PIXELS, MAX_SIDE_PIXELS, draw_tiles, enlargement, figure_pixels, save_figure, stretched

# Bases of a class that are shown unless told otherwise: a row each, or side by side.
ROWS_OF_CLASS, SAMPLES_OF_CLASS, SIDE_BY_SIDE = 3, 10, 5
# How high a picture becomes by default, if there are many classes; drawing one of 2**15 pixels takes over a gigabyte.
MANY_CLASSES_PIXELS = 2**13


def save_gallery(
    model: HabaModel,
    processor: HabaProcessor,
    path: str | Path,
    bases_per_class: int | None = None,
    stretch: bool = True,
) -> None:
    """
    Draws the artifact as a PNG. With hallucinators: one row for each basis, class by class with the class names, and
    in the columns the basis as it is stored and the samples each hallucinator makes of it. Without: one row for each
    class, with the samples of its bases, and before them what is stored of the first, where that is no sample itself.

    Pixels are enlarged to squares, not smoothed. A basis of one channel of color samples is shown grey. Spectrograms
    have time to the right and frequency upwards. Samples of little contrast are spread over the range of pixels, those
    of a hallucinator in one way, and the caption says by how much.

    Args:
        model ([`HabaModel`]): the artifact.
        processor ([`HabaImageProcessor`] or [`HabaAudioProcessor`]): the artifact's, which makes pictures of samples.
        path (`str`): the PNG to write, in one piece.
        bases_per_class (`int`, *optional*): show only the first ones of each class, by default up to 3 with
            hallucinators and up to 10 without, of as many classes as make a picture of some thousand pixels.
        stretch (`bool`, *optional*, defaults to `True`): `False` shows samples of little contrast as they are.

    Raises:
        `ValueError`: if `bases_per_class` is out of range, the picture would be too large, or the processor is of
            another space.
        `OSError`: if the file cannot be written.
    """
    config = model.config
    processor.check_fits(config)
    by_default = ROWS_OF_CLASS if config.num_hallucinators else SAMPLES_OF_CLASS
    shown = min(config.bases_per_class, by_default) if bases_per_class is None else bases_per_class
    if not 1 <= shown <= config.bases_per_class:
        raise ValueError(f"bases_per_class must be 1 to {config.bases_per_class}, the artifact's, got {shown}.")
    rows_of_class = shown if config.num_hallucinators else 1
    most_pixels = MANY_CLASSES_PIXELS if bases_per_class is None else MAX_SIDE_PIXELS
    num_classes = min(config.num_labels, max(_rows_that_fit(config, most_pixels) // rows_of_class, 1))
    tiles = _tiles(model, processor, range(num_classes), shown, rows_are_bases=bool(config.num_hallucinators))
    captions = [_sound_caption(processor), _stored_caption(config)]
    if num_classes < config.num_labels:
        captions.append(_classes_caption(config, num_classes))
    if stretch:
        captions.append(tiles.stretch())
    caption = "\n".join(filter(None, captions))
    save_figure(draw_tiles(tiles.images_RTCHW, tiles.rows, tiles.columns, caption), path)


def mixture_picture(
    artifact: Artifact,
    weights: Sequence[float] | None = None,
    label: int | None = None,
    real: ImageData | None = None,
) -> np.ndarray:
    """
    Bases and their samples as a picture: one row for each basis, and in the columns the basis, what each hallucinator
    or one mixture of them makes of it and, where data are given, a real image of its class.

    Args:
        artifact ([`Artifact`]): whose bases.
        weights (`Sequence[float]`, *optional*): of [`mix_hallucinators`]; by default a column for each hallucinator.
        label (`int`, *optional*): the class to show, with its first 10 bases; by default all classes (of hundreds the
            first ones), with the first basis of each, or without hallucinators the samples of its first 5 side by
            side.
        real ([`ImageData`], *optional*): its training images.

    Returns:
        `np.ndarray`: uint8 `[height, width, 3]`.

    Raises:
        `ValueError`: if the weights do not fit, a class has too few real images, or the picture would be too large.
    """
    config = artifact.model.config
    num_classes = min(config.num_labels, _rows_that_fit(config, MANY_CLASSES_PIXELS))
    labels = range(num_classes) if label is None else [label]
    side_by_side = label is None and not config.num_hallucinators
    most = SIDE_BY_SIDE if side_by_side else 1 if label is None else SAMPLES_OF_CLASS
    shown = min(config.bases_per_class, most)
    tiles = _tiles(artifact.model, artifact.processor, labels, shown, weights=weights, rows_are_bases=not side_by_side)
    captions = [tiles.stretch()]
    if label is None and num_classes < config.num_labels:
        captions.insert(0, _classes_caption(config, num_classes))
    caption = "\n".join(filter(None, captions))
    images_RTCHW, columns = tiles.images_RTCHW, tiles.columns
    if real is not None:
        of_class = len(tiles.rows) // len(labels)
        rows_of_classes = real.rows_of_classes(at_least=of_class)
        rows = torch.cat([rows_of_classes[shown_label][:of_class] for shown_label in labels])
        images = pictures(real.processor, real.processor.normalize(real.train.images[rows]))
        images_RTCHW, columns = torch.cat([images_RTCHW, images[:, None]], dim=1), [*columns, "real"]
    return figure_pixels(draw_tiles(images_RTCHW, tiles.rows, columns, caption))


def fits(data: ImageData, artifact: Artifact) -> bool:
    """Whether real images are of the artifact's classes and shape, to be shown beside its samples."""
    config = artifact.model.config
    names = [config.id2label[label] for label in range(config.num_labels)]
    return data.class_names == names and data.image_shape == config.sample_shape


def save_contact_sheet(image: Tensor, path: str | Path, seed: int = 0) -> None:
    """
    Draws one image under every corruption of CIFAR-10-C as a PNG: a row for each corruption, the clean image first and
    then the severities 1 to 5.

    Args:
        image (`torch.Tensor`): uint8 `[3, H, W]`.
        path (`str`): the PNG to write, in one piece.
        seed (`int`, *optional*, defaults to 0): of the corruptions.

    Raises:
        `ValueError`: if the image cannot be corrupted.
        `OSError`: if the file cannot be written.
    """
    image_1CHW = image.cpu()[None]
    rows = [
        torch.cat([image_1CHW, *(corrupt(image_1CHW, name, severity, seed) for severity in SEVERITIES)])
        for name in CORRUPTIONS
    ]
    columns = ["clean", *map(str, SEVERITIES)]
    names = [name.replace("_", " ") for name in CORRUPTIONS]
    save_figure(draw_tiles(torch.stack(rows) / 255, names, columns), path)


@dataclass
class _Tiles:
    """
    Images with the names of their rows and columns; of the columns, how many come before those of samples, and whether
    each of those is a hallucinator's.
    """

    images_RTCHW: Tensor
    rows: list[str]
    columns: list[str]
    stored: int
    apart: bool

    def stretch(self) -> str:
        """Spreads samples of little contrast, those of a hallucinator in one way, and says so for a caption."""
        samples_RTCHW = self.images_RTCHW[:, self.stored :]
        groups = samples_RTCHW.unbind(1) if self.apart else [samples_RTCHW]
        factors = []
        for group in groups:
            images, factor = stretched(group)
            group.copy_(images)
            factors.append(f"{factor:.1f}")
        if set(factors) == {"1.0"}:
            return ""
        return f"contrast of samples raised {', '.join(factors)} times"


def _tiles(
    model: HabaModel,
    processor: HabaProcessor,
    labels: Sequence[int],
    shown: int,
    weights: Sequence[float] | None = None,
    rows_are_bases: bool = True,
) -> _Tiles:
    """The first `shown` bases of some classes, a row each or, without hallucinators, those of a class side by side."""
    config = model.config
    basis_ids = torch.cat([(model.class_ids == label).nonzero().flatten()[:shown] for label in labels])
    class_names = [str(config.id2label[label]) for label in labels]
    with torch.no_grad():
        if weights is None:
            samples_PTCHW = model(basis_ids).samples.float().unflatten(0, (len(basis_ids), -1))
        else:
            samples_PTCHW = mix_hallucinators(model, basis_ids, weights).float()
    samples_PTCHW = pictures(processor, samples_PTCHW.flatten(0, 1)).unflatten(0, samples_PTCHW.shape[:2])
    stored = stored_columns(config)
    if rows_are_bases:
        rows = [name if i == 0 else "" for name in class_names for i in range(shown)]
        columns = _sample_columns(config, weights)
    else:
        samples_PTCHW = samples_PTCHW.flatten(0, 1).unflatten(0, (len(class_names), -1))
        rows, columns, basis_ids = class_names, [str(i + 1) for i in range(shown)], basis_ids[::shown]
    if config.num_formations > 1:
        columns = [f"{name}, {m + 1}" for name in columns for m in range(config.num_formations)]
    images = [samples_PTCHW]
    if stored:
        images.insert(0, stored_pictures(model, processor, basis_ids))
    return _Tiles(torch.cat(images, dim=1).cpu(), rows, [*stored, *columns], len(stored), apart=rows_are_bases)


def _sample_columns(config: HabaConfig, weights: Sequence[float] | None) -> list[str]:
    if weights is None and config.num_hallucinators:
        return [f"$H_{{{j + 1}}}$" for j in range(config.num_hallucinators)]
    return ["sample"]


def _stored_caption(config: HabaConfig) -> str:
    if config.num_hallucinators or not stored_columns(config):
        return stored_caption(config)
    return "; ".join(filter(None, ["left: sample 1 as it is stored", stored_caption(config)]))


def _sound_caption(processor: HabaProcessor) -> str:
    if not isinstance(processor, HabaAudioProcessor):
        return ""
    scale = "" if processor.mel_bins is None else ", mel scale"
    return (
        f"time: 0 to {processor.clip_seconds:g} s to the right; "
        f"frequency: 0 to {processor.sampling_rate / 2000:g} kHz upwards{scale}"
    )


def _classes_caption(config: HabaConfig, num_classes: int) -> str:
    return f"the first {num_classes} of {config.num_labels:,} classes"


def _rows_that_fit(config: HabaConfig, pixels: int) -> int:
    height, width = config.sample_shape[1:]
    return max(pixels // (height * enlargement(height, width) + GAP_PIXELS), 1)
