"""Coresets: real training images that are chosen, not learned, the same number of every class and without
replacement. Each is an artifact of plain pixels (K = 0). And the images that a distillation may leave out."""

from .expert import CoresetArguments, record_expert_features
from .pruning import images_to_keep, least_loss
from .rules import ForgettingEvents, herding, k_center, most_forgotten
from .selection import (
    Coreset,
    choose_coreset,
    config_for,
    plain_artifact,
    random_images,
    real_images_artifact,
    real_images_config,
    store_real_images,
)

__all__ = [
    "Coreset",
    "CoresetArguments",
    "ForgettingEvents",
    "choose_coreset",
    "config_for",
    "herding",
    "images_to_keep",
    "k_center",
    "least_loss",
    "most_forgotten",
    "plain_artifact",
    "random_images",
    "real_images_artifact",
    "real_images_config",
    "record_expert_features",
    "store_real_images",
]
