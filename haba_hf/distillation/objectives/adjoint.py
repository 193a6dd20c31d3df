r"""Gradients through a run of gradient descent, theta_{i+1} = theta_i - eta_i grad loss_i(theta_i), by its adjoint: in
the memory of one micro-batch of one step, however many steps there are (Wang et al., 2018).

Shape legend: S steps, B samples a step, U distinct samples of the run, P parameters of the network.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...data.augmentation import DsaAugmentation, DsaParameters
from ...networks.replay import recorded, replayed
from .flat_network import FlatNetwork
from .scratch import scratch_for

# (parameters [P], samples [b, C, H, W], labels, step, which rows of the step's B they are) -> mean loss
StepLoss = Callable[[Tensor, Tensor, Tensor, int, slice], Tensor]


def augmented_step_loss(network: FlatNetwork, augmentations: list[DsaParameters]) -> StepLoss:
    """Cross-entropy of `network` on the samples of a step, augmented as was drawn for it."""

    def loss(theta: Tensor, samples: Tensor, labels: Tensor, step: int, rows: slice) -> Tensor:
        x = DsaAugmentation.apply(samples, augmentations[step].of(rows))
        return F.cross_entropy(network(theta, x), labels)

    return loss


class UnrolledGradients(NamedTuple):
    """
    Args:
        samples (`torch.Tensor` `[U, C, H, W]`).
        labels (`torch.Tensor` `[U, L]`, `None` if labels are hard).
        step_sizes (`torch.Tensor` `[S]`).
    """

    samples: Tensor
    labels: Tensor | None
    step_sizes: Tensor

    def backward(self, weight: float, samples: Tensor, labels: Tensor, step_sizes: Tensor) -> None:
        """Adds `weight` times these gradients to the parameters that samples, labels and step sizes come from."""
        outputs, gradients = [samples, step_sizes], [self.samples, self.step_sizes]
        if self.labels is not None:
            outputs.append(labels)
            gradients.append(self.labels)
        torch.autograd.backward(outputs, [weight * gradient for gradient in gradients])


class Trajectory:
    """
    The parameters `[P]` that a run passes through and, of its first steps, what its convolutions gave: put aside, for
    they are read once each, backwards, and would otherwise be the only memory of a run on a CPU that grows with its
    steps.

    Args:
        kept_bytes (`int`): once as much is put aside, no more of what convolutions gave is kept.
        device (`torch.device`, *optional*, defaults to the CPU): of the run.
    """

    def __init__(self, kept_bytes: int = 0, device: torch.device | None = None) -> None:
        self.kept_bytes = kept_bytes
        self._aside = scratch_for(device or torch.device("cpu"))
        self._thetas: list[int] = []
        self._kept: dict[tuple[int, int], list[list[int | None]]] = {}

    def __len__(self) -> int:
        return len(self._thetas)

    def append(self, theta: Tensor) -> None:
        self._last = theta.detach()
        self._thetas.append(self._aside.append(self._last))

    def __getitem__(self, step: int) -> Tensor:
        step = range(len(self))[step]
        return self._last if step == len(self) - 1 else self._aside[self._thetas[step]]

    def recorded(self, step: int, rows: slice) -> AbstractContextManager[None]:
        """Within it, what convolutions give is kept as that of some rows of a step."""
        if self._aside.nbytes >= self.kept_bytes:
            return nullcontext()
        kept = self._kept.setdefault((step, rows.start), [])
        append = self._aside.append
        return recorded(lambda results: kept.append([None if of is None else append(of) for of in results]))

    def replayed(self, step: int, rows: slice) -> AbstractContextManager[None]:
        """Within it, convolutions give what was kept of these rows; if nothing was, they are computed."""
        kept = self._kept.get((step, rows.start))
        if kept is None:
            return nullcontext()
        return replayed([None if of is None else self._aside[of] for of in places] for places in kept)


def unroll(
    step_loss: StepLoss,
    start: Tensor,
    samples_U: Tensor,
    labels_U: Tensor,
    step_sizes_S: Tensor,
    positions_SB: Tensor,
    micro_batch_size: int | None = None,
    kept_bytes: int = 0,
) -> Trajectory:
    """
    The run itself: parameters theta_0 (`start`) to theta_S, each `[P]`, without a graph.

    Args:
        step_loss (`Callable`): the mean loss of some rows of a step.
        start (`torch.Tensor` `[P]`): theta_0.
        samples_U, labels_U: what the steps train on.
        step_sizes_S (`torch.Tensor` `[S]`): eta.
        positions_SB (`torch.LongTensor` `[S, B]`): the rows of samples and labels that each step takes.
        micro_batch_size (`int`, *optional*): samples that go through the network at once; by default all of a step.
        kept_bytes (`int`, *optional*, defaults to 0): what convolutions give is kept, so that [`gradients_through`]
            need not compute it again, until as much is put aside.

    Raises:
        `OSError`: if the temporary file cannot be written; says what to do.
    """
    samples_U, labels_U, step_sizes_S = samples_U.detach(), labels_U.detach(), step_sizes_S.detach()
    thetas = Trajectory(kept_bytes, start.device)
    thetas.append(start)
    for step, positions in enumerate(positions_SB):
        theta = thetas[-1].clone().requires_grad_()
        for rows, share in _micro_batches(len(positions), micro_batch_size):
            samples, labels = samples_U[positions[rows]], labels_U[positions[rows]]
            with thetas.recorded(step, rows):
                (share * step_loss(theta, samples, labels, step, rows)).backward()
        assert theta.grad is not None
        thetas.append(thetas[-1] - step_sizes_S[step] * theta.grad)
    return thetas


def gradients_through(
    step_loss: StepLoss,
    thetas: Trajectory,
    terminal_gradient: Tensor,
    samples_U: Tensor,
    labels_U: Tensor,
    step_sizes_S: Tensor,
    positions_SB: Tensor,
    micro_batch_size: int | None = None,
) -> UnrolledGradients:
    r"""
    Gradients of a loss of theta_S with respect to what the steps were made of.

    With lambda_S = `terminal_gradient` = dL/dtheta_S and g_i = grad loss_i(theta_i), going back: dL/deta_i = -lambda .
    g_i, dL/dx -= eta_i d(lambda . g_i)/dx, lambda -= eta_i d(lambda . g_i)/dtheta_i, where the derivatives come from
    one backward pass through the graph of one step.

    Args:
        thetas ([`Trajectory`]): what [`unroll`] gave for the same arguments.
        terminal_gradient (`torch.Tensor` `[P]`): dL/dtheta_S.
    """
    samples_U, labels_U, step_sizes_S = samples_U.detach(), labels_U.detach(), step_sizes_S.detach()
    soft = labels_U.is_floating_point()
    d_samples_U, d_step_sizes_S = torch.zeros_like(samples_U), torch.zeros_like(step_sizes_S)
    d_labels_U = torch.zeros_like(labels_U) if soft else None
    adjoint = terminal_gradient
    for step in reversed(range(len(positions_SB))):
        positions, step_size = positions_SB[step], step_sizes_S[step]
        theta = thetas[step].clone().requires_grad_()
        d_theta = torch.zeros_like(theta)
        for rows, share in _micro_batches(len(positions), micro_batch_size):
            samples = samples_U[positions[rows]].requires_grad_()
            labels = labels_U[positions[rows]].requires_grad_(soft)
            with thetas.replayed(step, rows):
                loss = share * step_loss(theta, samples, labels, step, rows)
                (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
            product = adjoint @ gradient
            wanted = [samples, theta, *([labels] if soft else [])]
            d_samples, d_theta_of_rows, *d_labels = torch.autograd.grad(product, wanted)
            d_theta += d_theta_of_rows
            d_step_sizes_S[step] -= product.detach()
            d_samples_U.index_add_(0, positions[rows], -step_size * d_samples)
            if d_labels_U is not None:
                d_labels_U.index_add_(0, positions[rows], -step_size * d_labels[0])
        adjoint = adjoint - step_size * d_theta
    return UnrolledGradients(d_samples_U, d_labels_U, d_step_sizes_S)


def _micro_batches(batch_size: int, micro_batch_size: int | None) -> Iterator[tuple[slice, float]]:
    """Consecutive rows of a batch and the share of it that they are."""
    at_once = micro_batch_size or batch_size
    for first in range(0, batch_size, at_once):
        rows = slice(first, min(first + at_once, batch_size))
        yield rows, (rows.stop - rows.start) / batch_size
