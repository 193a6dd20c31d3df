"""ResNet18 (He et al., 2016) with instance normalization, for small images (Zhao et al., 2021)."""

from torch import Tensor, nn
from torch.nn import functional as F

from .feature_network import FeatureNetwork, instance_norm, refuse_small_images


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
            instance_norm(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            instance_norm(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), instance_norm(channels)
            )

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.residual(images) + self.shortcut(images))


class ResNet18(FeatureNetwork):
    """
    A 3x3 stem of stride 1 without pooling, four stages of two blocks with 64, 128, 256 and 512 channels, of which the
    last three halve the image, a global average and a linear classifier.

    11,173,962 parameters for 3x32x32 and 10 classes. Grey images are not padded, unlike in the other networks, as in
    the reference code.

    Args:
        in_channels (`int`): C of the input.
        image_size (`tuple[int, int]`): (H, W) of the input, in pixels.
        num_labels (`int`): classes.

    Raises:
        `ValueError`: if a side is below 9 pixels: the last stage would see single pixels, which instance normalization
            sets to zero.
    """

    def __init__(self, in_channels: int, image_size: tuple[int, int], num_labels: int):
        super().__init__()
        refuse_small_images("ResNet18", image_size, 9)
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, 64, 3, padding=1, bias=False),
            instance_norm(64),
            nn.ReLU(),
        ]
        channels = 64
        for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers += [BasicBlock(channels, width, stride), BasicBlock(width, width, stride=1)]
            channels = width
        self.blocks = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(channels, num_labels)
