"""The ConvNet of the dataset-distillation literature (Gidaris and Komodakis, 2018; Zhao et al., 2021)."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .convolution import convolution
from .cpu_kernels import average_pool, first_block, normalized_convolution, normalized_pool
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
        self.depth = depth
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
        if images.device.type != "cpu":
            return torch.flatten(self.blocks(images), 1)
        x = first_block(images, *self._block(0), self.padding)
        for block in range(1, self.depth):
            conv, norm = self._block(block)
            x = normalized_pool(convolution(x, conv), norm)
        return torch.flatten(x, 1)

    def layer_features(self, images: Tensor) -> list[Tensor]:
        """
        `[B, C, H, W]` to what each block's ReLU gives, `[B, width, H', W']` before it is pooled, from the first block
        to the last, and then the features `[B, D]`: `depth` + 1 tensors.
        """
        on_cpu = images.device.type == "cpu"
        layers, x = [], images
        for block in range(self.depth):
            conv, norm = self._block(block)
            if on_cpu and block == 0:
                normalized = normalized_convolution(x, conv, norm, self.padding)
            else:
                normalized = norm(conv(x))
            layers.append(F.relu(normalized))
            x = average_pool(layers[-1]) if on_cpu else F.avg_pool2d(layers[-1], 2)
        return [*layers, torch.flatten(x, 1)]

    def _block(self, block: int) -> tuple[nn.Conv2d, nn.GroupNorm]:
        """Convolution and normalization of a block."""
        conv, norm = self.blocks[4 * block : 4 * block + 2]
        return cast(nn.Conv2d, conv), cast(nn.GroupNorm, norm)
