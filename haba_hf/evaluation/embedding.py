"""Where samples lie among real images (supplement, Fig. 3): t-SNE of a teacher's features.

Shape legend: P points, C/H/W of an image, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..artifact.modeling_haba import HabaModel
from ..data import ImageData
from ..data.splits import images_at_once
from ..networks import FeatureNetwork
from ..utils.checks import Settings, check_counts, check_positive
from ..utils.seeds import seeded_generator

REAL = -1  # the source of a real image; a sample's is its hallucinator, or 0 where there is none


@dataclass
class EmbeddingArguments(Settings):
    """Samples beside real images in the plane."""

    embedded_classes: list[int] = field(
        default_factory=lambda: [0], metadata={"help": "Classes embedded, by number.", "result": False}
    )
    embedded_images: int = field(
        default=200, metadata={"help": "Real images of each class embedded beside the samples.", "result": False}
    )
    perplexity: float = field(
        default=30.0, metadata={"help": "t-SNE: neighbours that a point is held close to.", "result": False}
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.embedded_classes:
            raise ValueError("embedded_classes names no class: give at least one number.")
        check_counts(self, "embedded_images")
        check_positive(self, "perplexity")


@dataclass
class Embedding:
    """
    Real images and samples in the plane.

    Args:
        points (`torch.Tensor`): float32 `[P, 2]`.
        labels (`torch.Tensor`): int64 `[P]`, classes.
        sources (`torch.Tensor`): int64 `[P]`, the hallucinator of a sample, `REAL` of a real image.
    """

    points: Tensor
    labels: Tensor
    sources: Tensor


def embed_samples(
    model: HabaModel,
    data: ImageData,
    teacher: FeatureNetwork,
    classes: Sequence[int],
    images_per_class: int,
    perplexity: float,
    seed: int,
) -> Embedding:
    """
    Embeds all samples of some classes and random training images of the same classes together.

    Args:
        model ([`HabaModel`]): the artifact.
        data ([`ImageData`]): the real data; its processor must be the artifact's.
        teacher ([`FeatureNetwork`]): trained on the real data; its device is used.
        classes (`Sequence[int]`): class numbers.
        images_per_class (`int`): real images of each class, or all where a class has fewer.
        perplexity (`float`): of t-SNE.
        seed (`int`): of the real images and of t-SNE.

    Raises:
        `ValueError`: if there is no such class, there are too few points for the perplexity, or real images and
            samples live in different spaces.
    """
    data.processor.check_fits(model.config)
    for label in classes:
        if not 0 <= label < data.num_labels:
            raise ValueError(
                f"There is no class {label}: embedded_classes are numbers from 0 to {data.num_labels - 1}."
            )
    generator = seeded_generator(seed)
    members = [data.train.of_class(label) for label in classes]
    chosen = torch.cat([rows[torch.randperm(len(rows), generator=generator)[:images_per_class]] for rows in members])
    samples, labels, sources = _samples(model)
    shown = torch.isin(labels, torch.tensor(classes)).nonzero().flatten()
    images_PCHW = torch.cat([data.processor.normalize(data.train.images[chosen]), samples[shown]])
    if not perplexity < len(images_PCHW):
        raise ValueError(
            f"t-SNE of {len(images_PCHW)} points needs a perplexity below that, got {perplexity:g}: lower perplexity, "
            "or raise embedded_images."
        )
    features_PD = _features(teacher, images_PCHW)
    from sklearn.manifold import TSNE  # here, since no other command needs what takes a second to import

    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return Embedding(
        points=torch.from_numpy(tsne.fit_transform(features_PD.numpy())).float(),
        labels=torch.cat([data.train.labels[chosen], labels[shown]]),
        sources=torch.cat([torch.full((len(chosen),), REAL), sources[shown]]),
    )


def _samples(model: HabaModel) -> tuple[Tensor, Tensor, Tensor]:
    """All samples in float32, their classes and their hallucinators."""
    output = model.materialize()
    labels = model.class_ids[output.basis_ids]
    sources = torch.zeros_like(labels) if output.hallucinator_ids is None else output.hallucinator_ids
    return output["samples"].float().cpu(), labels.cpu(), sources.cpu()


@torch.no_grad()
def _features(teacher: FeatureNetwork, images_PCHW: Tensor) -> Tensor:
    device = next(teacher.parameters()).device
    was_training = teacher.training
    teacher.eval()
    batches = images_PCHW.split(images_at_once(images_PCHW.shape))
    features = [teacher.features(batch.to(device)).cpu() for batch in batches]
    teacher.train(was_training)
    return torch.cat(features)
