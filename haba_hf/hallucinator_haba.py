"""A hallucinator: the small network that turns a basis into a sample.

Shape legend: P bases, C'/H/W of a basis, C of a sample.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_haba import HabaConfig


class HallucinatorEncoder(nn.Module):
    """`depth` blocks of 3x3 convolution and ReLU; blocks after the first halve height and width."""

    def __init__(self, config: HabaConfig):
        super().__init__()
        channels = [config.basis_shape[0], *config.feature_channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], 3, stride=1 if i == 0 else 2, padding=1)
            for i in range(config.hallucinator_depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        return x


class HallucinatorDecoder(nn.Module):
    """The encoder mirrored: nearest upsampling where it halved, ReLU after every convolution but the last, which is
    linear so that normalized (negative) pixels can be restored."""

    def __init__(self, config: HabaConfig):
        super().__init__()
        channels = [*reversed(config.feature_channels), config.sample_channels]
        self.sizes = [
            (-(-config.sample_height // 2**halvings), -(-config.sample_width // 2**halvings))
            for halvings in reversed(range(max(config.hallucinator_depth - 1, 0)))
        ]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], 3, padding=1) for i in range(config.hallucinator_depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.convolutions) - 1
        for i, convolution in enumerate(self.convolutions):
            if i < last:
                x = F.relu(convolution(F.interpolate(x, size=self.sizes[i], mode="nearest")))
            else:
                x = convolution(x)
        return x


class Hallucinator(nn.Module):
    r"""
    H_j(b) = Dec( scale_j * Enc(b) + shift_j ), the paper's affine map in feature space, with one scale and one
    shift per feature position and channel.

    At depth 0 the encoder and decoder are identities. When encoder and decoder are shared, the hallucinator holds only
    `scale` and `shift` and is handed the other two.
    """

    def __init__(self, config: HabaConfig):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(config.feature_shape))
        self.shift = nn.Parameter(torch.empty(config.feature_shape))
        shared = config.share_encoder_decoder
        self.encoder = None if shared else HallucinatorEncoder(config)
        self.decoder = None if shared else HallucinatorDecoder(config)

    def forward(self, bases: Tensor, encoder: nn.Module | None = None, decoder: nn.Module | None = None) -> Tensor:
        """Bases `[P, C', H, W]` to samples `[P, C, H, W]`."""
        encoder, decoder = encoder or self.encoder, decoder or self.decoder
        if encoder is None or decoder is None:
            raise ValueError("This hallucinator shares its encoder and decoder: pass those of its HabaModel.")
        return decoder(torch.addcmul(self.shift, encoder(bases), self.scale))
