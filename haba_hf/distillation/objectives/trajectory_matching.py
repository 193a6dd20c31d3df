r"""Matching training trajectories (MTT; Cazenavette et al., CVPR 2022), the objective the paper's main tables use.

A student starts at an expert's snapshot theta_t, takes N SGD steps on the samples, and is compared with the expert M
snapshots later:

    L_DD = || theta_hat_{t+N} - theta*_{t+M} ||^2 / || theta*_t - theta*_{t+M} ||^2.

Shape legend: S student steps, B samples a step, U distinct samples of the run, P parameters of the student.
"""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from ...data.augmentation import DsaAugmentation, DsaParameters
from ...data.sources import ImageData
from ...modeling_haba import HabaModel
from ...networks import NetworkArguments, build_network
from ..arguments import DistillationArguments
from ..experts import ExpertStore

# (parameters [P], step) -> (samples [B, C, H, W], labels) -> loss
StepLoss = Callable[[Tensor, Tensor, Tensor, int], Tensor]


class TrajectoryMatching:
    """
    Args:
        experts ([`ExpertStore`]): recorded trajectories of the same network and data.
        network_arguments ([`NetworkArguments`]): the network of the experts.
        arguments ([`DistillationArguments`]): `student_steps`, `expert_span`, `max_start`, `student_batch_size`,
            `pairing`, `unroll`, `dsa`, `lambda_dd`.

    Raises:
        `ValueError`: if the experts hold fewer snapshots than `max_start` + `expert_span`.
    """

    learns_student_learning_rate = True

    def __init__(self, experts: ExpertStore, network_arguments: NetworkArguments, arguments: DistillationArguments):
        if experts.num_snapshots < arguments.num_snapshots:
            raise ValueError(
                f"The experts hold {experts.num_snapshots} snapshots, but max_start + expert_span = "
                f"{arguments.num_snapshots}: record longer experts or lower one of the two."
            )
        self.experts = experts
        self.network_arguments = network_arguments
        self.arguments = arguments
        self.augmentation = DsaAugmentation(arguments.dsa, per_sample=True)
        self.match = {"graph": match_by_graph, "adjoint": match_by_adjoint}[arguments.unroll]

    def prepare(self, real_data: ImageData, model: HabaModel, accelerator: Accelerator) -> None:
        self.device = accelerator.device
        self.student = build_network(self.network_arguments, real_data.image_shape, real_data.num_labels, seed=0)
        self.student.to(self.device).requires_grad_(False)
        self.names = [name for name, _ in self.student.named_parameters()]
        self.shapes = [parameter.shape for parameter in self.student.parameters()]

    def backward(self, model: HabaModel, generator: torch.Generator) -> dict[str, float]:
        """Adds the gradient of lambda_DD * L_DD to the parameters of `model` and returns what to log."""
        arguments = self.arguments
        start, target = self.experts.draw(arguments.max_start, arguments.expert_span, generator)
        start, target = start.to(self.device), target.to(self.device)

        ids_SB = draw_pairs(model, arguments, generator)
        ids_U, positions_SB = torch.unique(ids_SB, return_inverse=True)
        output = model.restore(ids_U)
        positions_SB = positions_SB.to(self.device)
        batch_size = positions_SB.shape[1]
        augmentations = [self.augmentation.draw(batch_size, generator) for _ in range(arguments.student_steps)]

        samples_U = output.samples.detach().requires_grad_()
        soft = output.labels.is_floating_point()
        labels_U = output.labels.detach().requires_grad_(soft)
        alpha = model.student_learning_rate.detach().requires_grad_()
        loss, gradients = self.match(
            self._step_loss(augmentations), start, target, samples_U, labels_U, alpha, positions_SB
        )
        outputs = [output.samples, model.student_learning_rate, *([output.labels] if soft else [])]
        torch.autograd.backward(outputs, [arguments.lambda_dd * gradient for gradient in gradients])
        return {"l_dd": loss.item(), "student_learning_rate": alpha.item()}

    def state(self) -> dict[str, Tensor]:
        """Empty: no step depends on the one before."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to put back."""

    def _step_loss(self, augmentations: list[DsaParameters]) -> StepLoss:
        def loss(theta: Tensor, samples: Tensor, labels: Tensor, step: int) -> Tensor:
            sizes = [shape.numel() for shape in self.shapes]
            parameters = {
                name: part.view(shape)
                for name, part, shape in zip(self.names, theta.split(sizes), self.shapes, strict=True)
            }
            x = DsaAugmentation.apply(samples, augmentations[step])
            return F.cross_entropy(functional_call(self.student, parameters, (x,)), labels)

        return loss


