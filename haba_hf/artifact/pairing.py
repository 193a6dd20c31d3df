"""An artifact as training data: online pairing (the paper's "online pair-wise combination"). Each time a basis is
fetched it meets one hallucinator drawn uniformly at random, so an epoch is N samples and successive epochs see
different ones. With multi-formation each of a basis's M formations is fetched so, and an epoch is N x M samples.

Shape legend: N bases, K hallucinators, M formations, X = N x max(K, 1) x M samples, B batch, C/H/W of a sample, L
classes.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, get_worker_info
from transformers.utils import ModelOutput

from ..utils.seeds import seeded_generator
from .modeling_haba import HabaModel

# Floats of samples that are kept materialized rather than hallucinated batch by batch (1 GiB of float32).
MATERIALIZE_FLOATS = 2**28


def materialize_if_small(
    model: HabaModel, device: torch.device | str | None = None, max_floats: int = MATERIALIZE_FLOATS
) -> tuple[Tensor, Tensor] | None:
    """
    All X samples as float32 and their labels, basis by basis, or `None` if they are too many.

    Args:
        model ([`HabaModel`]): the artifact; it stays where it is.
        device (`torch.device`, *optional*): where samples and labels go, by default the model's.
        max_floats (`int`, *optional*, defaults to 2**28): the most floats that samples may take (1 GiB).
    """
    channels, height, width = model.config.sample_shape
    if model.config.num_samples * channels * height * width > max_floats:
        return None
    samples_XCHW, labels = _in_float32(model.materialize())
    device = model.device if device is None else device
    return samples_XCHW.to(device), labels.to(device)


@torch.no_grad()
def paired_batches(
    model: HabaModel, batch_size: int, generator: torch.Generator, materialized: tuple[Tensor, Tensor] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """
    One epoch of online pairing: every basis once, in all its formations and in random order, each with a hallucinator
    of its own.

    Args:
        model ([`HabaModel`]): the artifact, not trained by this (no gradients).
        batch_size (`int`): B; the last batch may be smaller.
        generator (`torch.Generator`): decides order and pairing; the same state gives the same epoch.
        materialized (`tuple[Tensor, Tensor]`, *optional*): what [`materialize_if_small`] gave, to index into.
            Without them each batch is hallucinated, in at most K calls.

    Yields:
        samples float32 `[B, C, H, W]` and labels int64 `[B]` (hard) or float `[B, L]` (soft).

    Raises:
        `ValueError`: if `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    device = model.bases.device if materialized is None else materialized[0].device
    # Drawn for the whole epoch, so that an accelerator waits for one small transfer an epoch, not for one a batch.
    sample_ids = model.draw_pairing(generator).to(device)
    for ids in sample_ids.split(batch_size):
        if materialized is None:
            yield _in_float32(model.restore(ids))
        else:
            samples_XCHW, labels = materialized
            yield samples_XCHW[ids], labels[ids]


class WorkerGenerator:
    """
    A generator that every `DataLoader` worker seeds for itself, from (`seed`, the worker's seed).

    Workers are copies of the main process: with one common state they would all draw the same numbers, and, being
    started anew each epoch, the same ones every epoch. The worker's seed comes from the `DataLoader`'s own generator.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self._key: tuple[int, ...] = ()
        self._generator = torch.Generator()

    def __call__(self) -> torch.Generator:
        worker = get_worker_info()
        key = (self.seed,) if worker is None else (self.seed, worker.seed)
        if key != self._key:
            self._key, self._generator = key, seeded_generator(*key)
        return self._generator


class PairedDataset(Dataset):
    """
    A map-style data set over the N bases; fetching basis i gives it through a hallucinator drawn at that moment. With
    multi-formation it is N x M long and item i is formation i % M of basis i // M.

    A `DataLoader` fetches a batch in one go, so a batch costs at most K hallucinator calls. Items are dicts of
    `pixel_values` (float32 `[C, H, W]`, model space) and `labels` (class, or `[L]` probabilities), on the CPU.

    ```python
    loader = DataLoader(PairedDataset(model), batch_size=256, shuffle=True, collate_fn=HabaCollator())
    Trainer(network, arguments, train_dataset=PairedDataset(model), data_collator=HabaCollator())
    ```

    Args:
        model ([`HabaModel`]): the artifact; on the CPU if the `DataLoader` has workers.
        seed (`int`, *optional*, defaults to 0): of the pairing. Processes that share an epoch should have their own.
    """

    def __init__(self, model: HabaModel, seed: int = 0):
        self.model = model
        self.generator = WorkerGenerator(seed)

    def __len__(self) -> int:
        return self.model.config.epoch_samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    @torch.no_grad()
    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        if get_worker_info() is not None and self.model.device.type != "cpu":
            raise ValueError(
                f"DataLoader workers cannot use a model on {self.model.device}: pass model.cpu(), or num_workers=0."
            )
        ids = torch.as_tensor(indices, dtype=torch.long)
        if len(ids) and not -len(self) <= int(ids.min()) <= int(ids.max()) < len(self):
            raise IndexError(f"Basis indices must lie in 0..{len(self) - 1}, got {list(indices)}.")
        output = self.model.restore(self.model.pair(ids % len(self), self.generator()))
        samples_BCHW, labels = (tensor.cpu() for tensor in _in_float32(output))
        return [{"pixel_values": samples_BCHW[i], "labels": labels[i]} for i in range(len(ids))]


class HabaCollator:
    """
    Stacks the items of a [`PairedDataset`] into `pixel_values` `[B, C, H, W]` and `labels` `[B]` or `[B, L]`.

    Args:
        augmentation (`Callable[[Tensor, torch.Generator], Tensor]`, *optional*): applied to each batch of samples,
            such as `DsaAugmentation`, which students of a distilled set are meant to be trained with.
        seed (`int`, *optional*, defaults to 0): of the augmentation.
    """

    def __init__(self, augmentation: Callable[[Tensor, torch.Generator], Tensor] | None = None, seed: int = 0):
        self.augmentation = augmentation
        self.generator = WorkerGenerator(seed)

    def __call__(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        samples_BCHW = torch.stack([item["pixel_values"] for item in items])
        if self.augmentation is not None:
            samples_BCHW = self.augmentation(samples_BCHW, self.generator())
        return {"pixel_values": samples_BCHW, "labels": torch.stack([item["labels"] for item in items])}


def paired_cross_entropy(
    outputs: ModelOutput, labels: Tensor, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """
    `Trainer(compute_loss_func=paired_cross_entropy)`: cross-entropy with hard or soft labels. Needed for soft labels,
    which transformers' own image classifiers take for a multi-label problem.

    Args:
        outputs (`ModelOutput`): with `logits` `[B, L]`.
        labels (`Tensor`): classes `[B]` or distributions `[B, L]`.
        num_items_in_batch (`int`, *optional*): label entries in the batches whose gradients are accumulated, as
            `Trainer` counts them (B of them, or B x L).
    """
    if num_items_in_batch is None:
        return F.cross_entropy(outputs["logits"], labels)
    num_samples = num_items_in_batch / (labels.shape[1] if labels.ndim == 2 else 1)
    return F.cross_entropy(outputs["logits"], labels, reduction="sum") / num_samples


def _in_float32(output: ModelOutput) -> tuple[Tensor, Tensor]:
    """Samples and labels, whatever precision the artifact was loaded in; classes stay integers."""
    labels = output["labels"]
    return output["samples"].float(), labels.float() if labels.is_floating_point() else labels
