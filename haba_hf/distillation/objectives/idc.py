r"""IDC ("Dataset Condensation via Efficient Synthetic-Data Parameterization"; Kim et al., ICML 2022): gradient
matching with an inner network that is trained on real data.

    L_DD = sum_c sum_convolutions sum_entries ( g - h )^2   or   | g - h |,

with g the gradient on real images of class c and h that on its samples. The other half of IDC, multi-formation, is the
artifact's (`formation_factor`).

The released code steps after each class, this one once for all classes, as all objectives here do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from ...artifact.modeling_haba import HabaModel
from ...data.augmentation import DsaAugmentation
from ...data.cutmix import CutMix
from ...data.image_data import ImageData
from ...networks import NetworkArguments
from ...utils.checks import Settings, check_counts
from ..arguments import DistillationArguments
from .gradient_matching import TRAINING, GradientMatching, GradientMatchingArguments
from .inner_loop import descend

OUTER_STEPS = 100
BATCH_SIZE = 64
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4


def convolution_distance(real: Sequence[Tensor], samples: Sequence[Tensor], kind: str) -> Tensor:
    """Sum of squared (`"mse"`) or absolute (`"l1"`) differences over the weights of convolutions, which are 4-D."""
    total = torch.zeros((), dtype=samples[0].dtype, device=samples[0].device)
    for g, h in zip(real, samples, strict=True):
        if g.ndim == 4:
            total = total + ((g - h).square().sum() if kind == "mse" else (g - h).abs().sum())
    return total


@dataclass
class IdcArguments(Settings):
    """What IDC (idc) has beside gradient matching's."""

    idc_distance: Literal["mse", "l1"] = field(
        default="mse", metadata={"help": "Sum of squared or of absolute differences between gradients."}
    )
    idc_real_samples: int = field(
        default=2000, metadata={"help": "Real images that the inner network is trained on after a step."}
    )
    idc_dsa: str = field(
        default="color+crop", metadata={"help": "Augmentation of the images its inner network is trained on."}
    )
    idc_cutmix: float = field(default=0.5, metadata={"help": "Probability of CutMix in that training."})
    clamp_bases: bool = field(
        default=False, metadata={"help": "Clamp bases to the range of pixels with every new inner network."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "idc_real_samples")


class IdcMatching(GradientMatching):
    """
    Args:
        network_arguments ([`NetworkArguments`]): the inner network.
        arguments ([`DistillationArguments`]): `dsa` (IDC's is `"color+crop+cutout"`, the same for the whole batch),
            `real_batch_size`, `samples_per_class`, `inner_learning_rate`, `seed`, `lambda_dd`.
        settings ([`GradientMatchingArguments`]): `outer_steps`.
        idc ([`IdcArguments`]): the distance, the inner network's training, `clamp_bases`.

    Raises:
        `ValueError`: if `idc_dsa` or `idc_cutmix` is unfit.
    """

    def __init__(
        self,
        network_arguments: NetworkArguments,
        arguments: DistillationArguments,
        settings: GradientMatchingArguments,
        idc: IdcArguments,
    ):
        super().__init__(network_arguments, arguments, settings)
        self.idc = idc
        self.training_augmentation = DsaAugmentation(idc.idc_dsa, per_sample=True)
        self.cutmix = CutMix(idc.idc_cutmix)

    def prepare(self, real_data: ImageData, model: HabaModel, accelerator: Accelerator) -> None:
        """
        Raises:
            `ValueError`: if bases that are no pixels, have other channels than images, or are whitened, are to be
                clamped to the range of pixels.
        """
        if self.idc.clamp_bases and model.config.basis_storage != "pixels":
            raise ValueError("clamp_bases needs bases of pixels, each with a range: set basis_storage to pixels.")
        channels, expected = model.config.basis_shape[0], real_data.image_shape[0]
        if self.idc.clamp_bases and channels != expected:
            raise ValueError(f"clamp_bases needs bases of as many channels as images, {expected}, not {channels}.")
        if self.idc.clamp_bases and model.config.whitening is not None:
            raise ValueError("clamp_bases needs normalized pixels, each with a range: leave it out with zca.")
        super().prepare(real_data, model, accelerator)
        self.darkest, self.brightest = real_data.processor.normalize(real_data.extremes()).to(accelerator.device)

    def backward(self, model: HabaModel, generator: torch.Generator) -> dict[str, float]:
        """Adds the gradient of lambda_DD * L_DD to the parameters of `model` and returns what to log."""
        if self.idc.clamp_bases and self.served in (0, self.outer_steps):
            with torch.no_grad():
                model.bases.clamp_(self.darkest, self.brightest)
        return super().backward(model, generator)

    def _loops(self, model: HabaModel) -> tuple[int, int]:
        return self.settings.outer_steps or OUTER_STEPS, 1

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            self.network.parameters(),
            lr=self.arguments.inner_learning_rate,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
        )

    def _distance(self, real: Sequence[Tensor], samples: Sequence[Tensor]) -> Tensor:
        return convolution_distance(real, samples, self.idc.idc_distance)

    def _train(self, model: HabaModel) -> None:
        """Some real images, drawn without replacement."""
        generator = self._generator(TRAINING)
        labels_n, device = self.data.train.labels, self.accelerator.device
        for rows in self.data.draw_rows(self.idc.idc_real_samples, generator).split(BATCH_SIZE):
            images = self.data.normalized(rows, device)
            images = self.training_augmentation(images, generator)
            mixture = self.cutmix.draw(images.shape, generator)
            logits = self.network(CutMix.apply(images, mixture))
            labels = CutMix.mix_labels(labels_n[rows].to(device), self.data.num_labels, mixture)
            descend(self.optimizer, F.cross_entropy(logits, labels))
