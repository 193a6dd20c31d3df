"""AlexCifarNet, the network of "Dataset Distillation" (Wang et al., 2018) for CIFAR-10."""

from torch import nn

from .feature_network import FeatureNetwork, refuse_small_images


class AlexCifarNet(FeatureNetwork):
    r"""
    Two 5x5 convolutions with overlapping max pooling and local response normalization, two hidden linear layers of 384
    and 192, a linear classifier.

        C(5,64) P LRN - C(5,64) LRN P - linear 384 - linear 192 - linear

    1,756,426 parameters for 3x32x32 and 10 classes. The first linear layer is as wide as other sizes of images need.

    Args:
        in_channels (`int`): C of the input.
        image_size (`tuple[int, int]`): (H, W) of the input, in pixels.
        num_labels (`int`): classes.

    Raises:
        `ValueError`: if a side is below 4 pixels.
    """

    def __init__(self, in_channels: int, image_size: tuple[int, int], num_labels: int):
        super().__init__()
        refuse_small_images("AlexCifarNet", image_size, 4)
        height, width = (-(-side // 4) for side in image_size)
        self.blocks = nn.Sequential(
            nn.Conv2d(in_channels, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.LocalResponseNorm(4, alpha=0.001 / 9.0, beta=0.75, k=1),
            nn.Conv2d(64, 64, 5, padding=2),
            nn.ReLU(),
            nn.LocalResponseNorm(4, alpha=0.001 / 9.0, beta=0.75, k=1),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Flatten(),
            nn.Linear(64 * height * width, 384),
            nn.ReLU(),
            nn.Linear(384, 192),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(192, num_labels)
