"""Networks that serve as students, experts and adversaries."""

from dataclasses import dataclass, field

import torch
from torch import nn

from ..utils.checks import MOST_DEPTH, MOST_WIDTH, check_counts
from .alexcifarnet import AlexCifarNet
from .alexnet import AlexNet
from .convnet import ConvNet
from .feature_network import FeatureNetwork
from .lenet import LeNet
from .resnet import ResNet18
from .transformers_classifier import PREFIX, TransformersClassifier, check_model_type
from .vgg import VGG11

__all__ = [
    "NETWORKS",
    "VGG11",
    "AlexCifarNet",
    "AlexNet",
    "ConvNet",
    "FeatureNetwork",
    "LeNet",
    "NetworkArguments",
    "ResNet18",
    "TransformersClassifier",
    "build_feature_network",
    "build_network",
    "check_network_name",
]

# ConvNet's depth and width are settings; the others are one published layout each.
FIXED_LAYOUTS = {
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "resnet18": ResNet18,
    "lenet": LeNet,
    "alexcifarnet": AlexCifarNet,
}
NETWORKS = ("convnet", *FIXED_LAYOUTS)


@dataclass
class NetworkArguments:
    """The network that experts, students of the inner loop and evaluated students are made of."""

    network: str = field(
        default="convnet",
        metadata={
            "help": f"Architecture: {', '.join(NETWORKS)}, or {PREFIX}<model type> for an image classifier of "
            "transformers (resnet, vit, convnext, ...), freshly initialized."
        },
    )
    network_depth: int = field(
        default=3, metadata={"help": "Blocks of the ConvNet, each halving the image; other networks have their own."}
    )
    network_width: int = field(
        default=128, metadata={"help": "Channels of each block of the ConvNet; other networks have their own."}
    )

    def __post_init__(self):
        check_network_name(self.network)
        check_counts(self, "network_width", most=MOST_WIDTH)
        check_counts(self, "network_depth", most=MOST_DEPTH)


def check_network_name(name: str) -> None:
    """
    Raises:
        `ValueError`: if there is no such network; lists those there are.
    """
    if name.startswith(PREFIX):
        check_model_type(name.removeprefix(PREFIX))
    elif name not in NETWORKS:
        raise ValueError(f"There is no network {name!r}: choose {', '.join(NETWORKS)} or {PREFIX}<model type>.")


def build_network(
    arguments: NetworkArguments, image_shape: tuple[int, int, int], num_labels: int, seed: int
) -> nn.Module:
    """
    A freshly initialized network for images of shape (C, H, W), on the CPU. It takes `[B, C, H, W]` to logits `[B,
    num_labels]`.

    The same seed gives the same weights on every machine and process, and the global random state is left as it was.

    Raises:
        `ValueError`: if the image is too small for the network.
    """
    channels, height, width = image_shape
    size, name = (height, width), arguments.network
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if name == "convnet":
            return ConvNet(channels, size, num_labels, arguments.network_depth, arguments.network_width)
        if name in FIXED_LAYOUTS:
            return FIXED_LAYOUTS[name](channels, size, num_labels)
        return TransformersClassifier(name.removeprefix(PREFIX), channels, size, num_labels)


def build_feature_network(
    arguments: NetworkArguments, image_shape: tuple[int, int, int], num_labels: int, seed: int
) -> FeatureNetwork:
    """
    Like [`build_network`], for what needs the network's features as well: objectives, the adversary, coresets.

    Raises:
        `ValueError`: if the network has no features, or the image is too small for it.
    """
    network = build_network(arguments, image_shape, num_labels, seed)
    if not isinstance(network, FeatureNetwork):
        raise ValueError(
            f"The network {arguments.network} has no features for an objective or the adversary to use: choose "
            f"{', '.join(NETWORKS)} to distil with; {PREFIX}<model type> can be evaluated."
        )
    return network
