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

from .report import FULL_DATA, RANDOM_REAL, ReportRow


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


def scores_of(rows: Sequence[ReportRow], hard_labels: bool) -> dict[str, float]:
    """
    What the rows of a comparison tell: `improvement_over_random` (at equal storage), and, of an artifact with hard
    labels beside the full data, `hard_label_recovery` and `label_robust_score`.
    """
    accuracies = {row.system: row.accuracy.mean for row in rows[1:]}
    own, scores = rows[0].accuracy.mean, {}
    if RANDOM_REAL in accuracies:
        scores["improvement_over_random"] = own - accuracies[RANDOM_REAL]
    if FULL_DATA in accuracies and hard_labels:
        scores["hard_label_recovery"] = accuracies[FULL_DATA] - own
    if len(scores) == 2:
        scores["label_robust_score"] = label_robust_score(**scores)
    return scores


def _score(weight: float, first: float, second: float) -> float:
    if not 0 <= weight <= 1:
        raise ValueError(f"The weight of a score is from 0 to 1, got {weight}.")
    for difference in (first, second):
        if not -1 <= difference <= 1:
            raise ValueError(f"A difference of accuracies is from -1 to 1, in fractions, got {difference}.")
    return (math.exp(weight * first + (1 - weight) * second) - math.exp(-1)) / (math.e - math.exp(-1))
