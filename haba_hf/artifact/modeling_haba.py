"""A distilled data set as a model: bases, hallucinators, and the samples they restore.

Shape legend: N bases, K hallucinators, M formations, P pairs (basis, hallucinator) or samples, C/H/W of a sample, L
classes, T step sizes.
"""

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging

from .card_haba import short_card
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
from .storage_haba import decode_int8, encode_int8, enlarge, restore_bases

logger = logging.get_logger(__name__)


class HabaModel(PreTrainedModel):
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
        if config.storage_dtype == "int8":  # what is saved in place of the bases
            self.register_buffer("basis_codes", torch.empty(self.bases.shape, dtype=torch.int8))
            self.register_buffer("basis_scales", torch.empty(config.num_bases, len(config.plane_numbers)))
            self._keys_to_ignore_on_save = {"bases"}
            self._keys_to_ignore_on_load_missing = {"^bases$"}
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

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args: Any,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """
        As in transformers, but strict: part of a distilled data set is not a distilled data set.

        Args:
            output_loading_info (`bool`, *optional*, defaults to `False`):
                Return the model and a report of missing, unexpected and mismatched weights, and initialize what does
                not fit instead of refusing it.

        Raises:
            `ValueError`: if the safetensors file is cut off, or does not hold exactly the weights of the config.
            `OSError`: if there is no safetensors file (pickled weights are not loaded).
        """
        source = pretrained_model_name_or_path or "state_dict"
        kwargs["use_safetensors"] = True  # a pickle can run code
        try:
            model, report = super().from_pretrained(
                pretrained_model_name_or_path,
                *args,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **kwargs,
            )
        except SafetensorError as error:
            raise ValueError(
                f"The safetensors file of {source} is cut off or is none ({error}): save or download it again."
            ) from error
        model._decode_bases()
        if output_loading_info:
            return model, report
        if ignore_mismatched_sizes:
            report["mismatched_keys"] = set()
        _refuse_misfits(source, report)
        return model

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """
        As in transformers, in the bits of `config.storage_dtype`: what is learned is first rounded to them, so that a
        model is afterwards, bit for bit, what is loaded again.
        """
        if kwargs.get("state_dict") is None:
            self.round_to_storage()
            kwargs["state_dict"] = self._stored_state()
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def round_to_storage(self) -> None:
        """Rounds what is learned to the numbers that `config.storage_dtype` can save; they stay float32 in memory."""
        if self.config.storage_dtype == "float32":
            return
        for name, parameter in self.named_parameters():
            if self.config.bytes_per_number.get(_part_of(name)) == 2:
                parameter.copy_(parameter.bfloat16())
        if self.config.storage_dtype == "int8" and not torch.equal(self.bases, self._decoded_bases()):
            codes, scales = encode_int8(self.bases, self.config)
            self.basis_codes.copy_(codes)
            self.basis_scales.copy_(scales)
            self._decode_bases()

    def _stored_state(self) -> dict[str, Tensor]:
        """What is saved, in its bits; the bases of int8 are their codes and scales."""
        bytes_per_number = self.config.bytes_per_number
        return {
            name: tensor.bfloat16() if bytes_per_number.get(_part_of(name)) == 2 else tensor
            for name, tensor in self.state_dict().items()
            if not (name == "bases" and self.config.storage_dtype == "int8")
        }

    def _decoded_bases(self) -> Tensor:
        return decode_int8(self.basis_codes, self.basis_scales, self.config).to(self.bases.dtype)

    @torch.no_grad()
    def _decode_bases(self) -> None:
        if self.config.storage_dtype == "int8":
            self.bases.copy_(self._decoded_bases())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: str | Sequence[str] = (),
    ) -> str:
        """
        As in transformers: weights, config and code, with a short card in place of any card that is there, which may
        be of other weights. Processor, records, figures and the full card are of an artifact's folder, which
        `haba_hf.hub.push_artifact` publishes.
        """
        api = HfApi(token=token, library_name="haba_hf")
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        tags = [tags] if isinstance(tags, str) else tags
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            card = short_card(self.config, repo_id, [*(self.model_tags or ()), *tags])
            Path(folder, "README.md").write_text(card, encoding="utf-8")
            logger.warning(
                f"Weights, config, code and a short card go to {repo_id}: haba_hf.hub.push_artifact (or haba push) "
                "brings the processor, the records and the full card of an artifact's folder."
            )
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or "Upload model",
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
            )

    @property
    def labels(self) -> Tensor:
        """Label of each basis: class ids `[N]` (hard) or distributions `[N, L]` (soft)."""
        return self.class_ids if self.label_logits is None else self.label_logits.softmax(dim=-1)

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
        All samples as a `datasets.Dataset` with columns `sample` (float32 `[C, H, W]`, model space), `label` (class,
        or list of L probabilities), `basis` and, where there are several, `hallucinator` and `formation`.

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
        count = self.config.num_bases * self.config.num_formations
        return self.pair(torch.randperm(count, generator=generator, device=generator.device), generator)

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
            parts[_part_of(name)] += parameter.numel()
        if "basis_scales" in parts:
            parts["basis_scales"] = self.basis_scales.numel()
        if self.config.whitening is not None:
            parts["whitening"] = self.config.whitening_floats
        floats_per_image_per_class = self.config.num_labels * math.prod(self.config.sample_shape)
        return StorageReport(parts, floats_per_image_per_class, self.config.bytes_per_number)


# The part of the storage that a parameter is of, by the first of its name.
PARTS = {
    "encoder": "hallucinators",
    "decoder": "hallucinators",
    "label_logits": "labels",
    "raw_step_sizes": "step_sizes",
}


def _part_of(name: str) -> str:
    first = name.split(".")[0]
    return PARTS.get(first, first)


_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _refuse_misfits(source: Any, report: dict) -> None:
    mismatched = {name for name, *_ in report["mismatched_keys"]}
    misfits = {
        "missing": report["missing_keys"],
        "unexpected": report["unexpected_keys"],
        "of another shape": mismatched,
    }
    found = [f"{len(keys)} {what} ({', '.join(sorted(keys)[:3])})" for what, keys in misfits.items() if keys]
    if found:
        raise ValueError(
            f"The safetensors file of {source} does not hold the weights of this haba config: {', '.join(found)}. "
            "Load an artifact with its own config, or with output_loading_info=True to initialize what does not fit."
        )


def _checked_ids(ids: Tensor, name: str, limit: int, device: torch.device) -> Tensor:
    """Ids on the model's device; the range of ids on a CPU is checked, others would make the device wait."""
    if not torch.is_tensor(ids) or ids.ndim != 1 or ids.dtype not in _INTEGERS:
        raise ValueError(f"{name} must be a 1-D tensor of integers.")
    if ids.device.type == "cpu" and len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
        raise ValueError(f"{name} must lie in 0..{limit - 1}, got {int(ids.min())}..{int(ids.max())}.")
    return ids.to(device=device, dtype=torch.long)
