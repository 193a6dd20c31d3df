"""Objectives: what L_DD is and how its gradient is computed, one file per idea.

Each has `prepare(real_data, model, accelerator)`, called once, and `backward(model, generator)`, which adds the
gradient of lambda_DD * L_DD to the model's parameters and returns a dict of floats to log. What an objective carries
from one step to the next (an inner network half trained) it hands to the checkpoints by `state` and `load_state`.
"""

from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from ...artifact.modeling_haba import HabaModel
from ...data.image_data import ImageData
from .distribution_matching import DistributionMatching, DistributionMatchingArguments
from .feature_alignment import FeatureAlignment, FeatureAlignmentArguments
from .gradient_matching import GradientMatching, GradientMatchingArguments
from .idc import IdcArguments, IdcMatching
from .label_distillation import LabelDistillation, LabelDistillationArguments
from .linear_gradient_matching import LinearGradientMatching, LinearGradientMatchingArguments
from .trajectory_matching import TrajectoryMatching, TrajectoryMatchingArguments
from .unrolled import UnrolledTraining

__all__ = [
    "DistributionMatching",
    "DistributionMatchingArguments",
    "FeatureAlignment",
    "FeatureAlignmentArguments",
    "GradientMatching",
    "GradientMatchingArguments",
    "IdcArguments",
    "IdcMatching",
    "LabelDistillation",
    "LabelDistillationArguments",
    "LinearGradientMatching",
    "LinearGradientMatchingArguments",
    "Objective",
    "TrajectoryMatching",
    "TrajectoryMatchingArguments",
    "UnrolledTraining",
]


class Objective(Protocol):
    """The interface between the distiller and any objective."""

    learns_student_learning_rate: bool

    def prepare(self, real_data: ImageData, model: HabaModel, accelerator: Accelerator) -> None: ...

    def backward(self, model: HabaModel, generator: torch.Generator) -> dict[str, float]: ...

    def state(self) -> dict[str, Tensor]: ...

    def load_state(self, state: dict[str, Tensor]) -> None: ...
