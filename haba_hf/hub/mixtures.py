"""Mixtures of hallucinators: what each makes of a basis, or their weighted mean.

Shape legend: P bases, K hallucinators, M formations, C/H/W of a sample.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..artifact.modeling_haba import HabaModel


@torch.no_grad()
def mix_hallucinators(model: HabaModel, basis_ids: Tensor, weights: Sequence[float]) -> Tensor:
    """
    The weighted mean of what the hallucinators make of each basis, sum_j w_j H_j(b) / sum_j w_j.

    Samples are mixed and not the hallucinators' parameters: each is learned from its own start, so that equal places
    in two of them mean different things and a network half-way between is neither.

    Args:
        model ([`HabaModel`]): the artifact.
        basis_ids (`torch.LongTensor` `[P]`): which bases.
        weights (`Sequence[float]`): K numbers, none negative and not all zero; none without hallucinators.

    Returns:
        `torch.Tensor` `[P, M, C, H, W]` in model space.

    Raises:
        `ValueError`: if the weights are not such numbers.
    """
    config = model.config
    if len(weights) != config.num_hallucinators:
        raise ValueError(
            f"A mixture has {config.num_hallucinators} weights here, one a hallucinator: got {len(weights)}."
        )
    samples = model(basis_ids).samples.view(
        len(basis_ids), max(config.num_hallucinators, 1), config.num_formations, *config.sample_shape
    )
    weights_K = torch.tensor([float(weight) for weight in weights] or [1.0])
    if not (weights_K.isfinite().all() and weights_K.min() >= 0 and weights_K.sum() > 0):
        raise ValueError(f"The weights of a mixture are not negative, and one is above 0: got {list(weights)}.")
    weights_K = (weights_K / weights_K.sum()).to(samples)
    return torch.einsum("k,pkmchw->pmchw", weights_K, samples)
