"""The settings of an evaluation."""

import math
from dataclasses import dataclass, field
from typing import Literal

from ..data.augmentation import DSA_STRATEGY, DsaAugmentation
from ..data.cutmix import CutMix
from ..utils.checks import MOST_WIDTH, Settings, check_between, check_counts, check_momentum, check_positive
from .training import Schedule


@dataclass
class EvaluationArguments(Settings):
    """How students are trained on an artifact, and on the real data it is compared with."""

    artifact: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of the artifact; by default output_dir/artifact.", "result": False},
    )
    students_of: Literal["artifact", "full_data"] = field(
        default="artifact",
        metadata={
            "help": "What students are trained on: the artifact and its references, or the full real data alone, "
            "which needs no artifact and goes to full_data.json.",
            "result": False,
        },
    )
    references: Literal["all", "random", "same_storage", "none"] = field(
        default="all",
        metadata={
            "help": "What is evaluated beside the artifact: random real images (at equal floats, in the same storage, "
            "at equal bytes) and the full data, the random images alone, those in the same storage alone, or nothing.",
            "result": False,
        },
    )
    evaluation_split: Literal["test", "validation"] = field(
        default="test",
        metadata={
            "help": "Where students are scored: test for results; validation to choose settings by, such as "
            "evaluation_learning_rate and student_epochs.",
            "result": False,
        },
    )
    evaluation_protocol: Literal["sgd", "schedule"] = field(
        default="sgd",
        metadata={
            "help": "Students of the artifact are trained by SGD over student_epochs, or by its own schedule of step "
            "sizes (dd); what it is compared with always by SGD."
        },
    )
    student_width: int | None = field(
        default=None, metadata={"help": "Channels of the students' ConvNet; by default network_width."}
    )
    evaluation_seeds: int = field(default=5, metadata={"help": "Students, each with its own initialization."})
    student_epochs: int = field(default=1000, metadata={"help": "Epochs of a student; one epoch is every basis once."})
    evaluation_steps: int | None = field(
        default=None,
        metadata={
            "help": "SGD steps of a student in place of student_epochs, which are more steps the more samples there "
            "are: whole epochs until they are reached."
        },
    )
    evaluation_batch_size: int = field(default=256, metadata={"help": "Batch size of students."})
    evaluation_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of students; by default the one stored in the artifact."}
    )
    evaluation_momentum: float = field(default=0.9, metadata={"help": "SGD momentum of students."})
    evaluation_weight_decay: float = field(default=5e-4, metadata={"help": "SGD weight decay of students."})
    evaluation_dsa: str = field(
        default=DSA_STRATEGY, metadata={"help": "DSA operations joined by underscores, stages by +, or 'none'."}
    )
    evaluation_cutmix: float = field(default=0.0, metadata={"help": "Probability of a batch to be mixed by CutMix."})
    evaluation_schedule: Schedule = field(
        default="half",
        metadata={
            "help": "Learning rate: a tenth after half of the epochs, or a fifth after 2/3 and again after 5/6."
        },
    )
    real_evaluation_seeds: int | None = field(
        default=None, metadata={"help": "Students of the full real data; by default evaluation_seeds."}
    )
    real_student_epochs: int = field(default=50, metadata={"help": "Epochs of a student of the full real data."})
    real_student_learning_rate: float = field(
        default=0.01, metadata={"help": "Learning rate of a student of the full real data."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "evaluation_seeds", "student_epochs", "evaluation_batch_size")
        check_counts(self, "student_width", most=MOST_WIDTH)
        check_counts(self, "evaluation_steps")
        check_counts(self, "real_evaluation_seeds", "real_student_epochs")
        check_positive(self, "evaluation_learning_rate", "real_student_learning_rate")
        check_momentum(self, "evaluation_momentum")
        check_between(self, 0, math.inf, "evaluation_weight_decay")
        # What they refuse is refused now, not after hours of distillation.
        DsaAugmentation(self.evaluation_dsa)
        CutMix(self.evaluation_cutmix)
