"""Class means of samples whose labels may be soft."""

import torch
from torch import Tensor
from torch.nn import functional as F


def class_weights(labels: Tensor, num_labels: int, dtype: torch.dtype) -> Tensor:
    """
    The weights `[L, X]` that turn features of X samples into the means of L classes: in the mean of a class each
    sample counts by its label's probability of the class, so hard labels give the plain mean of its own samples.

    Args:
        labels (`torch.Tensor`): classes `[X]` (hard) or distributions `[X, L]` (soft).
        num_labels (`int`): L.
        dtype (`torch.dtype`): of the features.
    """
    weights_XL = (labels if labels.is_floating_point() else F.one_hot(labels, num_labels)).to(dtype)
    return (weights_XL / weights_XL.sum(dim=0)).T
