"""The settings of one distillation: what is learned, and the run. Those of one objective are in its own file."""

import math
from dataclasses import dataclass, field
from typing import Literal

from ..data.augmentation import DSA_STRATEGY, DsaAugmentation
from ..networks import check_network_name
from ..utils.checks import MOST_SEED, Settings, check_between, check_counts, check_momentum, check_positive

# Objectives that take a new network again and again, which may be of another architecture each time.
DRAWING_OBJECTIVES = ("dm", "dc", "dsa", "idc")


@dataclass
class ModelArguments(Settings):
    """Sizes of the artifact (see [`HabaConfig`] for each) and how its bases start."""

    bases_per_class: int | Literal["auto"] = field(
        default=1,
        metadata={
            "help": "Bases of each class (BPC); auto: as many as storage_budget pays for, and, where the recipe "
            "leaves all of their storage open, stored in the way measured best."
        },
    )
    num_hallucinators: int = field(default=5, metadata={"help": "Hallucinators; 0 distils bases alone."})
    hallucinator_depth: int = field(default=1, metadata={"help": "Conv-ReLU blocks, 0 to 3."})
    hallucinator_channels: int | None = field(default=None, metadata={"help": "Feature channels of the first block."})
    hallucinator_map_height: int | None = field(
        default=None, metadata={"help": "Grid of scale and shift; by default as large as the feature map."}
    )
    hallucinator_map_width: int | None = field(default=None, metadata={"help": "Width of that grid."})
    hallucinate_at: Literal["basis", "sample"] = field(
        default="basis", metadata={"help": "Hallucinators take smaller bases before or after they are enlarged."}
    )
    share_encoder_decoder: bool = field(
        default=False, metadata={"help": "One encoder and decoder for all hallucinators, own scale and shift."}
    )
    basis_channels: int | None = field(default=None, metadata={"help": "Channels of a basis; 1 for grey bases."})
    basis_storage: Literal["pixels", "luma_chroma", "frequencies"] = field(
        default="pixels",
        metadata={
            "help": "How a basis is stored: pixels of basis_height x basis_width, planes of luma and chroma, or the "
            "lowest frequencies."
        },
    )
    basis_height: int | None = field(default=None, metadata={"help": "Height of a basis; by default a sample's."})
    basis_width: int | None = field(default=None, metadata={"help": "Width of a basis; by default a sample's."})
    chroma_height: int | None = field(default=None, metadata={"help": "Of a plane of chroma; by default half."})
    chroma_width: int | None = field(default=None, metadata={"help": "Of a plane of chroma; by default half."})
    basis_frequencies: int | None = field(
        default=None, metadata={"help": "Frequencies of luma, or of a channel that is no color."}
    )
    chroma_frequencies: int | None = field(
        default=None, metadata={"help": "Frequencies of either chroma; by default a quarter of luma's."}
    )
    storage_dtype: Literal["float32", "bfloat16", "int8"] = field(
        default="float32", metadata={"help": "The bits that the artifact is saved in."}
    )
    label_kind: Literal["hard", "soft", "teacher"] = field(
        default="hard",
        metadata={
            "help": "The class; a soft label that is learned with the bases; or a teacher's, given to the samples of "
            "the last step. Soft labels take a float for each class and basis."
        },
    )
    hallucinator_init: Literal["default", "identity"] = field(
        default="default", metadata={"help": "PyTorch's initialization (the paper's), or near the identity."}
    )
    hallucinator_noise: float = field(
        default=0.1,
        metadata={
            "help": "Deviation of what tells hallucinators apart that start alike, in the units of samples: less for "
            "whitened ones, such as 0.02."
        },
    )
    student_learning_rate: float = field(
        default=0.01, metadata={"help": "Student learning rate alpha at the start; trajectory matching learns it."}
    )
    formation_factor: int = field(
        default=1, metadata={"help": "Multi-formation (IDC): tiles a side that a restored image is cut into."}
    )
    formation_axes: Literal["both", "time"] = field(
        default="both", metadata={"help": "Cut into factor x factor tiles, or along the width (time) alone."}
    )
    basis_init: Literal["real", "mix", "noise"] = field(
        default="real",
        metadata={
            "help": "Bases start as random real images of their class, as a mix of one for each tile of the "
            "multi-formation, or as N(0, 1)."
        },
    )
    repeat_images: bool = field(
        default=False,
        metadata={
            "help": "Fill a class that has fewer training images than it needs: all of them, again and again. In a "
            "coreset the copies are exact; bases that start as copies have noise of deviation 0.1 (of normalized "
            "pixels) on them. By default such a class is refused."
        },
    )
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of an artifact whose bases, hallucinators and soft labels this one starts from; "
            "of more bases per class the first, and hallucinators start anew where it has none."
        },
    )
    storage_budget: float | None = field(
        default=None,
        metadata={
            "help": "Refuse an artifact of more floats than this many plain images per class (IPC) take.",
            "result": False,
        },
    )
    num_step_sizes: int = field(
        default=0,
        metadata={
            "help": "DD: gradient descent steps T of a student, a multiple of bases_per_class; each has a step size "
            "of its own that starts at student_learning_rate."
        },
    )
    label_init: Literal["class", "uniform", "teacher"] = field(
        default="class",
        metadata={
            "help": "Labels that are learned start at 0.9 for their class, at 1 / classes (LD), or as a teacher's of "
            "the samples of the start."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.label_init == "teacher" and self.label_kind != "soft":
            raise ValueError(
                "label_init teacher is where learned labels start: set label_kind to soft, or, for labels that a "
                "teacher gives at the end, label_kind to teacher without label_init."
            )

    @property
    def asks_a_teacher(self) -> bool:
        """Whether labels are a teacher's, at the start or at the end."""
        return "teacher" in (self.label_kind, self.label_init)


@dataclass
class DistillationArguments(Settings):
    """Algorithm 1: the run, its optimizers, and what several objectives share. Each objective and the adversary have a
    section of their own, in their own file."""

    objective: Literal["dm", "mtt", "dc", "dsa", "idc", "cafe", "dd", "ld", "linear"] = field(
        default="dm",
        metadata={
            "help": "Distribution matching, trajectory matching, gradient matching (DC; DSA is DC with siamese "
            "augmentation), IDC, feature alignment (CAFE), unrolled training (DD), label distillation (LD) or linear "
            "gradient matching, for probes of a pretrained backbone."
        },
    )
    steps: int = field(default=1000, metadata={"help": "Distillation steps."})
    max_minutes: float | None = field(
        default=None,
        metadata={
            "help": "End after the step that has taken the run's steps to this many minutes, and save the artifact of "
            "that step. Such a run is repeatable only up to the machine's speed."
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of initialization and of every step."})
    output_dir: str = field(
        default="runs/haba", metadata={"help": "Folder of artifact, checkpoints and logs.", "result": False}
    )
    lambda_dd: float = field(default=1.0, metadata={"help": "Weight of L_DD (Eq. 6)."})
    dsa: str = field(default=DSA_STRATEGY, metadata={"help": "DSA strategy while distilling, or none."})

    optimizer: Literal["sgd", "adam"] = field(default="adam", metadata={"help": "Optimizer of all learned parts."})
    momentum: float = field(default=0.95, metadata={"help": "Momentum of SGD (the paper's code: 0.95)."})
    basis_learning_rate: float = field(default=0.03, metadata={"help": "Learning rate of the bases."})
    hallucinator_learning_rate: float = field(default=0.01, metadata={"help": "Learning rate of the hallucinators."})
    label_learning_rate: float = field(default=0.01, metadata={"help": "Learning rate of soft labels."})
    alpha_learning_rate: float = field(
        default=1e-5, metadata={"help": "Learning rate of the student learning rate (trajectory matching)."}
    )
    alpha_min: float = field(default=0.001, metadata={"help": "The student learning rate is clipped from below here."})
    adam_beta1: float = field(default=0.9, metadata={"help": "Decay of Adam's mean gradient."})
    step_size_learning_rate: float = field(
        default=0.01, metadata={"help": "Learning rate of the step sizes, before their softplus (DD)."}
    )
    learning_rate_schedule: Literal["constant", "cosine"] = field(
        default="constant",
        metadata={"help": "Constant, or cosine decay to zero over the run: its steps or max_minutes, which ends it."},
    )
    learning_rate_halvings: list[float] = field(
        default_factory=list,
        metadata={"help": "Fractions of the run after which all learning rates are halved."},
    )

    real_batch_size: int = field(
        default=256,
        metadata={"help": "Real images a step: of each class (DM, DC, DSA, IDC, CAFE), or in all (DD, LD, linear)."},
    )
    pruning_ratio: float = field(
        default=0.0,
        metadata={
            "help": "Share of each class's training images that is left out, those of greatest loss by the expert of "
            "coresets (coreset_epochs, ...): bases start from and are matched to the rest. All objectives but mtt."
        },
    )
    samples_per_class: int | None = field(
        default=None,
        metadata={
            "help": "Samples of each class that a step takes, drawn at random (DM, DC, DSA, IDC, CAFE, linear); by "
            "default all."
        },
    )
    student_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Bases of a student step (MTT), or of a step of the inner network (CAFE, LD); by default all."
        },
    )
    micro_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Samples that go through a network at once: of a student step by the adjoint (MTT) and of a step "
            "(linear), by default all; in the adversary, by default as many as 256 of 32x32.",
            "result": False,
        },
    )
    pairing: Literal["step", "sample"] = field(
        default="step",
        metadata={"help": "MTT, DD: one hallucinator for a whole student step, or one for each sample."},
    )
    inner_learning_rate: float = field(
        default=0.01,
        metadata={
            "help": "DC, DSA, IDC, CAFE: SGD learning rate of the inner network; LD: of the step that labels are "
            "judged by."
        },
    )

    networks: list[str] = field(
        default_factory=list,
        metadata={
            "help": "DM, DC, DSA, IDC: architectures that every new network of a run is drawn from, in place of "
            "network alone, which students stay."
        },
    )

    checkpoint_every: int = field(default=100, metadata={"help": "Steps between checkpoints.", "result": False})
    validate_every: int = field(default=0, metadata={"help": "Steps between validations; 0: none.", "result": False})
    validation_seeds: int = field(default=1, metadata={"help": "Students a validation trains.", "result": False})
    validation_epochs: int | None = field(
        default=None, metadata={"help": "Their epochs; by default student_epochs.", "result": False}
    )
    keep_best: bool = field(
        default=False, metadata={"help": "Save the artifact of the best validation, not of the last step."}
    )
    report_to: str = field(default="tensorboard", metadata={"help": "tensorboard or none.", "result": False})

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "steps", "real_batch_size", "student_batch_size", "checkpoint_every")
        check_counts(self, "samples_per_class", "micro_batch_size")
        check_counts(self, "validation_seeds", "validation_epochs")
        check_positive(self, "max_minutes", "inner_learning_rate")
        rates = [name for name in vars(self) if name.endswith("_learning_rate")]
        check_between(self, 0, math.inf, *rates, "alpha_min", "lambda_dd", "validate_every")
        check_momentum(self, "momentum", "adam_beta1")
        check_between(self, 0, MOST_SEED, "seed")
        if not self.output_dir.strip():
            raise ValueError("output_dir is empty: name a folder.")
        DsaAugmentation(self.dsa)  # an unknown operation is refused now
        if not 0 <= self.pruning_ratio < 1:
            raise ValueError(
                f"pruning_ratio is the share that is left out, 0 or more and below 1, got {self.pruning_ratio:g}."
            )
        if self.pruning_ratio and self.objective == "mtt":
            raise ValueError(
                "Trajectory matching sees real images through its experts, which train on all of them: leave "
                "pruning_ratio out, or start from a pruned run's artifact by init_from."
            )
        if self.networks and self.objective not in DRAWING_OBJECTIVES:
            raise ValueError(
                f"networks are drawn by {', '.join(DRAWING_OBJECTIVES)}; {self.objective} has one architecture: name "
                "it by network, and leave networks out."
            )
        for name in self.networks:
            check_network_name(name)
        if not all(0 < fraction < 1 for fraction in self.learning_rate_halvings):
            raise ValueError(
                f"learning_rate_halvings are fractions of the run between 0 and 1, got {self.learning_rate_halvings}."
            )
        if self.keep_best and not self.validate_every:
            raise ValueError("keep_best chooses by validation: set validate_every too.")
