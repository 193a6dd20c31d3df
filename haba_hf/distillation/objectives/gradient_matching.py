r"""Gradient matching: dataset condensation (DC; Zhao, Mopuri and Bilen, ICLR 2021) and the same with differentiable
siamese augmentation (DSA; Zhao and Bilen, ICML 2021).

An inner network theta is asked, class by class, for the gradient of its loss on real images and on samples:

    L_DD = sum_c D( grad_theta CE(A(real_c)), grad_theta CE(A(samples_c)) ),
    D(g, h) = sum_layers sum_rows 1 - <g_r, h_r> / (||g_r|| ||h_r|| + 1e-6),

where a row is what leads to one output of a layer, and biases and norms, which have no rows, do not count. After each
step theta takes some epochs of SGD on the samples, and after `outer_steps` steps a new one is drawn.

Shape legend: X samples of the artifact, L classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from ...artifact.modeling_haba import HabaModel
from ...artifact.pairing import materialize_if_small
from ...data.augmentation import DsaAugmentation
from ...data.image_data import ImageData
from ...networks import NetworkArguments
from ...utils.checks import Settings, check_counts
from ...utils.seeds import seeded_generator
from ..arguments import DistillationArguments
from .drawn_networks import DrawnNetworks
from .inner_loop import train_an_epoch
from .leaves import as_leaves, hand_on
from .subsets import check_subset, draw_halves, matched

# Published (outer steps, inner epochs) by samples per class.
PUBLISHED_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
INNER_BATCH_SIZE = 256
# The independent random streams of an inner network; those of class c follow from MATCHING + c.
WEIGHTS, TRAINING, MATCHING = 1, 2, 3


def loop_counts(samples_per_class: int) -> tuple[int, int]:
    """
    Outer steps of an inner network and its epochs between two of them: those of the nearest count that the paper
    gives, of two equally near ones the lower (so 2 is as 1, 9 and 11 are as 10, and 51 is as 50).
    """
    return PUBLISHED_LOOPS[min(PUBLISHED_LOOPS, key=lambda count: (abs(count - samples_per_class), count))]


def row_cosine_distance(real: Sequence[Tensor], samples: Sequence[Tensor]) -> Tensor:
    """D of DC: one minus the cosine, summed over the output rows of all layers; 1-D tensors count zero."""
    total = torch.zeros((), dtype=samples[0].dtype, device=samples[0].device)
    for g, h in zip(real, samples, strict=True):
        if g.ndim > 1:
            g, h = g.flatten(1), h.flatten(1)
            total = total + (1 - (g * h).sum(dim=1) / (g.norm(dim=1) * h.norm(dim=1) + 1e-6)).sum()
    return total


@dataclass
class GradientMatchingArguments(Settings):
    """Gradient matching (dc, dsa, idc)."""

    outer_steps: int | None = field(
        default=None,
        metadata={"help": "Steps that one inner network serves; by default as published (IDC: 100)."},
    )
    inner_epochs: int | None = field(
        default=None,
        metadata={
            "help": "DC, DSA: epochs of the inner network on the samples after a step; by default as published."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "outer_steps")
        if self.inner_epochs is not None and self.inner_epochs < 0:
            raise ValueError(f"inner_epochs must be 0 or more, got {self.inner_epochs}.")


class GradientMatching:
    """
    Args:
        network_arguments ([`NetworkArguments`]): the inner network theta.
        arguments ([`DistillationArguments`]): `objective` (`"dc"` augments nothing), `real_batch_size`,
            `samples_per_class`, `inner_learning_rate`, `dsa`, `seed`, `lambda_dd`, `networks`.
        settings ([`GradientMatchingArguments`]): the two loops.

    Of several processes all hold the same theta, each matches its share of the classes, and together they compute what
    one would alone. So no number is drawn from the step's generator, which is the process's own, but from (seed,
    network, step of the network, stream).
    """

    learns_student_learning_rate = False

    def __init__(
        self,
        network_arguments: NetworkArguments,
        arguments: DistillationArguments,
        settings: GradientMatchingArguments,
    ):
        self.network_arguments = network_arguments
        self.arguments = arguments
        self.settings = settings
        strategy = "none" if arguments.objective == "dc" else arguments.dsa
        self.matching_augmentation = DsaAugmentation(strategy, per_sample=False)
        self.training_augmentation = DsaAugmentation(strategy, per_sample=True)

    def prepare(self, real_data: ImageData, model: HabaModel, accelerator: Accelerator) -> None:
        """
        Raises:
            `ValueError`: if `samples_per_class` is 1 of several, or images are too small for a network.
        """
        check_subset(self.arguments.samples_per_class, model.config.samples_per_class)
        self.data = real_data
        self.accelerator = accelerator
        self.members = real_data.train.of_classes(real_data.num_labels)
        self.sample_ids_LX = model.sample_ids_by_class()
        self.outer_steps, self.inner_epochs = self._loops(model)
        sizes = (real_data.image_shape, real_data.num_labels)
        self.networks = DrawnNetworks(self.network_arguments, self.arguments, *sizes)
        self._start_network(0)

    def backward(self, model: HabaModel, generator: torch.Generator) -> dict[str, float]:
        """Adds the gradient of lambda_DD * L_DD to the parameters of `model` and returns what to log."""
        # Trained now and not after the last step, as the samples have only changed since then.
        if self.served == self.outer_steps:
            self._start_network(self.index + 1)
        elif self.served:
            self._train(model)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        total = torch.zeros((), device=self.accelerator.device)
        for label in range(rank, len(self.members), world):
            # Gradients are averaged over processes, but those of classes add up.
            total += self._match_class(model, label, world * self.arguments.lambda_dd)
        self.served += 1
        return {"l_dd": self.accelerator.reduce(total, reduction="sum").item()}

    def state(self) -> dict[str, Tensor]:
        """The inner network, its momentum if it has any, its number, and the steps it has served."""
        tensors = {"index": torch.tensor(self.index), "served": torch.tensor(self.served)}
        for name, parameter in self.network.named_parameters():
            tensors[f"network.{name}"] = parameter.detach().clone()
            momentum = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum.clone()
        return tensors

    def load_state(self, state: dict[str, Tensor]) -> None:
        self._start_network(int(state["index"]))
        self.served = int(state["served"])
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.copy_(state[f"network.{name}"])
                if f"momentum.{name}" in state:
                    momentum = state[f"momentum.{name}"].to(parameter.device)
                    self.optimizer.state[parameter]["momentum_buffer"] = momentum

    def _loops(self, model: HabaModel) -> tuple[int, int]:
        """Outer steps and inner epochs: what is set, or what is published for the samples that an epoch has."""
        settings = self.settings
        outer_steps, inner_epochs = loop_counts(model.config.bases_per_class * model.config.num_formations)
        return (
            outer_steps if settings.outer_steps is None else settings.outer_steps,
            inner_epochs if settings.inner_epochs is None else settings.inner_epochs,
        )

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.parameters(), lr=self.arguments.inner_learning_rate)

    def _distance(self, real: Sequence[Tensor], samples: Sequence[Tensor]) -> Tensor:
        return row_cosine_distance(real, samples)

    def _train(self, model: HabaModel) -> None:
        """Epochs of online pairing."""
        if not self.inner_epochs:
            return
        generator = self._generator(TRAINING)
        materialized = materialize_if_small(model, self.accelerator.device)
        for _ in range(self.inner_epochs):
            train_an_epoch(
                self.network,
                self.optimizer,
                model,
                INNER_BATCH_SIZE,
                self.training_augmentation,
                generator,
                materialized,
            )

    def _start_network(self, index: int) -> None:
        self.index, self.served = index, 0
        seed = self._generator(WEIGHTS).initial_seed()
        self.network = self.networks(seed).to(self.accelerator.device)
        self.optimizer = self._optimizer()

    def _generator(self, stream: int) -> torch.Generator:
        return seeded_generator(self.arguments.seed, self.index, self.served, stream)

    def _match_class(self, model: HabaModel, label: int, weight: float) -> Tensor:
        """Adds the gradient of `weight` * D of one class to the parameters of `model` and returns D."""
        generator = self._generator(MATCHING + label)
        augmentation = self.matching_augmentation.draw(1, generator)
        members, ids = self.members[label], self.sample_ids_LX[[label]]
        images = self.data.draw_among(members, self.arguments.real_batch_size, generator, self.accelerator.device)
        parameters = list(self.network.parameters())
        classes = torch.full((len(images),), label, device=images.device)
        loss = F.cross_entropy(self.network(DsaAugmentation.apply(images, augmentation)), classes)
        real = torch.autograd.grad(loss, parameters)

        draws = draw_halves(ids, self.arguments.samples_per_class, generator) or (ids,)
        output = model.restore(torch.cat(draws, dim=1).flatten())
        samples, labels, learned = as_leaves(output)
        gradients = []
        for rows in torch.arange(len(samples), device=samples.device).split([draw.shape[1] for draw in draws]):
            loss = F.cross_entropy(self.network(DsaAugmentation.apply(samples[rows], augmentation)), labels[rows])
            gradients.append(torch.autograd.grad(loss, parameters, create_graph=True))
        distance, descended = matched(partial(self._distance, real), gradients)
        hand_on(output, torch.autograd.grad(weight * descended, learned))
        return distance.detach()
