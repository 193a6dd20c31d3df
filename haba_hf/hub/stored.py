"""What an artifact stores of a basis, as pictures: its pixels, its planes, or its frequencies.

Shape legend: P bases, Q pictures of each, C/H/W of a sample.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..artifact.configuration_haba import HabaConfig
from ..artifact.loading import HabaProcessor
from ..artifact.modeling_haba import HabaModel
from ..artifact.processing_audio_haba import HabaAudioProcessor
from ..artifact.storage_haba import lowest_frequencies, plane_images


def stored_columns(config: HabaConfig) -> list[str]:
    """The names of the pictures of [`stored_pictures`]; none where a stored basis is itself a sample."""
    if config.has_chroma:
        return ["luma", "chroma 1", "chroma 2"]
    if config.basis_storage == "frequencies":
        return ["basis"] * config.basis_shape[0]
    return ["basis"] if config.num_hallucinators or config.stored_shape != config.sample_shape else []


def stored_caption(config: HabaConfig) -> str:
    """What is to be known to read the pictures of [`stored_pictures`]; empty of pixels and planes."""
    if config.basis_storage != "frequencies":
        return ""
    return "frequencies: the lowest at the top left"


@torch.no_grad()
def stored_pictures(model: HabaModel, processor: HabaProcessor, basis_ids: Tensor) -> Tensor:
    """
    Bases as they are stored, `[P, Q, C, H, W]` in [0, 1]: their pixels, enlarged to squares; each plane of luma and
    chroma in its own color; or the coefficients of their frequencies, the lowest at the top left, grey for 0.
    """
    config = model.config
    size = config.sample_height, config.sample_width
    stored = model.bases[basis_ids].float()
    if config.basis_storage == "frequencies":
        places = lowest_frequencies(config.basis_shape[1:], max(config.plane_numbers))
        planes = stored.split(config.plane_numbers, dim=1)
        tiles = torch.stack([_spectrum(plane, places, size) for plane in planes], dim=1)
        is_sound = isinstance(processor, HabaAudioProcessor)
        tiles = tiles[:, :, None].expand(-1, -1, 3 if is_sound else config.sample_channels, -1, -1)
        return tiles.flip(3) if is_sound else tiles  # as pictures of spectrograms: of colors, frequency upwards
    images = [F.interpolate(plane, size, mode="nearest") for plane in plane_images(stored, config)]
    images = [_in_sample_channels(image, config.sample_channels) for image in images]
    tiles = pictures(processor, torch.stack(images, dim=1).flatten(0, 1))
    return tiles.unflatten(0, (len(basis_ids), len(images)))


def _spectrum(coefficients_PF: Tensor, places_F2: Tensor, size: tuple[int, int]) -> Tensor:
    """Coefficients in their places, as images `[P, H, W]` of their square roots, so that small ones show too."""
    rows, columns = places_F2[: coefficients_PF.shape[1]].unbind(dim=1)
    side = int(max(rows.max(), columns.max())) + 1
    grid = torch.zeros(len(coefficients_PF), side, side)
    grid[:, rows, columns] = coefficients_PF.sign() * coefficients_PF.abs().sqrt()
    grid = 0.5 + 0.5 * grid / grid.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    return F.interpolate(grid[:, None], size, mode="nearest")[:, 0]


def pictures(processor: HabaProcessor, samples_BCHW: Tensor) -> Tensor:
    """Samples as they are looked at, in [0, 1]: [B, 1 or 3, H, W]."""
    pixels = np.stack([np.asarray(picture) for picture in processor.to_pil(samples_BCHW)])
    pixels_BHWC = torch.from_numpy(pixels).view(*pixels.shape[:3], -1)
    return pixels_BHWC.permute(0, 3, 1, 2) / 255


def _in_sample_channels(bases_NCHW: Tensor, channels: int) -> Tensor:
    """Bases of other channels than the samples' have no colors of their own: their mean is shown."""
    if bases_NCHW.shape[1] == channels:
        return bases_NCHW
    return bases_NCHW.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
