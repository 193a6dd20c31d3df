"""Distillation: objectives, the adversary, experts, and the distiller that drives Algorithm 1."""

from .adversary import Adversary, AdversaryArguments
from .arguments import DistillationArguments, ModelArguments
from .distiller import Distiller
from .expert_recording import record_experts
from .experts import ExpertArguments, ExpertStore
from .initialization import initial_model, model_config
from .objectives import (
    DistributionMatching,
    DistributionMatchingArguments,
    FeatureAlignment,
    FeatureAlignmentArguments,
    GradientMatching,
    GradientMatchingArguments,
    IdcArguments,
    IdcMatching,
    LabelDistillation,
    LabelDistillationArguments,
    LinearGradientMatching,
    LinearGradientMatchingArguments,
    Objective,
    TrajectoryMatching,
    TrajectoryMatchingArguments,
    UnrolledTraining,
)
from .observer import Observer

__all__ = [
    "Adversary",
    "AdversaryArguments",
    "DistillationArguments",
    "Distiller",
    "DistributionMatching",
    "DistributionMatchingArguments",
    "ExpertArguments",
    "ExpertStore",
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
    "ModelArguments",
    "Objective",
    "Observer",
    "TrajectoryMatching",
    "TrajectoryMatchingArguments",
    "UnrolledTraining",
    "initial_model",
    "model_config",
    "record_experts",
]
