"""The ConvNet of the dataset-distillation literature (Gidaris and Komodakis, 2018; Zhao et al., 2021)."""

import torch
from torch import Tensor, nn

from .feature_network import FeatureNetwork, instance_norm


class ConvNet(FeatureNetwork):
    r"""
    `depth` blocks of 3x3 convolution, instance normalization, ReLU and 2x2 average pooling, then a linear classifier.

    Grey images get 2 extra pixels of zero padding on each side in the first convolution, so that 28x28 becomes 32x32,
    as in the reference networks: 317,706 parameters for 1x28x28 and 320,010 for 3x32x32 at depth 3, width 128 and 10
    classes.

    Args:
        in_channels (`int`): C of the input.
        image_size (`tuple[int, int]`): (H, W) of the input, in pixels.
        num_labels (`int`): classes.
        depth (`int`, *optional*, defaults to 3): blocks.
        width (`int`, *optional*, defaults to 128): channels of each block.

    Raises:
        `ValueError`: if depth or width is below 1, or the image is too small to be halved `depth` times.
    """

    def __init__(
        self, in_channels: int, image_size: tuple[int, int], num_labels: int, depth: int = 3, width: int = 128
    ):
        super().__init__()
        if depth < 1 or width < 1:
            raise ValueError(f"A ConvNet needs network_depth and network_width of 1 or more, got {depth} and {width}.")
        extra = 2 if in_channels == 1 else 0
        padded = [side + 2 * extra for side in image_size]
        height, width_out = (side // 2**depth for side in padded)
        if min(height, width_out) < 1:
            deepest = min(padded).bit_length() - 1
            advice = f"use network_depth {deepest} or less, or " if deepest else ""
            raise ValueError(
                f"A ConvNet of depth {depth} halves its input {depth} times, too often for "
                f"{image_size[0]}x{image_size[1]} images: {advice}resize the images."
            )
        blocks: list[nn.Module] = []
        channels = in_channels
        for block in range(depth):
            blocks += [
                nn.Conv2d(channels, width, 3, padding=1 + (extra if block == 0 else 0)),
                instance_norm(width),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width * height * width_out, num_labels)

    def features(self, images: Tensor) -> Tensor:
        return torch.flatten(self.blocks(images), 1)
