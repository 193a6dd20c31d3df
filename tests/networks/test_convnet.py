import pytest
import torch
from torch.nn import functional as F

from haba_hf.networks import ConvNet, NetworkArguments, build_network


def parameters_of(network):
    return sum(parameter.numel() for parameter in network.parameters())


# Counts of the reference networks, for (channels, side, classes, depth).
@pytest.mark.parametrize(
    ("expected", "channels", "side", "num_labels", "depth"),
    [
        (320_010, 3, 32, 10, 3),
        (317_706, 1, 28, 10, 3),
        (461_448, 1, 64, 8, 4),
        (615_690, 3, 128, 10, 5),
        (857_160, 3, 64, 200, 4),
    ],
)
def test_published_sizes(expected, channels, side, num_labels, depth):
    network = ConvNet(channels, (side, side), num_labels, depth)
    assert parameters_of(network) == expected
    assert network.classifier.in_features == 128 * 4 * 4
    built = build_network(NetworkArguments(network_depth=depth), (channels, side, side), num_labels, seed=0)
    assert parameters_of(built) == expected


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "depth"), [((8, 8), 1), ((8, 8), 3), ((9, 14), 2), ((17, 8), 3)])
def test_forward_equals_the_layers_written_out(channels, size, depth):
    torch.manual_seed(0)
    network = ConvNet(channels, size, num_labels=5, depth=depth, width=6).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    images = torch.randn(4, channels, *size, dtype=torch.float64)
    parameters = list(network.parameters())
    assert len(parameters) == 4 * depth + 2
    x = F.pad(images, (2, 2, 2, 2)) if channels == 1 else images
    for block in range(depth):
        weight, bias, scale, shift = parameters[4 * block : 4 * block + 4]
        x = F.conv2d(x, weight, bias, padding=1)
        x = (x - x.mean(dim=(2, 3), keepdim=True)) / (x.var(dim=(2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        x = (x * scale[:, None, None] + shift[:, None, None]).clamp(min=0)
        rows, columns = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
        x = sum(x[:, :, i:rows:2, j:columns:2] for i in (0, 1) for j in (0, 1)) / 4
    torch.testing.assert_close(network.features(images), x.flatten(1))
    torch.testing.assert_close(network(images), x.flatten(1) @ parameters[-2].T + parameters[-1])


@pytest.mark.parametrize("depth", [1, 3])
def test_layer_features(depth):
    network = ConvNet(1, (8, 9), 4, depth=depth, width=5)
    images = torch.randn(2, 1, 8, 9)
    *layers, last = network.layer_features(images)
    assert [tuple(layer.shape) for layer in layers] == [(2, 5, 12, 13), (2, 5, 6, 6), (2, 5, 3, 3)][:depth]
    assert all(layer.min() == 0 for layer in layers)
    torch.testing.assert_close(last, network.features(images))
    assert torch.equal(last, F.avg_pool2d(layers[-1], 2).flatten(1))
    x = F.conv2d(images, network.blocks[0].weight, network.blocks[0].bias, padding=3)
    x = F.instance_norm(x)  # scales are one and shifts zero at the start
    torch.testing.assert_close(layers[0], x.clamp(min=0))


def test_an_image_does_not_see_its_batch():
    network = ConvNet(3, (8, 8), 4, width=8)
    images = torch.randn(5, 3, 8, 8)
    together = network(images)
    for i in range(5):
        torch.testing.assert_close(network(images[i : i + 1])[0], together[i])
    network.eval()
    torch.testing.assert_close(network(images), together)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_smallest_images_that_fit(channels):
    side = 8 if channels == 3 else 4
    network = ConvNet(channels, (side, side), 4, depth=3, width=4)
    assert network.features(torch.randn(1, channels, side, side)).shape == (1, 4)
    with pytest.raises(ValueError, match=f"depth 3 halves its input 3 times, too often for {side}x{side - 1} images"):
        ConvNet(channels, (side, side - 1), 4, depth=3)


@pytest.mark.parametrize(
    ("channels", "size", "deepest"),
    [(3, (8, 8), 3), (3, (15, 40), 3), (3, (16, 16), 4), (1, (28, 28), 5), (3, (2, 9), 1)],
)
def test_the_depth_advised_is_the_deepest_that_works(channels, size, deepest):
    with pytest.raises(
        ValueError, match=f"{size[0]}x{size[1]} images: use network_depth {deepest} or less, or resize"
    ):
        ConvNet(channels, size, 4, depth=7)
    ConvNet(channels, size, 4, depth=deepest, width=2)
    with pytest.raises(ValueError, match="too often"):
        ConvNet(channels, size, 4, depth=deepest + 1, width=2)


def test_images_too_small_for_any_depth():
    with pytest.raises(ValueError, match="too often for 1x1 images: resize the images"):
        ConvNet(3, (1, 1), 4, depth=1)


@pytest.mark.parametrize(("depth", "width"), [(0, 128), (-1, 128), (3, 0)])
def test_depth_and_width_are_positive(depth, width):
    with pytest.raises(ValueError, match=f"network_depth and network_width of 1 or more, got {depth} and {width}"):
        ConvNet(3, (8, 8), 4, depth=depth, width=width)


def build(seed):
    return build_network(NetworkArguments(network_depth=2, network_width=8), (3, 8, 8), 4, seed)


def weights_of(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_the_seed_decides_the_weights():
    assert torch.equal(weights_of(build(3)), weights_of(build(3)))
    assert not torch.equal(weights_of(build(3)), weights_of(build(4)))
    torch.manual_seed(3)
    assert torch.equal(weights_of(build(3)), weights_of(ConvNet(3, (8, 8), 4, depth=2, width=8)))


def test_building_leaves_the_global_random_state(monkeypatch):
    def refuse(seed):
        raise AssertionError("the random state of every GPU was changed")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    torch.default_generator.manual_seed(0)
    state = torch.get_rng_state()
    build(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_reach_images_and_all_parameters():
    network = build(0)
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    network(images).pow(2).sum().backward()
    assert images.grad.abs().max() > 0
    # A bias in front of a normalization has no effect.
    without_effect = {"blocks.0.bias", "blocks.4.bias"}
    for name, parameter in network.named_parameters():
        assert name in without_effect or parameter.grad.abs().max() > 0, name
