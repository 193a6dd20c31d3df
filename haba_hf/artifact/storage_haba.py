r"""How a basis is stored: as pixels at a size of its own, as luma and chroma planes, or as frequencies; and in how
many bits. The maps between what is stored and images are linear and fixed, so they cost no storage.

A stored number is in units of an image's values: it is the root mean square, over pixels and channels, of what it adds
to the image, so that numbers of every kind move alike under one learning rate.

Shape legend: P bases, F numbers of a stored basis, Q planes, C'/h'/w' of a basis, H/W of where it is restored to.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .configuration_haba import HabaConfig

# Luma, their mean, and two kinds of chroma of three channels: orthogonal rows, the DCT-II over the channels.
COLORS = ((1.0, 1.0, 1.0), (1.5**0.5, 0.0, -(1.5**0.5)), (0.5**0.5, -(2.0**0.5), 0.5**0.5))
LARGEST_CODE = 127


def restore_bases(stored: Tensor, config: HabaConfig, size: tuple[int, int]) -> Tensor:
    """
    Stored bases `[P, *config.stored_shape]` as images `[P, C', H, W]` of a size: pixels and planes are enlarged
    bilinearly, frequencies are evaluated there.
    """
    if config.basis_storage == "pixels":
        return enlarge(stored, size)
    planes = [plane.unsqueeze(1) for plane in stored.split(config.plane_numbers, dim=1)]
    if not config.has_chroma:
        return torch.cat([_restored(plane, config, 0, size) for plane in planes], dim=1)
    luma, chroma = planes[0], torch.cat(planes[1:], dim=1)
    colors = _colors(stored.device, stored.dtype)[1:]
    # Chroma becomes color while it is small: the maps are linear.
    return _restored(luma, config, 0, size) + _restored(torch.einsum("pqf,qc->pcf", chroma, colors), config, 1, size)


def _restored(planes_PQF: Tensor, config: HabaConfig, number: int, size: tuple[int, int]) -> Tensor:
    """Planes that are stored like plane `number`, as images `[P, Q, H, W]`."""
    if config.basis_storage == "luma_chroma":
        return enlarge(planes_PQF.unflatten(2, config.plane_shapes[number]), size)
    waves = _waves(config.basis_shape[1:], max(config.plane_numbers), size, planes_PQF.device, planes_PQF.dtype)
    return (planes_PQF @ waves[: planes_PQF.shape[2]]).unflatten(2, size)


def plane_images(stored: Tensor, config: HabaConfig) -> list[Tensor]:
    """
    What is stored of bases in pixels or in planes, as images at their own sizes: the pixels `[P, C', h', w']`, or what
    each plane adds to the colors, `[P, 3, h, w]`.
    """
    if config.basis_storage == "pixels":
        return [stored]
    colors = _colors(stored.device, stored.dtype)
    planes = zip(stored.split(config.plane_numbers, dim=1), config.plane_shapes, colors, strict=True)
    return [plane.unflatten(1, shape)[:, None] * color[:, None, None] for plane, shape, color in planes]


def store_images(images_PCHW: Tensor, config: HabaConfig) -> Tensor:
    """
    Images as bases, `[P, *config.stored_shape]`: reduced by area averaging or, of frequencies, projected. Of images of
    more channels than a basis it is their mean that is stored.
    """
    channels, height, width = config.basis_shape
    if channels != images_PCHW.shape[1]:
        images_PCHW = images_PCHW.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
    if config.basis_storage == "pixels":
        return F.adaptive_avg_pool2d(images_PCHW, (height, width))
    if config.has_chroma:
        colors = _colors(images_PCHW.device, images_PCHW.dtype) / 3  # rows of squared length 3
        images_PCHW = torch.einsum("pchw,qc->pqhw", images_PCHW, colors)
    planes = images_PCHW.split(1, dim=1)
    if config.basis_storage == "luma_chroma":
        stored = [
            F.adaptive_avg_pool2d(plane, shape) for plane, shape in zip(planes, config.plane_shapes, strict=True)
        ]
    else:
        size = images_PCHW.shape[2], images_PCHW.shape[3]
        waves = _waves((height, width), max(config.plane_numbers), size, images_PCHW.device, images_PCHW.dtype)
        stored = [
            plane.flatten(1) @ waves[:count].T / math.prod(size)
            for plane, count in zip(planes, config.plane_numbers, strict=True)
        ]
    return torch.cat([plane.flatten(1) for plane in stored], dim=1)


def enlarge(images_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Images at another size, bilinearly; at their own, as they are."""
    height, width = images_BCHW.shape[2:]
    if (height, width) == tuple(size):
        return images_BCHW
    # One matrix product an axis: faster than `interpolate`, and its gradient is the same every time on a GPU too.
    rows, columns = (
        _interpolation(old, new, images_BCHW.device, images_BCHW.dtype)
        for old, new in ((height, size[0]), (width, size[1]))
    )
    return rows @ (images_BCHW @ columns.T)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # kept for whoever comes next, who may want gradients
