"""The offline metric of the `evaluate` library."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

import evaluate
from haba_hf.evaluation import metric as module
from haba_hf.evaluation.metric import DistilledAccuracy


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
    assert scores == pytest.approx({"accuracy": 0.75, "improvement_over_random": 0.25, "hard_label_recovery": 0.15})


def test_logits_and_other_fractions_are_refused():
    metric = DistilledAccuracy()
    with pytest.raises(TypeError, match="predictions must be whole numbers"):
        metric.compute(predictions=np.array([0.9, 0.2]), references=[0, 0])
    with pytest.raises(TypeError, match="references must be whole numbers"):
        DistilledAccuracy().add(prediction=1, reference=0.5)
    with pytest.raises(ValueError, match=r"random_accuracy is a fraction of 1, got 57\.6"):
        DistilledAccuracy().compute(predictions=[1], references=[1], random_accuracy=57.6)
