r"""The adversary of the paper: a feature extractor F that pulls the views of one basis together while hallucinators
push them apart.

    min_F  lambda_con L_con + lambda_task L_task   (Eq. 4)        min_S  lambda_DD L_DD + lambda_cos L_cos   (Eq. 6)

Shape legend: V views (hallucinators compared), B bases, D features, L classes.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from ..artifact.modeling_haba import HabaModel
from ..data.augmentation import DsaAugmentation, DsaParameters
from ..data.image_data import ImageData
from ..data.splits import images_at_once
from ..networks import NetworkArguments, build_feature_network
from ..utils.checks import Settings, check_between, check_counts, check_positive
from .arguments import DistillationArguments


def cosine_loss(features_VBD: Tensor) -> Tensor:
    r"""
    L_cos (Eq. 5): cosines between views of the same basis, summed over ordered pairs of different views. Of V = |H|
    views there are V (V - 1) such pairs, but the paper divides by V^2, so the greatest value is (V - 1) / V.

        L_cos = 1/|H|^2 1/|B| sum_{j != k} sum_i cos(F(x_ij), F(x_ik))
    """
    unit = F.normalize(features_VBD, dim=-1)
    cosines_VVB = torch.einsum("jbd,kbd->jkb", unit, unit)
    return _off_diagonal_sum(cosines_VVB) / (len(unit) ** 2 * unit.shape[1])


def contrastive_loss(features_VBD: Tensor, temperature: float) -> Tensor:
    r"""
    L_con (Eq. 3): for basis i seen through hallucinator j, tell which of the bases seen through hallucinator k it is.

        L_con = -1/|H|^2 1/|B| sum_{j != k} sum_i log( exp(z_ij . z_ik / tau) / sum_u exp(z_ij . z_uk / tau) )

    z are features scaled to unit length, as the released code does (Eq. 3 prints no norm, but without one tau has no
    scale).
    """
    unit = F.normalize(features_VBD, dim=-1)
    logits = torch.einsum("jid,kud->jkiu", unit, unit) / temperature
    negative_log = -logits.log_softmax(dim=-1).diagonal(dim1=2, dim2=3)
    return _off_diagonal_sum(negative_log) / (len(unit) ** 2 * unit.shape[1])


def supervised_contrastive_loss(features_VBD: Tensor, classes_B: Tensor, temperature: float) -> Tensor:
    """
    The released code's L_con (Khosla et al., 2020): every other view of every basis of the same class is a positive.
    """
    views, bases, _ = features_VBD.shape
    unit = F.normalize(features_VBD, dim=-1).flatten(0, 1)
    classes = classes_B.repeat(views)
    itself = torch.eye(views * bases, dtype=torch.bool, device=unit.device)
    logits = (unit @ unit.T / temperature).masked_fill(itself, float("-inf"))
    positives = (classes[:, None] == classes[None, :]) & ~itself
    log_probabilities = logits.log_softmax(dim=-1).masked_fill(~positives, 0.0)
    return -(log_probabilities.sum(dim=-1) / positives.sum(dim=-1)).mean()


def _off_diagonal_sum(values_VVB: Tensor) -> Tensor:
    return values_VVB.sum() - values_VVB.diagonal().sum()


@dataclass
class AdversaryArguments(Settings):
    """The game of hallucinators and adversary; without L_cos and L_con, or below two hallucinators, none is played."""

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

    def __post_init__(self):
        super().__post_init__()
        if self.adversary_hallucinators < 2:
            raise ValueError("adversary_hallucinators must be at least 2: the adversary compares views of a basis.")
        check_counts(self, "adversary_bases")
        check_positive(self, "temperature")
        check_between(self, 0, math.inf, "lambda_cos", "lambda_con", "lambda_task", "adversary_learning_rate")

    @property
    def plays(self) -> bool:
        """Whether one of the losses between the two players counts."""
        return bool(self.lambda_cos or self.lambda_con)


class Adversary:
    """
    F, one network of the student's architecture, trained throughout the run on samples alone.

    Both games are played on the same products of bases B' and hallucinators H', restored once a step (Algorithm 1).

    Args:
        network_arguments ([`NetworkArguments`]): architecture of F.
        arguments ([`DistillationArguments`]): `seed`, `dsa`, `micro_batch_size`.
        settings ([`AdversaryArguments`]): the game.
    """

    def __init__(
        self,
        network_arguments: NetworkArguments,
        arguments: DistillationArguments,
        settings: AdversaryArguments,
        real_data: ImageData,
        accelerator: Accelerator,
    ):
        self.settings = settings
        self.network = build_feature_network(
            network_arguments, real_data.image_shape, real_data.num_labels, arguments.seed, real_data.processor
        ).to(accelerator.device)
        # A probe's backbone is frozen: its features still hold views apart, by L_cos, and L_con has nothing to move.
        self.trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.augmentation = DsaAugmentation(arguments.dsa, per_sample=True)
        self.micro_batch_size = arguments.micro_batch_size

    def backward(self, model: HabaModel, generator: torch.Generator) -> dict[str, float]:
        """
        Adds the gradient of lambda_cos * L_cos to the parameters of `model` and that of lambda_con * L_con +
        lambda_task * L_task to those of `network`.

        The losses compare every sample with every other, but of each they see the features alone. Where F does not
        take all samples at once, features are computed without a graph, then the gradients of the losses with respect
        to them, and then a few samples at a time again, with a graph that these go through (Gao et al., 2021).
        """
        settings = self.settings
        num_hallucinators, num_bases = model.config.num_hallucinators, model.config.num_bases
        views = min(settings.adversary_hallucinators, num_hallucinators)
        bases = min(settings.adversary_bases or num_bases, num_bases)
        hallucinator_ids = torch.randperm(num_hallucinators, generator=generator)[:views]
        basis_ids = torch.randperm(num_bases, generator=generator)[:bases]
        output = model(basis_ids.repeat(views), hallucinator_ids.repeat_interleave(bases))

        samples = output.samples.detach()
        augmentation = self.augmentation.draw(len(samples), generator)
        at_once = min(self.micro_batch_size or len(samples), images_at_once(samples.shape))
        rows_at_once = [slice(first, first + at_once) for first in range(0, len(samples), at_once)]
        whole = self._see(samples, augmentation, rows_at_once[0]) if len(rows_at_once) == 1 else None
        if whole is not None:
            features = whole[1].detach()
        else:
            with torch.no_grad():
                features = torch.cat([self._see(samples, augmentation, rows)[1] for rows in rows_at_once])

        features.requires_grad_()
        features_VBD = features.view(views, -1, features.shape[1])  # B counts every formation of a basis
        l_cos = cosine_loss(features_VBD)
        if settings.contrast == "instance":
            l_con = contrastive_loss(features_VBD, settings.temperature)
        else:
            classes = model.class_ids[output.basis_ids[: features_VBD.shape[1]]]
            l_con = supervised_contrastive_loss(features_VBD, classes, settings.temperature)
        l_task = F.cross_entropy(self.network.classifier(features), output.labels.detach())

        (for_samples,) = torch.autograd.grad(settings.lambda_cos * l_cos, features, retain_graph=True)
        (settings.lambda_con * l_con + settings.lambda_task * l_task).backward(inputs=[features, *self.trained])
        for_network = cast(Tensor, features.grad)
        d_samples = torch.empty_like(samples)
        for rows in rows_at_once:
            x, seen = whole or self._see(samples, augmentation, rows)
            (d_samples[rows],) = torch.autograd.grad(seen, x, for_samples[rows], retain_graph=True)
            seen.backward(for_network[rows], inputs=self.trained)
        output.samples.backward(d_samples)
        return {"l_cos": l_cos.item(), "l_con": l_con.item(), "l_task": l_task.item()}

    def _see(self, samples: Tensor, augmentation: DsaParameters, rows: slice) -> tuple[Tensor, Tensor]:
        """Some of the samples, as a leaf, and their features once augmented."""
        x = samples[rows].requires_grad_()
        return x, self.network.features(DsaAugmentation.apply(x, augmentation.of(rows)))
