"""Fresh students trained on an artifact, and what it is set against."""

from .references import evaluate_full_data, evaluate_random_real, random_real_artifact
from .report import FULL_DATA, RANDOM_REAL, ReportRow, markdown_table, write_json, write_results
from .students import AccuracyResult, EvaluationArguments, evaluate_artifact, evaluate_students
from .training import accuracy, learning_rate_at, train_student

__all__ = [
    "FULL_DATA",
    "RANDOM_REAL",
    "AccuracyResult",
    "EvaluationArguments",
    "ReportRow",
    "accuracy",
    "evaluate_artifact",
    "evaluate_full_data",
    "evaluate_random_real",
    "evaluate_students",
    "learning_rate_at",
    "markdown_table",
    "random_real_artifact",
    "train_student",
    "write_json",
    "write_results",
]
