import pytest
import torch

from haba_hf.evaluation import (
    AccuracyResult,
    ArchitectureRow,
    CrossArchitectureArguments,
    EvaluationArguments,
    architecture_table,
    evaluate_across,
    evaluate_artifact,
)
from haba_hf.networks import NetworkArguments, build_network
from tiny import NETWORK, tiny_accelerator, tiny_data, tiny_model

NETWORKS = [NETWORK, NetworkArguments("alexcifarnet"), NetworkArguments("transformers/vit")]


def make_args(**kwargs):
    return EvaluationArguments(**{"evaluation_seeds": 2, "student_epochs": 2, "evaluation_dsa": "none"} | kwargs)


def test_every_row_is_the_architectures_own_evaluation():
    data = tiny_data()
    model, args = tiny_model(data), make_args()
    common = (args, 3, tiny_accelerator())
    rows = list(evaluate_across(model, data.test, data.processor, NETWORKS, *common))
    assert [row.architecture for row in rows] == ["convnet", "alexcifarnet", "transformers/vit"]
    for row, network in zip(rows, NETWORKS, strict=True):
        alone = evaluate_artifact(model, data.test, data.processor, network, *common)
        assert row.accuracy.accuracies == alone.accuracies and len(alone.accuracies) == 2
        built = build_network(network, data.image_shape, data.num_labels, seed=5)
        assert row.parameters == sum(parameter.numel() for parameter in built.parameters())
        assert row.learning_rate == pytest.approx(model.student_learning_rate.item())


def test_the_learning_rate_given_is_that_of_all():
    data = tiny_data()
    args = make_args(evaluation_learning_rate=0.25, student_epochs=1)
    rows = evaluate_across(tiny_model(data), data.test, data.processor, [NETWORK], args, 0, tiny_accelerator())
    assert [row.learning_rate for row in rows] == [0.25]


def test_another_architecture_learns_from_the_samples():
    """Classes differ in brightness: an AlexCifarNet tells them apart after some epochs."""
    data = tiny_data(images_per_class=12)
    model = tiny_model(data, num_hallucinators=0, bases_per_class=4)
    with torch.no_grad():
        chosen = torch.cat([data.train.of_class(label)[:4] for label in range(data.num_labels)])
        model.bases.copy_(data.processor.normalize(data.train.images[chosen]))
    args = make_args(student_epochs=60, evaluation_learning_rate=0.01)
    (row,) = evaluate_across(model, data.train, data.processor, NETWORKS[1:2], args, 0, tiny_accelerator())
    assert row.accuracy.mean > 0.6


def test_an_architecture_that_does_not_fit_is_refused_before_any_student_is_trained(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a student was trained")

    monkeypatch.setattr("haba_hf.evaluation.cross_architecture.evaluate_artifact", refuse)
    data = tiny_data()
    networks = [NETWORK, NetworkArguments("vgg11")]
    rows = evaluate_across(tiny_model(data), data.test, data.processor, networks, make_args(), 0, tiny_accelerator())
    with pytest.raises(ValueError, match="VGG11 needs images of 32x32 pixels or more, got 8x8"):
        next(rows)


def test_a_student_that_diverges_names_its_architecture():
    data = tiny_data()
    args = make_args(evaluation_learning_rate=1e20, student_epochs=5)
    rows = evaluate_across(tiny_model(data), data.test, data.processor, NETWORKS[1:2], args, 0, tiny_accelerator())
    with pytest.raises(FloatingPointError, match=r"^alexcifarnet: Student 0 of 2: .* at learning rate 1e\+20"):
        next(rows)


def test_the_table():
    accuracy = AccuracyResult(mean=0.5123, std=0.0207, accuracies=[0.5, 0.52, 0.53], seconds=61.7)
    table = architecture_table([ArchitectureRow("vgg11", accuracy, 9_231_114, 0.02)])
    assert "| vgg11 | 51.2 ± 2.1 | 9,231,114 | 62 |" in table.splitlines()
    assert "over 3 students, all trained at learning rate 0.02." in table


def test_unknown_architectures_are_refused_when_the_recipe_is_read():
    with pytest.raises(ValueError, match="no network 'resnet'"):
        CrossArchitectureArguments(architectures=["convnet", "resnet"])