def _interpolation(old: int, new: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The weights `[new, old]` by which linear interpolation makes a row of `new` pixels of one of `old`."""
    identity = torch.eye(old, dtype=torch.float64)
    return F.interpolate(identity[None], new, mode="linear")[0].T.contiguous().to(device, dtype)


def encode_int8(stored: Tensor, config: HabaConfig) -> tuple[Tensor, Tensor]:
    """
    Bases in 8 bits: integers from -127 to 127, int8 of the same shape, and the scale of each plane, `[P, Q]`, that
    makes the greatest of its numbers 127.
    """
    planes = stored.flatten(1).split(config.plane_numbers, dim=1)
    scales = torch.stack([plane.abs().amax(dim=1) for plane in planes], dim=1).float() / LARGEST_CODE
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    codes = (stored.flatten(1).float() / _of_numbers(scales, config)).round()
    return codes.clamp(-LARGEST_CODE, LARGEST_CODE).to(torch.int8).view_as(stored), scales


def decode_int8(codes: Tensor, scales: Tensor, config: HabaConfig) -> Tensor:
    """What [`encode_int8`] has put into 8 bits, as float32."""
    return (codes.flatten(1).float() * _of_numbers(scales, config)).view(codes.shape)


def lowest_frequencies(grid: tuple[int, int], count: int) -> Tensor:
    """
    The `count` lowest of the frequencies (u, v) of a DCT-II over `grid`, `[count, 2]`: by the length of (u / h', v /
    w'), of equally long ones the lower u first.
    """
    height, width = grid
    u, v = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    lengths = ((u * width) ** 2 + (v * height) ** 2).flatten()
    return torch.stack([u.flatten(), v.flatten()], dim=1)[lengths.argsort(stable=True)[:count]]


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _waves(
    grid: tuple[int, int], count: int, size: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """The lowest frequencies of `grid` as images of a size, `[count, H * W]`, each of root mean square 1."""
    u, v = lowest_frequencies(grid, count).unbind(dim=1)
    rows, columns = (_cosines(side)[of] for side, of in zip(size, (u, v), strict=True))
    return torch.einsum("fh,fw->fhw", rows, columns).flatten(1).to(device, dtype)


def _cosines(side: int) -> Tensor:
    """The DCT-II's vectors of a length, `[side, side]`, each of root mean square 1."""
    k = torch.arange(side, dtype=torch.float64)
    cosines = torch.cos(math.pi * k[:, None] * (2 * k + 1) / (2 * side))
    cosines[1:] *= 2**0.5
    return cosines


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _colors(device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(COLORS, dtype=dtype, device=device)


def _of_numbers(of_planes: Tensor, config: HabaConfig) -> Tensor:
    """`[P, Q]` as `[P, F]`: the value of a plane for each of its numbers."""
    counts: Sequence[int] = config.plane_numbers
    return torch.cat([of_planes[:, [q]].expand(-1, count) for q, count in enumerate(counts)], dim=1)
