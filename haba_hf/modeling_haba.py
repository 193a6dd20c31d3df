"""A distilled data set as a model: bases, hallucinators, and the samples they restore.

Shape legend: N bases, K hallucinators, P pairs (basis, hallucinator), C/H/W of a sample, L classes.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_haba import HabaConfig

# Standard deviation of the perturbation that tells hallucinators apart where their convolutions do not.
INITIAL_NOISE = 0.1
# What keeps normalized pixels, which reach about -3, above the encoder's ReLU under hallucinator_init="identity".
RELU_OFFSET = 4.0


@dataclass
class HabaOutput(ModelOutput):
    """
    Samples and where they come from.

    Args:
        samples (`torch.FloatTensor` of shape `[P, C, H, W]`): in the model's space (as images are normalized).
        labels (`torch.LongTensor` `[P]` or, soft, `torch.FloatTensor` `[P, L]` whose rows sum to 1).
        basis_ids (`torch.LongTensor` of shape `[P]`).
        hallucinator_ids (`torch.LongTensor` of shape `[P]`, `None` for plain pixels).
    """

    samples: Tensor | None = None
    labels: Tensor | None = None
    basis_ids: Tensor | None = None
    hallucinator_ids: Tensor | None = None


@dataclass(frozen=True)
class StorageReport:
    """
    What an artifact stores, in floats of 4 bytes.

    Args:
        parts (`dict[str, int]`): floats of `bases`, `hallucinators`, `labels` and `student_learning_rate`.
        floats_per_image_per_class (`int`): L x C x H x W, what one plain image per class takes.
    """

    parts: dict[str, int]
    floats_per_image_per_class: int

    @property
    def floats(self) -> int:
        return sum(self.parts.values())

    @property
    def bytes(self) -> int:
        return 4 * self.floats

    @property
    def images_per_class(self) -> float:
        """Plain images per class (IPC) that take the storage of all parts."""
        return self.floats / self.floats_per_image_per_class


class HallucinatorEncoder(nn.Module):
    """`depth` blocks of 3x3 convolution and ReLU; blocks after the first halve height and width."""

    def __init__(self, config: HabaConfig):
        super().__init__()
        channels = [config.basis_shape[0], *config.feature_channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], 3, stride=1 if i == 0 else 2, padding=1)
            for i in range(config.hallucinator_depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        return x


class HallucinatorDecoder(nn.Module):
    """The encoder mirrored: nearest upsampling where it halved, ReLU after every convolution but the last, which is
    linear so that normalized (negative) pixels can be restored."""

    def __init__(self, config: HabaConfig):
        super().__init__()
        channels = [*reversed(config.feature_channels), config.sample_channels]
        self.sizes = [
            (-(-config.sample_height // 2**halvings), -(-config.sample_width // 2**halvings))
            for halvings in reversed(range(max(config.hallucinator_depth - 1, 0)))
        ]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], 3, padding=1) for i in range(config.hallucinator_depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.convolutions) - 1
        for i, convolution in enumerate(self.convolutions):
            if i < last:
                x = F.relu(convolution(F.interpolate(x, size=self.sizes[i], mode="nearest")))
            else:
                x = convolution(x)
        return x


class Hallucinator(nn.Module):
    r"""
    H_j(b) = Dec( scale_j * Enc(b) + shift_j ), the paper's affine map in feature space, with one scale and one
    shift per feature position and channel.

    At depth 0 the encoder and decoder are identities. When encoder and decoder are shared, the hallucinator holds only
    `scale` and `shift` and is handed the other two.
    """

    def __init__(self, config: HabaConfig):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(config.feature_shape))
        self.shift = nn.Parameter(torch.empty(config.feature_shape))
        shared = config.share_encoder_decoder
        self.encoder = None if shared else HallucinatorEncoder(config)
        self.decoder = None if shared else HallucinatorDecoder(config)

    def forward(self, bases: Tensor, encoder: nn.Module | None = None, decoder: nn.Module | None = None) -> Tensor:
        """Bases `[P, C', H, W]` to samples `[P, C, H, W]`."""
        encoder, decoder = encoder or self.encoder, decoder or self.decoder
        if encoder is None or decoder is None:
            raise ValueError("This hallucinator shares its encoder and decoder: pass those of its HabaModel.")
        return decoder(torch.addcmul(self.shift, encoder(bases), self.scale))


class HabaModel(PreTrainedModel):
    r"""
    A distilled data set S = {H, B}: N bases and K hallucinators whose products are N x K training samples.

    ```python
    model = HabaModel.from_pretrained("user/haba-fashion-mnist-1pc")
    output = model.materialize()  # output.samples [N * K, C, H, W], output.labels
    ```

    Attributes:
        bases (`nn.Parameter` `[N, C', H, W]`): sorted by class.
        class_ids (`torch.LongTensor` `[N]`): the class of each basis.
        hallucinators (`nn.ModuleList` of K [`Hallucinator`]).
        student_learning_rate (`nn.Parameter`, 0-d): the learning rate students are to be trained with; trajectory
            matching learns it.
    """

    config: HabaConfig
    base_model_prefix = "haba"
    main_input_name = "basis_ids"
    input_modalities = ("image",)

    def __init__(self, config: HabaConfig):
        config.check()  # arguments of from_pretrained change a config without a check
        super().__init__(config)
        self.bases = nn.Parameter(torch.empty(config.num_bases, *config.basis_shape))
        self.hallucinators = nn.ModuleList(Hallucinator(config) for _ in range(config.num_hallucinators))
        shared = config.share_encoder_decoder and config.num_hallucinators > 0
        self.encoder = HallucinatorEncoder(config) if shared else None
        self.decoder = HallucinatorDecoder(config) if shared else None
        self.register_buffer("class_ids", torch.empty(config.num_bases, dtype=torch.long))
        soft = config.label_kind == "soft"
        self.label_logits = nn.Parameter(torch.empty(config.num_bases, config.num_labels)) if soft else None
        self.student_learning_rate = nn.Parameter(torch.empty(()))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, HabaModel):
            config = module.config
            class_ids = torch.arange(config.num_bases, device=module.class_ids.device) // config.bases_per_class
            init.normal_(module.bases)
            init.copy_(module.class_ids, class_ids)
            init.constant_(module.student_learning_rate, config.student_learning_rate)
            self._init_offsets(module.encoder, module.decoder)
            if module.label_logits is not None:
                # softmax gives 0.9 to the true class and shares 0.1 among the others
                others = max(config.num_labels - 1, 1)
                one_hot = F.one_hot(class_ids, config.num_labels).to(module.label_logits.dtype)
                init.copy_(module.label_logits, one_hot * torch.log(torch.tensor(9.0 * others)).item())
        elif isinstance(module, Hallucinator):
            init.ones_(module.scale)
            init.zeros_(module.shift)
            alike = self.config.share_encoder_decoder or self.config.hallucinator_depth == 0
            if alike or self.config.hallucinator_init == "identity":
                init.normal_(module.shift, std=INITIAL_NOISE)
            self._init_offsets(module.encoder, module.decoder)
        elif isinstance(module, nn.Conv2d):
            bound = (module.weight[0].numel()) ** -0.5
            init.uniform_(module.weight, -bound, bound)  # = kaiming uniform with a = sqrt(5), PyTorch's default
            init.uniform_(module.bias, -bound, bound)
            if self.config.hallucinator_init == "identity":
                identity = torch.randn_like(module.weight) * (INITIAL_NOISE * bound)
                outputs = torch.arange(module.out_channels, device=module.weight.device)
                identity[outputs, outputs % module.in_channels, 1, 1] += 1
                init.copy_(module.weight, identity)
                init.zeros_(module.bias)

    def _init_offsets(self, encoder: HallucinatorEncoder | None, decoder: HallucinatorDecoder | None) -> None:
        """Raises pixels before the ReLU of an identity and lowers them after it."""
        # Called for the modules that hold scale and shift: transformers skips those without parameters of their own.
        if self.config.hallucinator_init == "identity" and self.config.hallucinator_depth and encoder and decoder:
            raised, lowered = encoder.convolutions[0], decoder.convolutions[0]
            init.constant_(raised.bias, RELU_OFFSET)
            init.copy_(lowered.bias, -RELU_OFFSET * lowered.get_parameter("weight").sum(dim=(1, 2, 3)))

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
        if output_loading_info:
            return model, report
        if ignore_mismatched_sizes:
            report["mismatched_keys"] = set()
        _refuse_misfits(source, report)
        return model

    @property
    def labels(self) -> Tensor:
        """Label of each basis: class ids `[N]` (hard) or distributions `[N, L]` (soft)."""
        return self.class_ids if self.label_logits is None else self.label_logits.softmax(dim=-1)

    def forward(self, basis_ids: Tensor | None = None, hallucinator_ids: Tensor | None = None) -> HabaOutput:
        r"""
        Restores samples; each hallucinator present is called once, whatever the number of pairs.

        Args:
            basis_ids (`torch.LongTensor`, *optional*): 1-D. `None`: all bases.
            hallucinator_ids (`torch.LongTensor`, *optional*): 1-D. `None`: all hallucinators.

        If both are given they are aligned pairs of equal length P. If one or both are left out, the product of what is
        given with all of the other is formed, basis by basis. Plain pixels (K = 0) take no `hallucinator_ids`.

        Raises:
            `ValueError`: if the two have different lengths, are not 1-D integers, or are out of range.
        """
        num_hallucinators = self.config.num_hallucinators
        device = self.bases.device
        pairs_are_aligned = basis_ids is not None and hallucinator_ids is not None
        if basis_ids is None:
            basis_ids = torch.arange(self.config.num_bases, device=device)
        if num_hallucinators == 0:
            if hallucinator_ids is not None:
                raise ValueError("This artifact holds plain pixels (num_hallucinators=0): pass no hallucinator_ids.")
            basis_ids = _checked_ids(basis_ids, "basis_ids", self.config.num_bases, device)
            return HabaOutput(samples=self.bases[basis_ids], labels=self.labels[basis_ids], basis_ids=basis_ids)
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
        samples = self._hallucinate(basis_ids, hallucinator_ids)
        return HabaOutput(
            samples=samples, labels=self.labels[basis_ids], basis_ids=basis_ids, hallucinator_ids=hallucinator_ids
        )

    def _hallucinate(self, basis_ids: Tensor, hallucinator_ids: Tensor) -> Tensor:
        """Groups the pairs by hallucinator, calls each once, and puts the samples back in the order asked for."""
        order = hallucinator_ids.argsort(stable=True)
        counts = torch.bincount(hallucinator_ids, minlength=self.config.num_hallucinators).tolist()
        groups = self.bases[basis_ids[order]].split(counts)
        samples = torch.cat(
            [
                hallucinator(group, self.encoder, self.decoder)
                for hallucinator, group in zip(self.hallucinators, groups, strict=True)
                if len(group)
            ]
            or [self.bases.new_empty(0, *self.config.sample_shape)]
        )
        return samples[order.argsort()]

    @torch.no_grad()
    def materialize(self) -> HabaOutput:
        """All N x K samples, without gradients, basis by basis."""
        return self()

    def to_dataset(self):
        """
        All samples as a `datasets.Dataset` with columns `sample` (float32 `[C, H, W]`, model space), `label` (class,
        or list of L probabilities), `basis` and, with hallucinators, `hallucinator`.
        """
        try:
            from datasets import Dataset
        except ImportError as error:
            raise ImportError("to_dataset needs the datasets library: pip install datasets") from error
        return Dataset.from_dict(self._columns(**self.materialize()), features=self._features())

    def to_iterable_dataset(self, seed: int = 0, epochs: int = 1) -> Any:
        """
        Online pairing as a `datasets.IterableDataset`: `epochs` passes over the bases in random order, each basis
        meeting one random hallucinator a pass. Columns as in `to_dataset`.
        """
        try:
            from datasets import IterableDataset
        except ImportError as error:
            raise ImportError("to_iterable_dataset needs the datasets library: pip install datasets") from error
        keywords = {"seed": seed, "epochs": list(range(epochs))}
        return IterableDataset.from_generator(self._paired_examples, gen_kwargs=keywords, features=self._features())

    @torch.no_grad()
    def _paired_examples(self, seed: int, epochs: list[int]) -> Iterator[dict]:
        for epoch in epochs:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            basis_ids = torch.randperm(self.config.num_bases, generator=generator)
            hallucinator_ids = None
            if self.config.num_hallucinators:
                hallucinator_ids = torch.randint(
                    self.config.num_hallucinators, (self.config.num_bases,), generator=generator
                )
            columns = self._columns(**self(basis_ids, hallucinator_ids))
            for row in range(self.config.num_bases):
                yield {name: column[row] for name, column in columns.items()}

    def _columns(
        self, samples: Tensor, labels: Tensor, basis_ids: Tensor, hallucinator_ids: Tensor | None = None
    ) -> dict:
        soft = labels.is_floating_point()
        columns = {
            "sample": samples.float().cpu().numpy(),
            "label": (labels.float() if soft else labels).cpu().numpy(),  # numpy has no bfloat16
            "basis": basis_ids.cpu().numpy(),
        }
        if hallucinator_ids is not None:
            columns["hallucinator"] = hallucinator_ids.cpu().numpy()
        return columns

    def _features(self):
        try:
            from datasets import Array3D, ClassLabel, Features, List, Value
        except ImportError as error:
            raise ImportError("data sets of samples need the datasets library: pip install datasets") from error
        names = [self.config.id2label[i] for i in range(self.config.num_labels)]
        hard = self.label_logits is None
        features = {
            "sample": Array3D(self.config.sample_shape, "float32"),
            "label": ClassLabel(names=names) if hard else List(Value("float32")),
            "basis": Value("int64"),
        }
        if self.config.num_hallucinators:
            features["hallucinator"] = Value("int64")
        return Features(features)

    def storage(self) -> StorageReport:
        """Floats and bytes of each part, and the plain images per class they equal; hard labels follow from order."""
        parts = {
            "bases": self.bases.numel(),
            "hallucinators": sum(
                parameter.numel()
                for module in (self.hallucinators, self.encoder, self.decoder)
                if module is not None
                for parameter in module.parameters()
            ),
            "labels": 0 if self.label_logits is None else self.label_logits.numel(),
            "student_learning_rate": 1,
        }
        channels, height, width = self.config.sample_shape
        return StorageReport(parts, self.config.num_labels * channels * height * width)


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
    if not torch.is_tensor(ids) or ids.ndim != 1 or ids.dtype not in _INTEGERS:
        raise ValueError(f"{name} must be a 1-D tensor of integers.")
    ids = ids.to(device=device, dtype=torch.long)
    if ids.device.type == "cpu" and len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
        raise ValueError(f"{name} must lie in 0..{limit - 1}, got {int(ids.min())}..{int(ids.max())}.")
    return ids
