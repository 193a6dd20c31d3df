"""Networks that serve as students, experts and adversaries."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from .convnet import ConvNet

__all__ = ["ConvNet", "NetworkArguments", "build_network"]


@dataclass
class NetworkArguments:
    """The network that experts, students of the inner loop and evaluated students are made of."""

    network: Literal["convnet"] = field(default="convnet", metadata={"help": "Architecture."})
    network_depth: int = field(default=3, metadata={"help": "Blocks of the ConvNet, each halving the image."})
    network_width: int = field(default=128, metadata={"help": "Channels of each block."})


def build_network(
    arguments: NetworkArguments, image_shape: tuple[int, int, int], num_labels: int, seed: int
) -> ConvNet:
    """
    A freshly initialized network for images of shape (C, H, W), on the CPU.

    The same seed gives the same weights on every machine and process, and the global random state is left as it was.

    Raises:
        `ValueError`: if the image is too small for the network.
    """
    channels, height, width = image_shape
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return ConvNet(channels, (height, width), num_labels, arguments.network_depth, arguments.network_width)
