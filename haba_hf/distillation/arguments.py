"""The settings of one distillation: what is learned and how."""

from dataclasses import dataclass, field
from typing import Literal

from ..data.augmentation import DSA_STRATEGY


@dataclass
class ModelArguments:
    """Sizes of the artifact (see [`HabaConfig`] for each) and how its bases start."""

    bases_per_class: int = field(default=1, metadata={"help": "Bases of each class (BPC)."})
    num_hallucinators: int = field(default=5, metadata={"help": "Hallucinators; 0 distils plain pixels."})
    hallucinator_depth: int = field(default=1, metadata={"help": "Conv-ReLU blocks, 0 to 3."})
    hallucinator_channels: int | None = field(default=None, metadata={"help": "Feature channels of the first block."})
    share_encoder_decoder: bool = field(
        default=False, metadata={"help": "One encoder and decoder for all hallucinators, own scale and shift."}
    )
    basis_channels: int | None = field(default=None, metadata={"help": "Channels of a basis; 1 for grey bases."})
    label_kind: Literal["hard", "soft"] = field(default="hard", metadata={"help": "Class index or learned labels."})
    hallucinator_init: Literal["default", "identity"] = field(
        default="default", metadata={"help": "PyTorch's initialization (the paper's), or near the identity."}
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
    label_init: Literal["class", "uniform"] = field(
        default="class", metadata={"help": "Soft labels start at 0.9 for their class, or at 1 / classes (LD)."}
    )


@dataclass
class DistillationArguments:
    """Algorithm 1: the objective L_DD, the adversary, the optimizers and the run."""

    objective: Literal["dm", "mtt", "dc", "dsa", "idc", "cafe", "dd", "ld"] = field(
        default="dm",
        metadata={
            "help": "Distribution matching, trajectory matching, gradient matching (DC; DSA is DC with siamese "
            "augmentation), IDC, feature alignment (CAFE), unrolled training (DD) or label distillation (LD)."
        },
    )
    steps: int = field(default=1000, metadata={"help": "Distillation steps."})
    seed: int = field(default=0, metadata={"help": "Seed of initialization and of every step."})
    output_dir: str = field(
        default="runs/haba", metadata={"help": "Folder of artifact, checkpoints and logs.", "result": False}
    )
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
        default="constant", metadata={"help": "Constant, or cosine decay to zero over the run."}
    )
    learning_rate_halvings: list[float] = field(
        default_factory=list,
        metadata={"help": "Fractions of the run after which all learning rates are halved."},
    )

    real_batch_size: int = field(
        default=256,
        metadata={"help": "Real images a step: of each class (DM, DC, DSA, IDC, CAFE), or in all (DD, LD)."},
    )
    network_bank: int = field(
        default=0,
        metadata={
            "help": "DM: 0 draws a new network every step (published); n cycles through n networks whose real class "
            "means over real_batch_size images are computed once, without augmentation."
        },
    )

    student_steps: int = field(default=50, metadata={"help": "MTT: N, student steps on samples."})
    expert_span: int = field(default=2, metadata={"help": "MTT: M, expert snapshots ahead to be reached."})
    max_start: int = field(default=2, metadata={"help": "MTT: start snapshots are drawn from 0..max_start-1."})
    student_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Bases of a student step (MTT), or of a step of the inner network (CAFE, LD); by default all."
        },
    )
    pairing: Literal["step", "sample"] = field(
        default="step",
        metadata={"help": "MTT, DD: one hallucinator for a whole student step, or one for each sample."},
    )
    unroll: Literal["graph", "adjoint"] = field(
        default="adjoint", metadata={"help": "MTT: constant memory, or one graph over all steps.", "result": False}
    )
    micro_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "MTT by the adjoint: samples of a student step that go through the network at once; by default "
            "all.",
            "result": False,
        },
    )
    kept_megabytes: int = field(
        default=2000,
        metadata={
            "help": "MTT and DD by the adjoint, on a CPU: what a ConvNet's convolutions give is kept for the way "
            "back until the temporary file of a run is as large; 0 computes it twice.",
            "result": False,
        },
    )

    sample_batch_size: int | None = field(
        default=None, metadata={"help": "DC, DSA, IDC: samples of each class a step, drawn at random; by default all."}
    )
    outer_steps: int | None = field(
        default=None,
        metadata={"help": "DC, DSA, IDC: steps that one inner network serves; by default as published (IDC: 100)."},
    )
    inner_epochs: int | None = field(
        default=None,
        metadata={
            "help": "DC, DSA: epochs of the inner network on the samples after a step; by default as published."
        },
    )
    idc_distance: Literal["mse", "l1"] = field(
        default="mse", metadata={"help": "IDC: sum of squared or of absolute differences between gradients."}
    )
    idc_real_samples: int = field(
        default=2000, metadata={"help": "IDC: real images that the inner network is trained on after a step."}
    )
    idc_dsa: str = field(
        default="color+crop", metadata={"help": "IDC: augmentation of the images its inner network is trained on."}
    )
    idc_cutmix: float = field(default=0.5, metadata={"help": "IDC: probability of CutMix in that training."})
    clamp_bases: bool = field(
        default=False, metadata={"help": "IDC: clamp bases to the range of pixels with every new inner network."}
    )

    inner_learning_rate: float = field(
        default=0.01,
        metadata={
            "help": "DC, DSA, IDC, CAFE: SGD learning rate of the inner network; LD: of the step that labels are "
            "judged by."
        },
    )
    query_batch_size: int = field(
        default=128, metadata={"help": "CAFE: real images of each class that the inner network is scored on."}
    )
    accuracy_window: int = field(
        default=10, metadata={"help": "CAFE: accuracies whose range, largest less smallest, steers the two loops."}
    )
    outer_range: float = field(
        default=0.04, metadata={"help": "CAFE: a new network once the range over steps is below this."}
    )
    inner_range: float = field(
        default=0.03,
        metadata={"help": "CAFE: the inner network is trained until the range over epochs is above this."},
    )
    max_inner_epochs: int = field(
        default=100, metadata={"help": "CAFE: epochs after which a network that stands still is left as it is."}
    )
    discrimination_weight: float = field(default=0.01, metadata={"help": "CAFE: weight of the discrimination loss."})
    restart_window: int | None = field(
        default=None,
        metadata={
            "help": "LD: steps whose errors are summed, and that a network has for a new minimum; by default as "
            "published for the number of base samples."
        },
    )

    lambda_dd: float = field(default=1.0, metadata={"help": "Weight of L_DD (Eq. 6)."})
    lambda_cos: float = field(default=0.1, metadata={"help": "Weight of L_cos (Eq. 6)."})
    lambda_con: float = field(default=0.1, metadata={"help": "Weight of L_con (Eq. 4)."})
    lambda_task: float = field(default=1.0, metadata={"help": "Weight of L_task (Eq. 4)."})
    adversary_learning_rate: float = field(default=0.001, metadata={"help": "SGD learning rate of the adversary."})
    adversary_hallucinators: int = field(
        default=2, metadata={"help": "Hallucinators |H'| the adversary compares a step."}
    )
    adversary_bases: int | None = field(default=None, metadata={"help": "Bases |B'| a step; by default all."})
    contrast: Literal["instance", "supervised"] = field(
        default="instance", metadata={"help": "L_con as Eq. 3 prints it, or the released code's with class labels."}
    )
    temperature: float = field(default=0.07, metadata={"help": "Temperature tau of L_con."})

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
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}.")
        if self.max_start < 1 or self.expert_span < 1 or self.student_steps < 1:
            raise ValueError("max_start, expert_span and student_steps must be at least 1.")
        if self.micro_batch_size is not None and (self.micro_batch_size < 1 or self.unroll == "graph"):
            raise ValueError("micro_batch_size must be at least 1 and needs unroll: adjoint.")
        if self.kept_megabytes < 0:
            raise ValueError(f"kept_megabytes must be 0 or more, got {self.kept_megabytes}.")
        counts = ("real_batch_size", "sample_batch_size", "outer_steps", "idc_real_samples", "query_batch_size")
        for name in (*counts, "accuracy_window", "max_inner_epochs", "restart_window"):
            if vars(self)[name] is not None and vars(self)[name] < 1:
                raise ValueError(f"{name} must be at least 1, got {vars(self)[name]}.")
        if self.inner_epochs is not None and self.inner_epochs < 0:
            raise ValueError(f"inner_epochs must be 0 or more, got {self.inner_epochs}.")
        if self.inner_learning_rate <= 0:
            raise ValueError(f"inner_learning_rate must be positive, got {self.inner_learning_rate}.")
        if not all(0 < fraction < 1 for fraction in self.learning_rate_halvings):
            raise ValueError(
                f"learning_rate_halvings are fractions of the run between 0 and 1, got {self.learning_rate_halvings}."
            )
        if self.checkpoint_every < 1:
            raise ValueError(f"checkpoint_every must be at least 1, got {self.checkpoint_every}.")
        if self.keep_best and not self.validate_every:
            raise ValueError("keep_best chooses by validation: set validate_every too.")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}.")

    @property
    def num_snapshots(self) -> int:
        """Snapshots of an expert that a run can draw: starts 0..max_start-1, targets up to max_start-1+expert_span."""
        return self.max_start + self.expert_span
