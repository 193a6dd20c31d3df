r"""Gradients through a run of gradient descent, theta_{i+1} = theta_i - eta_i grad loss_i(theta_i), by its adjoint: in
memory for the S parameter vectors of the run and the graph of one step (Wang et al., 2018).

Shape legend: S steps, B samples a step, U distinct samples of the run, P parameters of the network.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# (parameters [P], samples [B, C, H, W], labels, step) -> loss
StepLoss = Callable[[Tensor, Tensor, Tensor, int], Tensor]


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


def unroll(
    step_loss: StepLoss, start: Tensor, samples_U: Tensor, labels_U: Tensor, step_sizes_S: Tensor, positions_SB: Tensor
) -> list[Tensor]:
    """
    The run itself: parameters theta_0 (`start`) to theta_S, each `[P]`, without a graph.

    Args:
        step_loss (`Callable`): the loss of a step.
        start (`torch.Tensor` `[P]`): theta_0.
        samples_U, labels_U: what the steps train on.
        step_sizes_S (`torch.Tensor` `[S]`): eta.
        positions_SB (`torch.LongTensor` `[S, B]`): the rows of samples and labels that each step takes.
    """
    samples_U, labels_U, step_sizes_S = samples_U.detach(), labels_U.detach(), step_sizes_S.detach()
    thetas = [start.detach()]
    for step, positions in enumerate(positions_SB):
        theta = thetas[-1].clone().requires_grad_()
        loss = step_loss(theta, samples_U[positions], labels_U[positions], step)
        (gradient,) = torch.autograd.grad(loss, theta)
        thetas.append(thetas[-1] - step_sizes_S[step] * gradient)
    return thetas


def gradients_through(
    step_loss: StepLoss,
    thetas: list[Tensor],
    terminal_gradient: Tensor,
    samples_U: Tensor,
    labels_U: Tensor,
    step_sizes_S: Tensor,
    positions_SB: Tensor,
) -> UnrolledGradients:
    r"""
    Gradients of a loss of theta_S with respect to what the steps were made of.

    With lambda_S = `terminal_gradient` = dL/dtheta_S and g_i = grad loss_i(theta_i), going back: dL/deta_i = -lambda .
    g_i, dL/dx -= eta_i d(lambda . g_i)/dx, lambda -= eta_i d(lambda . g_i)/dtheta_i, where the derivatives come from
    one backward pass through the graph of one step.

    Args:
        thetas (`list[torch.Tensor]`): what [`unroll`] gave for the same arguments.
        terminal_gradient (`torch.Tensor` `[P]`): dL/dtheta_S.
    """
    samples_U, labels_U, step_sizes_S = samples_U.detach(), labels_U.detach(), step_sizes_S.detach()
    soft = labels_U.is_floating_point()
    d_samples_U, d_step_sizes_S = torch.zeros_like(samples_U), torch.zeros_like(step_sizes_S)
    d_labels_U = torch.zeros_like(labels_U) if soft else None
    adjoint = terminal_gradient
    for step in reversed(range(len(positions_SB))):
        positions = positions_SB[step]
        theta = thetas[step].detach().clone().requires_grad_()
        samples = samples_U[positions].requires_grad_()
        labels = labels_U[positions].requires_grad_(soft)
        (gradient,) = torch.autograd.grad(step_loss(theta, samples, labels, step), theta, create_graph=True)
        product = adjoint @ gradient
        wanted = [samples, *([labels] if soft else []), *([theta] if step else [])]
        parts = list(torch.autograd.grad(product, wanted))
        step_size = step_sizes_S[step]
        d_step_sizes_S[step] = -product.detach()
        d_samples_U.index_add_(0, positions, -step_size * parts.pop(0))
        if d_labels_U is not None:
            d_labels_U.index_add_(0, positions, -step_size * parts.pop(0))
        if step:
            adjoint = adjoint - step_size * parts.pop(0)
    return UnrolledGradients(d_samples_U, d_labels_U, d_step_sizes_S)
