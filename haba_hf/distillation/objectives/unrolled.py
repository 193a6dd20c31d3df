r"""Dataset distillation as first proposed (DD; Wang et al., 2018): a network is drawn, trained on the samples by T
steps of plain gradient descent with learned step sizes, and judged on real data, through all steps:

    theta_{t+1} = theta_t - eta_t grad loss(theta_t; share t),    L_DD = loss(theta_T; real batch).

A new theta_0 is drawn in every step (the paper's unknown initialization). Published settings: 10 shares of one image
per class in 3 passes (T = 30), step sizes that start at 0.02 (MNIST) or 0.001 (CIFAR-10), 1,024 real images, Adam with
rate 0.01 and betas 0.5 and 0.999, halved every 40 of 400 epochs, images that start as N(0, 1), LeNet and AlexCifarNet
under a Xavier-normal initialization; here networks start as PyTorch initializes them, as students do everywhere.

Shape legend: T steps of gradient descent, B samples a step, U distinct samples of the run, P parameters, L classes.
"""

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from ...artifact.modeling_haba import HabaModel
from ...data.augmentation import DsaAugmentation
from ...data.image_data import ImageData
from ...networks import NetworkArguments, build_network
from ..arguments import DistillationArguments
from ..experts import flat_parameters
from .adjoint import augmented_step_loss, gradients_through, unroll
from .flat_network import FlatNetwork


class UnrolledTraining:
    """
    The step sizes and which bases a step takes are the artifact's (`model.step_sizes`, `model.share`), so that
    students can be trained by the same schedule. Each process draws its own networks, pairings and real images; their
    gradients are averaged, as the paper averages over several networks.

    Args:
        network_arguments ([`NetworkArguments`]): the network that is drawn and trained.
        arguments ([`DistillationArguments`]): `real_batch_size`, `pairing`, `dsa`, `lambda_dd`.
    """

    learns_student_learning_rate = False

    def __init__(self, network_arguments: NetworkArguments, arguments: DistillationArguments):
        self.network_arguments = network_arguments
        self.arguments = arguments
        self.augmentation = DsaAugmentation(arguments.dsa, per_sample=True)

    def prepare(self, real_data: ImageData, model: HabaModel, accelerator: Accelerator) -> None:
        """
        Raises:
            `ValueError`: if the artifact has no step sizes to learn.
        """
        if model.step_sizes is None:
            raise ValueError("Unrolled training (dd) learns step sizes: set num_step_sizes to the steps of a student.")
        self.data = real_data
        self.device = accelerator.device
        self.network = FlatNetwork(self._network(seed=0).to(self.device))

    def backward(self, model: HabaModel, generator: torch.Generator) -> dict[str, float]:
        """Adds the gradient of lambda_DD * L_DD to the parameters of `model` and returns what to log."""
        start = flat_parameters(self._network(int(torch.randint(2**31 - 1, (), generator=generator)))).to(self.device)
        shares_TB = torch.stack([model.share(step) for step in range(model.config.num_step_sizes)])
        ids_TB = model.pair(shares_TB, generator, one_a_row=self.arguments.pairing == "step")
        ids_U, positions_TB = torch.unique(ids_TB, return_inverse=True)
        output = model.restore(ids_U)
        step_sizes_T = model.step_sizes
        assert step_sizes_T is not None  # `prepare` refused such a model
        augmentations = [self.augmentation.draw(ids_TB.shape[1], generator) for _ in ids_TB]

        run = output.samples, output.labels, step_sizes_T, positions_TB.to(self.device)
        step_loss = augmented_step_loss(self.network, augmentations)
        thetas = unroll(step_loss, start, *run)
        loss, terminal_gradient = self._real_loss(thetas[-1], generator)
        gradients = gradients_through(step_loss, thetas, terminal_gradient, *run)

        gradients.backward(self.arguments.lambda_dd, output.samples, output.labels, step_sizes_T)
        return {"l_dd": loss.item(), "mean_step_size": step_sizes_T.mean().item()}

    def state(self) -> dict[str, Tensor]:
        """Empty: no step depends on the one before."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to put back."""

    def _network(self, seed: int) -> torch.nn.Module:
        return build_network(self.network_arguments, self.data.image_shape, self.data.num_labels, seed)

    def _real_loss(self, theta: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cross-entropy of theta `[P]` on a batch of real images, and its gradient `[P]`."""
        images, labels = self.data.draw_batch(self.arguments.real_batch_size, generator, self.device)
        theta = theta.detach().requires_grad_()
        loss = F.cross_entropy(self.network(theta, images), labels)
        (gradient,) = torch.autograd.grad(loss, theta)
        return loss.detach(), gradient
