r"""Linear gradient matching (Cazenavette, Torralba and Sitzmann, 2025), for students that are linear probes: f are the
features of a pretrained backbone, which stays as it is, and W random linear classifiers of them. The gradient of the
cross-entropy with respect to W is asked to be of one direction on samples and on real images:

    G(W; x, y) = mean_i (softmax(W f(A(x_i))) - y_i) f(A(x_i))^T,
    L_DD = mean_W 1 - cos(G(W; samples), G(W; real)),

with the same siamese augmentation A on both sides. G is written down as it is here, so nothing is second order:
samples get their gradient by one pass back through the backbone. Soft labels are learned along.

The paper draws one W a step; its released settings augment samples in ten ways a step and store them as pyramids. Here
`basis_storage` says how they are stored, and `linear_heads` how many W a step draws: they share the passes through the
backbone, which are what a step takes.

Shape legend: X samples, B real images, H classifiers, L classes, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...artifact.modeling_haba import HabaModel
from ...data.augmentation import DsaAugmentation, DsaParameters
from ...data.image_data import ImageData
from ...networks import NetworkArguments, Probe, build_network
from ...utils.checks import Settings, check_counts
from ...utils.fingerprints import weights_fingerprint
from ..arguments import DistillationArguments
from .leaves import as_leaves, hand_on
from .subsets import check_subset, draw_halves, matched


@dataclass
class LinearGradientMatchingArguments(Settings):
    """Linear gradient matching (linear)."""

    linear_heads: int = field(
        default=1, metadata={"help": "Random linear classifiers a step, which share its passes through the backbone."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "linear_heads")


def classifier_gradients(heads_HLD: Tensor, features_XD: Tensor, labels_XL: Tensor) -> Tensor:
    """Gradients `[H, L, D]` of the mean cross-entropy of `W f`, without a bias, with respect to each W."""
    probabilities_HXL = torch.einsum("hld,xd->hxl", heads_HLD, features_XD).softmax(dim=2)
    return torch.einsum("hxl,xd->hld", probabilities_HXL - labels_XL, features_XD) / len(features_XD)


def cosine_distance(real_HLD: Tensor, estimated: Sequence[Tensor]) -> Tensor:
    """L_DD of gradients `[H, L, D]`, each W's as one vector."""
    (samples_HLD,) = estimated
    return (1 - F.cosine_similarity(real_HLD.flatten(1), samples_HLD.flatten(1), dim=1)).mean()


class LinearGradientMatching:
    """
    Each process draws its own classifiers, real images and augmentation.

    Args:
        network_arguments ([`NetworkArguments`]): `network`, a probe, whose backbone is matched in.
        arguments ([`DistillationArguments`]): `real_batch_size`, `samples_per_class`, `micro_batch_size`, `dsa`,
            `lambda_dd`.
        settings ([`LinearGradientMatchingArguments`]): `linear_heads`.
    """

    learns_student_learning_rate = False

    def __init__(
        self,
        network_arguments: NetworkArguments,
        arguments: DistillationArguments,
        settings: LinearGradientMatchingArguments,
    ):
        self.network_arguments = network_arguments
        self.arguments = arguments
        self.settings = settings
        self.augmentation = DsaAugmentation(arguments.dsa, per_sample=False)

    def prepare(self, real_data: ImageData, model: HabaModel, accelerator: Accelerator) -> None:
        """
        Raises:
            `ValueError`: if the network is no probe, its backbone does not fit the data, or `samples_per_class` is 1
                of several.
            `FileNotFoundError`: if there is no such backbone.
        """
        check_subset(self.arguments.samples_per_class, model.config.samples_per_class)
        sizes = real_data.image_shape, real_data.num_labels
        network = build_network(self.network_arguments, *sizes, seed=0, processor=real_data.processor)
        if not isinstance(network, Probe):
            raise ValueError(
                f"Linear gradient matching is for probes, and {self.network_arguments.network} is none: set network "
                "to probe/<folder or Hub id> of a pretrained vision model of transformers."
            )
        self.backbone = network.backbone.to(accelerator.device)
        self.data = real_data
        self.device = accelerator.device
        self.sample_ids_LX = model.sample_ids_by_class()

    def backward(self, model: HabaModel, generator: torch.Generator) -> dict[str, float]:
        """Adds the gradient of lambda_DD * L_DD to the parameters of `model` and returns what to log."""
        augmentation = self.augmentation.draw(1, generator)
        images, classes = self.data.draw_batch(self.arguments.real_batch_size, generator, self.device)
        with torch.no_grad():
            real_BD = self._features(images, augmentation)
        num_labels, features = self.data.num_labels, self.backbone.num_features
        # Logits are as large as a feature is, of whatever width the backbone is.
        heads_HLD = torch.randn(self.settings.linear_heads, num_labels, features, generator=generator) / features**0.5
        heads_HLD = heads_HLD.to(self.device)
        real_HLD = classifier_gradients(heads_HLD, real_BD, F.one_hot(classes, num_labels).to(real_BD.dtype))

        draws = draw_halves(self.sample_ids_LX, self.arguments.samples_per_class, generator) or (self.sample_ids_LX,)
        output = model.restore(torch.cat(draws, dim=1).flatten())
        samples, labels, learned = as_leaves(output)
        features_XD = self._features(samples, augmentation)
        labels_XL = labels if labels.is_floating_point() else F.one_hot(labels, num_labels).to(features_XD.dtype)
        rows = torch.arange(len(samples), device=self.device).view(num_labels, -1)
        estimates = [
            [classifier_gradients(heads_HLD, features_XD[of_draw.flatten()], labels_XL[of_draw.flatten()])]
            for of_draw in rows.split([draw.shape[1] for draw in draws], dim=1)
        ]
        distance, descended = matched(partial(cosine_distance, real_HLD), estimates)
        hand_on(output, torch.autograd.grad(self.arguments.lambda_dd * descended, learned))
        return {"l_dd": distance.item()}

    def state(self) -> dict[str, Tensor]:
        """Which backbone it is: no step depends on the one before, but all on that."""
        return {"backbone": torch.tensor(list(weights_fingerprint(self.backbone).encode()), dtype=torch.uint8)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """
        Raises:
            `ValueError`: if the run was begun with another backbone.
        """
        if not torch.equal(state["backbone"].cpu(), self.state()["backbone"]):
            raise ValueError(
                f"The checkpoint is of another backbone than {self.network_arguments.network} is now: put back that "
                "one, or choose another output_dir."
            )

    def _features(self, images_XCHW: Tensor, augmentation: DsaParameters) -> Tensor:
        """Features `[X, D]` of augmented images; in micro-batches, they are computed again on the way back."""

        def features_of(images: Tensor) -> Tensor:
            return self.backbone(DsaAugmentation.apply(images, augmentation))

        at_once = self.arguments.micro_batch_size or len(images_XCHW)
        if at_once >= len(images_XCHW):
            return features_of(images_XCHW)
        recomputed = partial(checkpoint, features_of, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([recomputed(part) for part in images_XCHW.split(at_once)])
