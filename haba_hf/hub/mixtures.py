"""Mixtures of hallucinators, and a picture of what they make of the bases: what the Space shows.

Shape legend: P bases, K hallucinators, M formations, C/H/W of a sample.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..artifact.modeling_haba import HabaModel
from ..data import ImageData
from .artifact import Artifact
from .figures import draw_tiles, figure_pixels
from .stored import pictures, stored_columns, stored_pictures

MAX_BASES_PER_CLASS = 10


@torch.no_grad()
def mix_hallucinators(model: HabaModel, basis_ids: Tensor, weights: Sequence[float]) -> Tensor:
    """
    The weighted mean of what the hallucinators make of each basis, sum_j w_j H_j(b) / sum_j w_j.

    Samples are mixed and not the hallucinators' parameters: each is learned from its own start, so that equal places
    in two of them mean different things and a network half-way between is neither.

    Args:
        model ([`HabaModel`]): the artifact.
        basis_ids (`torch.LongTensor` `[P]`): which bases.
        weights (`Sequence[float]`): K numbers, none negative and not all zero; none without hallucinators.

    Returns:
        `torch.Tensor` `[P, M, C, H, W]` in model space.

    Raises:
        `ValueError`: if the weights are not such numbers.
    """
    config = model.config
    if len(weights) != config.num_hallucinators:
        raise ValueError(
            f"A mixture has {config.num_hallucinators} weights here, one a hallucinator: got {len(weights)}."
        )
    samples = model(basis_ids).samples.view(
        len(basis_ids), max(config.num_hallucinators, 1), config.num_formations, *config.sample_shape
    )
    weights_K = torch.tensor([float(weight) for weight in weights] or [1.0])
    if not (weights_K.isfinite().all() and weights_K.min() >= 0 and weights_K.sum() > 0):
        raise ValueError(f"The weights of a mixture are not negative, and one is above 0: got {list(weights)}.")
    weights_K = (weights_K / weights_K.sum()).to(samples)
    return torch.einsum("k,pkmchw->pmchw", weights_K, samples)


def fits(data: ImageData, artifact: Artifact) -> bool:
    """Whether real images are of the artifact's classes and shape, to be shown beside its samples."""
    config = artifact.model.config
    names = [config.id2label[label] for label in range(config.num_labels)]
    return data.class_names == names and data.image_shape == config.sample_shape


def mixture_picture(
    artifact: Artifact, weights: Sequence[float], label: int | None = None, real: ImageData | None = None
) -> np.ndarray:
    """
    Bases and their samples as a picture: one row for each basis, and in the columns the basis, what the mixture of
    hallucinators makes of it and, where data are given, a real image of its class.

    Args:
        artifact ([`Artifact`]): whose bases.
        weights (`Sequence[float]`): of [`mix_hallucinators`].
        label (`int`, *optional*): the class to show, by default all; of each the first 10 bases.
        real ([`ImageData`], *optional*): its training images.

    Returns:
        `np.ndarray`: uint8 `[height, width, 3]`.

    Raises:
        `ValueError`: if the weights do not fit, a class has too few real images, or the picture would be too large.
    """
    model, processor, config = artifact.model, artifact.processor, artifact.model.config
    labels = range(config.num_labels) if label is None else [label]
    shown = min(config.bases_per_class, MAX_BASES_PER_CLASS)
    basis_ids = torch.cat([(model.class_ids == shown_label).nonzero().flatten()[:shown] for shown_label in labels])
    samples_PMCHW = mix_hallucinators(model, basis_ids, weights).float()
    tiles = [pictures(processor, samples_PMCHW.flatten(0, 1)).unflatten(0, samples_PMCHW.shape[:2])]
    columns = [f"sample {m + 1}" if config.num_formations > 1 else "sample" for m in range(config.num_formations)]
    stored = stored_columns(config)
    if stored:
        tiles.insert(0, stored_pictures(model, processor, basis_ids))
        columns = [*stored, *columns]
    if real is not None:
        rows_of_classes = real.rows_of_classes(at_least=shown)
        rows = torch.cat([rows_of_classes[shown_label][:shown] for shown_label in labels])
        tiles.append(pictures(real.processor, real.processor.normalize(real.train.images[rows]))[:, None])
        columns.append("real")
    names = [str(config.id2label[shown_label]) if i == 0 else "" for shown_label in labels for i in range(shown)]
    return figure_pixels(draw_tiles(torch.cat(tiles, dim=1), names, columns))
