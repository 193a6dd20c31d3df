"""The architectures that an objective draws its networks from."""

import dataclasses

from torch import nn

from ...networks import NetworkArguments, build_feature_network, build_network
from ..arguments import DistillationArguments


class DrawnNetworks:
    """
    Freshly initialized networks by their seed, on the CPU. Where `networks` names several architectures the seed
    decides among them too, so that a run goes on with the network it had.

    Args:
        network_arguments ([`NetworkArguments`]): the architecture, where `networks` names none.
        arguments ([`DistillationArguments`]): `networks`.
        image_shape (`tuple[int, int, int]`): (C, H, W).
        num_labels (`int`): classes.
        features (`bool`, *optional*, defaults to `False`): every network has to be a [`FeatureNetwork`].

    Raises:
        `ValueError`: if one of them cannot be built: before the first step, and not at its turn.
    """

    def __init__(
        self,
        network_arguments: NetworkArguments,
        arguments: DistillationArguments,
        image_shape: tuple[int, int, int],
        num_labels: int,
        features: bool = False,
    ):
        names = arguments.networks or [network_arguments.network]
        self.choices = [dataclasses.replace(network_arguments, network=name) for name in names]
        self.sizes = (image_shape, num_labels)
        self.build = build_feature_network if features else build_network
        for choice in self.choices:
            self.build(choice, *self.sizes, seed=0)

    def __call__(self, seed: int) -> nn.Module:
        return self.build(self.choices[seed % len(self.choices)], *self.sizes, seed)
