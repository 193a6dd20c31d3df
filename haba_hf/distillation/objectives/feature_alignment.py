r"""Feature alignment (CAFE; Wang et al., CVPR 2022): in every layer of a half-trained network the mean feature of the
samples of a class is pulled to that of its real images, and the samples' last features are to tell real images apart:

    L_DD = sum_l w_l sum_c || mean real f_l - mean samples f_l ||^2
           + beta sum_{x real} CE( < f_last(x), mean samples f_last of each class >, class of x ).

Layers are each block's ReLU before pooling and the features the classifier sees. Published for three blocks are the
weights 0.1, 0.1, 1 and 1, the last features once more when flattened; for any depth this reads: the last block's ReLU
1, those before it 0.1, the last features 2. Sums of squares are not divided by sizes, as published.

Two loops steer the network, in the paper by its accuracy on real images. Outer: one step of the samples after another,
until the last 10 accuracies lie within `outer_range` (0.04); then a new network. Inner, between two steps: epochs on
the samples until the last 10 accuracies spread by more than `inner_range` (0.03). The released code adds each accuracy
to what is left of the one before, since it never resets the sum: its inner loop always ends after 10 epochs, and a
network serves some 20 steps. Fixed numbers, `epochs_per_step` 10 and `steps_per_network` 20, are the default here;
`none` in their place is the paper's rule, with the accuracy of the network at that moment, and `max_inner_epochs` for
a network that stands still. The released cross-entropy of real images, which has no gradient with respect to samples,
is left out.

With siamese augmentation (`dsa`), the same for samples and real images of a class, this is CAFE+DSA. Published
settings: SGD with rate 0.1 and momentum 0.5, halved after 1,200, 1,600 and 1,800 of 2,000 networks (here steps are
counted), 256 real images of each class, 128 to be scored on, samples that start as N(0, 1), batches of 256 samples in
the inner loop.

Shape legend: n images, X samples, L classes, D features of a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from ...artifact.modeling_haba import HabaModel
from ...artifact.pairing import materialize_if_small
from ...data.augmentation import DsaAugmentation, DsaParameters
from ...data.image_data import ImageData
from ...networks import ConvNet, NetworkArguments, build_network
from ...utils.checks import Settings, check_counts
from ...utils.seeds import derived_seed, seeded_generator
from ..arguments import DistillationArguments
from .class_means import class_weights
from .inner_loop import train_an_epoch
from .leaves import as_leaves, hand_on
from .subsets import check_subset, draw_halves, matched

# Streams of random numbers that all processes share, beside the distiller's (seed, step, rank).
NETWORKS, STEPS = 1, 2


@dataclass
class FeatureAlignmentArguments(Settings):
    """Feature alignment (cafe)."""

    steps_per_network: int | None = field(
        default=20, metadata={"help": "Steps before a new network; none: until the range of accuracies is small."}
    )
    epochs_per_step: int | None = field(
        default=10,
        metadata={"help": "Epochs of the network on the samples between two steps; none: until the range is large."},
    )
    query_batch_size: int = field(
        default=128, metadata={"help": "Real images of each class that the inner network is scored on."}
    )
    accuracy_window: int = field(
        default=10, metadata={"help": "Accuracies whose range, largest less smallest, steers the two loops."}
    )
    outer_range: float = field(
        default=0.04, metadata={"help": "A new network once the range over steps is below this."}
    )
    inner_range: float = field(
        default=0.03,
        metadata={"help": "The inner network is trained until the range over epochs is above this."},
    )
    max_inner_epochs: int = field(
        default=100, metadata={"help": "Epochs after which a network that stands still is left as it is."}
    )
    discrimination_weight: float = field(default=0.01, metadata={"help": "Weight of the discrimination loss."})

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "steps_per_network", "epochs_per_step", "query_batch_size", "accuracy_window")
        check_counts(self, "max_inner_epochs")


class FeatureAlignment:
    """
    Class means of samples are weighted by their labels, so soft labels are learned along; hard labels give the plain
    mean of a class. All processes hold the same network, share the work of scoring it, and draw their own real images
    and augmentation to align with.

    Args:
        network_arguments ([`NetworkArguments`]): the network.
        arguments ([`DistillationArguments`]): `real_batch_size`, `samples_per_class`, `student_batch_size` (bases of a
            training step), `inner_learning_rate`, `dsa`, `seed`, `lambda_dd`.
        settings ([`FeatureAlignmentArguments`]): the two loops, and the weight of the discrimination loss.

    Raises:
        `ValueError`: if the network is not a ConvNet.
    """

    learns_student_learning_rate = False

    def __init__(
        self,
        network_arguments: NetworkArguments,
        arguments: DistillationArguments,
        settings: FeatureAlignmentArguments,
    ):
        if network_arguments.network != "convnet":
            raise ValueError(
                f"Feature alignment (cafe) aligns the blocks of a ConvNet, not of {network_arguments.network}: set "
                "network to convnet."
            )
        self.network_arguments = network_arguments
        self.arguments = arguments
        self.settings = settings
        self.augmentation = DsaAugmentation(arguments.dsa, per_sample=False)
        self.inner_augmentation = DsaAugmentation(arguments.dsa, per_sample=True)

    def prepare(self, real_data: ImageData, model: HabaModel, accelerator: Accelerator) -> None:
        """
        Raises:
            `ValueError`: if `samples_per_class` is 1 of several, or given with soft labels.
        """
        of_class, soft = model.config.samples_per_class, model.label_logits is not None
        check_subset(self.arguments.samples_per_class, of_class, soft)
        self.data = real_data
        self.accelerator = accelerator
        self.device = accelerator.device
        self.members = real_data.train.of_classes(real_data.num_labels)
        self.sample_ids_LX = model.sample_ids_by_class().to(self.device)
        self.steps = self.networks = 0
        self.network: ConvNet | None = None
        self.accuracies: list[float] = []

    def backward(self, model: HabaModel, generator: torch.Generator) -> dict[str, float]:
        """Adds the gradient of lambda_DD * L_DD to the parameters of `model` and returns what to log."""
        shared = seeded_generator(self.arguments.seed, self.steps, 0, STEPS)
        self.steps += 1
        inner_epochs = 0
        if self.network is None:
            self.network = self._network(derived_seed(self.arguments.seed, self.networks, 0, NETWORKS))
            self.networks += 1
        else:  # the samples have moved since: now the network follows
            inner_epochs = self._train(self.network, model, shared)
        logs = {"l_dd": self._align(self.network, model, generator), "inner_epochs": float(inner_epochs)}
        if self.settings.steps_per_network is not None:
            if self.steps % self.settings.steps_per_network == 0:
                self.network = None
            return logs
        logs["inner_accuracy"] = self._accuracy(self.network, shared)
        self.accuracies.append(logs["inner_accuracy"])
        if len(self.accuracies) == self.settings.accuracy_window:
            if max(self.accuracies) - min(self.accuracies) < self.settings.outer_range:
                self.network, self.accuracies = None, []
            else:
                self.accuracies.pop(0)
        return logs

    def state(self) -> dict[str, Tensor]:
        """The half-trained network, if there is one, and the accuracies that steer it."""
        network = {} if self.network is None else self.network.state_dict()
        return {
            "counts": torch.tensor([self.steps, self.networks]),
            "accuracies": torch.tensor(self.accuracies, dtype=torch.float64),
            **{f"network.{name}": value for name, value in network.items()},
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.steps, self.networks = state["counts"].tolist()
        self.accuracies = state["accuracies"].tolist()
        prefix = "network."
        weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        self.network = self._network(seed=0) if weights else None
        if self.network is not None:
            self.network.load_state_dict(weights)

    def _network(self, seed: int) -> ConvNet:
        network = build_network(self.network_arguments, self.data.image_shape, self.data.num_labels, seed)
        assert isinstance(network, ConvNet)  # `__init__` refused the others
        return network.to(self.device)

    def _align(self, network: ConvNet, model: HabaModel, generator: torch.Generator) -> float:
        """L_DD, and its gradient into the parameters of `model`."""
        augmentations = [self.augmentation.draw(1, generator) for _ in self.members]
        real_means, real_features_nD, real_labels_n = self._real_features(network, augmentations, generator)

        halves = draw_halves(self.sample_ids_LX, self.arguments.samples_per_class, generator)
        draws = (self.sample_ids_LX,) if halves is None else halves
        output = model() if halves is None else model.restore(torch.cat([draw.flatten() for draw in draws]))
        samples, labels, learned = as_leaves(output)
        rows = torch.arange(len(samples), device=self.device).split([draw.numel() for draw in draws])
        means = [
            self._sample_means(network, samples, labels, of_draw.view_as(draw), augmentations)
            for of_draw, draw in zip(rows, draws, strict=True)
        ]

        def loss_of(means: Sequence[Tensor]) -> Tensor:
            return alignment_loss(real_means, means) + self.settings.discrimination_weight * discrimination_loss(
                real_features_nD, real_labels_n, means[-1]
            )

        loss, descended = matched(loss_of, means)
        gradients = torch.autograd.grad(descended, learned)
        hand_on(output, [self.arguments.lambda_dd * gradient for gradient in gradients])
        return loss.item()

    def _sample_means(
        self, network: ConvNet, samples: Tensor, labels: Tensor, rows_LX: Tensor, augmentations: list[DsaParameters]
    ) -> list[Tensor]:
        """Class means `[L, D]` of each layer over some rows of the samples, class by class."""
        augmented = [
            DsaAugmentation.apply(samples[rows], augmentation)
            for rows, augmentation in zip(rows_LX, augmentations, strict=True)
        ]
        weights_LX = class_weights(labels[rows_LX.flatten()], len(self.members), samples.dtype)
        return [weights_LX @ layer.flatten(1) for layer in network.layer_features(torch.cat(augmented))]

    @torch.no_grad()
    def _real_features(
        self, network: ConvNet, augmentations: list[DsaParameters], generator: torch.Generator
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Class means `[L, D]` of each layer, and the last features `[n, D]` of all images with their labels `[n]`."""
        means: list[list[Tensor]] = []
        features, labels = [], []
        for label, (members, augmentation) in enumerate(zip(self.members, augmentations, strict=True)):
            images = self.data.draw_among(members, self.arguments.real_batch_size, generator, self.device)
            layers = network.layer_features(DsaAugmentation.apply(images, augmentation))
            means.append([layer.flatten(1).mean(dim=0) for layer in layers])
            features.append(layers[-1])
            labels.append(torch.full((len(images),), label, device=self.device))
        means_of_layers = [torch.stack(of_classes) for of_classes in zip(*means, strict=True)]
        return means_of_layers, torch.cat(features), torch.cat(labels)

    def _train(self, network: ConvNet, model: HabaModel, generator: torch.Generator) -> int:
        """The inner loop; returns its epochs."""
        arguments, settings = self.arguments, self.settings
        optimizer = torch.optim.SGD(network.parameters(), lr=arguments.inner_learning_rate)
        batch_size = arguments.student_batch_size or model.config.epoch_samples
        materialized = materialize_if_small(model)
        accuracies: list[float] = []
        for epoch in range(1, (settings.epochs_per_step or settings.max_inner_epochs) + 1):
            train_an_epoch(network, optimizer, model, batch_size, self.inner_augmentation, generator, materialized)
            if settings.epochs_per_step is None:
                accuracies = [*accuracies, self._accuracy(network, generator)][-settings.accuracy_window :]
                spread = max(accuracies) - min(accuracies)
                if len(accuracies) == settings.accuracy_window and spread > settings.inner_range:
                    return epoch
        return epoch

    @torch.no_grad()
    def _accuracy(self, network: ConvNet, generator: torch.Generator) -> float:
        """Mean over classes of the accuracy on `query_batch_size` real images of each, one process a class."""
        accuracy_L = torch.zeros(len(self.members), device=self.device)
        for label, members in enumerate(self.members):
            chosen = members[torch.randperm(len(members), generator=generator)[: self.settings.query_batch_size]]
            if label % self.accelerator.num_processes == self.accelerator.process_index:
                images = self.data.normalized(chosen, self.device)
                accuracy_L[label] = (network(images).argmax(dim=1) == label).float().mean()
        # The same number on every process, whose loops must not part.
        return self.accelerator.reduce(accuracy_L, reduction="sum").mean().item()


def layer_weights(depth: int) -> list[float]:
    """The weights w_l of `depth` ReLUs and the last features."""
    return [*[0.1] * (depth - 1), 1.0, 2.0]


def alignment_loss(real_means: Sequence[Tensor], means: Sequence[Tensor]) -> Tensor:
    """The weighted sum over layers of the squared distances of class means `[L, D]`."""
    weights = layer_weights(len(means) - 1)
    distances = [(real - mean).square().sum() for real, mean in zip(real_means, means, strict=True)]
    return torch.stack([weight * distance for weight, distance in zip(weights, distances, strict=True)]).sum()


def discrimination_loss(real_features_nD: Tensor, real_labels_n: Tensor, means_LD: Tensor) -> Tensor:
    """Cross-entropy, summed, of real images classified by the inner product with the samples' class means."""
    return F.cross_entropy(real_features_nD @ means_LD.T, real_labels_n, reduction="sum")
