"""Networks whose features can be asked for: what some objectives, the adversary and coresets need."""

import torch
from torch import Tensor, nn


class FeatureNetwork(nn.Module):
    """
    A network that is one linear classifier over the features that its blocks give. Subclasses define both.

    A class and not a protocol: it is an `nn.Module` as well, and `isinstance` tells it from one without features.
    """

    blocks: nn.Sequential
    classifier: nn.Linear

    def features(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` to the flattened features `[B, D]` that the classifier sees."""
        return torch.flatten(self.blocks(images), 1)

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` to logits `[B, num_labels]`."""
        return self.classifier(self.features(images))


def instance_norm(channels: int) -> nn.GroupNorm:
    """Instance normalization with affine parameters, as one group per channel."""
    return nn.GroupNorm(channels, channels)


def refuse_small_images(name: str, image_size: tuple[int, int], smallest: int) -> None:
    """
    Raises:
        `ValueError`: if a side of the image is below `smallest` pixels.
    """
    if min(image_size) < smallest:
        raise ValueError(
            f"{name} needs images of {smallest}x{smallest} pixels or more, got {image_size[0]}x{image_size[1]}: "
            "resize the images, or choose another network."
        )
