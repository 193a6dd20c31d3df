"""Convolution with its own second derivative, against PyTorch's; what is recorded is replayed."""

import pytest
import torch
from torch import nn

from haba_hf.networks import convolution as convolution_module
from haba_hf.networks.convolution import convolution, recorded, replayed
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


def test_what_is_recorded_is_replayed(monkeypatch):
    """Bit for bit, without a convolution, and with the graph that a second derivative needs."""
    module, x, kept = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 5, 5), []
    parameters = list(module.parameters())

    def gradients(create_graph):
        return torch.autograd.grad(
            convolution(convolution(x, module)[:, :3], module).square().sum(), parameters, create_graph=create_graph
        )

    with recorded(kept.append):
        first = gradients(create_graph=False)
    assert len(kept) == 4
    expected = torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients(True)), parameters)

    def refuse(*arguments):
        raise AssertionError("a convolution was computed")

    with monkeypatch.context() as patched, replayed(kept):
        patched.setattr(torch, "conv2d", refuse)
        patched.setattr(convolution_module, "_gradient", refuse)
        again = gradients(create_graph=True)
    second = torch.autograd.grad(sum(gradient.square().sum() for gradient in again), parameters)
    for ours, theirs in zip([*again, *second], [*first, *expected], strict=True):
        assert torch.equal(ours, theirs)

    with pytest.raises(RuntimeError, match="More convolutions are replayed than were recorded"), replayed(kept[:1]):
        gradients(create_graph=True)
    assert torch.equal(gradients(create_graph=False)[0], first[0])  # out of it, computed again
