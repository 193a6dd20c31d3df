"""Configuration of a distilled data set: how many bases and hallucinators, and the shape of what they restore."""

import dataclasses
import itertools
import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME

from .files_haba import read_as_settings, read_settings

# More floats than this in one artifact is a typing error in a config, not a distilled data set (4 GB of float32).
MAX_FLOATS = 2**30
# Every class gets a name, which takes memory before any size can be checked.
MAX_LABELS = 2**17

# A module or a number for each takes time and memory before any size can be checked.
MAX_HALLUCINATORS, MAX_STEP_SIZES = 10_000, 1_000_000
# What transformers writes beside the fields of a config. Any other key is refused: one such as `transformers_weights`,
# which names another file of weights, would be obeyed.
OTHER_KEYS = {
    "_commit_hash",
    "_name_or_path",
    "auto_map",
    "model_type",
    "num_labels",
    "output_attentions",
    "torch_dtype",
}

CHOICES = {
    "label_kind": ("hard", "soft"),
    "formation_axes": ("both", "time"),
    "hallucinator_init": ("default", "identity"),
    "hallucinate_at": ("basis", "sample"),
    "basis_storage": ("pixels", "luma_chroma", "frequencies"),
    "storage_dtype": ("float32", "bfloat16", "int8"),
}


