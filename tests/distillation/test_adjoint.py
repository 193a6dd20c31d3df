"""Where the adjoint keeps its trajectory and what convolutions gave on the way; its gradients are tested with the
objectives that use it."""

import errno

import pytest
import torch

from haba_hf.data.augmentation import DsaParameters
from haba_hf.distillation.experts import flat_parameters
from haba_hf.distillation.objectives import scratch
from haba_hf.distillation.objectives.adjoint import Trajectory, augmented_step_loss, gradients_through, unroll
from haba_hf.distillation.objectives.flat_network import FlatNetwork
from haba_hf.networks import ConvNet
from haba_hf.networks.convolution import convolution


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_trajectory_gives_back_what_was_appended(dtype):
    thetas = torch.randn(7, 33, dtype=dtype)
    trajectory = Trajectory()
    for theta in thetas:
        trajectory.append(theta.requires_grad_(False))
        assert torch.equal(trajectory[-1], theta)
    assert len(trajectory) == 7
    for step in (6, 3, 0, 5, -7):
        assert torch.equal(trajectory[step], thetas[step])
    with pytest.raises(IndexError):
        trajectory[7]


def test_plain_gradient_descent_and_a_full_disk(monkeypatch):
    """Least squares, whose steps are known: theta - eta * mean(theta - x), in micro-batches of unequal size."""
    samples, start = torch.randn(5, 3), torch.randn(3)
    step_sizes, positions = torch.tensor([0.5, 0.1]), torch.tensor([[0, 1, 2], [4, 3, 1]])

    def step_loss(theta, samples, labels, step, rows):
        assert len(samples) == rows.stop - rows.start
        return (theta - samples).square().sum(dim=1).mean() / 2

    run = step_loss, start, samples, torch.zeros(5, dtype=torch.long), step_sizes, positions
    for micro_batch_size in (None, 1, 2, 9):
        thetas = unroll(*run, micro_batch_size)
        first = start - 0.5 * (start - samples[:3]).mean(dim=0)
        second = first - 0.1 * (first - samples[[4, 3, 1]]).mean(dim=0)
        torch.testing.assert_close(thetas[1], first)
        torch.testing.assert_close(thetas[2], second)

    class FullDisk:
        def seek(self, position):
            pass

        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scratch.tempfile, "TemporaryFile", FullDisk)
    with pytest.raises(OSError, match=r"No space left.* TMPDIR .* kept_megabytes"):
        unroll(*run)


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_what_is_kept_changes_no_gradient_and_spares_convolutions(monkeypatch, micro_batch_size):
    network = FlatNetwork(ConvNet(1, (8, 8), 3, depth=3, width=4))
    start = flat_parameters(network.network)
    positions = torch.arange(12).view(4, 3)
    run = torch.randn(12, 1, 8, 8), torch.arange(12) % 3, torch.full((4,), 0.1), positions, micro_batch_size
    step_loss = augmented_step_loss(network, [DsaParameters()] * 4)
    calls, found = [], {}
    conv2d = torch.conv2d
    monkeypatch.setattr(torch, "conv2d", lambda *arguments: calls.append(arguments) or conv2d(*arguments))
    # Two blocks of four have convolutions; in the first sweep each is computed once, in the second once if it was not
    # kept and twice more for the second derivative.
    passes = 4 * (2 if micro_batch_size else 1) * 2
    for kept_bytes, expected in ((0, 4 * passes), (1, 4 * passes), (10**9, 3 * passes)):
        calls.clear()
        thetas = unroll(step_loss, start, *run, kept_bytes)
        found[kept_bytes] = gradients_through(step_loss, thetas, thetas[-1] - start, *run)
        assert len(calls) == expected
    for gradients in found.values():
        torch.testing.assert_close(gradients.samples, found[0].samples, rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(gradients.step_sizes, found[0].step_sizes, rtol=1e-4, atol=1e-8)
    assert found[0].samples.any()


def test_a_file_that_has_reached_its_size_keeps_no_more():
    """256 bytes a step, none of the last."""
    trajectory = Trajectory(kept_bytes=600)
    module, x = torch.nn.Conv2d(1, 1, 1), torch.randn(1, 1, 8, 8)
    for step in range(4):
        with trajectory.recorded(step, slice(0, 1)):
            convolution(x + step, module)
    for step in range(4):
        with trajectory.replayed(step, slice(0, 1)):
            found = convolution(torch.zeros_like(x), module)
        assert torch.equal(found, module(x + step)) == (step < 3)
