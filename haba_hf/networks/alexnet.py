"""AlexNet as the dataset-distillation literature sizes it for small images (Zhao et al., 2021)."""

from torch import nn

from .feature_network import FeatureNetwork, refuse_small_images


class AlexNet(FeatureNetwork):
    r"""
    Five convolutions, three of them followed by 2x2 max pooling, without normalization, and a linear classifier.

        C(5,128) P - C(5,192) P - C(3,256) - C(3,192) - C(3,192) P - pool to 4x4 - linear

    1,872,202 parameters for 3x32x32 and 10 classes. Grey images get 2 extra pixels of zero padding on each side, so
    that 28x28 becomes 32x32. The adaptive pooling of HaBa's released networks lets other sizes in; it changes nothing
    at 32x32.

    Args:
        in_channels (`int`): C of the input.
        image_size (`tuple[int, int]`): (H, W) of the input, in pixels.
        num_labels (`int`): classes.

    Raises:
        `ValueError`: if a side is below 8 pixels (4 of a grey image).
    """

    def __init__(self, in_channels: int, image_size: tuple[int, int], num_labels: int):
        super().__init__()
        extra = 2 if in_channels == 1 else 0
        refuse_small_images("AlexNet", image_size, 8 - 2 * extra)
        self.blocks = nn.Sequential(
            nn.Conv2d(in_channels, 128, 5, padding=2 + extra),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 192, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(192, 192, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(4),
        )
        self.classifier = nn.Linear(192 * 4 * 4, num_labels)
