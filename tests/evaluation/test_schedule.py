"""Students trained by an artifact's own step sizes."""

import pytest
import torch
from torch.nn import functional as F

from haba_hf.data.augmentation import DsaAugmentation
from haba_hf.evaluation import EvaluationArguments, accuracy, evaluate_artifact
from haba_hf.evaluation.schedule import scheduled_batch, train_by_schedule
from haba_hf.evaluation.students import TRAINING, WEIGHTS
from haba_hf.networks import build_network
from haba_hf.utils.seeds import derived_seed, seeded_generator
from tiny import NETWORK, formations_of, tiny_accelerator, tiny_data, tiny_model


def make_artifact(data, **settings):
    model = tiny_model(data, **{"num_step_sizes": 4} | settings)
    if model.raw_step_sizes is not None:
        model.raw_step_sizes.data.add_(0.3 * torch.arange(4))
    return model


def plain_loop(network, model, generator, augmentation):
    """T steps of gradient descent, written out; draws in the order of the evaluation."""
    for step, step_size in enumerate(model.step_sizes.tolist()):
        basis_ids = [2 * label + step % 2 for label in range(model.config.num_labels)]
        formations = model.config.num_formations
        basis_ids = [basis for basis in basis_ids for _ in range(formations)]
        images = [model.bases[basis : basis + 1] for basis in basis_ids]
        if model.config.num_hallucinators:
            drawn = torch.randint(model.config.num_hallucinators, (len(basis_ids),), generator=generator).tolist()
            images = [model.hallucinators[j](image, None, None) for j, image in zip(drawn, images, strict=True)]
        if formations > 1:
            images = [formations_of(image, model.config)[place % formations] for place, image in enumerate(images)]
        logits = network(augmentation(torch.cat(images).detach(), generator))
        loss = F.cross_entropy(logits, model.labels[basis_ids].detach())
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.data -= step_size * gradient
    return network


@pytest.mark.parametrize(
    ("sizes", "dsa"),
    [
        ({}, "none"),
        ({"label_kind": "soft"}, "color_crop"),
        ({"num_hallucinators": 0}, "none"),
        ({"formation_factor": 2}, "none"),
    ],
)
def test_a_student_by_hand(sizes, dsa):
    """Learning rate, epochs, batch size, momentum and weight decay play no part."""
    data = tiny_data()
    model = make_artifact(data, **sizes)
    args = EvaluationArguments(
        evaluation_protocol="schedule",
        evaluation_seeds=2,
        evaluation_dsa=dsa,
        student_epochs=99,
        evaluation_momentum=0.99,
    )
    result = evaluate_artifact(model, data.test, data.processor, NETWORK, args, 7, tiny_accelerator())
    expected = []
    for index in range(2):
        network = build_network(NETWORK, data.image_shape, data.num_labels, derived_seed(7, index, WEIGHTS))
        plain_loop(network, model, seeded_generator(7, index, TRAINING), DsaAugmentation(dsa))
        expected.append(accuracy(network, data.test.images, data.test.labels, data.processor))
    assert result.accuracies == expected


def test_training_by_the_schedule_by_hand():
    data = tiny_data()
    model = make_artifact(data)
    networks = [build_network(NETWORK, data.image_shape, data.num_labels, seed=3) for _ in range(2)]
    generator, losses = seeded_generator(1), []
    trained = train_by_schedule(
        networks[0],
        lambda step: scheduled_batch(model, step, generator),
        model.step_sizes.tolist(),
        generator=generator,
        on_step=lambda step, loss: losses.append((step, loss)),
    )
    plain_loop(networks[1], model, seeded_generator(1), DsaAugmentation("none"))
    for parameter, expected in zip(trained.parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(parameter, expected)
    assert [step for step, _ in losses] == [0, 1, 2, 3]
    assert not trained.training


def test_an_artifact_without_step_sizes_is_refused():
    data = tiny_data()
    args = EvaluationArguments(evaluation_protocol="schedule")
    model = make_artifact(data, num_step_sizes=0)
    with pytest.raises(ValueError, match="has no step sizes to train students by: set evaluation_protocol to sgd"):
        evaluate_artifact(model, data.test, data.processor, NETWORK, args, 0, tiny_accelerator())


def test_a_student_that_diverges():
    data = tiny_data()
    model = make_artifact(data)
    model.raw_step_sizes.data.fill_(3e38)
    args = EvaluationArguments(evaluation_protocol="schedule", evaluation_seeds=1)
    with pytest.raises(FloatingPointError, match=r"diverged in step \d of 4 of the artifact's schedule"):
        evaluate_artifact(model, data.test, data.processor, NETWORK, args, 0, tiny_accelerator())
