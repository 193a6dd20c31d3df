r"""Label distillation (LD; Bohdal et al., 2020): base samples stay as they are and their soft labels are learned, so
that one step on them moves a network towards real data:

    theta' = theta - eta grad loss(theta; base samples, labels),    L_DD = loss(theta'; real batch),

differentiated through the step (second order). The network goes on, by a step of Adam on the loss of the base samples,
until it learns no more; then another takes its place.

The released code learns label rows as plain numbers, from 1/L each, clamps them to [0, 1] and divides them by their
sum after every step. An artifact holds logits, and labels are their softmax: every row is a distribution by
construction, no step is undone by a clamp, and Adam's moments are those of the numbers it moves. A label cannot become
exactly 0 or 1, and a logit needs a larger learning rate than a probability (published: Adam, 0.001).

Published settings: 1,024 real images a step, eta 0.01, no augmentation, 10 / 50 / 100 base samples by
`student_batch_size` 10 / 25 / 50 and 200 or more by 50, 400 epochs over the real images (800 from 200 base samples
on), LeNet and AlexCifarNet, labels kept by validation, students of as many steps as `steps_to_lowest` says.

Shape legend: B base samples of a step, P parameters of the network, L classes.
"""

import math
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from ...artifact.modeling_haba import HabaModel
from ...data.augmentation import DsaAugmentation
from ...data.image_data import ImageData
from ...networks import NetworkArguments, build_network
from ...utils.checks import Settings, check_counts
from ...utils.seeds import derived_seed, seeded_generator
from ..arguments import DistillationArguments
from ..experts import flat_parameters
from .flat_network import FlatNetwork

# Streams of random numbers that all processes share, beside the distiller's (seed, step, rank).
NETWORKS, STEPS = 1, 2
# Published: Adam's default, of the network's own step.
NETWORK_LEARNING_RATE = 1e-3


