"""A network as a function of one vector of parameters, so that a step of gradient descent is arithmetic on vectors."""

import torch
from torch import Tensor, nn
from torch.func import functional_call


class FlatNetwork:
    """
    Args:
        network (`nn.Module`): gives architecture and device; its own parameters are frozen and play no part.
    """

    def __init__(self, network: nn.Module):
        self.network = network.requires_grad_(False)
        self.names = [name for name, _ in network.named_parameters()]
        self.shapes = [parameter.shape for parameter in network.parameters()]
        self.sizes = [shape.numel() for shape in self.shapes]

    def __call__(self, theta: Tensor, images: Tensor) -> Tensor:
        """Logits `[B, L]` under the parameters theta `[P]`, flattened in the order of `named_parameters()`."""
        parts = zip(self.names, theta.split(self.sizes), self.shapes, strict=True)
        parameters = {name: part.view(shape) for name, part, shape in parts}
        return functional_call(self.network, parameters, (images,))

    @torch.no_grad()
    def error(self, theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """The fraction of images whose largest logit is not their label, 0-d."""
        return (self(theta, images).argmax(dim=1) != labels).float().mean()
