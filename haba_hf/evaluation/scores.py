r"""
DD-Ranking's scores of a distilled set (Li et al., 2025, arXiv 2505.13300), on fractions of 1:

    IOR = acc(distilled) - acc(random real),    HLR = acc(full data) - acc(distilled),
    LRS = s( w IOR - (1 - w) HLR ),    ARS = s( w IOR_aug + (1 - w) IOR_plain ),
    s(a) = (e^a - e^-1) / (e - e^-1),

all by students with hard labels; IOR_plain is that of students without augmentation, w is 0.5. The released tool
(ddranking 0.2.0) has percentages in place of fractions, with which LRS leaves [0, 1], takes the best of several test
accuracies of a student, and lets random real images choose their learning rate on the test split. Here a student is
scored once, after its last step, and all students train alike.
"""

import math
from collections.abc import Sequence

from .report import FULL_DATA, HARD, RANDOM_REAL, ReportRow


def label_robust_score(improvement_over_random: float, hard_label_recovery: float, weight: float = 0.5) -> float:
    """
    LRS, from 0 to 1: 1 for a set that takes students from 0 to all that the full data give.

    Args:
        improvement_over_random (`float`): IOR, a difference of fractions.
        hard_label_recovery (`float`): HLR, a difference of fractions.
        weight (`float`, *optional*, defaults to 0.5): w.

    Raises:
        `ValueError`: if an argument is out of its range.
    """
    return _score(weight, improvement_over_random, -hard_label_recovery)


def augmentation_robust_score(improvement: float, plain_improvement: float, weight: float = 0.5) -> float:
    """
    ARS, from 0 to 1.

    Args:
        improvement (`float`): IOR of students with augmentation.
        plain_improvement (`float`): IOR of students without.
        weight (`float`, *optional*, defaults to 0.5): w.

    Raises:
        `ValueError`: if an argument is out of its range.
    """
    return _score(weight, improvement, plain_improvement)


def compare(accuracy: float, random_accuracy: float | None, full_accuracy: float | None) -> dict[str, float]:
    """
    Of an accuracy, beside that of random real images `improvement_over_random`, beside that of the full data
    `hard_label_recovery`, and beside both `label_robust_score`.
    """
    scores = {}
    if random_accuracy is not None:
        scores["improvement_over_random"] = accuracy - random_accuracy
    if full_accuracy is not None:
        scores["hard_label_recovery"] = full_accuracy - accuracy
    if random_accuracy is not None and full_accuracy is not None:
        scores["label_robust_score"] = label_robust_score(**scores)
    return scores


def scores_of(rows: Sequence[ReportRow]) -> dict[str, float]:
    """
    [`compare`] for the rows of a table, at equal storage; the full data, whose labels are hard, count beside hard
    ones. Beside a teacher's labels the random real images have a teacher's too, which DD-Ranking's have not.
    """
    accuracies = {row.system: row.accuracy.mean for row in rows[1:]}
    full_accuracy = accuracies.get(FULL_DATA) if rows[0].labels == HARD else None
    return compare(rows[0].accuracy.mean, accuracies.get(RANDOM_REAL), full_accuracy)


def _score(weight: float, first: float, second: float) -> float:
    if not 0 <= weight <= 1:
        raise ValueError(f"The weight of a score is from 0 to 1, got {weight}.")
    for difference in (first, second):
        if not -1 <= difference <= 1:
            raise ValueError(f"A difference of accuracies is from -1 to 1, in fractions, got {difference}.")
    return (math.exp(weight * first + (1 - weight) * second) - math.exp(-1)) / (math.e - math.exp(-1))
