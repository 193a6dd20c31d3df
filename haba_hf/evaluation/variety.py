"""Do hallucinators make of one basis several samples, or one sample several times?

Shape legend: P bases, K hallucinators, C, H, W of a sample.
"""

import torch

from ..artifact.modeling_haba import HabaModel

MOST_BASES = 1000  # that are looked at, evenly spread
PART = 16  # bases at once


@torch.no_grad()
def hallucinator_variety(model: HabaModel) -> float | None:
    """
    The variance between the samples that the hallucinators make of one basis, as a share of that between all samples:
    near 0 they are copies of each other, near 1 as different as the samples of any two bases.

    At equal storage hallucinators take the place of bases, for which copies give nothing. Samples that differ may
    still be worth less than the bases would have been: accuracy tells.

    Args:
        model ([`HabaModel`]): the artifact; it stays where it is.

    Returns:
        `float`: E_i Var_j x_ij / Var x_ij, both unbiased, a mean over pixels, so that it may exceed 1 a little; `None`
            of fewer than two hallucinators, or of samples that are all alike.
    """
    number = model.config.num_hallucinators
    if number < 2:
        return None
    ids = torch.linspace(0, model.config.num_bases - 1, min(model.config.num_bases, MOST_BASES)).round().long()
    within, sums, squares = 0.0, torch.zeros(()), torch.zeros(())
    for basis_ids in ids.to(model.bases.device).split(PART):
        pairs = basis_ids.repeat_interleave(number)
        hallucinator_ids = torch.arange(number, device=pairs.device).repeat(len(basis_ids))
        samples = model(pairs, hallucinator_ids).samples.double()
        samples_PKx = samples.reshape(len(basis_ids), number, -1)
        within += samples_PKx.var(dim=1).mean(dim=-1).sum().item()
        sums = sums + samples_PKx.sum(dim=(0, 1))
        squares = squares + samples_PKx.square().sum(dim=(0, 1))
    count = len(ids) * number
    total = ((squares - sums.square() / count) / (count - 1)).mean().item()
    return within / len(ids) / total if total > 0 else None
