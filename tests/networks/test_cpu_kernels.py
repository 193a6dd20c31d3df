"""The CPU's kernels against PyTorch's own, up to second derivatives."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haba_hf.networks import ConvNet
from haba_hf.networks.cpu_kernels import average_pool, first_block, normalized_convolution, normalized_pool
from tiny import double_precision


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 4, 6), (3, 2, 7, 8), (2, 2, 6, 5)])
def test_average_pool(shape):
    x = torch.randn(shape)
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(average_pool(x.to(memory_format=layout)), F.avg_pool2d(x, 2))
    torch.testing.assert_close(average_pool(x.bfloat16()), F.avg_pool2d(x.bfloat16(), 2), rtol=0.01, atol=0.01)


def derivatives_of(output, inputs, parts):
    """Output, first derivatives along a cotangent, and second ones of each part of the first, in one list."""
    cotangent = torch.linspace(-1, 2, output.numel()).view_as(output).requires_grad_()
    first = torch.autograd.grad(output, inputs, cotangent, create_graph=True)
    found = [output, *first]
    for part in parts:
        product = sum((gradient * gradient.detach().cos()).sum() for gradient in first[part])
        found += torch.autograd.grad(product, [cotangent, *inputs], retain_graph=True, materialize_grads=True)
    return found


@pytest.mark.parametrize("size", [(6, 8), (2, 2), (5, 8)])
def test_normalized_pool_and_its_derivatives(size):
    torch.manual_seed(0)
    with double_precision():
        norm = nn.GroupNorm(5, 5)
        norm.weight.data.normal_()
        norm.bias.data.normal_()
        inputs = [(3 + 2 * torch.randn(3, 5, *size)).requires_grad_(), norm.weight, norm.bias]
        parts = [slice(None), slice(1), slice(1, None)]
        ours = derivatives_of(normalized_pool(inputs[0], norm), inputs, parts)
        theirs = derivatives_of(F.avg_pool2d(F.relu(norm(inputs[0])), 2), inputs, parts)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("channels, padding", [(1, 3), (3, 1)])
def test_normalized_convolution(channels, padding):
    torch.manual_seed(0)
    with double_precision():
        convolution, norm = nn.Conv2d(channels, 5, 3, padding=padding), nn.GroupNorm(5, 5)
        norm.weight.data.normal_()
        norm.bias.data.normal_()
        x = 3 + 2 * torch.randn(4, channels, 6, 8)
        torch.testing.assert_close(normalized_convolution(x, convolution, norm, padding), norm(convolution(x)))


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("shape", [(1, 6, 8), (3, 7, 9)])
def test_first_block_and_its_derivatives(monkeypatch, shape, at_once):
    """With respect to the images too, and at once a number of them that does not divide the batch."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: at_once)
    torch.manual_seed(0)
    with double_precision():
        convolution, norm = nn.Conv2d(shape[0], 5, 3, padding=1), nn.GroupNorm(5, 5)
        norm.weight.data.normal_()
        norm.bias.data.normal_()
        inputs = [torch.randn(3, *shape, requires_grad=True), norm.weight, norm.bias, convolution.weight]
        parts = [slice(None), slice(1, None)]  # the latter is what trajectory matching needs
        ours = derivatives_of(first_block(inputs[0], convolution, norm, padding=1), inputs, parts)
        theirs = derivatives_of(F.avg_pool2d(F.relu(norm(convolution(inputs[0]))), 2), inputs, parts)
    torch.testing.assert_close(ours, theirs)


def test_first_block_in_bfloat16():
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(1, 5, 3, padding=1), nn.GroupNorm(5, 5)
    images = torch.randn(3, 1, 8, 8)
    expected = F.avg_pool2d(F.relu(norm(convolution(images))), 2)
    with torch.autocast("cpu", torch.bfloat16):
        actual = first_block(images, convolution, norm, padding=1)
        actual.float().sum().backward()
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, rtol=0.02, atol=0.02)
    assert convolution.weight.grad.dtype == torch.float32


def test_an_image_without_contrast_gives_the_shift():
    convolution, norm = nn.Conv2d(1, 3, 3, padding=0), nn.GroupNorm(3, 3)
    norm.bias.data = torch.tensor([1.0, -2.0, 0.5])
    output = normalized_convolution(torch.full((2, 1, 6, 6), 7.0), convolution, norm, padding=0)
    torch.testing.assert_close(output, norm.bias.view(1, 3, 1, 1).expand(2, 3, 4, 4))


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 8, 8), (2, 9, 11)])
def test_first_and_second_derivatives_of_a_convnet(shape):
    torch.manual_seed(0)
    with double_precision():
        network = ConvNet(shape[0], shape[1:], num_labels=3, depth=2, width=4)
        images = torch.randn(2, *shape, requires_grad=True)
        parameters = list(network.parameters())
        derivatives = []
        for features in (network.features, lambda images: network.blocks(images).flatten(1)):
            loss = F.cross_entropy(network.classifier(features(images)), torch.tensor([0, 2]))
            first = torch.autograd.grad(loss, parameters, create_graph=True)
            product = sum(
                (gradient * (1 + parameter.detach())).sum()
                for gradient, parameter in zip(first, parameters, strict=True)
            )
            second = torch.autograd.grad(product, [images, *parameters], materialize_grads=True)
            derivatives.append([loss, *first, *second])
    for ours, theirs in zip(*derivatives, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_bfloat16_normalizes_an_edge_filter_in_float32():
    """A smooth image under a filter that sums to zero: its variance is tiny beside the patches'."""
    convolution, norm = nn.Conv2d(1, 1, 3, padding=0), nn.GroupNorm(1, 1)
    convolution.weight.data = torch.tensor([[0.0, 0, 0], [-1, 2, -1], [0, 0, 0]]).view(1, 1, 3, 3)
    ramp = torch.linspace(-2, 2, 16)
    image = (ramp + 0.05 * torch.sin(3 * ramp)).expand(1, 1, 16, 16).contiguous()
    expected = norm(convolution(image))
    with torch.autocast("cpu", torch.bfloat16):
        actual = normalized_convolution(image, convolution, norm, padding=0)
    assert actual.isfinite().all()
    torch.testing.assert_close(actual.float(), expected, rtol=0.05, atol=0.3)
