"""Networks that serve as students, experts and adversaries."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..artifact.loading import HabaProcessor
from ..utils.checks import MOST_DEPTH, MOST_WIDTH, Settings, check_counts
from .alexcifarnet import AlexCifarNet
from .alexnet import AlexNet
from .convnet import ConvNet
from .feature_network import FeatureNetwork
from .lenet import LeNet
from .probe import PROBE, Probe
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
    "Probe",
    "ResNet18",
    "TransformersClassifier",
    "build_feature_network",
    "build_network",
    "check_network_name",
    "logits_of",
    "register_network",
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

# (C, H, W) and the number of classes to a freshly initialized network, which takes images to logits.
NetworkFactory = Callable[[tuple[int, int, int], int], nn.Module]
_registered: dict[str, NetworkFactory] = {}


def register_network(name: str, factory: NetworkFactory) -> None:
    """
    Makes a network of your own known by a name, which then works wherever a network is named: `network="mine"`,
    `architectures=["mine"]`. To be distilled with, it has to be a [`FeatureNetwork`]: a method `features`, `[B, C, H,
    W]` to `[B, D]`, and a linear `classifier` of them.

    Args:
        name (`str`): how recipes call it. A registered name is replaced.
        factory (`Callable[[tuple[int, int, int], int], nn.Module]`): given image shape (C, H, W) and number of
            classes, makes the network; it is called with torch's generator seeded, on the CPU.

    Raises:
        `ValueError`: if the name is that of a network of this package.
    """
    if name in NETWORKS or name.startswith((PREFIX, PROBE)):
        raise ValueError(f"{name} is a network of haba_hf: give yours another name.")
    _registered[name] = factory


@dataclass
class NetworkArguments(Settings):
    """The network that experts, students of the inner loop and evaluated students are made of."""

    network: str = field(
        default="convnet",
        metadata={
            "help": f"Architecture: {', '.join(NETWORKS)}, or {PREFIX}<model type> for an image classifier of "
            "transformers (resnet, vit, convnext, ...), freshly initialized, or "
            f"{PROBE}<folder or Hub id> for a linear classifier over a frozen pretrained vision model of transformers."
        },
    )
    network_depth: int = field(
        default=3, metadata={"help": "Blocks of the ConvNet, each halving the image; other networks have their own."}
    )
    network_width: int = field(
        default=128, metadata={"help": "Channels of each block of the ConvNet; other networks have their own."}
    )

    def __post_init__(self):
        super().__post_init__()
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
    elif name.startswith(PROBE):
        if not name.removeprefix(PROBE).strip():
            raise ValueError(f"A probe is of a pretrained model: name its folder or Hub id, as in {PROBE}me/model.")
    elif name not in NETWORKS and name not in _registered:
        known = ", ".join((*NETWORKS, *_registered))
        raise ValueError(
            f"There is no network {name!r}: choose {known}, {PREFIX}<model type> or {PROBE}<folder or Hub id>, or "
            "make yours known by register_network."
        )


def build_network(
    arguments: NetworkArguments,
    image_shape: tuple[int, int, int],
    num_labels: int,
    seed: int,
    processor: HabaProcessor | None = None,
) -> nn.Module:
    """
    A freshly initialized network for images of shape (C, H, W), on the CPU. It takes `[B, C, H, W]` to logits `[B,
    num_labels]`.

    The same seed gives the same weights on every machine and process, and the global random state is left as it was.

    Args:
        processor ([`HabaImageProcessor`], *optional*): of the images, for a probe, whose backbone is of another space.

    Raises:
        `ValueError`: if the image is too small for the network, or it is a probe and there is no processor, or its
            backbone is unfit.
        `FileNotFoundError`: if there is no such backbone.
    """
    channels, height, width = image_shape
    size, name = (height, width), arguments.network
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if name == "convnet":
            return ConvNet(channels, size, num_labels, arguments.network_depth, arguments.network_width)
        if name in FIXED_LAYOUTS:
            return FIXED_LAYOUTS[name](channels, size, num_labels)
        if name in _registered:
            return _registered[name](image_shape, num_labels)
        if name.startswith(PROBE):
            if processor is None:
                raise ValueError(
                    f"{name} is a probe, whose backbone needs the processor of the images: by objective linear and in "
                    "evaluations it is given, train_student and build_network take it, and all else needs another "
                    "network."
                )
            return Probe(name.removeprefix(PROBE), image_shape, num_labels, processor)
        return TransformersClassifier(name.removeprefix(PREFIX), channels, size, num_labels)


def build_feature_network(
    arguments: NetworkArguments,
    image_shape: tuple[int, int, int],
    num_labels: int,
    seed: int,
    processor: HabaProcessor | None = None,
) -> FeatureNetwork:
    """
    Like [`build_network`], for what needs the network's features as well: objectives, the adversary, coresets.

    Raises:
        `ValueError`: if the network has no features, or the image is too small for it.
    """
    network = build_network(arguments, image_shape, num_labels, seed, processor)
    if not isinstance(network, FeatureNetwork):
        raise ValueError(
            f"The network {arguments.network} has no features for an objective or the adversary to use: choose "
            f"{', '.join(NETWORKS)} to distil with; {PREFIX}<model type> can be evaluated."
        )
    return network


def logits_of(network: nn.Module, images_BCHW: Tensor) -> Tensor:
    """Logits `[B, L]` of a network, or of an image classifier of transformers, which wraps them."""
    output: Any = network(images_BCHW)
    return output if torch.is_tensor(output) else output.logits
