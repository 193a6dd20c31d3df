"""A distilled data set as a model: bases, hallucinators, and the samples they restore.

Shape legend: N bases, K hallucinators, M formations, P pairs (basis, hallucinator) or samples, C/H/W of a sample, L
classes, T step sizes.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_haba import HabaConfig
from .datasets_haba import pairings_as_dataset, samples_as_dataset
from .hallucinator_haba import (
    Hallucinator,
    HallucinatorDecoder,
    HallucinatorEncoder,
    init_convolution,
    init_hallucinator,
    init_offsets,
)
from .output_haba import HabaOutput, StorageReport
from .saving_haba import StoredModel, part_of
from .storage_haba import enlarge, restore_bases


class HabaModel(StoredModel):
    r"""
    A distilled data set S = {H, B}: N bases and K hallucinators whose products are N x K training samples, or M times
    as many where multi-formation cuts each product into M.

    ```python
    model = HabaModel.from_pretrained("user/haba-fashion-mnist-1pc")
    output = model.materialize()  # output.samples [N * K, C, H, W], output.labels
    ```

    Attributes:
        bases (`nn.Parameter` `[N, *config.stored_shape]`): as they are stored, sorted by class; of pixels `[N, C', h',
            w']`.
        class_ids (`torch.LongTensor` `[N]`): the class of each basis.
        hallucinators (`nn.ModuleList` of K [`Hallucinator`]).
        student_learning_rate (`nn.Parameter`, 0-d): the learning rate students are to be trained with; trajectory
            matching learns it.
        raw_step_sizes (`nn.Parameter` `[T]`, `None` without a schedule): what the softplus of gives `step_sizes`.
    """

    config: HabaConfig
    base_model_prefix = "haba"
    main_input_name = "basis_ids"
    input_modalities = ("image",)

    def __init__(self, config: HabaConfig):
        config.check()  # arguments of from_pretrained change a config without a check
        super().__init__(config)
        self.bases = nn.Parameter(torch.empty(config.num_bases, *config.stored_shape))
        self._register_codes()
        self.hallucinators = nn.ModuleList(Hallucinator(config) for _ in range(config.num_hallucinators))
        shared = config.share_encoder_decoder and config.num_hallucinators > 0
        self.encoder = HallucinatorEncoder(config) if shared else None
        self.decoder = HallucinatorDecoder(config) if shared else None
        self.register_buffer("class_ids", torch.empty(config.num_bases, dtype=torch.long))
        soft = config.label_kind == "soft"
        self.label_logits = nn.Parameter(torch.empty(config.num_bases, config.num_labels)) if soft else None
        self.student_learning_rate = nn.Parameter(torch.empty(()))
        self.raw_step_sizes = nn.Parameter(torch.empty(config.num_step_sizes)) if config.num_step_sizes else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, HabaModel):
            config = module.config
            class_ids = torch.arange(config.num_bases, device=module.class_ids.device) // config.bases_per_class
            init.normal_(module.bases)
            if config.storage_dtype == "int8":
                init.zeros_(module.basis_codes)
                init.ones_(module.basis_scales)
            init.copy_(module.class_ids, class_ids)
            init.constant_(module.student_learning_rate, config.student_learning_rate)
            if module.raw_step_sizes is not None:
                alpha = config.student_learning_rate
                init.constant_(module.raw_step_sizes, alpha + math.log(-math.expm1(-alpha)))  # softplus gives alpha
            init_offsets(module.encoder, module.decoder, config)
            if module.label_logits is not None:
                # softmax gives 0.9 to the true class and shares 0.1 among the others
                others = max(config.num_labels - 1, 1)
                one_hot = F.one_hot(class_ids, config.num_labels).to(module.label_logits.dtype)
                init.copy_(module.label_logits, one_hot * torch.log(torch.tensor(9.0 * others)).item())
        elif isinstance(module, Hallucinator):
            init_hallucinator(module, self.config)
        elif isinstance(module, nn.Conv2d):
            init_convolution(module, self.config)

    @property
    def labels(self) -> Tensor:
        """Label of each basis: class ids `[N]` (hard) or distributions `[N, L]` (soft)."""
        return self.class_ids if self.label_logits is None else self.label_logits.softmax(dim=-1)

    @torch.no_grad()
    def set_labels(self, labels: Tensor) -> None:
        """
        Gives every basis a soft label.

        Args:
            labels (`torch.Tensor`): distributions `[N, L]`.

        Raises:
            `ValueError`: if the artifact's labels are hard, or a row is no distribution.
        """
        if self.label_logits is None:
            raise ValueError("This artifact has hard labels, its classes: set label_kind to soft.")
        sums = labels.sum(dim=-1)
        wrong_shape = labels.shape != self.label_logits.shape
        if wrong_shape or (labels < 0).any() or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            raise ValueError(
                f"Soft labels are probabilities {list(self.label_logits.shape)}, none negative and of sum 1 in a row, "
                f"got {list(labels.shape)}: apply softmax to logits first."
            )
        self.label_logits.copy_(labels.clamp_min(1e-8).log())

    @property
    def step_sizes(self) -> Tensor | None:
        """Step sizes `[T]` of the schedule, positive by a softplus, or `None` without one."""
        return None if self.raw_step_sizes is None else F.softplus(self.raw_step_sizes)

    def share(self, step: int) -> Tensor:
        """What a step of the schedule takes, `[L x M]`: a basis of each class, taking turns, in all its formations."""
        per_class, formations = self.config.bases_per_class, self.config.num_formations
        basis_ids = torch.arange(self.config.num_labels, device=self.bases.device) * per_class + step % per_class
        return (basis_ids[:, None] * formations + torch.arange(formations, device=basis_ids.device)).flatten()

    def forward(
        self,
        basis_ids: Tensor | None = None,
        hallucinator_ids: Tensor | None = None,
        formation_ids: Tensor | None = None,
    ) -> HabaOutput:
        r"""
        Restores samples; each hallucinator present is called once, whatever the number of pairs.

        Args:
            basis_ids (`torch.LongTensor`, *optional*): 1-D. `None`: all bases.
            hallucinator_ids (`torch.LongTensor`, *optional*): 1-D. `None`: all hallucinators.
            formation_ids (`torch.LongTensor`, *optional*): 1-D, one tile of each pair. `None`: all M tiles of each.

        If basis and hallucinator ids are both given they are aligned pairs of equal length P. If one or both are left
        out, the product of what is given with all of the other is formed, basis by basis. Without hallucinators there
        are no `hallucinator_ids`.

        Raises:
            `ValueError`: if ids have different lengths, are not 1-D integers, or are out of range.
        """
        basis_ids, hallucinator_ids = self._pairs(basis_ids, hallucinator_ids)
        if hallucinator_ids is None:
            samples = self.restored_bases(basis_ids, self.config.sample_shape[1:])
        else:
            samples = enlarge(self._hallucinate(basis_ids, hallucinator_ids), self.config.sample_shape[1:])
        formations = self.config.num_formations
        if formation_ids is not None:
            formation_ids = _checked_ids(formation_ids, "formation_ids", formations, samples.device)
            if len(formation_ids) != len(samples):
                raise ValueError(f"formation_ids are one for each pair: got {len(formation_ids)} for {len(samples)}.")
        elif formations > 1:
            basis_ids = basis_ids.repeat_interleave(formations)
            if hallucinator_ids is not None:
                hallucinator_ids = hallucinator_ids.repeat_interleave(formations)
        if formations > 1:
            samples, formation_ids = self._form(samples, formation_ids)
        return HabaOutput(
            samples=samples,
            labels=self.labels[basis_ids],
            basis_ids=basis_ids,
            hallucinator_ids=hallucinator_ids,
            formation_ids=formation_ids if formations > 1 else None,
        )

    def restore(self, sample_ids: Tensor) -> Any:
        """
        The samples at some places (1-D, from 0 to N x K x M - 1) of `materialize()`, in the order asked for.

        Returns:
            [`HabaOutput`].

        Raises:
            `ValueError`: if the places are not 1-D integers, or out of range.
        """
        num_hallucinators, formations = self.config.num_hallucinators, self.config.num_formations
        sample_ids = _checked_ids(sample_ids, "sample_ids", self.config.num_samples, self.bases.device)
        pairs, formation_ids = sample_ids // formations, sample_ids % formations
        if not num_hallucinators:
            return self(pairs, formation_ids=formation_ids)
        return self(pairs // num_hallucinators, pairs % num_hallucinators, formation_ids)

    def _pairs(self, basis_ids: Tensor | None, hallucinator_ids: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The ids given, checked, as aligned pairs; without hallucinators there are no ids of them."""
        num_hallucinators = self.config.num_hallucinators
        device = self.bases.device
        pairs_are_aligned = basis_ids is not None and hallucinator_ids is not None
        if basis_ids is None:
            basis_ids = torch.arange(self.config.num_bases, device=device)
        if num_hallucinators == 0:
            if hallucinator_ids is not None:
                raise ValueError("This artifact has no hallucinators (num_hallucinators=0): pass no hallucinator_ids.")
            return _checked_ids(basis_ids, "basis_ids", self.config.num_bases, device), None
        if hallucinator_ids is None:
            hallucinator_ids = torch.arange(num_hallucinators, device=device)
        basis_ids = _checked_ids(basis_ids, "basis_ids", self.config.num_bases, device)
        hallucinator_ids = _checked_ids(hallucinator_ids, "hallucinator_ids", num_hallucinators, device)
        if not pairs_are_aligned:
            pairs = torch.cartesian_prod(basis_ids, hallucinator_ids).view(-1, 2)
            basis_ids, hallucinator_ids = pairs.unbind(dim=1)
        if len(basis_ids) != len(hallucinator_ids):
            raise ValueError(
                f"basis_ids and hallucinator_ids are aligned pairs: got {len(basis_ids)} and {len(hallucinator_ids)}."
            )
        return basis_ids, hallucinator_ids

    def restored_bases(self, basis_ids: Tensor, size: tuple[int, int]) -> Tensor:
        """
        Bases as images `[P, C', *size]`, before any hallucinator.

        Args:
            basis_ids (`torch.LongTensor`): 1-D, on the model's device.
            size (`tuple[int, int]`): height and width: h', w' or those of samples.
        """
        if self.config.stored_shape[-2:] == size or len(basis_ids) < self.config.num_bases:
            return restore_bases(self.bases[basis_ids], self.config, size)
        return restore_bases(self.bases, self.config, size)[basis_ids]  # each once, however often it is asked for

    def _hallucinate(self, basis_ids: Tensor, hallucinator_ids: Tensor) -> Tensor:
        """Groups the pairs by hallucinator, calls each once, and puts the samples back in the order asked for."""
        order = hallucinator_ids.argsort(stable=True)
        counts = torch.bincount(hallucinator_ids, minlength=self.config.num_hallucinators).tolist()
        groups = self.restored_bases(basis_ids[order], self.config.hallucinated_size).split(counts)
        samples = torch.cat(
            [
                hallucinator(group, self.encoder, self.decoder)
                for hallucinator, group in zip(self.hallucinators, groups, strict=True)
                if len(group)
            ]
            or [self.bases.new_empty(0, self.config.sample_channels, *self.config.hallucinated_size)]
        )
        return samples[order.argsort()]

    def _form(self, images_PCHW: Tensor, formation_ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """
        Multi-formation (IDC; Kim et al., ICML 2022): one tile of each image, or all M of them image by image, enlarged
        bilinearly to full size; and which tiles they are, counted row by row.
        """
        rows, columns = self.config.formation_grid
        height, width = images_PCHW.shape[2:]
        tiles = images_PCHW.unflatten(3, (columns, width // columns)).unflatten(2, (rows, height // rows))
        tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        images = torch.arange(len(tiles), device=tiles.device)
        if formation_ids is None:
            formation_ids = torch.arange(rows * columns, device=tiles.device).repeat(len(tiles))
            images = images.repeat_interleave(rows * columns)
        return F.interpolate(tiles[images, formation_ids], (height, width), mode="bilinear"), formation_ids

    @torch.no_grad()
    def materialize(self) -> HabaOutput:
        """All N x K x M samples, without gradients, basis by basis and then hallucinator by hallucinator."""
        return self()

    def to_dataset(self) -> Any:
        """
        All samples as a `datasets.Dataset` of torch tensors, as `Trainer(train_dataset=...)` takes it: columns
        `pixel_values` (float32 `[C, H, W]`, model space), `labels` (class, or L probabilities), `basis` and, where
        there are several, `hallucinator` and `formation`.

        Raises:
            `ImportError`: if the datasets library is not installed.
        """
        return samples_as_dataset(self.materialize(), self.config)

    def to_iterable_dataset(self, seed: int = 0, epochs: int = 1) -> Any:
        """
        Online pairing as a `datasets.IterableDataset`: `epochs` passes over the bases in random order, each basis
        (each of its M formations) meeting one random hallucinator a pass. Columns as in `to_dataset`.

        Raises:
            `ImportError`: if the datasets library is not installed.
        """
        return pairings_as_dataset(self._paired_epoch, self.config, seed, epochs)

    @torch.no_grad()
    def _paired_epoch(self, generator: torch.Generator) -> HabaOutput:
        return self.restore(self.draw_pairing(generator))

    def sample_ids_by_class(self) -> Tensor:
        """Places in `materialize()` of the samples of each class, `[L, X / L]`: bases lie class by class."""
        return torch.arange(self.config.num_samples).view(self.config.num_labels, -1)

    def draw_pairing(self, generator: torch.Generator) -> Tensor:
        """
        One epoch of online pairing, as places in `materialize()` `[N x M]`: every basis once, in all its formations,
        in random order, each with a hallucinator drawn for it. On the generator's device.
        """
        formed_ids = torch.randperm(self.config.epoch_samples, generator=generator, device=generator.device)
        return self.pair(formed_ids, generator)

    def pair(self, formed_ids: Tensor, generator: torch.Generator, one_a_row: bool = False) -> Tensor:
        """
        Draws hallucinators for bases and says where in `materialize()` what they restore is.

        Args:
            formed_ids (`torch.LongTensor`): bases in one of their formations, from 0 to N x M - 1: formation i % M of
                basis i // M.
            generator (`torch.Generator`): what hallucinators are drawn from.
            one_a_row (`bool`, *optional*, defaults to `False`): one hallucinator for all of the last dimension.

        Returns:
            `torch.LongTensor` of the shape of `formed_ids`, on the generator's device.
        """
        num_hallucinators, formations = self.config.num_hallucinators, self.config.num_formations
        formed_ids = formed_ids.to(generator.device)
        if not num_hallucinators:
            return formed_ids
        shape = (*formed_ids.shape[:-1], 1) if one_a_row else formed_ids.shape
        hallucinator_ids = torch.randint(num_hallucinators, shape, generator=generator, device=generator.device)
        return (formed_ids // formations * num_hallucinators + hallucinator_ids) * formations + formed_ids % formations

    def storage(self) -> StorageReport:
        """
        Numbers and bytes of each part as it is saved, and the plain images per class they equal; hard labels follow
        from order.
        """
        parts = dict.fromkeys(self.config.storage_parts, 0)
        for name, parameter in self.named_parameters():
            parts[part_of(name)] += parameter.numel()
        if "basis_scales" in parts:
            parts["basis_scales"] = self.basis_scales.numel()
        if self.config.whitening is not None:
            parts["whitening"] = self.config.whitening_floats
        floats_per_image_per_class = self.config.num_labels * math.prod(self.config.sample_shape)
        return StorageReport(parts, floats_per_image_per_class, self.config.bytes_per_number)


_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _checked_ids(ids: Tensor, name: str, limit: int, device: torch.device) -> Tensor:
    """Ids on the model's device; the range of ids on a CPU is checked, others would make the device wait."""
    if not torch.is_tensor(ids) or ids.ndim != 1 or ids.dtype not in _INTEGERS:
        raise ValueError(f"{name} must be a 1-D tensor of integers.")
    if ids.device.type == "cpu" and len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
        raise ValueError(f"{name} must lie in 0..{limit - 1}, got {int(ids.min())}..{int(ids.max())}.")
    return ids.to(device=device, dtype=torch.long)
