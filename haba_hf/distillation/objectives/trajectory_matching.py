r"""Matching training trajectories (MTT; Cazenavette et al., CVPR 2022), the objective the paper's main tables use.

A student starts at an expert's snapshot theta_t, takes N SGD steps on the samples, and is compared with the expert M
snapshots later:

    L_DD = || theta_hat_{t+N} - theta*_{t+M} ||^2 / || theta*_t - theta*_{t+M} ||^2.

Shape legend: S student steps, B samples a step, U distinct samples of the run, P parameters of the student.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from ...artifact.modeling_haba import HabaModel
from ...data.augmentation import DsaAugmentation
from ...data.image_data import ImageData
from ...networks import NetworkArguments, build_network
from ...utils.checks import Settings, check_counts
from ..arguments import DistillationArguments
from ..experts import ExpertStore
from .adjoint import StepLoss, UnrolledGradients, augmented_step_loss, gradients_through, unroll
from .flat_network import FlatNetwork


@dataclass
class TrajectoryMatchingArguments(Settings):
    """Trajectory matching (mtt)."""

    student_steps: int = field(default=50, metadata={"help": "N, student steps on samples."})
    expert_span: int = field(default=2, metadata={"help": "M, expert snapshots ahead to be reached."})
    max_start: int = field(default=2, metadata={"help": "Start snapshots are drawn from 0..max_start-1."})
    unroll: Literal["graph", "adjoint"] = field(
        default="adjoint", metadata={"help": "Constant memory, or one graph over all steps.", "result": False}
    )
    kept_megabytes: int = field(
        default=2000,
        metadata={
            "help": "By the adjoint, on a CPU: what a ConvNet's convolutions give is kept for the way back until the "
            "temporary file of a run is as large; 0 computes it twice.",
            "result": False,
        },
    )

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "student_steps", "expert_span", "max_start")
        if self.kept_megabytes < 0:
            raise ValueError(f"kept_megabytes must be 0 or more, got {self.kept_megabytes}.")

    @property
    def num_snapshots(self) -> int:
        """Snapshots of an expert that a run can draw: starts 0..max_start-1, targets up to max_start-1+expert_span."""
        return self.max_start + self.expert_span


class TrajectoryMatching:
    """
    Args:
        experts ([`ExpertStore`]): recorded trajectories of the same network and data.
        network_arguments ([`NetworkArguments`]): the network of the experts.
        arguments ([`DistillationArguments`]): `student_batch_size`, `micro_batch_size`, `pairing`, `dsa`, `lambda_dd`.
        settings ([`TrajectoryMatchingArguments`]): where experts are met, and how the student is unrolled.

    Raises:
        `ValueError`: if the experts hold fewer snapshots than `max_start` + `expert_span`, or `unroll` is `"graph"`
            with micro-batches.
    """

    learns_student_learning_rate = True

    def __init__(
        self,
        experts: ExpertStore,
        network_arguments: NetworkArguments,
        arguments: DistillationArguments,
        settings: TrajectoryMatchingArguments,
    ):
        if experts.num_snapshots < settings.num_snapshots:
            raise ValueError(
                f"The experts hold {experts.num_snapshots} snapshots, but max_start + expert_span = "
                f"{settings.num_snapshots}: record longer experts or lower one of the two."
            )
        if arguments.micro_batch_size is not None and settings.unroll == "graph":
            raise ValueError("micro_batch_size needs unroll: adjoint.")
        self.experts = experts
        self.network_arguments = network_arguments
        self.arguments = arguments
        self.settings = settings
        self.augmentation = DsaAugmentation(arguments.dsa, per_sample=True)

    def prepare(self, real_data: ImageData, model: HabaModel, accelerator: Accelerator) -> None:
        self.device = accelerator.device
        network = build_network(self.network_arguments, real_data.image_shape, real_data.num_labels, seed=0)
        self.student = FlatNetwork(network.to(self.device))

    def backward(self, model: HabaModel, generator: torch.Generator) -> dict[str, float]:
        """Adds the gradient of lambda_DD * L_DD to the parameters of `model` and returns what to log."""
        arguments, settings = self.arguments, self.settings
        start, target = self.experts.draw(settings.max_start, settings.expert_span, generator)
        start, target = start.to(self.device), target.to(self.device)

        ids_SB = draw_pairs(model, settings.student_steps, arguments.student_batch_size, arguments.pairing, generator)
        ids_U, positions_SB = torch.unique(ids_SB, return_inverse=True)
        output = model.restore(ids_U)
        positions_SB = positions_SB.to(self.device)
        batch_size = positions_SB.shape[1]
        augmentations = [self.augmentation.draw(batch_size, generator) for _ in range(settings.student_steps)]

        step_loss = augmented_step_loss(self.student, augmentations)
        alpha_S = model.student_learning_rate.expand(settings.student_steps)
        run = output.samples.detach(), output.labels.detach(), alpha_S.detach(), positions_SB
        if settings.unroll == "graph":
            loss, gradients = match_by_graph(step_loss, start, target, *run)
        else:
            memory = arguments.micro_batch_size, settings.kept_megabytes * 10**6
            loss, gradients = match_by_adjoint(step_loss, start, target, *run, *memory)

        gradients.backward(arguments.lambda_dd, output.samples, output.labels, alpha_S)
        return {"l_dd": loss.item(), "student_learning_rate": model.student_learning_rate.item()}

    def state(self) -> dict[str, Tensor]:
        """Empty: no step depends on the one before."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to put back."""


