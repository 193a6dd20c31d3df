"""The ConvNet of the dataset-distillation literature (Gidaris and Komodakis, 2018; Zhao et al., 2021)."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .convolution import convolution
from .cpu_kernels import average_pool, normalized_convolution
from .feature_network import FeatureNetwork, instance_norm

BLOCK = 4  # modules of a block: convolution, normalization, ReLU, pooling


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
        self.padding = 1 + extra  # of the first convolution
        blocks: list[nn.Module] = []
        channels = in_channels
        for block in range(depth):
            blocks += [
                nn.Conv2d(channels, width, 3, padding=self.padding if block == 0 else 1),
                instance_norm(width),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width * height * width_out, num_labels)

    def features(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` to the flattened features `[B, D]` that the classifier sees."""
        for layer in self._layers(images):
            features = layer
        return features

    def layer_features(self, images: Tensor) -> list[Tensor]:
        """
        `[B, C, H, W]` to what each block's ReLU gives, `[B, width, H', W']` before it is pooled, from the first block
        to the last, and then the features `[B, D]`: `depth` + 1 tensors.
        """
        return list(self._layers(images))

    def _layers(self, x: Tensor) -> Iterator[Tensor]:
        """The layers of `layer_features`: `self.blocks(x)` module by module, on a CPU by the kernels that suit it."""
        on_cpu = x.device.type == "cpu"
        for first in range(0, len(self.blocks), BLOCK):
            conv, norm = cast(nn.Conv2d, self.blocks[first]), cast(nn.GroupNorm, self.blocks[first + 1])
            if on_cpu and first == 0:
                normalized = normalized_convolution(x, conv, norm, self.padding)
            else:
                normalized = norm(convolution(x, conv) if on_cpu else conv(x))
            activated = F.relu(normalized)
            yield activated
            x = average_pool(activated) if on_cpu else F.avg_pool2d(activated, 2)
        yield torch.flatten(x, 1)
