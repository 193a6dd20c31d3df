"""A hallucinator: the small network that turns a basis into a sample, and how it starts.

Shape legend: P bases, C'/H/W of a basis, C of a sample.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_haba import HabaConfig
from .storage_haba import enlarge

# What keeps normalized pixels, which reach about -3, above the encoder's ReLU under hallucinator_init="identity".
RELU_OFFSET = 4.0


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
            tuple(-(-side // 2**halvings) for side in config.hallucinated_size)
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
    shift per feature position and channel, or on a coarser grid that is enlarged bilinearly.

    At depth 0 the encoder and decoder are identities. When encoder and decoder are shared, the hallucinator holds only
    `scale` and `shift` and is handed the other two.
    """

    def __init__(self, config: HabaConfig):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(config.map_shape))
        self.shift = nn.Parameter(torch.empty(config.map_shape))
        shared = config.share_encoder_decoder
        self.encoder = None if shared else HallucinatorEncoder(config)
        self.decoder = None if shared else HallucinatorDecoder(config)

    def forward(self, bases: Tensor, encoder: nn.Module | None = None, decoder: nn.Module | None = None) -> Tensor:
        """Bases as images `[P, C', H, W]` to samples `[P, C, H, W]`."""
        encoder, decoder = encoder or self.encoder, decoder or self.decoder
        if encoder is None or decoder is None:
            raise ValueError("This hallucinator shares its encoder and decoder: pass those of its HabaModel.")
        features = encoder(bases)
        scale, shift = (enlarge(of[None], features.shape[2:]) for of in (self.scale, self.shift))
        return decoder(torch.addcmul(shift, features, scale))


# `init` of transformers leaves alone what a checkpoint has filled.


def init_hallucinator(hallucinator: Hallucinator, config: HabaConfig) -> None:
    """Scale 1 and shift 0; where hallucinators would be alike otherwise, a shift of noise tells them apart."""
    init.ones_(hallucinator.scale)
    init.zeros_(hallucinator.shift)
    alike = config.share_encoder_decoder or config.hallucinator_depth == 0
    if alike or config.hallucinator_init == "identity":
        init.normal_(hallucinator.shift, std=config.hallucinator_noise)
    init_offsets(hallucinator.encoder, hallucinator.decoder, config)


def init_convolution(convolution: nn.Conv2d, config: HabaConfig) -> None:
    """PyTorch's default or, under `hallucinator_init="identity"`, input channels passed on with some noise."""
    bound = (convolution.weight[0].numel()) ** -0.5
    init.uniform_(convolution.weight, -bound, bound)  # = kaiming uniform with a = sqrt(5), PyTorch's default
    init.uniform_(convolution.bias, -bound, bound)
    if config.hallucinator_init == "identity":
        identity = torch.randn_like(convolution.weight) * (config.hallucinator_noise * bound)
        outputs = torch.arange(convolution.out_channels, device=convolution.weight.device)
        identity[outputs, outputs % convolution.in_channels, 1, 1] += 1
        init.copy_(convolution.weight, identity)
        init.zeros_(convolution.bias)


def init_offsets(encoder: HallucinatorEncoder | None, decoder: HallucinatorDecoder | None, config: HabaConfig) -> None:
    """Raises pixels before the ReLU of an identity and lowers them after it."""
    # Called for the modules that hold scale and shift: transformers skips those without parameters of their own.
    if config.hallucinator_init == "identity" and config.hallucinator_depth and encoder and decoder:
        raised, lowered = encoder.convolutions[0], decoder.convolutions[0]
        init.constant_(raised.bias, RELU_OFFSET)
        init.copy_(lowered.bias, -RELU_OFFSET * lowered.get_parameter("weight").sum(dim=(1, 2, 3)))
