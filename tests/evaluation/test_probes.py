"""Students that are probes: what is computed once changes nothing, and every evaluation takes them."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from haba_hf.artifact.pairing import paired_batches
from haba_hf.coresets import real_images_config
from haba_hf.evaluation import (
    EvaluationArguments,
    accuracy,
    evaluate_across,
    evaluate_artifact,
    evaluate_full_data,
    evaluate_random_real,
    train_student,
)
from haba_hf.evaluation.students import TRAINING, WEIGHTS, student_training
from haba_hf.networks import NetworkArguments, Probe, build_network
from haba_hf.utils.seeds import derived_seed, seeded_generator
from tiny import tiny_accelerator, tiny_data, tiny_model
from tiny_backbones import vit

ARGUMENTS = EvaluationArguments(
    evaluation_seeds=2,
    student_epochs=20,
    evaluation_batch_size=3,
    evaluation_dsa="none",
    evaluation_learning_rate=0.05,
)
AUGMENTED = dataclasses.replace(ARGUMENTS, evaluation_dsa="color_crop")


@pytest.fixture
def probe(tmp_path):
    return NetworkArguments(f"probe/{vit(tmp_path)}")


def test_a_probe_is_trained_on_features_as_on_samples(probe):
    """Beside a loop over the whole network, backbone included, by an optimizer of the classifier alone."""
    data = tiny_data()
    model = tiny_model(data)
    trained = {}
    result = evaluate_artifact(
        *(model, data.test, data.processor, probe, ARGUMENTS, 7, tiny_accelerator()),
        validation_split=data.validation,
        on_student=trained.__setitem__,
    )
    for index in range(2):
        network = build_network(probe, data.image_shape, 4, derived_seed(7, index, WEIGHTS), data.processor).train()
        optimizer = torch.optim.SGD(network.classifier.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
        generator = seeded_generator(7, index, TRAINING)
        for epoch in range(20):
            optimizer.param_groups[0]["lr"] = 0.05 if epoch < 11 else 0.005
            for samples, labels in paired_batches(model, 3, generator):
                optimizer.zero_grad()
                F.cross_entropy(network(samples), labels).backward()
                optimizer.step()
        assert isinstance(trained[index], Probe)
        torch.testing.assert_close(trained[index].classifier.weight, network.classifier.weight, rtol=1e-4, atol=1e-5)
        for scores, split in ((result.accuracies, data.test), (result.validation_accuracies, data.validation)):
            assert scores[index] == accuracy(network, split.images, split.labels, data.processor)


def test_features_of_test_images_are_computed_once_for_all_students(probe, monkeypatch):
    data, calls = tiny_data(), []
    features = Probe.features
    monkeypatch.setattr(Probe, "features", lambda self, images: calls.append(len(images)) or features(self, images))
    evaluate_artifact(tiny_model(data), data.test, data.processor, probe, ARGUMENTS, 0, tiny_accelerator())
    assert sorted(calls) == [8, 24, 24]  # test images once, all 24 samples once for each student


def test_augmented_samples_go_through_the_backbone_every_time_and_learn(probe):
    data = tiny_data()
    model = tiny_model(data, num_hallucinators=0)
    trained, before = {}, build_network(probe, data.image_shape, 4, 0, data.processor).state_dict()
    result = evaluate_artifact(
        *(model, data.test, data.processor, probe, AUGMENTED, 0, tiny_accelerator()), on_student=trained.__setitem__
    )
    assert len(set(result.accuracies)) > 0
    for name, value in trained[0].state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("classifier")), name


@pytest.mark.parametrize("args", [ARGUMENTS, AUGMENTED])
def test_references_and_other_architectures_take_probes(probe, args):
    data, accelerator = tiny_data(), tiny_accelerator()
    args = dataclasses.replace(args, real_student_epochs=10, real_student_learning_rate=0.1)
    real = evaluate_full_data(data, data.test, probe, args, 0, accelerator)
    assert real.mean > 0.5, "classes differ in brightness; chance is 0.25"
    config = real_images_config(data, 2)
    assert len(evaluate_random_real(data, data.test, config, probe, args, 0, accelerator).accuracies) == 2
    networks = [probe, NetworkArguments(network_depth=1, network_width=4)]
    rows = list(evaluate_across(tiny_model(data), data.test, data.processor, networks, args, 0, accelerator))
    assert [row.architecture for row in rows] == [network.network for network in networks]


def test_train_student_takes_the_processor(probe):
    data = tiny_data()
    model = tiny_model(data)
    model.config.student_training = student_training(probe, ARGUMENTS)
    student = train_student(model, processor=data.processor, accelerator=tiny_accelerator())
    assert isinstance(student, Probe) and not student.training
    with pytest.raises(ValueError, match="needs the processor of the images"):
        train_student(model, accelerator=tiny_accelerator())
