r"""Objectives on some of the samples of a class a step, `samples_per_class`, without the bias of doing so.

A distance between the mean over real images and the mean over drawn samples has, in expectation, the spread of
that mean in it: to descend it pulls the samples of a class together, the more the fewer are drawn. Both ways out of it
below leave the gradient that all samples would give, in expectation: of a squared distance the spread is estimated and
subtracted; of any other distance one draw says in which direction, and another is moved.

Shape legend: L classes, X samples of a class, n samples drawn of it, D features.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def draw_samples(ids_LX: Tensor, count: int | None, generator: torch.Generator) -> Tensor:
    """`count` of the samples of each class without replacement, `[L, n]`; all as they are if there are no more."""
    num_classes, of_class = ids_LX.shape
    if count is None or count >= of_class:
        return ids_LX
    order = torch.stack([torch.randperm(of_class, generator=generator)[:count] for _ in range(num_classes)])
    return ids_LX.gather(1, order.to(ids_LX.device))


def draw_halves(ids_LX: Tensor, count: int | None, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
    """
    Two draws, each on its own and without replacement, of `count` samples of each class in both together; `None` if
    there are no more, and all can be taken.
    """
    if count is None or count >= ids_LX.shape[1]:
        return None
    first = draw_samples(ids_LX, -(-count // 2), generator)
    return first, draw_samples(ids_LX, count // 2, generator)


def squared_distances(means_LD: Tensor, features_LnD: Tensor, of_class: int) -> Tensor:
    r"""
    The squared distance of each class, `[L]`, between a mean and the mean over all `of_class` of its samples, of which
    n >= 2 were drawn without replacement:

        || m - mean f ||^2 - (1 / n - 1 / X) sum_i || f_i - mean f ||^2 / (n - 1),

    whose expectation over draws, and that of its gradient, is what all X samples give. It may be negative.
    """
    drawn = features_LnD.shape[1]
    sample_means_LD = features_LnD.mean(dim=1)
    distances = (means_LD - sample_means_LD).square().sum(dim=1)
    if drawn == of_class:
        return distances
    spread = (features_LnD - sample_means_LD[:, None]).square().sum(dim=(1, 2)) / (drawn - 1)
    return distances - (1 / drawn - 1 / of_class) * spread


def matched(
    distance: Callable[[Sequence[Tensor]], Tensor], estimates: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, Tensor]:
    """
    A distance of means that were estimated once, on all samples, or twice, on two draws: its value at the mean of the
    estimates, and what to descend, which is the value itself or [`crossed`].
    """
    value = distance([sum(of_each) / len(estimates) for of_each in zip(*estimates, strict=True)])
    return value, value if len(estimates) == 1 else crossed(distance, *estimates)


def crossed(
    distance: Callable[[Sequence[Tensor]], Tensor], first: Sequence[Tensor], second: Sequence[Tensor]
) -> Tensor:
    r"""
    What to descend in place of `distance` when means were estimated twice, on independent draws: the derivative at
    each draw, taken as a constant, times the other. For a squared distance its gradient is, in expectation, exactly
    that at the means over all samples; for others up to the derivative's own curvature. Its value has no meaning.

    Args:
        distance (`Callable`): of a list of tensors, such as gradients of a network's parameters.
        first, second (`Sequence[Tensor]`): the two estimates, with their graphs.
    """
    total = torch.zeros((), dtype=first[0].dtype, device=first[0].device)
    for at, moved in ((first, second), (second, first)):
        leaves = [tensor.detach().requires_grad_() for tensor in at]
        directions = torch.autograd.grad(distance(leaves), leaves, materialize_grads=True)
        total = total + sum((d * tensor).sum() for d, tensor in zip(directions, moved, strict=True)) / 2
    return total


def check_subset(samples_per_class: int | None, of_class: int, soft: bool = False) -> None:
    """
    Raises:
        `ValueError`: if too few samples are drawn for their spread to be known, or soft labels, which make every
            sample one of all classes, are drawn by class.
    """
    if samples_per_class is None or samples_per_class >= of_class:
        return
    if samples_per_class < 2:
        raise ValueError(
            f"samples_per_class must be at least 2 of the {of_class} samples of a class, whose spread one does not "
            f"tell, got {samples_per_class}."
        )
    if soft:
        raise ValueError("samples_per_class draws by class: set label_kind to hard, or leave it out to take all.")
