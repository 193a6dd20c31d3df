"""VGG11 (Simonyan and Zisserman, 2015) with instance normalization, for small images (Zhao et al., 2021)."""

from torch import nn

from .feature_network import FeatureNetwork, instance_norm, refuse_small_images

POOL = 0
VGG11_CHANNELS = (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL)


class VGG11(FeatureNetwork):
    """
    Eight blocks of 3x3 convolution, instance normalization and ReLU, five of them followed by 2x2 max pooling, then a
    global average and a linear classifier.

    9,231,114 parameters for 3x32x32 and 10 classes. Grey images get 2 extra pixels of zero padding on each side, so
    that 28x28 becomes 32x32. The global average of HaBa's released networks lets larger sizes in; it changes nothing
    at 32x32.

    Args:
        in_channels (`int`): C of the input.
        image_size (`tuple[int, int]`): (H, W) of the input, in pixels.
        num_labels (`int`): classes.

    Raises:
        `ValueError`: if a side is below 32 pixels (28 of a grey image), too few to be halved five times.
    """

    def __init__(self, in_channels: int, image_size: tuple[int, int], num_labels: int):
        super().__init__()
        extra = 2 if in_channels == 1 else 0
        refuse_small_images("VGG11", image_size, 32 - 2 * extra)
        layers: list[nn.Module] = []
        channels = in_channels
        for width in VGG11_CHANNELS:
            if width == POOL:
                layers.append(nn.MaxPool2d(2))
                continue
            padding = 1 if layers else 1 + extra
            layers += [nn.Conv2d(channels, width, 3, padding=padding), instance_norm(width), nn.ReLU()]
            channels = width
        self.blocks = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(channels, num_labels)
