"""The networks of one published layout each, against their layouts written out."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from haba_hf.distillation import DistributionMatching
from haba_hf.distillation.adversary import Adversary
from haba_hf.distillation.experts import network_signature
from haba_hf.networks import (
    VGG11,
    AlexCifarNet,
    AlexNet,
    FeatureNetwork,
    LeNet,
    NetworkArguments,
    ResNet18,
    build_feature_network,
    build_network,
)
from tiny import tiny_accelerator, tiny_data, tiny_model, tiny_recipe

LAYOUTS = {"alexnet": AlexNet, "vgg11": VGG11, "resnet18": ResNet18, "lenet": LeNet, "alexcifarnet": AlexCifarNet}


def convolution(channels, outputs, kernel, bias=True):
    return channels * outputs * kernel**2 + outputs * bias


def linear(inputs, outputs):
    return inputs * outputs + outputs


def norm(channels):
    return 2 * channels


def alexnet(channels, num_labels):
    widths = [(channels, 128, 5), (128, 192, 5), (192, 256, 3), (256, 192, 3), (192, 192, 3)]
    return sum(convolution(*width) for width in widths) + linear(192 * 16, num_labels)


def vgg11(channels, num_labels):
    widths = [channels, 64, 128, 256, 256, 512, 512, 512, 512]
    blocks = [convolution(before, after, 3) + norm(after) for before, after in pairwise(widths)]
    return sum(blocks) + linear(512, num_labels)


def resnet18(channels, num_labels):
    total = convolution(channels, 64, 3, bias=False) + norm(64)
    before = 64
    for width in (64, 128, 256, 512):
        first = convolution(before, width, 3, bias=False) + convolution(width, width, 3, bias=False)
        second = 2 * convolution(width, width, 3, bias=False)
        shortcut = 0 if before == width else convolution(before, width, 1, bias=False) + norm(width)
        total += first + second + 4 * norm(width) + shortcut
        before = width
    return total + linear(512, num_labels)


def lenet(channels, num_labels):
    return (
        convolution(channels, 6, 5)
        + convolution(6, 16, 5)
        + linear(16 * 5 * 5, 120)
        + linear(120, 84)
        + linear(84, num_labels)
    )


def alexcifarnet(channels, num_labels):
    return (
        convolution(channels, 64, 5)
        + convolution(64, 64, 5)
        + linear(64 * 8 * 8, 384)
        + linear(384, 192)
        + linear(192, num_labels)
    )


def parameters_of(network):
    return sum(parameter.numel() for parameter in network.parameters())


def build(name, shape=(3, 32, 32), num_labels=10, seed=0):
    return build_network(NetworkArguments(name), shape, num_labels, seed)


def size_of(name, shape=(3, 32, 32), num_labels=10):
    """Parameters, counted without initializing them."""
    with torch.device("meta"):
        return parameters_of(LAYOUTS[name](shape[0], shape[1:], num_labels))


@pytest.mark.parametrize(
    ("formula", "published"),
    [(alexnet, None), (vgg11, 9_231_114), (resnet18, 11_173_962), (lenet, 62_006), (alexcifarnet, None)],
)
def test_sizes(formula, published):
    name = formula.__name__
    assert size_of(name) == formula(3, 10)
    if published is not None:  # what the networks these were taken from are known to have
        assert size_of(name) == published
    assert size_of(name, num_labels=7) == formula(3, 7)
    if name != "alexcifarnet":  # it knows no grey padding, so that its linear layer shrinks
        assert size_of(name, (1, 28, 28)) == formula(1, 10)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 40)])
def test_shapes(name, shape):
    network = build(name, shape, num_labels=5)
    assert type(network) is LAYOUTS[name]
    images = torch.randn(2, *shape)
    with torch.no_grad():
        features = network.features(images)
        assert features.shape == (2, network.classifier.in_features)
        logits = network(images)
    assert logits.shape == (2, 5) and logits.isfinite().all()
    torch.testing.assert_close(logits, network.classifier(features))


@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_reach_images_and_all_parameters(name):
    network = build(name)
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    F.cross_entropy(network(images), torch.tensor([1, 3])).backward()
    assert images.grad.abs().max() > 0
    for parameter_name, parameter in network.named_parameters():
        # A bias in front of a normalization has no effect.
        is_shadowed = name == "vgg11" and parameter_name.endswith("bias") and parameter.grad.abs().max() < 1e-6
        assert is_shadowed or parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "lenet"])
def test_grey_images_are_padded_to_32(name):
    """A grey 28x28 image is seen as the 32x32 image with a border of zeros."""
    network = build(name, (1, 28, 28)).double()
    images = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    first = network.blocks[0]
    padding = first.padding[0]
    with torch.no_grad():
        expected = network(images)
        first.padding = (padding - 2, padding - 2)
        torch.testing.assert_close(network(F.pad(images, (2, 2, 2, 2))), expected)


def test_resnet_equals_its_layers_written_out():
    network = build("resnet18", (3, 12, 16), num_labels=4).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1)
    parameters = list(network.parameters())
    images = torch.randn(2, 3, 12, 16, dtype=torch.float64)

    def normalized(x, scale, shift):
        x = (x - x.mean(dim=(2, 3), keepdim=True)) / (x.var(dim=(2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        return x * scale[:, None, None] + shift[:, None, None]

    def take(count):
        taken, parameters[:] = parameters[:count], parameters[count:]
        return taken

    weight, scale, shift = take(3)
    x = normalized(F.conv2d(images, weight, padding=1), scale, shift).clamp(min=0)
    for stride in (1, 1, 2, 1, 2, 1, 2, 1):
        weight, scale, shift, second, second_scale, second_shift = take(6)
        y = normalized(F.conv2d(x, weight, stride=stride, padding=1), scale, shift).clamp(min=0)
        y = normalized(F.conv2d(y, second, padding=1), second_scale, second_shift)
        if stride == 2:
            weight, scale, shift = take(3)
            x = normalized(F.conv2d(x, weight, stride=2), scale, shift)
        x = (x + y).clamp(min=0)
    x = x.mean(dim=(2, 3))
    torch.testing.assert_close(network.features(images), x)
    torch.testing.assert_close(network(images), x @ parameters[0].T + parameters[1])


def test_alexcifarnet_normalizes_over_four_channels():
    """Local response normalization by hand: x / (1 + 0.001 / 9 * the mean square of 4 channels) ** 0.75."""
    layer = build("alexcifarnet").blocks[3]
    x = 100 * torch.randn(1, 6, 2, 2, dtype=torch.float64)
    squares = F.pad(x.square(), (0, 0, 0, 0, 2, 1))
    means = sum(squares[:, i : i + 6] for i in range(4)) / 4
    torch.testing.assert_close(layer(x), x / (1 + 0.001 / 9 * means) ** 0.75)


@pytest.mark.parametrize(
    ("name", "channels", "smallest"),
    [
        ("alexnet", 3, 8),
        ("alexnet", 1, 4),
        ("vgg11", 3, 32),
        ("vgg11", 1, 28),
        ("resnet18", 3, 9),
        ("resnet18", 1, 9),
        ("lenet", 3, 16),
        ("lenet", 1, 12),
        ("alexcifarnet", 3, 4),
    ],
)
def test_the_smallest_images_that_fit(name, channels, smallest):
    network = build(name, (channels, smallest, smallest))
    images = torch.randn(1, channels, smallest, smallest)
    assert network(images).shape == (1, 10)
    # nothing is blind: another image gives other logits
    assert not torch.allclose(network(images), network(torch.randn(1, channels, smallest, smallest)), atol=1e-6)
    with pytest.raises(ValueError, match=f"needs images of {smallest}x{smallest} pixels or more, got {smallest}x"):
        build(name, (channels, smallest, smallest - 1))


@pytest.mark.parametrize("name", ["alexnet", "lenet", "alexcifarnet"])
def test_the_seed_decides_the_weights(name):
    def weights(seed):
        return torch.cat([p.detach().flatten() for p in build(name, seed=seed).parameters()])

    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert torch.equal(weights(3), weights(3)) and not torch.equal(weights(3), weights(4))
    assert torch.equal(torch.get_rng_state(), state)


def test_unknown_networks_are_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match=r"no network 'vgg12': choose convnet, alexnet, vgg11, .* transformers/.* or probe/"
    ):
        NetworkArguments("vgg12")


def test_objectives_need_features():
    assert isinstance(build_feature_network(NetworkArguments("lenet"), (3, 16, 16), 4, seed=0), FeatureNetwork)
    arguments, data, recipe = NetworkArguments("transformers/vit"), tiny_data(), tiny_recipe()
    with pytest.raises(ValueError, match="transformers/vit has no features for an objective or the adversary to use"):
        Adversary(arguments, recipe.distillation, recipe.adversary, data, tiny_accelerator())
    objective = DistributionMatching(arguments, recipe.distillation, recipe.distribution_matching)
    with pytest.raises(ValueError, match=r"choose convnet, alexnet, .* to distil with"):
        objective.prepare(data, tiny_model(data), tiny_accelerator())


def test_distribution_matching_runs_on_any_network_with_features():
    data = tiny_data(side=16)
    model, recipe = tiny_model(data), tiny_recipe()
    objective = DistributionMatching(NetworkArguments("lenet"), recipe.distillation, recipe.distribution_matching)
    objective.prepare(data, model, tiny_accelerator())
    assert objective.backward(model, torch.Generator().manual_seed(0))["l_dd"] > 0
    assert model.bases.grad.abs().max() > 0


def test_the_signature_holds_depth_and_width_where_they_count():
    def signature(name, **sizes):
        return network_signature(NetworkArguments(name, **sizes), (3, 32, 32), 10)

    assert signature("convnet") == '["convnet", 3, 128, [3, 32, 32], 10]'  # as experts were recorded before
    assert signature("convnet") != signature("convnet", network_depth=2)
    assert signature("vgg11") == signature("vgg11", network_width=64) != signature("resnet18")
