"""How an inner network is trained between two steps of the samples."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...artifact.modeling_haba import HabaModel
from ...artifact.pairing import paired_batches
from ...data.augmentation import DsaAugmentation


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of an inner network's optimizer."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def train_an_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    model: HabaModel,
    batch_size: int,
    augmentation: DsaAugmentation,
    generator: torch.Generator,
    materialized: tuple[Tensor, Tensor] | None,
) -> None:
    """
    One epoch of online pairing on the samples as they are, in place.

    Args:
        network (`nn.Module`): samples `[B, C, H, W]` to logits `[B, L]`.
        optimizer (`torch.optim.Optimizer`): of its parameters.
        model ([`HabaModel`]): the artifact, not trained by this.
        batch_size (`int`): B.
        augmentation ([`DsaAugmentation`]): of every batch.
        generator (`torch.Generator`): decides order, pairing and augmentation.
        materialized (`tuple[Tensor, Tensor]`, *optional*): as in [`paired_batches`].
    """
    for samples, labels in paired_batches(model, batch_size, generator, materialized):
        descend(optimizer, F.cross_entropy(network(augmentation(samples, generator)), labels))
