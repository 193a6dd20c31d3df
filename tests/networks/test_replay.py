"""What is recorded is replayed."""

import pytest
import torch

from haba_hf.networks import convolution, cpu_kernels
from haba_hf.networks.convnet import ConvNet
from haba_hf.networks.replay import recorded, replayed


def refuse(*arguments):
    raise AssertionError("it was computed")


def test_what_is_recorded_is_replayed(monkeypatch):
    """Bit for bit, without a filter's product, and with the graph that a second derivative needs."""
    torch.manual_seed(0)
    network, images = ConvNet(3, (8, 8), 4, depth=3, width=4), torch.randn(2, 3, 8, 8, requires_grad=True)
    parameters, kept = list(network.parameters()), []

    def gradients(of, create_graph):
        return torch.autograd.grad(network(of).square().sum(), parameters, create_graph=create_graph)

    def second_of(first):
        return torch.autograd.grad(sum(gradient.square().sum() for gradient in first), [images, *parameters])

    with recorded(kept.append):
        first = gradients(images.detach(), create_graph=False)
    assert len(kept) == 6  # three blocks, forward and backward
    expected = second_of(gradients(images, create_graph=True))

    with monkeypatch.context() as patched, replayed(kept):
        patched.setattr(torch, "conv2d", refuse)
        patched.setattr(convolution, "_gradient", refuse)
        patched.setattr(cpu_kernels, "_filtered_sum", refuse)
        patched.setattr(cpu_kernels, "_gradient", refuse)
        again = gradients(images, create_graph=True)
    for ours, theirs in zip([*again, *second_of(again)], [*first, *expected], strict=True):
        assert torch.equal(ours, theirs)

    with (
        pytest.raises(RuntimeError, match="More results are replayed than were recorded"),
        replayed(kept[:1]),
    ):
        gradients(images, create_graph=True)
    assert torch.equal(gradients(images, create_graph=False)[0], first[0])  # out of it, computed again
