"""LeNet (LeCun et al., 1998) as the dataset-distillation literature uses it (Wang et al., 2018)."""

from torch import nn

from .feature_network import FeatureNetwork, refuse_small_images


class LeNet(FeatureNetwork):
    r"""
    Two 5x5 convolutions with ReLU and 2x2 max pooling, two hidden linear layers of 120 and 84, a linear classifier.

        C(5,6) P - C(5,16) P - linear 120 - linear 84 - linear

    Grey images get 2 pixels of zero padding on each side, so that 28x28 becomes 32x32: 61,706 parameters for 1x28x28
    and 62,006 for 3x32x32 at 10 classes. The first linear layer is as wide as other sizes of images need.

    Args:
        in_channels (`int`): C of the input.
        image_size (`tuple[int, int]`): (H, W) of the input, in pixels.
        num_labels (`int`): classes.

    Raises:
        `ValueError`: if a side is below 16 pixels (12 of a grey image).
    """

    def __init__(self, in_channels: int, image_size: tuple[int, int], num_labels: int):
        super().__init__()
        padding = 2 if in_channels == 1 else 0
        refuse_small_images("LeNet", image_size, 16 - 2 * padding)
        height, width = (((side + 2 * padding - 4) // 2 - 4) // 2 for side in image_size)
        self.blocks = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * height * width, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(84, num_labels)