@strict
class HabaConfig(PreTrainedConfig):
    r"""
    Sizes of a [`HabaModel`]: N = `num_labels` x `bases_per_class` bases and K = `num_hallucinators` hallucinators
    ("Dataset Distillation via Factorization"; defaults as in Table 7 of its supplement).

    Args:
        num_labels (`int`, *optional*, defaults to 2):
            Number of classes (as in every transformers config; `id2label` holds their names).
        bases_per_class (`int`, *optional*, defaults to 1):
            Bases of each class (BPC). Basis i belongs to class i // `bases_per_class`.
        num_hallucinators (`int`, *optional*, defaults to 5):
            K. With 0 the restored bases are the samples: of full size plain pixels, as baselines and coresets are.
        hallucinator_depth (`int`, *optional*, defaults to 1):
            Conv-ReLU blocks in the encoder, mirrored in the decoder, 0 to 3. Depth 0 is scale and shift alone. Every
            block after the first halves height and width.
        hallucinator_channels (`int`, *optional*):
            Feature channels of the first block; each later block doubles them. By default `sample_channels` at depth 1
            and 8 at depth 2 and 3, the sizes whose parameter counts the paper prints.
        hallucinator_map_height (`int`, *optional*):
            Height of the grid that scale and shift are stored on, enlarged bilinearly to the feature map; by default
            that of the feature map, as published. A grid of 1x1 is one number for each channel.
        hallucinator_map_width (`int`, *optional*):
            Width of that grid, by default that of the feature map.
        hallucinate_at (`str`, *optional*, defaults to `"basis"`):
            Where hallucinators take bases that are smaller than samples: `"basis"`, before they are enlarged, which
            makes for smaller maps, or `"sample"`, after.
        share_encoder_decoder (`bool`, *optional*, defaults to `False`):
            One encoder and decoder for all hallucinators, each with its own scale and shift (supplement, Table 5).
        basis_channels (`int`, *optional*):
            Channels of a basis, `sample_channels` by default. 1 with color samples gives three times the bases for the
            same storage (supplement, Figure 1).
        sample_channels (`int`, *optional*, defaults to 3):
            C of a sample [C, H, W]: 1 for grey images and spectrograms, 3 for RGB.
        sample_height (`int`, *optional*, defaults to 32):
            H of a sample, in pixels.
        sample_width (`int`, *optional*, defaults to 32):
            W of a sample, in pixels.
        basis_storage (`str`, *optional*, defaults to `"pixels"`):
            How a basis is stored. `"pixels"`: of `basis_height` x `basis_width`, enlarged bilinearly.
            `"luma_chroma"`: of color, a plane of luma of that size and two of chroma of `chroma_height` x
            `chroma_width`. `"frequencies"`: the lowest coefficients of a DCT-II, `basis_frequencies` of luma (of grey
            bases and spectrograms: of each channel) and `chroma_frequencies` of either chroma.
        basis_height (`int`, *optional*):
            h' of a basis, `sample_height` by default (supplement, Table 7).
        basis_width (`int`, *optional*):
            w' of a basis, `sample_width` by default.
        chroma_height (`int`, *optional*):
            Height of a plane of chroma, half of the basis's by default (rounded up).
        chroma_width (`int`, *optional*):
            Width of a plane of chroma, half of the basis's by default (rounded up).
        basis_frequencies (`int`, *optional*):
            Coefficients of luma, or of each channel. They are taken by the length of (u / h', v / w').
        chroma_frequencies (`int`, *optional*):
            Coefficients of either chroma, a quarter of luma's by default (rounded up).
        storage_dtype (`str`, *optional*, defaults to `"float32"`):
            `"bfloat16"`: what is learned is saved in 2 bytes a number, all but the learning rates. `"int8"`: bases in
            1 byte a number and a float32 scale for each plane, the rest as under bfloat16. In memory all is float32.
        formation_factor (`int`, *optional*, defaults to 1):
            f of the multi-formation of IDC (Kim et al., ICML 2022): what a basis and a hallucinator restore is cut
            into tiles, each enlarged to full size and a sample of its own, with the same label. It stores nothing.
        formation_axes (`str`, *optional*, defaults to `"both"`):
            `"both"`: f x f tiles. `"time"`: f tiles along the width alone, the time axis of a spectrogram.
        label_kind (`str`, *optional*, defaults to `"hard"`):
            `"hard"`: the class index. `"soft"`: one distribution over the classes per basis, shared by all samples of
            that basis: learned (Algorithm 1, line 12), or a teacher's.
        hallucinator_init (`str`, *optional*, defaults to `"default"`):
            `"default"`: convolutions as PyTorch initializes them, scale 1, shift 0, as in the paper's code (at depth 0
            and with shared convolutions a small random shift, which tells hallucinators apart).
            `"identity"`: each hallucinator starts as the identity plus a small random perturbation, so that
            distillation starts from real images instead of randomly filtered ones. Needs depth 0 or 1, encoder
            channels >= basis channels, and bases of one channel or as many as samples.
        hallucinator_noise (`float`, *optional*, defaults to 0.1):
            Standard deviation of the perturbation that tells hallucinators apart where they start alike: of the shift,
            in the units of samples, and under `"identity"` of a convolution's weights, as a share of the bound of
            PyTorch's. Normalized pixels have a deviation of about 1; of CIFAR-10's whitened ones of about a half and,
            stored as 16x16, of a quarter, 0.1 is much.
        student_learning_rate (`float`, *optional*, defaults to 0.01):
            Initial value of the student learning rate stored, and learned, with the artifact.
        num_step_sizes (`int`, *optional*, defaults to 0):
            T step sizes stored, and learned, with the artifact: the schedule of gradient descent steps that its
            students are trained by (DD). A multiple of `bases_per_class`: step t takes basis t modulo
            `bases_per_class` of each class. They start at `student_learning_rate`.
        student_training (`dict`, *optional*):
            How its students are trained, in the names of a recipe (`evaluation_learning_rate`, `evaluation_steps` or
            `student_epochs`, `evaluation_batch_size`, `evaluation_dsa`, `network`, ...): what
            `haba_hf.train_student` does.
        whitening (`str`, *optional*):
            Fingerprint of the ZCA whitening in whose space the samples live; its matrix is with the image processor,
            and real images must go through it. By default samples are normalized pixels.

    Raises:
        `ValueError`: on construction, if sizes do not fit together or would take gigabytes.
        `StrictDataclassFieldValidationError`: if a field is given a value of another type.
    """

    model_type = "haba"

    bases_per_class: int = 1
    num_hallucinators: int = 5
    hallucinator_depth: int = 1
    hallucinator_channels: int | None = None
    hallucinator_map_height: int | None = None
    hallucinator_map_width: int | None = None
    hallucinate_at: str = "basis"
    share_encoder_decoder: bool = False
    basis_channels: int | None = None
    sample_channels: int = 3
    sample_height: int = 32
    sample_width: int = 32
    basis_storage: str = "pixels"
    basis_height: int | None = None
    basis_width: int | None = None
    chroma_height: int | None = None
    chroma_width: int | None = None
    basis_frequencies: int | None = None
    chroma_frequencies: int | None = None
    storage_dtype: str = "float32"
    formation_factor: int = 1
    formation_axes: str = "both"
    label_kind: str = "hard"
    hallucinator_init: str = "default"
    hallucinator_noise: float | int = 0.1
    student_learning_rate: float | int = 0.01
    num_step_sizes: int = 0
    student_training: dict | None = None
    whitening: str | None = None

    def __post_init__(self, **kwargs):
        num_labels = kwargs.get("num_labels") or 0
        if num_labels > MAX_LABELS:
            raise ValueError(f"num_labels must be at most {MAX_LABELS:,}, got {num_labels:,}.")
        super().__post_init__(**kwargs)
        self.check()

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        read_settings(pretrained_model_name_or_path, CONFIG_NAME, kwargs)  # it can be read, and is one
        return super().get_config_dict(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        with read_as_settings(CONFIG_NAME):
            cls._check_keys(config_dict)
            return super().from_dict(config_dict, **kwargs)

    @classmethod
    def _check_keys(cls, config_dict):
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(f"This is the config of a {model_type} model, not of a haba artifact.")
        known = {known.name for known in dataclasses.fields(cls)} | OTHER_KEYS
        unknown = sorted(map(str, config_dict.keys() - known))
        if unknown:
            raise ValueError(
                f"The config has {', '.join(unknown[:5])}, which no haba artifact has: save it again, or take it out."
            )
        dtype = config_dict.get("dtype", config_dict.get("torch_dtype"))
        if str(dtype).removeprefix("torch.") not in ("None", "float32", "bfloat16"):
            raise ValueError(f"The config asks for {dtype}, but an artifact is float32 or bfloat16 in memory.")

    # Not a `validate_` method, whose ValueError the strict dataclass would hide in an error of its own.
    def check(self):
        """Raises a `ValueError` if sizes do not fit together or an option is unknown."""
        self._check_options()
        self._check_sizes()
        self._check_storage()
        if self.num_floats > MAX_FLOATS:
            raise ValueError(
                f"This config asks for {self.num_floats:,} floats, more than the {MAX_FLOATS:,} an artifact may hold: "
                "check bases_per_class, num_labels and the sample size."
            )

    def _check_sizes(self):
        if self.num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, got {self.num_labels}.")
        names = self.id2label or {}
        if sorted(names) != list(range(self.num_labels)) or not all(isinstance(name, str) for name in names.values()):
            raise ValueError(f"id2label must name the classes 0 to {self.num_labels - 1}, each by a text.")
        for name in ("bases_per_class", "sample_channels", "sample_height", "sample_width", "formation_factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name, most in (("num_hallucinators", MAX_HALLUCINATORS), ("num_step_sizes", MAX_STEP_SIZES)):
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most:,}, got {getattr(self, name):,}.")
        if self.num_hallucinators < 0:
            raise ValueError(f"num_hallucinators must be 0 (bases alone) or more, got {self.num_hallucinators}.")
        if not 0 <= self.hallucinator_depth <= 3:
            raise ValueError(f"hallucinator_depth must be 0, 1, 2 or 3, got {self.hallucinator_depth}.")
        if self.num_step_sizes < 0 or self.num_step_sizes % self.bases_per_class:
            raise ValueError(
                "num_step_sizes must be 0 or a multiple of bases_per_class, whole passes over the bases, got "
                f"{self.num_step_sizes} for {self.bases_per_class}."
            )
        for name in ("hallucinator_channels", "basis_channels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 or left out, got {value}.")
        has_convolutions = self.num_hallucinators > 0 and self.hallucinator_depth > 0
        if self.basis_shape[0] != self.sample_channels and not has_convolutions:
            raise ValueError(
                f"Bases of {self.basis_shape[0]} channels need hallucinators of depth 1 or more to become samples of "
                f"{self.sample_channels} channels: set hallucinator_depth or leave basis_channels out."
            )
        rows, columns = self.formation_grid
        if self.sample_height % rows or self.sample_width % columns:
            raise ValueError(
                f"Samples of {self.sample_height}x{self.sample_width} cannot be cut into {rows}x{columns} equal "
                "tiles: choose a formation_factor that divides their size, or resize the images."
            )

    def _check_storage(self):
        for name, of in (("basis_height", "sample_height"), ("basis_width", "sample_width")):
            self._check_at_most(name, of, getattr(self, of))
        needed_by = {
            "luma_chroma": ("chroma_height", "chroma_width"),
            "frequencies": ("basis_frequencies", "chroma_frequencies"),
        }
        for storage, names in needed_by.items():
            given = [name for name in names if getattr(self, name) is not None]
            if given and self.basis_storage != storage:
                raise ValueError(f"{given[0]} is of basis_storage={storage!r}: set that, or leave {given[0]} out.")
        height, width = self.basis_shape[1:]
        if self.basis_storage == "luma_chroma":
            if not self.has_chroma:
                raise ValueError(
                    f"basis_storage='luma_chroma' is of color, bases of 3 channels for samples of 3; these have "
                    f"{self.basis_shape[0]} for {self.sample_channels}: store them as pixels of a smaller "
                    "basis_height and basis_width, or as frequencies."
                )
            self._check_at_most("chroma_height", "basis_height", height)
            self._check_at_most("chroma_width", "basis_width", width)
        if self.basis_storage == "frequencies":
            if self.basis_frequencies is None:
                raise ValueError("basis_storage='frequencies' needs basis_frequencies, how many are stored.")
            self._check_at_most("basis_frequencies", "basis_height x basis_width", height * width)
            if self.chroma_frequencies is not None and not self.has_chroma:
                raise ValueError(
                    "chroma_frequencies are of color, bases of 3 channels for samples of 3: leave them out."
                )
            self._check_at_most("chroma_frequencies", "basis_height x basis_width", height * width)
        if self.num_hallucinators:
            _, height, width = self.feature_shape
            self._check_at_most("hallucinator_map_height", "height of the feature map", height)
            self._check_at_most("hallucinator_map_width", "width of the feature map", width)

    def _check_at_most(self, name: str, of: str, limit: int) -> None:
        value = getattr(self, name)
        if value is not None and not 1 <= value <= limit:
            raise ValueError(f"{name} must be 1 to {limit}, the {of.replace('_', ' ')}, or left out, got {value}.")

    def _check_options(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                known = " or ".join(map(repr, choices[-2:]))
                known = ", ".join([*map(repr, choices[:-2]), known])
                raise ValueError(f"{name} must be {known}, got {getattr(self, name)!r}.")
        if self.hallucinator_init == "identity" and self.feature_channels:
            channels = self.basis_shape[0]
            deep_or_narrow = self.hallucinator_depth > 1 or self.feature_channels[0] < channels
            if deep_or_narrow or channels not in (1, self.sample_channels):
                raise ValueError(
                    "hallucinator_init='identity' needs depth 0 or 1, at least as many hallucinator_channels as basis "
                    f"channels ({channels}), and bases of one channel or as many as samples ({self.sample_channels})."
                )
        for name in ("hallucinator_noise", "student_learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")

    @property
    def num_bases(self) -> int:
        """N."""
        return self.num_labels * self.bases_per_class

    @property
    def formation_grid(self) -> tuple[int, int]:
        """Rows and columns of the tiles that a restored image is cut into; (1, 1) without multi-formation."""
        return (1 if self.formation_axes == "time" else self.formation_factor), self.formation_factor

    @property
    def num_formations(self) -> int:
        """M: samples that a basis gives through one hallucinator, 1 without multi-formation."""
        rows, columns = self.formation_grid
        return rows * columns

    @property
    def num_samples(self) -> int:
        """N x K x M, or N x M without hallucinators."""
        return self.num_bases * max(self.num_hallucinators, 1) * self.num_formations

    @property
    def samples_per_class(self) -> int:
        """What the bases of a class decode to."""
        return self.num_samples // self.num_labels

    @property
    def epoch_samples(self) -> int:
        """N x M: samples of an epoch of online pairing, in which every formation of a basis comes once."""
        return self.num_bases * self.num_formations

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.sample_channels, self.sample_height, self.sample_width

    @property
    def basis_shape(self) -> tuple[int, int, int]:
        """(C', h', w'): of a basis as an image."""
        return (
            self.basis_channels or self.sample_channels,
            self.basis_height or self.sample_height,
            self.basis_width or self.sample_width,
        )

    @property
    def has_chroma(self) -> bool:
        """Whether bases are stored as luma and chroma rather than channel by channel."""
        return self.basis_storage != "pixels" and self.basis_shape[0] == self.sample_channels == 3

    @property
    def plane_shapes(self) -> list[tuple[int, int]]:
        """Height and width of each plane that a basis is stored as; of frequencies (1, their number)."""
        channels, height, width = self.basis_shape
        if self.basis_storage == "luma_chroma":
            chroma = self.chroma_height or -(-height // 2), self.chroma_width or -(-width // 2)
            return [(height, width), chroma, chroma]
        if self.basis_storage == "frequencies":
            luma = self.basis_frequencies or 0
            others = (self.chroma_frequencies or -(-luma // 4)) if self.has_chroma else luma
            return [(1, luma), *[(1, others)] * (channels - 1)]
        return [(height, width)] * channels

    @property
    def plane_numbers(self) -> list[int]:
        """Numbers stored of each plane of a basis."""
        return [height * width for height, width in self.plane_shapes]

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of a basis as it is stored: (C', h', w') of pixels, or the numbers of all planes one after another."""
        return self.basis_shape if self.basis_storage == "pixels" else (sum(self.plane_numbers),)

    @property
    def hallucinated_size(self) -> tuple[int, int]:
        """Height and width of what hallucinators take and give."""
        height, width = self.basis_shape[1:] if self.hallucinate_at == "basis" else self.sample_shape[1:]
        return height, width

    @property
    def feature_channels(self) -> list[int]:
        """Output channels of each encoder block; empty at depth 0."""
        first = self.hallucinator_channels or (self.sample_channels if self.hallucinator_depth == 1 else 8)
        return [first * 2**block for block in range(self.hallucinator_depth)]

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """(C'', H'', W''): the feature map that scale and shift act on."""
        if self.hallucinator_depth == 0:
            return self.sample_channels, *self.hallucinated_size
        halvings = self.hallucinator_depth - 1
        height, width = (-(-side // 2**halvings) for side in self.hallucinated_size)
        return self.feature_channels[-1], height, width

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """Shape of a stored map of scale or shift."""
        channels, height, width = self.feature_shape
        return channels, self.hallucinator_map_height or height, self.hallucinator_map_width or width

    @property
    def whitening_floats(self) -> int:
        """Floats of the processor's whitening, a mean image and a square matrix; 0 without one."""
        values = math.prod(self.sample_shape)
        return 0 if self.whitening is None else values * (values + 1)

    @property
    def storage_parts(self) -> dict[str, int]:
        """
        Numbers of each part that is stored: bases, hallucinators, soft labels, the student learning rate and, if there
        are any, step sizes and the scales of bases in 8 bits.
        """
        encoder_channels = [self.basis_shape[0], *self.feature_channels]
        decoder_channels = [*reversed(self.feature_channels), self.sample_channels]
        convolutions = sum(
            9 * a * b + b for channels in (encoder_channels, decoder_channels) for a, b in itertools.pairwise(channels)
        )
        shared = 1 if self.share_encoder_decoder and self.num_hallucinators else self.num_hallucinators
        parts = {
            "bases": self.num_bases * math.prod(self.stored_shape),
            "hallucinators": self.num_hallucinators * 2 * math.prod(self.map_shape) + shared * convolutions,
            "labels": self.num_bases * self.num_labels if self.label_kind == "soft" else 0,
            "student_learning_rate": 1,
        }
        if self.num_step_sizes:
            parts["step_sizes"] = self.num_step_sizes
        if self.storage_dtype == "int8":
            parts["basis_scales"] = self.num_bases * len(self.plane_numbers)
        return parts

    @property
    def bytes_per_number(self) -> dict[str, int]:
        """Bytes that a number of each part takes, 4 where a part is not named."""
        few, fewest = {"float32": (4, 4), "bfloat16": (2, 2), "int8": (2, 1)}[self.storage_dtype]
        return {"bases": fewest, "hallucinators": few, "labels": few}

    @property
    def num_floats(self) -> int:
        """
        Numbers that are stored, of whatever bits. A whitening is not the model's, and plain images in its space would
        need it as well.
        """
        return sum(self.storage_parts.values())

    @property
    def part_bytes(self) -> dict[str, int]:
        """Bytes of each part that is stored."""
        return {part: count * self.bytes_per_number.get(part, 4) for part, count in self.storage_parts.items()}

    @property
    def num_bytes(self) -> int:
        """Bytes that are stored in all."""
        return sum(self.part_bytes.values())
