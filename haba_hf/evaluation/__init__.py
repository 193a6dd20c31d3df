"""Fresh students trained on an artifact, and what it is compared with."""

from .arguments import EvaluationArguments
from .cross_architecture import ArchitectureRow, CrossArchitectureArguments, architecture_table, evaluate_across
from .embedding import REAL, Embedding, EmbeddingArguments, embed_samples
from .references import evaluate_full_data, evaluate_random_real, random_real_artifact
from .report import (
    FULL_DATA,
    RANDOM_EQUAL_BYTES,
    RANDOM_REAL,
    RANDOM_STORED_ALIKE,
    ReportRow,
    in_percent,
    markdown_table,
    write_results,
)
from .robustness import (
    RobustnessArguments,
    RobustnessResult,
    TrainedStudents,
    robustness_table,
    score_under_attack,
    score_under_corruption,
)
from .students import AccuracyResult, evaluate_artifact, evaluate_students, student_training, train_student
from .teacher import Teacher, TeacherArguments, labelled, teacher_settings, trained_teacher
from .training import accuracy, learning_rate_at, train_by_sgd
from .variety import hallucinator_variety

__all__ = [
    "FULL_DATA",
    "RANDOM_EQUAL_BYTES",
    "RANDOM_REAL",
    "RANDOM_STORED_ALIKE",
    "REAL",
    "AccuracyResult",
    "ArchitectureRow",
    "CrossArchitectureArguments",
    "Embedding",
    "EmbeddingArguments",
    "EvaluationArguments",
    "ReportRow",
    "RobustnessArguments",
    "RobustnessResult",
    "Teacher",
    "TeacherArguments",
    "TrainedStudents",
    "accuracy",
    "architecture_table",
    "embed_samples",
    "evaluate_across",
    "evaluate_artifact",
    "evaluate_full_data",
    "evaluate_random_real",
    "evaluate_students",
    "hallucinator_variety",
    "in_percent",
    "labelled",
    "learning_rate_at",
    "markdown_table",
    "random_real_artifact",
    "robustness_table",
    "score_under_attack",
    "score_under_corruption",
    "student_training",
    "teacher_settings",
    "train_by_sgd",
    "train_student",
    "trained_teacher",
    "write_results",
]
