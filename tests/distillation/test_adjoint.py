"""Where the adjoint keeps its trajectory; its gradients are tested with the objectives that use it."""

import errno

import pytest
import torch

from haba_hf.distillation.objectives import adjoint
from haba_hf.distillation.objectives.adjoint import Trajectory, unroll


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
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

    monkeypatch.setattr(adjoint.tempfile, "TemporaryFile", FullDisk)
    with pytest.raises(OSError, match="No space left"):
        unroll(*run)
