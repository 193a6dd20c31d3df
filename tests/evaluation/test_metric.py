"""The offline metric of the `evaluate` library."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

import evaluate
from haba_hf.evaluation import metric as module
from haba_hf.evaluation.metric import DistilledAccuracy
from haba_hf.evaluation.scores import augmentation_robust_score, label_robust_score


def test_accuracy_over_batches_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    predictions, references = (torch.randint(5, (33,), generator=generator) for _ in range(2))
    metric = DistilledAccuracy()
    for rows in torch.arange(33).split(8):
        metric.add_batch(predictions=predictions[rows], references=references[rows])
    expected = accuracy_score(references, predictions)
    assert metric.compute() == {"accuracy": pytest.approx(expected)}
    metric.add(prediction=1, reference=1)
    assert metric.compute() == {"accuracy": 1.0}


def test_loaded_by_path_it_needs_no_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path))
    metric = evaluate.load(module.__file__)
    scores = metric.compute(predictions=[1, 2, 3, 4], references=[1, 2, 3, 0], random_accuracy=0.5, full_accuracy=0.9)
    score = (math.exp(0.05) - math.exp(-1)) / (math.exp(1) - math.exp(-1))  # of alpha = 0.5 * 0.25 - 0.5 * 0.15
    expected = {"accuracy": 0.75, "improvement_over_random": 0.25, "hard_label_recovery": 0.15}
    assert scores == pytest.approx({**expected, "label_robust_score": score})


def test_scores_of_dd_ranking():
    """By hand, at the ends of their range, and in between."""
    assert label_robust_score(1.0, -1.0) == pytest.approx(1.0)
    assert label_robust_score(-1.0, 1.0) == pytest.approx(0.0)
    assert label_robust_score(0.2, 0.4) == pytest.approx((math.exp(-0.1) - 1 / math.e) / (math.e - 1 / math.e))
    assert label_robust_score(0.2, 0.4, weight=1.0) == pytest.approx(label_robust_score(0.2, 0.9, weight=1.0))
    assert augmentation_robust_score(1.0, 1.0) == pytest.approx(1.0)
    assert augmentation_robust_score(0.3, 0.1) == pytest.approx(label_robust_score(0.3, -0.1))
    metric = DistilledAccuracy()
    plain = {"random_accuracy": 0.5, "plain_accuracy": 0.6, "plain_random_accuracy": 0.5}
    scores = metric.compute(predictions=[1, 1], references=[1, 0], **plain)
    assert scores["augmentation_robust_score"] == pytest.approx(augmentation_robust_score(0.0, 0.1))
    for wrong in ({"improvement_over_random": 22.0, "hard_label_recovery": 0.1}, {"weight": 2.0}):
        with pytest.raises(ValueError, match=r"in fractions, got 22|weight of a score is from 0 to 1"):
            label_robust_score(**{"improvement_over_random": 0.1, "hard_label_recovery": 0.1} | wrong)


def test_logits_and_other_fractions_are_refused():
    metric = DistilledAccuracy()
    with pytest.raises(TypeError, match="predictions must be whole numbers"):
        metric.compute(predictions=np.array([0.9, 0.2]), references=[0, 0])
    with pytest.raises(TypeError, match="references must be whole numbers"):
        DistilledAccuracy().add(prediction=1, reference=0.5)
    with pytest.raises(ValueError, match=r"random_accuracy is a fraction of 1, got 57\.6"):
        DistilledAccuracy().compute(predictions=[1], references=[1], random_accuracy=57.6)
