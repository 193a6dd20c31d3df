"""One student: trained by SGD, scored on real images.

Shape legend: n images, B batch, C/H/W of an image, L classes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..artifact.loading import HabaProcessor
from ..data.augmentation import DsaAugmentation
from ..data.cutmix import CutMix
from ..data.splits import Split, images_at_once
from ..networks import Probe, logits_of

Batches = Iterable[tuple[Tensor, Tensor]]
Schedule = Literal["half", "two_steps"]


def learning_rate_at(epoch: int, epochs: int, learning_rate: float, schedule: Schedule = "half") -> float:
    """
    The learning rate in `epoch` (counted from 0).

    `"half"`: a tenth from epoch `epochs // 2 + 1` on, of two epochs in the last. `"two_steps"` (IDC): a fifth from
    epoch `2 * epochs // 3` on and a fifth of that from `5 * epochs // 6` on.
    """
    if schedule == "half":
        return learning_rate * 0.1 if epoch >= min(epochs // 2 + 1, max(epochs - 1, 1)) else learning_rate
    return learning_rate * 0.2 ** ((epoch >= 2 * epochs // 3) + (epoch >= 5 * epochs // 6))


def train_by_sgd(
    network: nn.Module,
    batches_of_epoch: Callable[[int], Batches],
    epochs: int,
    learning_rate: float,
    *,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: Schedule = "half",
    augmentation: DsaAugmentation | None = None,
    cutmix: CutMix | None = None,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    on_epoch: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """
    Trains a network by SGD and cross-entropy with the schedule of [`learning_rate_at`].

    Args:
        network (`nn.Module`): images `[B, C, H, W]` to logits `[B, L]`; moved to `device` and trained in place.
        batches_of_epoch (`Callable[[int], Iterable]`): gives the batches of an epoch, each of samples `[B, C, H, W]`
            in model space and labels, classes `[B]` or distributions `[B, L]`.
        epochs (`int`): epochs.
        learning_rate (`float`): before the decay.
        momentum (`float`, *optional*, defaults to 0.9): kept through the decay.
        weight_decay (`float`, *optional*, defaults to 5e-4): of SGD.
        schedule (`str`, *optional*, defaults to `"half"`): of the learning rate, see [`learning_rate_at`].
        augmentation ([`DsaAugmentation`], *optional*): of every batch.
        cutmix ([`CutMix`], *optional*): of batches, after their augmentation.
        generator (`torch.Generator`): what augmentation and CutMix draw from.
        device (`torch.device`, *optional*, defaults to `"cpu"`): where to train.
        autocast (`Callable`, *optional*): gives the context of each forward pass, such as `accelerator.autocast`.
        on_epoch (`Callable[[int, float], None]`, *optional*): told each epoch and its mean loss.

    Returns:
        `nn.Module`: the network, in evaluation mode.

    Raises:
        `FloatingPointError`: if the loss becomes NaN or infinite; names the learning rate and the epoch.
        `ValueError`: if an epoch has no batches.
    """
    network.to(device).train()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]  # of a probe not all
    optimizer = torch.optim.SGD(trained, learning_rate, momentum, weight_decay=weight_decay)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = learning_rate_at(epoch, epochs, learning_rate, schedule)
        losses = []
        for samples_BCHW, labels in batches_of_epoch(epoch):
            samples_BCHW, labels = samples_BCHW.to(device), labels.to(device)
            if augmentation is not None:
                samples_BCHW = augmentation(samples_BCHW, generator)
            mixture = None if cutmix is None else cutmix.draw(samples_BCHW.shape, generator)
            samples_BCHW = CutMix.apply(samples_BCHW, mixture)
            with autocast():
                logits = logits_of(network, samples_BCHW)
                labels = CutMix.mix_labels(labels, logits.shape[1], mixture)
                loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        if not losses:
            raise ValueError("A student needs at least one batch an epoch: the training set is empty.")
        mean_loss = torch.stack(losses).mean().item()
        if epoch + 1 == epochs:  # no later loss shows what the last update did
            with torch.no_grad():
                losses.append(F.cross_entropy(logits_of(network.eval(), samples_BCHW), labels))
        if not (math.isfinite(mean_loss) and losses[-1].isfinite()):
            raise FloatingPointError(
                f"The student diverged in epoch {epoch + 1} of {epochs} at learning rate {learning_rate:g}: "
                "train it with a lower learning rate."
            )
        if on_epoch is not None:
            on_epoch(epoch, mean_loss)
    return network


def accuracy(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    processor: HabaProcessor,
    batch_size: int | None = None,
) -> float:
    """Fraction of images whose largest logit is their label; arguments and errors as of [`right_by_class`]."""
    num_labels = int(labels.max()) + 1 if len(labels) else 0
    return right_by_class(network, images, labels, processor, num_labels, batch_size).sum().item() / len(images)


@torch.no_grad()
def right_by_class(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    processor: HabaProcessor,
    num_labels: int,
    batch_size: int | None = None,
) -> Tensor:
    """
    How many images of each class have their largest logit at their label, in one pass over all of them: int64 `[L]`,
    on the CPU.

    Args:
        network (`nn.Module`): scored in evaluation mode, left in the mode it was in.
        images (`torch.Tensor`): of a split, `[n, C, H, W]`, not normalized; each batch is moved to the network's
            device and normalized there.
        labels (`torch.Tensor`): int64 `[n]`.
        processor ([`HabaImageProcessor`]): the artifact's, which takes the images to its model space.
        num_labels (`int`): L.
        batch_size (`int`, *optional*): bounds the memory, by default to that of 256 images of 32x32; the result does
            not depend on it.

    Raises:
        `ValueError`: if there are no images.
        `FloatingPointError`: if a logit is NaN or infinite.
    """
    if not len(images):
        raise ValueError("There are no images to score the network on: the split is empty.")
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    batches = images.split(batch_size or images_at_once(images.shape))
    try:
        logits = (logits_of(network, processor.normalize(batch.to(device))) for batch in batches)
        return _count_right(logits, labels, num_labels)
    finally:
        network.train(was_training)


class Scorer:
    """
    Scores one student after the other on the same splits. The features that probes of one backbone have in
    common are computed once for all of them.

    Args:
        splits (`Sequence[Split]`): real images, not normalized.
        processor ([`HabaImageProcessor`]): the artifact's.
        num_labels (`int`): L.
    """

    def __init__(self, splits: Sequence[Split], processor: HabaProcessor, num_labels: int):
        self.splits = splits
        self.processor = processor
        self.num_labels = num_labels
        self._features: list[Tensor] = []  # of each split

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> list[list[int]]:
        """
        Of each split, how many images of each of the L classes are right.

        Raises:
            `ValueError`, `FloatingPointError`: as [`right_by_class`].
        """
        if not isinstance(network, Probe):
            return [
                right_by_class(network, split.images, split.labels, self.processor, self.num_labels).tolist()
                for split in self.splits
            ]
        if not self._features:
            self._features = [features_of(network, split.images, self.processor.normalize) for split in self.splits]
        return [
            _count_right([network.classifier(features)], split.labels, self.num_labels).tolist()
            for features, split in zip(self._features, self.splits, strict=True)
        ]


@torch.no_grad()
def features_of(probe: Probe, images: Tensor, normalize: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Features `[n, D]` of images on the probe's device, of samples as they are, or of images normalized there."""

    def features(batch: Tensor) -> Tensor:
        batch = batch.to(probe.classifier.weight.device)
        return probe.features(batch if normalize is None else normalize(batch))

    return torch.cat([features(batch) for batch in images.split(images_at_once(images.shape))])


def _count_right(batches: Iterable[Tensor], labels: Tensor, num_labels: int) -> Tensor:
    """
    How many of each class are right, int64 `[L]`: of batches of logits `[B, L]` in the order of `labels` `[n]`. A
    device is asked once, after the last.
    """
    predicted, finite = [], []
    for logits_BL in batches:
        predicted.append(logits_BL.argmax(dim=1))
        finite.append(logits_BL.isfinite().all())
    if not torch.stack(finite).all():
        raise FloatingPointError("The network's logits are NaN or infinite: its training has diverged.")
    labels = labels.cpu()
    return torch.bincount(labels[torch.cat(predicted).cpu() == labels], minlength=num_labels)
