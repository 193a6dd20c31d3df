"""Distillation: objectives, the adversary, experts, and the distiller that drives Algorithm 1."""

from .adversary import Adversary
from .arguments import DistillationArguments, ModelArguments
from .distiller import Distiller
from .experts import ExpertArguments, ExpertStore, record_experts
from .initialization import initial_model
from .objectives import (
    DistributionMatching,
    FeatureAlignment,
    GradientMatching,
    IdcMatching,
    LabelDistillation,
    Objective,
    TrajectoryMatching,
    UnrolledTraining,
)

__all__ = [
    "Adversary",
    "DistillationArguments",
    "Distiller",
    "DistributionMatching",
    "ExpertArguments",
    "ExpertStore",
    "FeatureAlignment",
    "GradientMatching",
    "IdcMatching",
    "LabelDistillation",
    "ModelArguments",
    "Objective",
    "TrajectoryMatching",
    "UnrolledTraining",
    "initial_model",
    "record_experts",
]
