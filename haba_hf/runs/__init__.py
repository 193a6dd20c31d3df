"""What a recipe does, from real data to a table: the functions behind the scripts in training/."""

from .choosing import select_coreset
from .distilling import build_objective, distill
from .evaluating import evaluate, results_file
from .inputs import evaluation_facts, load_artifact, open_evaluation, student_network, system_name
from .launching import start_accelerator
from .one_student import train_one_student

__all__ = [
    "build_objective",
    "distill",
    "evaluate",
    "evaluation_facts",
    "load_artifact",
    "open_evaluation",
    "results_file",
    "select_coreset",
    "start_accelerator",
    "student_network",
    "system_name",
    "train_one_student",
]
