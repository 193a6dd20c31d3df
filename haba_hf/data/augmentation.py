"""Differentiable siamese augmentation (DSA; Zhao and Bilen, ICML 2021): one operation per batch, drawn apart from
being applied, so that real data and samples can be given the very same one and a step can be replayed. IDC (Kim et
al., ICML 2022) applies several operations in turn: a strategy may have several stages.

Shape legend: B batch, C/H/W of an image.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

DSA_OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
DSA_STRATEGY = "color_crop_cutout_flip_scale_rotate"

# The published magnitudes.
BRIGHTNESS = 1.0  # added: U(-0.5, 0.5)
SATURATION = 2.0  # factor about the channel mean: U(0, 2)
CONTRAST = 0.5  # factor about the image mean: U(0.5, 1.5)
CROP = 0.125  # shift in either direction, as a fraction of the side
CUTOUT = 0.5  # side of the zeroed square, as a fraction of the image's
SCALE = 1.2  # zoom of each axis: U(1/1.2, 1.2)
ROTATE = 15.0  # degrees: U(-15, 15)


class DsaStage(NamedTuple):
    """
    What one stage of a strategy drew.

    Args:
        operation (`str`): one of `DSA_OPERATIONS`.
        uniforms (`torch.Tensor` `[B, 3]` or `[1, 3]`): numbers in [0, 1) that fix the magnitudes; one row serves a
            batch of any size (siamese use), B rows give every image its own.
    """

    operation: str
    uniforms: Tensor


@dataclass(frozen=True)
class DsaParameters:
    """
    One drawn augmentation.

    Args:
        stages (`tuple[DsaStage]`): applied in turn; without any it is the identity.
    """

    stages: tuple[DsaStage, ...] = ()

    def of(self, rows: slice) -> "DsaParameters":
        """The parameters of some rows of the batch."""
        return DsaParameters(tuple(DsaStage(name, u if len(u) == 1 else u[rows]) for name, u in self.stages))


class DsaAugmentation:
    """
    Draws and applies DSA.

    Args:
        strategy (`str`): operations joined by underscores, e.g. `"color_crop_cutout_flip_scale_rotate"` (leave out
            `flip` for digits), of which each batch gets one; `"none"` or `""` is the identity. Stages joined by `+`
            are applied in turn: `"color+crop_scale"` is color, then crop or scale.
        per_sample (`bool`, *optional*, defaults to `True`): own magnitudes for each image of a batch, or one for all.

    Raises:
        `ValueError`: if the strategy names an unknown operation.
    """

    def __init__(self, strategy: str = DSA_STRATEGY, per_sample: bool = True):
        stages = [] if strategy in ("", "none") else strategy.split("+")
        self.stages = [stage.split("_") for stage in stages]
        unknown = [operation for stage in self.stages for operation in stage if operation not in DSA_OPERATIONS]
        if unknown:
            raise ValueError(
                f"DSA has no operation {unknown[0]!r} (strategy {strategy!r}): join some of "
                f"{', '.join(DSA_OPERATIONS)} by underscores (and stages by '+'), or use 'none'."
            )
        self.per_sample = per_sample

    def draw(self, batch_size: int, generator: torch.Generator) -> DsaParameters:
        """One operation of each stage and its magnitudes, from a CPU generator."""
        rows = batch_size if self.per_sample else 1
        drawn = []
        for operations in self.stages:
            choice = int(torch.randint(len(operations), (), generator=generator))
            drawn.append(DsaStage(operations[choice], torch.rand(rows, 3, generator=generator)))
        return DsaParameters(tuple(drawn))

    @staticmethod
    def apply(images_BCHW: Tensor, parameters: DsaParameters) -> Tensor:
        """
        Augmented images of the same shape; differentiable with respect to the images.

        Raises:
            `ValueError`: if the parameters were drawn per sample for another batch size.
        """
        batch_size = len(images_BCHW)
        for operation, uniforms in parameters.stages:
            if len(uniforms) not in (1, batch_size):
                raise ValueError(f"These augmentation parameters are for {len(uniforms)} images, not {batch_size}.")
            images_BCHW = _OPERATIONS[operation](images_BCHW, uniforms.to(images_BCHW.device).expand(batch_size, 3))
        return images_BCHW

    def __call__(self, images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        return self.apply(images_BCHW, self.draw(len(images_BCHW), generator))


def _color(x: Tensor, u: Tensor) -> Tensor:
    brightness, saturation, contrast = (column.view(-1, 1, 1, 1).to(x.dtype) for column in u.unbind(dim=1))
    x = x + (brightness - 0.5) * BRIGHTNESS
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * (saturation * SATURATION)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (x - mean) * (contrast + CONTRAST)


def _crop(x: Tensor, u: Tensor) -> Tensor:
    for dim in (2, 3):
        side = x.shape[dim]
        pad = int(side * CROP + 0.5)
        shift = (u[:, dim - 2] * (2 * pad + 1)).long() - pad
        source = torch.arange(side, device=x.device) + shift[:, None]
        inside = (source >= 0) & (source < side)
        shape = (-1, 1, side, 1) if dim == 2 else (-1, 1, 1, side)
        index = source.clamp(0, side - 1).view(shape).expand_as(x)
        x = x.gather(dim, index) * inside.view(shape).to(x.dtype)
    return x


def _cutout(x: Tensor, u: Tensor) -> Tensor:
    inside = []
    for dim in (2, 3):
        side = x.shape[dim]
        cut = int(side * CUTOUT + 0.5)
        center = (u[:, dim - 2] * (side + 1 - cut % 2)).long()[:, None]
        position = torch.arange(side, device=x.device)
        inside.append((position >= center - cut // 2) & (position < center - cut // 2 + cut))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return x * (~hole).to(x.dtype)


def _flip(x: Tensor, u: Tensor) -> Tensor:
    return torch.where((u[:, 0] < 0.5).view(-1, 1, 1, 1), x.flip(3), x)


def _affine(x: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta.to(x.dtype), list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, align_corners=True)


def _scale(x: Tensor, u: Tensor) -> Tensor:
    factors = u[:, :2] * (SCALE - 1 / SCALE) + 1 / SCALE
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 1, 1] = factors.unbind(dim=1)
    return _affine(x, theta)


def _rotate(x: Tensor, u: Tensor) -> Tensor:
    angle = (u[:, 0] - 0.5) * 2 * ROTATE * math.pi / 180
    zero = torch.zeros_like(angle)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack([torch.stack([cos, -sin, zero], dim=1), torch.stack([sin, cos, zero], dim=1)], dim=1)
    return _affine(x, theta)


_OPERATIONS = {"color": _color, "crop": _crop, "cutout": _cutout, "flip": _flip, "scale": _scale, "rotate": _rotate}
