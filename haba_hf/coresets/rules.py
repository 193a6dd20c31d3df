"""Rules that choose images of one class by their features, or by what a network forgot of them.

Distances are taken on the CPU in float64. Of images that a rule finds equally good it takes the one that comes first.

Shape legend: n training images, N images of one class, D features, B batch.
"""

import math

import torch
from torch import Tensor


def herding(features_ND: Tensor, count: int) -> Tensor:
    r"""
    Herding (Welling, 2009): the mean of the chosen features follows the mean m of the class.

        x_k = argmin_x || k m - sum_{i<k} phi(x_i) - phi(x) ||    over images not chosen yet

    Args:
        features_ND (`torch.Tensor` `[N, D]`): features of the images of one class.
        count (`int`): images to choose.

    Returns:
        `torch.LongTensor` `[count]`: indices in the order of choice.

    Raises:
        `ValueError`: if `count` is not in 1..N.
    """
    features_ND = _checked(features_ND, count)
    mean_D, sum_D = features_ND.mean(dim=0), torch.zeros_like(features_ND[0])
    chosen = torch.empty(count, dtype=torch.long)
    taken = torch.zeros(len(features_ND), dtype=torch.bool)
    for k in range(count):
        distances_N = _distances((k + 1) * mean_D - sum_D, features_ND)
        chosen[k] = distances_N.masked_fill_(taken, math.inf).argmin()
        taken[chosen[k]] = True
        sum_D += features_ND[chosen[k]]
    return chosen


def k_center(features_ND: Tensor, count: int) -> Tensor:
    """
    Greedy K-Center (Sener and Savarese, 2018): first the image nearest to the mean of the class, then again and again
    the one that is farthest from its nearest center.

    Args:
        features_ND (`torch.Tensor` `[N, D]`): features of the images of one class.
        count (`int`): centres to choose.

    Returns:
        `torch.LongTensor` `[count]`: indices in the order of choice.

    Raises:
        `ValueError`: if `count` is not in 1..N.
    """
    features_ND = _checked(features_ND, count)
    chosen = torch.empty(count, dtype=torch.long)
    chosen[0] = _distances(features_ND.mean(dim=0), features_ND).argmin()
    nearest_N = torch.full((len(features_ND),), math.inf, dtype=torch.float64)
    for k in range(1, count):
        nearest_N = torch.minimum(nearest_N, _distances(features_ND[chosen[k - 1]], features_ND))
        nearest_N[chosen[:k]] = -math.inf  # a copy of a center, at distance 0, may still be chosen; a center may not
        chosen[k] = nearest_N.argmax()
    return chosen


class ForgettingEvents:
    """
    Forgetting events (Toneva et al., 2019): how often an image was classified correctly the last time it was seen and
    now is wrong.

    Args:
        num_images (`int`): n.
        device (`torch.device`, *optional*): where to count.
    """

    def __init__(self, num_images: int, device: torch.device | str = "cpu"):
        self._events_n = torch.zeros(num_images, device=device)
        self._was_right_n = torch.zeros(num_images, dtype=torch.bool, device=device)
        self._ever_right_n = torch.zeros(num_images, dtype=torch.bool, device=device)

    def update(self, rows_B: Tensor, right_B: Tensor) -> None:
        """The images `rows_B`, each at most once, have been seen; `right_B` (bool): those classified correctly."""
        self._events_n[rows_B] += self._was_right_n[rows_B] & ~right_B
        self._was_right_n[rows_B] = right_B
        self._ever_right_n[rows_B] |= right_B

    def counts(self) -> Tensor:
        """Float32 `[n]` on the CPU: events of each image, infinite for images never classified correctly."""
        return self._events_n.masked_fill(~self._ever_right_n, math.inf).cpu()


def most_forgotten(events_N: Tensor, count: int) -> Tensor:
    """
    Indices (int64 `[count]`) of the images with the most forgetting events, most forgotten first.

    Raises:
        `ValueError`: if `count` is not in 1..N.
    """
    _check_count(len(events_N), count)
    return events_N.argsort(descending=True, stable=True)[:count]


def _checked(features_ND: Tensor, count: int) -> Tensor:
    _check_count(len(features_ND), count)
    return features_ND.to("cpu", torch.float64)


def _check_count(available: int, count: int) -> None:
    if not 1 <= count <= available:
        raise ValueError(f"{count} of {available} images cannot be chosen: ask for 1 to {available}.")


def _distances(point_D: Tensor, features_ND: Tensor) -> Tensor:
    # Differences, not dot products: equal rows are at equal distance, and near ones do not cancel.
    return torch.cdist(point_D[None], features_ND, compute_mode="donot_use_mm_for_euclid_dist")[0]
