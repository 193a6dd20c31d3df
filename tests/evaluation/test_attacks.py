"""Attacks against the closed form of a linear network, and what is kept of them."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from haba_hf.data import Split
from haba_hf.data.corruptions import CORRUPTIONS
from haba_hf.evaluation import (
    AccuracyResult,
    RobustnessArguments,
    RobustnessResult,
    TrainedStudents,
    accuracy,
    robustness_table,
    score_under_attack,
)
from haba_hf.evaluation.attacks import attack
from haba_hf.hub import plot_robustness
from haba_hf.networks import build_network
from tiny import NETWORK, tiny_accelerator, tiny_data


def linear_network(seed=0):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        network[1].weight.normal_(generator=generator)
        network[1].bias.zero_()
    return network


def mid_grey(count=40):
    """Pixels so far from black and white that no epsilon of these tests is clipped, of random classes."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(60, 196, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 2, (count,), generator=generator)


def margins(network, pixels, labels, processor):
    logits = network(processor.normalize(pixels)).double()
    return logits.gather(1, labels[:, None])[:, 0] - logits.gather(1, 1 - labels[:, None])[:, 0]


@pytest.mark.parametrize("zca", [False, True])
@pytest.mark.parametrize("steps", [None, 10])
def test_a_linear_network_loses_the_norm_of_its_gradient(zca, steps):
    """The margin falls by epsilon times the L1 norm of its gradient, and no perturbation takes more from it."""
    processor, network, (images, labels) = tiny_data(zca=zca).processor, linear_network(), mid_grey()
    epsilon = 3.0
    # Of a linear function a difference is its derivative, whatever the processor does.
    corner = torch.full((1, 3, 8, 8), 0.5)
    moved = corner + 0.25 * torch.eye(192).view(192, 3, 8, 8)
    with torch.no_grad():
        zero = torch.zeros(192, dtype=torch.int64)
        derivative = (margins(network, moved, zero, processor) - margins(network, corner, zero[:1], processor)) / 0.25
        before = margins(network, images.float() / 255, labels, processor)
        perturbed = attack(network, images, labels, processor, epsilon, steps)
        after = margins(network, perturbed, labels, processor)
    sign = (1 - 2 * labels).view(-1, 1, 1, 1) * derivative.sign().view(1, 3, 8, 8)
    torch.testing.assert_close(perturbed, (images / 255 - epsilon / 255 * sign).float(), atol=1e-6, rtol=0)
    loss = epsilon / 255 * derivative.abs().sum()
    torch.testing.assert_close(after, before - loss, atol=1e-3, rtol=1e-3)
    expected = (before > loss).double().mean().item()
    assert 0 < expected < (before > 0).double().mean().item()
    assert accuracy(network, perturbed, labels, processor) == pytest.approx(expected)


def test_the_signs_are_those_of_cross_entropy():
    """In float64, where it does not drown, on a network with curves and more than two classes."""
    data = tiny_data()
    network = build_network(NETWORK, data.image_shape, data.num_labels, seed=0)
    images, labels = data.test.images, data.test.labels
    perturbed = attack(network, images, labels, data.processor, 1)
    pixels = (images.float() / 255).requires_grad_()
    logits = network.eval()(data.processor.normalize(pixels))
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits.double(), labels), pixels)
    expected = (images / 255 + gradient.sign() / 255).clamp(0, 1)
    assert (perturbed - expected).abs().gt(1e-6).double().mean() < 1e-3, "but where a gradient is next to nothing"


def test_pixels_stay_within_epsilon_and_their_range():
    data = tiny_data()
    network = build_network(NETWORK, data.image_shape, data.num_labels, seed=0).train()
    images = data.test.images.clone()
    images[:, :, ::2], images[:, :, 1::2, ::2] = 0, 255
    for steps in (None, 4):
        perturbed = attack(network, images, data.test.labels, data.processor, 8, steps)
        distance = (perturbed - images / 255).abs()
        assert perturbed.min() == 0 and perturbed.max() == 1 and distance.max() <= 8 / 255 + 1e-6
        assert distance.max() > 7.9 / 255
    assert network.training and all(parameter.grad is None for parameter in network.parameters())


def test_a_start_is_decided_by_its_seed():
    data = tiny_data()
    network = build_network(NETWORK, data.image_shape, data.num_labels, seed=0)
    before = torch.get_rng_state()
    first, again, other = (
        attack(network, data.test.images, data.test.labels, data.processor, 8, 2, seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_student_is_attacked_by_itself():
    processor, split = tiny_data().processor, Split(*mid_grey())
    systems = [
        TrainedStudents(
            "one", processor, {0: linear_network(0), 1: linear_network(1)}, AccuracyResult(0, 0, [1, 1], 0)
        ),
        TrainedStudents("other", processor, {0: linear_network(2)}, AccuracyResult(0, 0, [1], 0)),
    ]
    found = score_under_attack(systems, split, [1.0, 4.0], 3, seed=5, accelerator=tiny_accelerator())
    for students, attacks in zip(systems, found, strict=True):
        for name, steps in (("FGSM", None), ("PGD", 3)):
            for epsilon, scores in zip((1.0, 4.0), attacks[name], strict=True):
                assert scores == [
                    accuracy(
                        network,
                        attack(network, split.images, split.labels, processor, epsilon, steps, seed=5),
                        split.labels,
                        processor,
                    )
                    for network in students.networks.values()
                ]


def attacked(system, *levels):
    corrupted = {name: [[0.5]] * 5 for name in CORRUPTIONS}
    scores = [[level] for level in levels]
    return RobustnessResult(system, [0.8], corrupted, {"FGSM": scores, "PGD": scores}, [1.0, 2.5])


def test_table_and_picture(tmp_path):
    results = [attacked("HaBa", 0.6, 0.4), attacked("full data", 0.7, 0.3)]
    lines = robustness_table(results).splitlines()
    assert lines[6:10] == [
        "",
        "Under attack, every pixel perturbed by no more than epsilon (L-infinity):",
        "",
        "| system | attack | clean | 1/255 | 2.5/255 |",
    ]
    assert lines[11] == "| HaBa | FGSM | 80.0 ± 0.0 | 60.0 ± 0.0 | 40.0 ± 0.0 |"
    assert [line.split(" | ")[:2] for line in lines[12:]] == [
        ["| full data", "FGSM"],
        ["| HaBa", "PGD"],
        ["| full data", "PGD"],
    ]
    plot_robustness(results, tmp_path / "attacked.png")
    assert np.asarray(Image.open(tmp_path / "attacked.png")).shape[:2] == (400, 1200)
    with pytest.raises(ValueError, match="within the same epsilons"):
        robustness_table([results[0], dataclasses.replace(results[1], epsilons=[1.0, 3.0])])


def test_arguments_are_checked():
    for epsilons in ([], [0.0], [-1.0, 2.0], [256.0]):
        with pytest.raises(ValueError, match="attack_epsilons are above 0"):
            RobustnessArguments(attack_epsilons=epsilons)
    with pytest.raises(ValueError, match="attack_steps must be at least 1"):
        RobustnessArguments(attack_steps=0)
