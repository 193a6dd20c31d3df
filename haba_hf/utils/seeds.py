"""
Random numbers that are decided by a few integers: the recipe's seed, and what is drawn for.

Every part of the package that draws has a stream of its own, told apart by the last numbers of its seeds. Networks
that must not be the same have different ones: student i of an evaluation (seed, i, 0), expert i (seed, i, 3), a
teacher (seed, 0, 5), network i of an objective (seed, i, 0, 1).
"""

import numpy as np
import torch


def derived_seed(*seeds: int) -> int:
    """
    One seed out of several, such as (seed, network index): tuples of one length that differ give unrelated streams.
    Zeros at the end do not count, so that (7,), (7, 0) and (7, 0, 0) are one stream.
    """
    return int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1)


def seeded_generator(*seeds: int) -> torch.Generator:
    """A CPU generator seeded by [`derived_seed`]: the same draws on every device."""
    return torch.Generator().manual_seed(derived_seed(*seeds))
