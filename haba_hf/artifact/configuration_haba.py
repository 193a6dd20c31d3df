"""Configuration of a distilled data set: how many bases and hallucinators, and the shape of what they restore."""

import itertools
import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# More floats than this in one artifact is a typing error in a config, not a distilled data set (4 GB of float32).
MAX_FLOATS = 2**30
# Every class gets a name, which takes memory before any size can be checked.
MAX_LABELS = 2**17


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
            K. With 0 the bases are the samples: plain pixels, which is how every baseline and coreset is stored.
        hallucinator_depth (`int`, *optional*, defaults to 1):
            Conv-ReLU blocks in the encoder, mirrored in the decoder, 0 to 3. Depth 0 is scale and shift alone. Every
            block after the first halves height and width.
        hallucinator_channels (`int`, *optional*):
            Feature channels of the first block; each later block doubles them. By default `sample_channels` at depth 1
            and 8 at depth 2 and 3, the sizes whose parameter counts the paper prints.
        share_encoder_decoder (`bool`, *optional*, defaults to `False`):
            One encoder and decoder for all hallucinators, each with its own scale and shift (supplement, Table 5).
        basis_channels (`int`, *optional*):
            Channels of a basis, `sample_channels` by default. 1 with color samples gives three times the bases for the
            same storage (supplement, Figure 1).
        sample_channels (`int`, *optional*, defaults to 3):
            C of a sample [C, H, W]: 1 for grey images and spectrograms, 3 for RGB.
        sample_height (`int`, *optional*, defaults to 32):
            H of a sample and of a basis, in pixels.
        sample_width (`int`, *optional*, defaults to 32):
            W of a sample and of a basis, in pixels.
        formation_factor (`int`, *optional*, defaults to 1):
            f of the multi-formation of IDC (Kim et al., ICML 2022): what a basis and a hallucinator restore is cut
            into tiles, each enlarged to full size and a sample of its own, with the same label. It stores nothing.
        formation_axes (`str`, *optional*, defaults to `"both"`):
            `"both"`: f x f tiles. `"time"`: f tiles along the width alone, the time axis of a spectrogram.
        label_kind (`str`, *optional*, defaults to `"hard"`):
            `"hard"`: the class index. `"soft"`: one learnable distribution over the classes per basis (Algorithm 1,
            line 12), shared by all samples of that basis.
        hallucinator_init (`str`, *optional*, defaults to `"default"`):
            `"default"`: convolutions as PyTorch initializes them, scale 1, shift 0, as in the paper's code (at depth 0
            and with shared convolutions a small random shift, which tells hallucinators apart).
            `"identity"`: each hallucinator starts as the identity plus a small random perturbation, so that
            distillation starts from real images instead of randomly filtered ones. Needs depth 0 or 1, encoder
            channels >= basis channels, and bases of one channel or as many as samples.
        student_learning_rate (`float`, *optional*, defaults to 0.01):
            Initial value of the student learning rate stored, and learned, with the artifact.
        num_step_sizes (`int`, *optional*, defaults to 0):
            T step sizes stored, and learned, with the artifact: the schedule of gradient descent steps that its
            students are trained by (DD). A multiple of `bases_per_class`: step t takes basis t modulo
            `bases_per_class` of each class. They start at `student_learning_rate`.
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
    share_encoder_decoder: bool = False
    basis_channels: int | None = None
    sample_channels: int = 3
    sample_height: int = 32
    sample_width: int = 32
    formation_factor: int = 1
    formation_axes: str = "both"
    label_kind: str = "hard"
    hallucinator_init: str = "default"
    student_learning_rate: float | int = 0.01
    num_step_sizes: int = 0
    whitening: str | None = None

    def __post_init__(self, **kwargs):
        num_labels = kwargs.get("num_labels") or 0
        if num_labels > MAX_LABELS:
            raise ValueError(f"num_labels must be at most {MAX_LABELS:,}, got {num_labels:,}.")
        super().__post_init__(**kwargs)
        self.check()

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(f"This is the config of a {model_type} model, not of a haba artifact.")
        return super().from_dict(config_dict, **kwargs)

    # Not a `validate_` method, whose ValueError the strict dataclass would hide in an error of its own.
    def check(self):
        """Raises a `ValueError` if sizes do not fit together or an option is unknown."""
        self._check_sizes()
        self._check_options()

    def _check_sizes(self):
        if self.num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, got {self.num_labels}.")
        for name in ("bases_per_class", "sample_channels", "sample_height", "sample_width", "formation_factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.num_hallucinators < 0:
            raise ValueError(f"num_hallucinators must be 0 (plain pixels) or more, got {self.num_hallucinators}.")
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
        if self.num_floats > MAX_FLOATS:
            raise ValueError(
                f"This config asks for {self.num_floats:,} floats, more than the {MAX_FLOATS:,} an artifact may hold: "
                "check bases_per_class, num_labels and the sample size."
            )

    def _check_options(self):
        if self.label_kind not in ("hard", "soft"):
            raise ValueError(f"label_kind must be 'hard' or 'soft', got {self.label_kind!r}.")
        if self.formation_axes not in ("both", "time"):
            raise ValueError(f"formation_axes must be 'both' or 'time', got {self.formation_axes!r}.")
        if self.hallucinator_init not in ("default", "identity"):
            raise ValueError(f"hallucinator_init must be 'default' or 'identity', got {self.hallucinator_init!r}.")
        if self.hallucinator_init == "identity" and self.feature_channels:
            channels = self.basis_shape[0]
            deep_or_narrow = self.hallucinator_depth > 1 or self.feature_channels[0] < channels
            if deep_or_narrow or channels not in (1, self.sample_channels):
                raise ValueError(
                    "hallucinator_init='identity' needs depth 0 or 1, at least as many hallucinator_channels as basis "
                    f"channels ({channels}), and bases of one channel or as many as samples ({self.sample_channels})."
                )
        if not 0 < self.student_learning_rate < float("inf"):
            raise ValueError(f"student_learning_rate must be positive, got {self.student_learning_rate}.")

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
        """N x K x M, or N x M for plain pixels."""
        return self.num_bases * max(self.num_hallucinators, 1) * self.num_formations

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.sample_channels, self.sample_height, self.sample_width

    @property
    def basis_shape(self) -> tuple[int, int, int]:
        """(C', H, W)."""
        return self.basis_channels or self.sample_channels, self.sample_height, self.sample_width

    @property
    def feature_channels(self) -> list[int]:
        """Output channels of each encoder block; empty at depth 0."""
        first = self.hallucinator_channels or (self.sample_channels if self.hallucinator_depth == 1 else 8)
        return [first * 2**block for block in range(self.hallucinator_depth)]

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """(C'', H'', W''): the feature map that scale and shift act on."""
        if self.hallucinator_depth == 0:
            return self.sample_shape
        halvings = self.hallucinator_depth - 1
        height, width = (-(-side // 2**halvings) for side in (self.sample_height, self.sample_width))
        return self.feature_channels[-1], height, width

    @property
    def whitening_floats(self) -> int:
        """Floats of the processor's whitening, a mean image and a square matrix; 0 without one."""
        values = math.prod(self.sample_shape)
        return 0 if self.whitening is None else values * (values + 1)

    @property
    def num_floats(self) -> int:
        """
        Floats of the model: bases, hallucinators, soft labels, step sizes and the student learning rate. A whitening
        is not the model's, and plain images in its space would need it as well.
        """
        c, h, w = self.basis_shape
        features, feature_h, feature_w = self.feature_shape
        encoder_channels = [c, *self.feature_channels]
        decoder_channels = [*reversed(self.feature_channels), self.sample_channels]
        convolutions = sum(
            9 * a * b + b for channels in (encoder_channels, decoder_channels) for a, b in itertools.pairwise(channels)
        )
        shared = 1 if self.share_encoder_decoder and self.num_hallucinators else self.num_hallucinators
        labels = self.num_bases * self.num_labels if self.label_kind == "soft" else 0
        hallucinators = self.num_hallucinators * 2 * features * feature_h * feature_w + shared * convolutions
        return self.num_bases * c * h * w + hallucinators + labels + self.num_step_sizes + 1
