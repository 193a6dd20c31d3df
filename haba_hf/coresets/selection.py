"""A coreset chosen from real data, and real images as an artifact.

Shape legend: n training images, L classes.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from ..artifact.configuration_haba import HabaConfig
from ..artifact.modeling_haba import HabaModel
from ..artifact.storage_haba import store_images
from ..data import ImageData
from ..networks import NetworkArguments
from ..utils.seeds import seeded_generator
from .expert import EVENTS, CoresetArguments, features_of, record_expert_features
from .rules import herding, k_center, most_forgotten


@dataclass
class Coreset:
    """
    What was chosen.

    Args:
        rows (`torch.LongTensor` `[L * images_per_class]`): indices into the training split, class by class, each class
            in the order of choice: the first k of each class are the coreset of k images per class.
        seconds (`float`): wall-clock time of choosing and of training the expert, whichever run trained it.
    """

    rows: Tensor
    seconds: float


def random_images(data: ImageData, images_per_class: int, seed: int, repeat: bool = False) -> Tensor:
    """
    Rows of random training images, uniform without replacement: those that real initialization draws from the same
    seed.

    Args:
        repeat (`bool`, *optional*, defaults to `False`): of a class with fewer images take all, again and again.

    Raises:
        `ValueError`: if a class has fewer training images, or with `repeat` none.
    """
    return data.draw_rows_per_class(images_per_class, seeded_generator(seed), repeat)


def choose_coreset(
    data: ImageData,
    images_per_class: int,
    network_arguments: NetworkArguments,
    arguments: CoresetArguments,
    seed: int,
    accelerator: Accelerator,
    repeat: bool = False,
) -> Coreset:
    """
    Chooses `images_per_class` training images of every class, after training the expert if there is none in
    `coreset_dir`. One process does it.

    Distances are computed on the CPU, class by class: the memory is that of one class's features in float64.

    Args:
        seed (`int`): of the random draw, or of the expert.
        repeat (`bool`, *optional*, defaults to `False`): of a class with fewer images take all, in the order of
            choice, again and again.

    Raises:
        `ValueError`: if a class has fewer training images, or with `repeat` none, or `coreset_dir` holds an expert of
            something else.
        `OSError`: if `coreset_dir` cannot be written.
        `FloatingPointError`: if the expert diverges.
    """
    started = time.perf_counter()
    members = data.rows_of_classes(at_least=1 if repeat else images_per_class)
    if arguments.coreset == "random":
        return Coreset(random_images(data, images_per_class, seed, repeat), time.perf_counter() - started)
    path = record_expert_features(data, network_arguments, arguments, seed, accelerator)
    started = time.perf_counter()
    counts = [min(len(rows), images_per_class) for rows in members]
    with safe_open(path, framework="pt") as file:
        if arguments.coreset == "forgetting":
            events_n = file.get_tensor(EVENTS)
            chosen = [most_forgotten(events_n[rows], count) for rows, count in zip(members, counts, strict=True)]
        else:
            choose = herding if arguments.coreset == "herding" else k_center
            chosen = [choose(file.get_tensor(features_of(label)), count) for label, count in enumerate(counts)]
        seconds = float(file.metadata()["seconds"])
    again = torch.arange(images_per_class)
    rows = torch.cat([rows[indices[again % len(indices)]] for rows, indices in zip(members, chosen, strict=True)])
    return Coreset(rows, seconds + time.perf_counter() - started)


def real_images_config(data: ImageData, images_per_class: int, **settings: Any) -> HabaConfig:
    """The config of an artifact of real images: K = 0, the data's classes and shape, and what `settings` say else."""
    return config_for(data, bases_per_class=images_per_class, num_hallucinators=0, **settings)


def config_for(data: ImageData, **settings: Any) -> HabaConfig:
    """The config of an artifact of some data: their classes, shape and whitening, and what `settings` say else."""
    channels, height, width = data.image_shape
    return HabaConfig(
        id2label=dict(enumerate(data.class_names)),
        label2id={name: index for index, name in enumerate(data.class_names)},
        sample_channels=channels,
        sample_height=height,
        sample_width=width,
        whitening=data.processor.whitening_fingerprint,
        **settings,
    )


def real_images_artifact(data: ImageData, rows: Tensor, config: HabaConfig) -> HabaModel:
    """
    Training images as an artifact, stored as its config says, on the CPU; the global random state is left as it was.

    Args:
        rows (`torch.LongTensor`): of the training split, class by class, as [`store_real_images`] takes them.
        config ([`HabaConfig`]): without hallucinators, such as [`real_images_config`] gives.
    """
    return plain_artifact(store_real_images(data, rows, config), config)


def plain_artifact(bases: Tensor, config: HabaConfig) -> HabaModel:
    """
    Bases as an artifact without hallucinators, on the CPU; the global random state is left as it was.

    Args:
        bases (`torch.Tensor`): `[N, *config.stored_shape]`, class by class.
    """
    with torch.random.fork_rng(devices=[]):
        model = HabaModel(config)
    model.bases.data.copy_(bases)
    model.round_to_storage()
    return model


# Standard deviation of the noise on copies, of normalized pixels: a tenth of a channel's own, if not whitened.
COPY_NOISE = 0.1


def store_real_images(
    data: ImageData, rows: Tensor, config: HabaConfig, generator: torch.Generator | None = None
) -> Tensor:
    """
    Training images as bases, `[N, *config.stored_shape]`.

    Args:
        rows (`torch.LongTensor`): of the training split, class by class: one for each basis or, with multi-formation,
            one for each of its tiles (IDC; Kim et al., ICML 2022).
        generator (`torch.Generator`, *optional*): of N(0, 0.1^2) on each image that came before among the rows; by
            default copies are exact.
    """
    images = data.processor.normalize(data.train.images[rows])
    if generator is not None:
        copies = _are_copies(rows)
        images[copies] += COPY_NOISE * torch.randn(images[copies].shape, generator=generator)
    if len(rows) > config.num_bases:
        images = _tiled(images, *config.formation_grid)
    return store_images(images, config)


def _are_copies(rows: Tensor) -> Tensor:
    """Bool, which rows came before."""
    order = rows.argsort(stable=True)
    copies = torch.zeros(len(rows), dtype=torch.bool)
    copies[order[1:]] = rows[order[1:]] == rows[order[:-1]]
    return copies


def _tiled(images_XCHW: Tensor, rows: int, columns: int) -> Tensor:
    """Every rows x columns images in one: each reduced to its tile, which nearest neighbours do pixel by pixel."""
    height, width = images_XCHW.shape[2] // rows, images_XCHW.shape[3] // columns
    tiles = F.interpolate(images_XCHW, (height, width), mode="nearest").unflatten(0, (-1, rows, columns))
    return tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