@dataclass
class LabelDistillationArguments(Settings):
    """Label distillation (ld)."""

    restart_window: int | None = field(
        default=None,
        metadata={
            "help": "Steps whose errors are summed, and that a network has for a new minimum; by default as "
            "published for the number of base samples."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "restart_window")


class LabelDistillation:
    """
    Bases get no gradient, so no optimizer moves them. All processes hold the same network and take the same base
    samples; each draws its own real batch.

    Args:
        network_arguments ([`NetworkArguments`]): the network that labels are judged by.
        arguments ([`DistillationArguments`]): `student_batch_size` base samples a step, `inner_learning_rate` eta,
            `real_batch_size`, `dsa` (of the base samples), `seed`, `lambda_dd`.
        settings ([`LabelDistillationArguments`]): `restart_window`.
    """

    learns_student_learning_rate = False

    def __init__(
        self,
        network_arguments: NetworkArguments,
        arguments: DistillationArguments,
        settings: LabelDistillationArguments,
    ):
        self.network_arguments = network_arguments
        self.arguments = arguments
        self.settings = settings
        self.augmentation = DsaAugmentation(arguments.dsa, per_sample=True)

    def prepare(self, real_data: ImageData, model: HabaModel, accelerator: Accelerator) -> None:
        """
        Raises:
            `ValueError`: if labels are hard, or samples would change.
        """
        if model.label_logits is None:
            raise ValueError("Label distillation (ld) learns soft labels: set label_kind to soft.")
        if model.config.num_hallucinators:
            raise ValueError("Label distillation (ld) keeps its base samples: set num_hallucinators to 0.")
        self.data = real_data
        self.accelerator = accelerator
        self.device = accelerator.device
        self.network = FlatNetwork(self._network(seed=0).to(self.device))
        config = model.config
        self.window = self.settings.restart_window or published_window(config.num_bases, config.num_labels)
        self.steps = self.restarts = 0
        self.steps_to_lowest: list[int] = []
        self._start_anew()

    def backward(self, model: HabaModel, generator: torch.Generator) -> dict[str, float]:
        """Adds the gradient of lambda_DD * L_DD to the label logits, moves the network on and returns what to log."""
        arguments, num_bases = self.arguments, model.config.num_bases
        shared = seeded_generator(arguments.seed, self.steps, 0, STEPS)
        basis_ids = torch.randperm(num_bases, generator=shared)[: arguments.student_batch_size or num_bases]
        output = model(basis_ids)
        samples, labels = output.samples.detach(), output.labels.detach().requires_grad_()
        loss = F.cross_entropy(self.network(self.theta, self.augmentation(samples, shared)), labels)
        (gradient,) = torch.autograd.grad(loss, self.theta, create_graph=True)

        theta = self.theta - arguments.inner_learning_rate * gradient
        images, real_labels = self.data.draw_batch(arguments.real_batch_size, generator, self.device)
        real_loss = F.cross_entropy(self.network(theta, images), real_labels)
        (d_labels,) = torch.autograd.grad(real_loss, labels)
        output.labels.backward(arguments.lambda_dd * d_labels)

        error = self.accelerator.reduce(self.network.error(theta.detach(), images, real_labels), reduction="mean")
        self.theta.grad = gradient.detach()
        self.optimizer.step()
        self.steps += 1
        if self.rule.update(error.item()):
            self.steps_to_lowest = [*self.steps_to_lowest, self.rule.steps - self.rule.since_lowest][-3:]
            self.restarts += 1
            self._start_anew()
        logs = {"l_dd": real_loss.item(), "error": error.item(), "restarts": float(self.restarts)}
        if self.steps_to_lowest:
            logs["steps_to_lowest"] = sum(self.steps_to_lowest) / len(self.steps_to_lowest)
        return logs

    def state(self) -> dict[str, Tensor]:
        """The network, its optimizer, and the errors since it started."""
        return {
            "theta": self.theta.detach(),
            **{f"adam.{name}": value for name, value in self.optimizer.state[self.theta].items()},
            "counts": torch.tensor([self.steps, self.restarts, self.rule.steps, self.rule.since_lowest]),
            "errors": torch.tensor(self.rule.errors, dtype=torch.float64),
            "lowest": torch.tensor(self.rule.lowest, dtype=torch.float64),
            "steps_to_lowest": torch.tensor(self.steps_to_lowest, dtype=torch.long),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.steps, self.restarts, steps, since_lowest = state["counts"].tolist()
        self._start_anew()
        with torch.no_grad():
            self.theta.copy_(state["theta"])
        for name in ("step", "exp_avg", "exp_avg_sq"):
            if f"adam.{name}" in state:  # absent before the first step of a network
                device = "cpu" if name == "step" else self.device
                self.optimizer.state[self.theta][name] = state[f"adam.{name}"].to(device)
        self.rule.steps, self.rule.since_lowest = steps, since_lowest
        self.rule.errors, self.rule.lowest = state["errors"].tolist(), state["lowest"].item()
        self.steps_to_lowest = state["steps_to_lowest"].tolist()

    def _start_anew(self) -> None:
        network = self._network(derived_seed(self.arguments.seed, self.restarts, 0, NETWORKS))
        self.theta = flat_parameters(network).to(self.device).requires_grad_()
        self.optimizer = torch.optim.Adam([self.theta], lr=NETWORK_LEARNING_RATE)
        self.rule = RestartRule(self.window)

    def _network(self, seed: int) -> torch.nn.Module:
        return build_network(self.network_arguments, self.data.image_shape, self.data.num_labels, seed)


class RestartRule:
    """
    Tells when a network learns no more: the sum of its last `window` errors has had no new minimum for more than
    `window` steps.

    Args:
        window (`int`): W.

    Attributes:
        errors (`list[float]`): the last W.
        lowest (`float`): the smallest sum so far.
        steps, since_lowest (`int`): steps of this network, and of them those after the smallest sum.
    """

    def __init__(self, window: int):
        self.window = window
        self.errors: list[float] = []
        self.lowest = math.inf
        self.steps = self.since_lowest = 0

    def update(self, error: float) -> bool:
        """Takes the error of one more step and says whether to restart."""
        self.steps += 1
        self.errors = [*self.errors, error][-self.window :]
        if len(self.errors) < self.window:
            return False
        total = math.fsum(self.errors)  # exact: the same errors in another order are no new minimum
        if total < self.lowest:
            self.lowest, self.since_lowest = total, 0
        else:
            self.since_lowest += 1
        return self.since_lowest > self.window


def published_window(num_bases: int, num_labels: int) -> int:
    """
    W as published: 50, with more than 100 base samples 200, and 100 for the two sets of many classes (49 and 100),
    which is read here as more than 10.
    """
    if num_labels > 10:
        return 100
    return 50 if num_bases <= 100 else 200
