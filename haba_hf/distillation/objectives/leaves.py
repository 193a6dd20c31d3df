"""
An artifact's samples and labels as leaves: an objective differentiates with respect to them, and hands the gradients
on to the parameters that they are made of.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def as_leaves(output: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    """
    Samples and labels of a [`HabaOutput`], cut off from the model, and which of the two are learned: the samples and,
    if they are soft, the labels.
    """
    samples = output.samples.detach().requires_grad_()
    labels = output.labels.detach().requires_grad_(output.labels.is_floating_point())
    return samples, labels, [samples, labels] if labels.requires_grad else [samples]


def hand_on(output: Any, gradients: Sequence[Tensor]) -> None:
    """Adds gradients of what [`as_leaves`] named as learned to the parameters of the model that gave the output."""
    torch.autograd.backward([output.samples, output.labels][: len(gradients)], list(gradients))
