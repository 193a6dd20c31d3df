"""Configs of artifacts of the paper's data sets."""

from haba_hf import HabaConfig

# (num_labels, C, H, W)
MNIST, CIFAR10, CIFAR100 = (10, 1, 28, 28), (10, 3, 32, 32), (100, 3, 32, 32)
IMAGENET10, SPEECH = (10, 3, 128, 128), (8, 1, 64, 64)


def make_config(shape, bases_per_class=1, **kwargs):
    num_labels, channels, height, width = shape
    return HabaConfig(
        num_labels=num_labels,
        bases_per_class=bases_per_class,
        sample_channels=channels,
        sample_height=height,
        sample_width=width,
        **kwargs,
    )
