"""Accuracy of a student, and what it says of a distilled set, as a metric of the `evaluate` library that needs no Hub.

from haba_hf.evaluation.metric import DistilledAccuracy      # or evaluate.load("path/to/this/metric.py")

metric = DistilledAccuracy()
metric.add_batch(predictions=logits.argmax(dim=1), references=labels)
metric.compute(random_accuracy=0.58, full_accuracy=0.93)
"""

import datasets
import numpy as np

import evaluate
from haba_hf.evaluation.scores import augmentation_robust_score, compare

DESCRIPTION = (
    "Accuracy of a student trained on a distilled set, its gain over random real images at equal storage, and what it "
    "lacks to a student of the full data, and the scores of both (as DD-Ranking defines them). Fractions of 1."
)
INPUTS = """
Args:
    predictions: class of each image, whole numbers.
    references: true class of each image, whole numbers.
    random_accuracy: of students of random real images at equal storage, optional.
    full_accuracy: of students of all real images with hard labels, optional.
    plain_accuracy, plain_random_accuracy: as accuracy and random_accuracy, of students without augmentation, optional.
Returns:
    accuracy; with random_accuracy also improvement_over_random; with full_accuracy also hard_label_recovery; with both
    label_robust_score; with random_accuracy and the two plain ones augmentation_robust_score.
"""


class DistilledAccuracy(evaluate.Metric):
    """
    See the module's docstring.

    Raises:
        `TypeError`: if predictions or references are no whole numbers: `evaluate` would cut 0.9 to 0.
        `ValueError`: if there are none, or an accuracy is not in [0, 1].
    """

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features, format="numpy"
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Adds the classes of several images."""
        for name, values in {"predictions": predictions, "references": references}.items():
            _check_whole_numbers(name, values)
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Adds the class of one image."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def _compute(
        self,
        predictions,
        references,
        random_accuracy=None,
        full_accuracy=None,
        plain_accuracy=None,
        plain_random_accuracy=None,
    ):
        if not len(references):
            raise ValueError("There are no predictions to score.")
        given = {
            "random_accuracy": random_accuracy,
            "full_accuracy": full_accuracy,
            "plain_accuracy": plain_accuracy,
            "plain_random_accuracy": plain_random_accuracy,
        }
        for name, value in given.items():
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is a fraction of 1, got {value}.")
        accuracy = float(np.mean(predictions == references))
        scores = {"accuracy": accuracy, **compare(accuracy, random_accuracy, full_accuracy)}
        if None not in (random_accuracy, plain_accuracy, plain_random_accuracy):
            plain = plain_accuracy - plain_random_accuracy
            scores["augmentation_robust_score"] = augmentation_robust_score(scores["improvement_over_random"], plain)
        return scores


def _check_whole_numbers(name, values):
    if not np.issubdtype(np.asarray(values).dtype, np.integer):
        raise TypeError(f"{name} must be whole numbers, the classes; of logits take the argmax first.")