def draw_pairs(model: HabaModel, arguments: DistillationArguments, generator: torch.Generator) -> Tensor:
    """
    Samples for S student steps, `[S, B]`, as places in `model.materialize()`.

    Bases (with multi-formation, each formation of each basis) are dealt out from one permutation after another; with
    `pairing="step"` one hallucinator serves a whole step, as in the released code, with `"sample"` every sample of the
    step draws its own, as students do in evaluation.
    """
    hallucinators, formations = model.config.num_hallucinators, model.config.num_formations
    num_bases = model.config.num_bases * formations
    steps = arguments.student_steps
    batch_size = min(arguments.student_batch_size or num_bases, num_bases)
    rounds = -(-steps * batch_size // num_bases)
    dealt = torch.cat([torch.randperm(num_bases, generator=generator) for _ in range(rounds)])
    bases_SB = dealt[: steps * batch_size].view(steps, batch_size)
    if not hallucinators:
        return bases_SB
    columns = 1 if arguments.pairing == "step" else batch_size
    hallucinators_SB = torch.randint(hallucinators, (steps, columns), generator=generator)
    return (bases_SB // formations * hallucinators + hallucinators_SB) * formations + bases_SB % formations


def match_by_graph(
    step_loss: StepLoss,
    start: Tensor,
    target: Tensor,
    samples_U: Tensor,
    labels_U: Tensor,
    alpha: Tensor,
    positions_SB: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """
    L_DD and its gradients with respect to samples, alpha and (if they require them) labels, by one autograd graph over
    all steps: fast, but memory grows with S.
    """
    theta = start.clone().requires_grad_()
    for step, positions in enumerate(positions_SB):
        loss = step_loss(theta, samples_U[positions], labels_U[positions], step)
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        theta = theta - alpha * gradient
    distance = (theta - target).square().sum() / (start - target).square().sum()
    return distance.detach(), list(torch.autograd.grad(distance, _learned(samples_U, alpha, labels_U)))


def match_by_adjoint(
    step_loss: StepLoss,
    start: Tensor,
    target: Tensor,
    samples_U: Tensor,
    labels_U: Tensor,
    alpha: Tensor,
    positions_SB: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    r"""
    The same by the adjoint of SGD, in memory that does not grow with S beyond the S parameter vectors.

    With lambda_S = dL/dtheta_S and g_i = grad_theta loss_i(theta_i), going back over theta_{i+1} = theta_i - alpha
    g_i: dL/dalpha -= lambda . g_i, dL/dx -= alpha d(lambda . g_i)/dx, lambda -= alpha d(lambda . g_i)/dtheta, where
    the last two come from one backward pass through the graph of one step.
    """
    thetas = [start]
    for step, positions in enumerate(positions_SB):
        theta = thetas[-1].detach().requires_grad_()
        loss = step_loss(theta, samples_U[positions].detach(), labels_U[positions].detach(), step)
        (gradient,) = torch.autograd.grad(loss, theta)
        thetas.append(theta.detach() - alpha.detach() * gradient)

    scale = (start - target).square().sum()
    error = thetas.pop() - target
    adjoint = 2 * error / scale
    wanted = _learned(samples_U, alpha, labels_U)
    gradients = [torch.zeros_like(tensor) for tensor in wanted]
    for step in reversed(range(len(positions_SB))):
        theta = thetas.pop().detach().requires_grad_()
        loss = step_loss(theta, samples_U[positions_SB[step]], labels_U[positions_SB[step]], step)
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        product = adjoint @ gradient
        d_theta, d_samples, *d_labels = torch.autograd.grad(product, [theta, wanted[0], *wanted[2:]])
        gradients[1] -= product.detach()
        for total, part in zip([gradients[0], *gradients[2:]], [d_samples, *d_labels], strict=True):
            total -= alpha.detach() * part
        adjoint = adjoint - alpha.detach() * d_theta
    return error.square().sum() / scale, gradients


def _learned(samples: Tensor, alpha: Tensor, labels: Tensor) -> list[Tensor]:
    return [samples, alpha, labels] if labels.requires_grad else [samples, alpha]
