"""Convolution with its own second derivative, against PyTorch's."""

import pytest
import torch
from torch import nn

from haba_hf.networks.convolution import convolution
from tiny import double_precision


def derivatives(convolve, inputs, wanted):
    """The output, its gradients for `wanted` and the gradients of a function of these."""
    output = convolve()
    cotangent = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output).requires_grad_()
    first = torch.autograd.grad(output, wanted, cotangent, create_graph=True)
    product = sum((gradient * gradient.detach().cos()).sum() for gradient in first)
    return [output, *first, *torch.autograd.grad(product, [cotangent, *inputs], materialize_grads=True)]


@pytest.mark.parametrize("wanted", [(0, 1, 2), (0,), (1,), (2,), (1, 2)])
@pytest.mark.parametrize("settings", [{"padding": 1}, {"stride": 2, "dilation": 2}, {"padding": 1, "stride": (1, 2)}])
def test_derivatives(settings, wanted):
    torch.manual_seed(0)
    with double_precision():
        module = nn.Conv2d(3, 4, 3, **settings)
        inputs = [torch.randn(2, 3, 7, 6, requires_grad=True), module.weight, module.bias]
        found = [
            derivatives(convolve, inputs, [inputs[index] for index in wanted])
            for convolve in (lambda: convolution(inputs[0], module), lambda: module(inputs[0]))
        ]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_under_autocast_it_is_the_module():
    module, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(convolution(x, module), module(x))
