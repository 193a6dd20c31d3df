"""What a recipe does, from real data to a table: the functions behind `haba` and the scripts in training/."""

from .analyses import embed, evaluate_architectures, evaluate_robustness
from .choosing import select_coreset
from .distilling import build_objective, distill
from .evaluating import evaluate, results_file
from .importing import import_released
from .inputs import OpenedArtifact, evaluation_facts, load_artifact, open_evaluation
from .launching import start_accelerator
from .one_student import train_one_student
from .provenance import student_network
from .recording import record
from .systems import System, compared_systems

__all__ = [
    "OpenedArtifact",
    "System",
    "build_objective",
    "compared_systems",
    "distill",
    "embed",
    "evaluate",
    "evaluate_architectures",
    "evaluate_robustness",
    "evaluation_facts",
    "import_released",
    "load_artifact",
    "open_evaluation",
    "record",
    "results_file",
    "select_coreset",
    "start_accelerator",
    "student_network",
    "train_one_student",
]