def draw_pairs(
    model: HabaModel,
    steps: int,
    batch_size: int | None,
    pairing: Literal["step", "sample"],
    generator: torch.Generator,
) -> Tensor:
    """
    Samples for S student steps, `[S, B]`, as places in `model.materialize()`; B is `batch_size`, by default all bases.

    Bases (with multi-formation, each formation of each basis) are dealt out from one permutation after another; with
    `pairing="step"` one hallucinator serves a whole step, as in the released code, with `"sample"` every sample of the
    step draws its own, as students do in evaluation.
    """
    num_bases = model.config.epoch_samples
    batch_size = min(batch_size or num_bases, num_bases)
    rounds = -(-steps * batch_size // num_bases)
    dealt = torch.cat([torch.randperm(num_bases, generator=generator) for _ in range(rounds)])
    bases_SB = dealt[: steps * batch_size].view(steps, batch_size)
    return model.pair(bases_SB, generator, one_a_row=pairing == "step")


def match_by_graph(
    step_loss: StepLoss,
    start: Tensor,
    target: Tensor,
    samples_U: Tensor,
    labels_U: Tensor,
    step_sizes_S: Tensor,
    positions_SB: Tensor,
) -> tuple[Tensor, UnrolledGradients]:
    """
    L_DD and its gradients by one autograd graph over all steps, whose memory grows with S: the reference of
    [`match_by_adjoint`].
    """
    samples_U, step_sizes_S = samples_U.requires_grad_(), step_sizes_S.clone().requires_grad_()
    labels_U = labels_U.requires_grad_(labels_U.is_floating_point())
    theta = start.clone().requires_grad_()
    for step, positions in enumerate(positions_SB):
        loss = step_loss(theta, samples_U[positions], labels_U[positions], step, slice(None))
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        theta = theta - step_sizes_S[step] * gradient
    distance = (theta - target).square().sum() / (start - target).square().sum()
    wanted = [samples_U, step_sizes_S, *([labels_U] if labels_U.requires_grad else [])]
    d_samples, d_step_sizes, *d_labels = torch.autograd.grad(distance, wanted)
    return distance.detach(), UnrolledGradients(d_samples, d_labels[0] if d_labels else None, d_step_sizes)


def match_by_adjoint(
    step_loss: StepLoss,
    start: Tensor,
    target: Tensor,
    samples_U: Tensor,
    labels_U: Tensor,
    step_sizes_S: Tensor,
    positions_SB: Tensor,
    micro_batch_size: int | None = None,
    kept_bytes: int = 0,
) -> tuple[Tensor, UnrolledGradients]:
    """
    L_DD and its gradients as of [`match_by_graph`], in memory that does not grow with the student's steps.

    Args:
        step_loss (`Callable`): the student's loss in a step.
        start, target (`torch.Tensor` `[P]`): theta*_t and theta*_{t+M}.
        samples_U, labels_U, step_sizes_S, positions_SB, micro_batch_size, kept_bytes: as in [`unroll`].

    Returns:
        L_DD, 0-d, and its gradients.
    """
    run = samples_U, labels_U, step_sizes_S, positions_SB, micro_batch_size
    thetas = unroll(step_loss, start, *run, kept_bytes)
    scale = (start - target).square().sum()
    error = thetas[-1] - target
    return error.square().sum() / scale, gradients_through(step_loss, thetas, 2 * error / scale, *run)
