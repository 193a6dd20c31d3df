"""What goes beside an artifact when it is published, and the way to the Hub and back."""

from .artifact import Artifact, read_artifact
from .cards import render_dataset_card, render_model_card
from .experts import pull_experts, push_experts, read_experts
from .galleries import mixture_picture, save_contact_sheet, save_gallery
from .listen import save_sounds
from .mixtures import mix_hallucinators
from .plots import plot_embedding, plot_robustness, plot_training_curves
from .publish import export_artifact, fetch_artifact, pull_artifact, push_artifact
from .summary import artifact_facts, artifact_summary, list_artifacts
from .tables import materialize_artifact

__all__ = [
    "Artifact",
    "artifact_facts",
    "artifact_summary",
    "export_artifact",
    "fetch_artifact",
    "list_artifacts",
    "materialize_artifact",
    "mix_hallucinators",
    "mixture_picture",
    "plot_embedding",
    "plot_robustness",
    "plot_training_curves",
    "pull_artifact",
    "pull_experts",
    "push_artifact",
    "push_experts",
    "read_artifact",
    "read_experts",
    "render_dataset_card",
    "render_model_card",
    "save_contact_sheet",
    "save_gallery",
    "save_sounds",
]
