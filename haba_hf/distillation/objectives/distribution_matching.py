r"""Distribution matching (DM; Zhao and Bilen, WACV 2023): under a random, untrained network phi the mean feature of
the samples of a class is pulled to that of its real images,

    L_DD = sum_c || mean_{x in real_c} phi(A(x)) - mean_{x in samples_c} phi(A(x)) ||^2,

with the same siamese augmentation A on both sides. Nothing is trained and nothing is second order. Soft labels weigh
the samples in the means of classes, and are learned along. A step may take some samples of each class alone.

Shape legend: X samples, n of a class in a step, L classes, D features.
"""

from dataclasses import dataclass, field
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from ...artifact.modeling_haba import HabaModel
from ...data.augmentation import DsaAugmentation, DsaParameters
from ...data.image_data import ImageData
from ...networks import FeatureNetwork, NetworkArguments
from ...utils.checks import Settings
from ...utils.seeds import derived_seed, seeded_generator
from ..arguments import DistillationArguments
from .class_means import class_weights
from .drawn_networks import DrawnNetworks
from .leaves import as_leaves, hand_on
from .subsets import check_subset, draw_samples, squared_distances

# The streams of network i of the bank: its weights, the real images of its means. Evaluated students have others.
NETWORKS, IMAGES = 1, 2
# Samples that go through the network at once; a class is never split, and soft labels take all classes together.
SAMPLES_AT_ONCE = 1024


@dataclass
class DistributionMatchingArguments(Settings):
    """Distribution matching (dm)."""

    network_bank: int = field(
        default=0,
        metadata={
            "help": "0 draws a new network every step (published); n cycles through n networks whose real class "
            "means over real_batch_size images are computed once, without augmentation."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.network_bank < 0:
            raise ValueError(f"network_bank must be 0 or more, got {self.network_bank}.")


class DistributionMatching:
    """
    Args:
        network_arguments ([`NetworkArguments`]): the network phi.
        arguments ([`DistillationArguments`]): `real_batch_size`, `samples_per_class`, `dsa`, `seed`, `lambda_dd`,
            `networks`.
        settings ([`DistributionMatchingArguments`]): `network_bank`.

    With `network_bank` = n, phi is one of n fixed networks, nothing is augmented, and the class means of real images
    are computed once for each network: a step then costs only the samples' own pass.
    """

    learns_student_learning_rate = False

    def __init__(
        self,
        network_arguments: NetworkArguments,
        arguments: DistillationArguments,
        settings: DistributionMatchingArguments,
    ):
        self.network_arguments = network_arguments
        self.arguments = arguments
        self.settings = settings
        self.augmentation = DsaAugmentation("none" if settings.network_bank else arguments.dsa, per_sample=False)

    def prepare(self, real_data: ImageData, model: HabaModel, accelerator: Accelerator) -> None:
        """
        Raises:
            `ValueError`: if `samples_per_class` is 1 of several, or given with soft labels, or a network has no
                features.
        """
        of_class, soft = model.config.samples_per_class, model.label_logits is not None
        check_subset(self.arguments.samples_per_class, of_class, soft)
        self.data = real_data
        self.device = accelerator.device
        self.members = real_data.train.of_classes(real_data.num_labels)
        self.sample_ids_LX = model.sample_ids_by_class().to(self.device)
        sizes = (real_data.image_shape, real_data.num_labels)
        self.networks = DrawnNetworks(self.network_arguments, self.arguments, *sizes, features=True)
        self.bank: dict[int, tuple[FeatureNetwork, Tensor]] = {}

    def backward(self, model: HabaModel, generator: torch.Generator) -> dict[str, float]:
        """Adds the gradient of lambda_DD * L_DD to the parameters of `model` and returns what to log."""
        if self.settings.network_bank:
            index = int(torch.randint(self.settings.network_bank, (), generator=generator))
            if index not in self.bank:
                self.bank[index] = self._banked(index)
            network, means_LD = self.bank[index]
            augmentations = [self.augmentation.draw(1, generator)] * len(self.members)
        else:
            network = self._network(int(torch.randint(2**31 - 1, (), generator=generator)))
            augmentations = [self.augmentation.draw(1, generator) for _ in self.members]
            means_LD = self._real_means(network, augmentations, generator)

        drawn_Ln = draw_samples(self.sample_ids_LX, self.arguments.samples_per_class, generator)
        output = model() if drawn_Ln is self.sample_ids_LX else model.restore(drawn_Ln.flatten())
        samples, labels, learned = as_leaves(output)
        soft = labels.requires_grad
        num_classes, per_class = drawn_Ln.shape
        rows_Ln = torch.arange(drawn_Ln.numel(), device=self.device).view_as(drawn_Ln)
        at_once = num_classes if soft else max(SAMPLES_AT_ONCE // per_class, 1)
        total = 0.0
        for classes in torch.arange(num_classes).split(at_once):
            ids = rows_Ln[classes]
            x = torch.cat(
                [
                    DsaAugmentation.apply(samples[rows], augmentations[label])
                    for label, rows in zip(classes.tolist(), ids, strict=True)
                ]
            )
            features_XD = network.features(x)
            if soft:
                sample_means = class_weights(labels[ids.flatten()], num_classes, samples.dtype) @ features_XD
                loss = (means_LD[classes] - sample_means).square().sum()
            else:
                features_LnD = features_XD.unflatten(0, (len(classes), per_class))
                loss = squared_distances(means_LD[classes], features_LnD, self.sample_ids_LX.shape[1]).sum()
            loss.backward()
            total += loss.item()
        hand_on(output, [self.arguments.lambda_dd * cast(Tensor, leaf.grad) for leaf in learned])
        return {"l_dd": total}

    def state(self) -> dict[str, Tensor]:
        """Empty: no step depends on the one before."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to put back."""

    def _network(self, seed: int) -> FeatureNetwork:
        return cast(FeatureNetwork, self.networks(seed)).to(self.device).requires_grad_(False)

    def _banked(self, index: int) -> tuple[FeatureNetwork, Tensor]:
        network = self._network(derived_seed(self.arguments.seed, index, 0, NETWORKS))
        generator = seeded_generator(self.arguments.seed, index, 0, IMAGES)
        augmentations = [self.augmentation.draw(1, generator)] * len(self.members)
        return network, self._real_means(network, augmentations, generator)

    @torch.no_grad()
    def _real_means(
        self, network: FeatureNetwork, augmentations: list[DsaParameters], generator: torch.Generator
    ) -> Tensor:
        """Mean feature of `real_batch_size` augmented real images of each class, `[L, D]`."""
        means = []
        for members, augmentation in zip(self.members, augmentations, strict=True):
            images = self.data.draw_among(members, self.arguments.real_batch_size, generator, self.device)
            means.append(network.features(DsaAugmentation.apply(images, augmentation)).mean(dim=0))
        return torch.stack(means)
