"""What a ConvNet block costs most on a CPU beside its convolution, put another way: the same functions, differentiable
twice.

PyTorch's average pooling of contiguous images and its instance normalization behind a convolution of one to three
channels take as long on a CPU as all the large convolutions together. As matrix products they take a fraction of it;
`make benchmark` shows by how much. The second derivative of a later block's instance normalization, which PyTorch puts
together from a dozen passes over the images, is written out.

Shape legend: B batch, C/H/W of the input, O output channels, K = 9 C numbers of a patch and a one, P positions, Q
positions after pooling.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .replay import Results, replayable


def average_pool(x_BCHW: Tensor) -> Tensor:
    """`avg_pool2d(x, 2)` as one matrix product: two rows of an image, side by side in memory, become one."""
    batch, channels, height, width = x_BCHW.shape
    if height % 2 or width % 2:
        return F.avg_pool2d(x_BCHW, 2)
    rows = x_BCHW.reshape(-1, 2 * width)
    return (rows @ _pooling(width, x_BCHW.dtype)).view(batch, channels, height // 2, width // 2)


@lru_cache
def _pooling(width: int, dtype: torch.dtype) -> Tensor:
    """`[2 W, W / 2]`: a quarter where one of two rows feeds a pooled pixel."""
    return torch.eye(width // 2, dtype=dtype).repeat_interleave(2, dim=0).repeat(2, 1) / 4


def normalized_pool(x_BCHW: Tensor, norm: nn.GroupNorm) -> Tensor:
    """`average_pool(relu(norm(x_BCHW)))` of an instance normalization, its second derivative in closed form."""
    if torch.is_autocast_enabled("cpu") or x_BCHW.shape[2] % 2 or x_BCHW.shape[3] % 2:
        return average_pool(F.relu(norm(x_BCHW)))
    y_BCHW: Tensor = _NormalizedPool.apply(x_BCHW, norm.weight, norm.bias, norm.eps)
    return y_BCHW


def normalized_convolution(images_BCHW: Tensor, convolution: nn.Conv2d, norm: nn.GroupNorm, padding: int) -> Tensor:
    """Instance normalization of a 3x3 convolution, `[B, O, H', W']`, as [`normalizing_filters`] has it."""
    filters_BOK, patches_BKHW = normalizing_filters(images_BCHW, convolution, norm, padding)
    return (filters_BOK @ patches_BKHW.flatten(2)).unflatten(2, patches_BKHW.shape[2:])


def first_block(images_BCHW: Tensor, convolution: nn.Conv2d, norm: nn.GroupNorm, padding: int) -> Tensor:
    """
    Average pooling of the ReLU of [`normalized_convolution`], `[B, O, H' / 2, W' / 2]`: an image at a time, so that
    nothing of the size before pooling leaves the cache, and computed again rather than held for the derivatives.
    """
    filters_BOK, patches_BKHW = normalizing_filters(images_BCHW, convolution, norm, padding)
    height, width = (side // 2 for side in patches_BKHW.shape[2:])
    tiles = patches_BKHW[:, :, : 2 * height, : 2 * width].unflatten(3, (width, 2)).unflatten(2, (height, 2))
    patches_BKP = tiles.permute(0, 1, 3, 5, 2, 4).reshape(*patches_BKHW.shape[:2], -1)
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        filters_BOK, patches_BKP = filters_BOK.to(dtype), patches_BKP.to(dtype)
    pooled_BOQ: Tensor = _FilteredSum.apply(filters_BOK / 4, patches_BKP)
    return pooled_BOQ.unflatten(2, (height, width))


def normalizing_filters(
    images_BCHW: Tensor, convolution: nn.Conv2d, norm: nn.GroupNorm, padding: int
) -> tuple[Tensor, Tensor]:
    r"""
    Instance normalization of a 3x3 convolution as another filter, of its own for each image.

    With the patches p of an image, mean m and covariance S, a filter w gives an output of mean w.m + b and variance
    w.S.w, so that normalizing it gives

        gamma (w.p + b - mean) / std + beta = (gamma w / std).(p - m) + beta.

    Returns:
        Filters `[B, O, K]` and patches `[B, K, H', W']`, whose last entries are beta and one. The convolution's bias
        plays no part, as in any normalization of each channel by itself.
    """
    height, width = (side + 2 * padding - 2 for side in images_BCHW.shape[2:])
    # In float32 whatever autocast says: the variance is a small difference of large numbers for an edge filter.
    with torch.autocast(images_BCHW.device.type, enabled=False):
        weight_OK = convolution.weight.flatten(1)
        patches_BKP = F.unfold(images_BCHW.to(weight_OK.dtype), 3, padding=padding)
        patches_BKP = patches_BKP - patches_BKP.mean(dim=2, keepdim=True)
        covariance_BKK = patches_BKP @ patches_BKP.transpose(1, 2) / patches_BKP.shape[2]
        variance_BO = ((weight_OK @ covariance_BKK) * weight_OK).sum(dim=2).clamp_min(0)
        scale_BO = norm.weight * torch.rsqrt(variance_BO + norm.eps)
        assert convolution.bias is not None
        shift_O = norm.bias + 0 * convolution.bias  # a gradient of zero rather than none
        filters_BOK = torch.cat([scale_BO[:, :, None] * weight_OK, shift_O.expand_as(scale_BO)[:, :, None]], dim=2)
        ones_B1P = patches_BKP.new_ones(len(patches_BKP), 1, patches_BKP.shape[2])
        return filters_BOK, torch.cat([patches_BKP, ones_B1P], dim=1).unflatten(2, (height, width))


class _NormalizedPool(Function):
    """Average pooling of the ReLU of instance normalization, with gamma and beta `[C]`, of x `[B, C, H, W]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.contiguous()
        z, mean, scale = torch.native_group_norm(x, gamma, beta, batch, channels, height * width, channels, eps)
        ctx.save_for_backward(x, gamma, z.relu_(), mean, scale)
        return average_pool(z)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return *_NormalizedPoolGradient.apply(dy, *ctx.saved_tensors), None


class _NormalizedPoolGradient(Function):
    """
    With x^ = (x - mean) r of a channel of P positions, r one over its standard deviation, and A(w) = w - mean(w) - x^
    mean(x^ w), the gradient is

        dz = [z > 0] up(dy) / 4,  d_x = gamma r A(dz),  d_gamma = sum x^ dz,  d_beta = sum dz,

    sums over images and positions, `up` giving each position what its tile has.
    """

    @staticmethod
    def forward(
        ctx: Any, dy: Tensor, x: Tensor, gamma: Tensor, z: Tensor, mean: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, channels, height, width = x.shape
        dz = _unpooled(dy)
        dz = torch.ops.aten.threshold_backward.grad_input(dz, z, 0, grad_input=dz)
        ctx.save_for_backward(dz, x, gamma, z, mean, scale)
        gradient = torch.ops.aten.native_group_norm_backward
        found: tuple[Tensor, Tensor, Tensor] = gradient(
            dz, x, mean, scale, gamma, batch, channels, height * width, channels, (True, True, True)
        )
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_x: Tensor, v_gamma: Tensor, v_beta: Tensor) -> tuple[Tensor | None, ...]:
        """
        Gradients for dy, x and gamma of v_x . d_x + v_gamma . d_gamma + v_beta . d_beta. A is symmetric, <x^, w> has
        the derivative r A(w) and r that of -r^2 x^ / P, so that both are sums of v_x, dz, x^ and one in each channel.
        """
        dz, x, gamma, z, mean, scale = ctx.saved_tensors
        v, x_BCP, dz = v_x.flatten(2), x.flatten(2), dz.flatten(2)
        positions = x_BCP.shape[2]
        r = scale[:, :, None]
        normal = torch.addcmul(-mean[:, :, None] * r, x_BCP, r)
        mean_v, mean_dz = v.mean(2, keepdim=True), dz.mean(2, keepdim=True)
        along_v, along_dz = _dot(v, normal) / positions, _dot(dz, normal) / positions
        product = _dot(v, dz) - positions * (mean_v * mean_dz + along_v * along_dz)  # v_x . A(dz)

        rate = r * gamma[:, None]
        d_dz = torch.addcmul(v_beta[:, None] - rate * mean_v, v, rate)
        d_dz.addcmul_(normal, v_gamma[:, None] - rate * along_v)
        d_dz = torch.ops.aten.threshold_backward.grad_input(d_dz, z.flatten(2), 0, grad_input=d_dz)

        for_v, for_dz = -rate * r * along_dz, r * (v_gamma[:, None] - rate * along_v)
        for_normal = -for_v * along_v - for_dz * along_dz - rate * r * product / positions
        d_x = torch.addcmul(-for_v * mean_v - for_dz * mean_dz, v, for_v)
        d_x.addcmul_(dz, for_dz).addcmul_(normal, for_normal)
        return average_pool(d_dz.view_as(x)), d_x.view_as(x), (r * product).sum((0, 2)), None, None, None


def _unpooled(dy_BCHW: Tensor) -> Tensor:
    """What [`average_pool`] gives back, `[B, C, 2 H, 2 W]`."""
    batch, channels, height, width = dy_BCHW.shape
    rows = dy_BCHW.reshape(-1, width) @ _pooling(2 * width, dy_BCHW.dtype).T
    return rows.view(batch, channels, 2 * height, 2 * width)


def _dot(a_BCP: Tensor, b_BCP: Tensor) -> Tensor:
    """`[B, C, 1]`."""
    rows = a_BCP.flatten(0, 1)[:, None] @ b_BCP.flatten(0, 1)[:, :, None]
    return rows.view(*a_BCP.shape[:2], 1)


class _FilteredSum(Function):
    """
    Sum over the four positions of each 2x2 tile of the ReLU of filters `[B, O, K]` on patches `[B, K, P]`, whose P =
    4 Q positions are the first ones of all tiles, then the second ones, and so on.
    """

    @staticmethod
    def forward(ctx: Any, filters: Tensor, patches: Tensor) -> Tensor:
        ctx.save_for_backward(filters, patches)
        (y,) = replayable(lambda: [_filtered_sum(filters, patches)])
        assert y is not None
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return _FilteredSumGradient.apply(dy, *ctx.saved_tensors, ctx.needs_input_grad)


class _FilteredSumGradient(Function):
    @staticmethod
    def forward(
        ctx: Any, dy: Tensor, filters: Tensor, patches: Tensor, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(dy, filters, patches)
        ctx.set_materialize_grads(False)
        return tuple(replayable(lambda: _gradient(dy, filters, patches, wanted)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_filters: Tensor | None, v_patches: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients for dy, filters and patches, v being those for the gradients of filters and patches."""
        dy, filters, patches = ctx.saved_tensors
        d_dy = torch.zeros_like(dy)
        d_filters = None if v_patches is None else torch.empty_like(filters)
        d_patches = None if v_filters is None else torch.empty_like(patches)
        z, along = _workspace(filters, patches), _workspace(filters, patches)
        every = filters, patches, dy, d_dy, v_filters, v_patches, d_filters, d_patches
        for f, p, dy_of, d_dy_of, v_f, v_p, d_f, d_p in _few_at_once(*every):
            z_of, v = torch.bmm(f, p, out=z[: len(f)]), along[: len(f)]
            if v_f is not None:
                torch.bmm(v_f, p, out=v)
                d_dy_of += _tiles(_stop(v, z_of, v)).sum(dim=2)
            if v_p is not None:
                torch.bmm(f, v_p, out=v)
                d_dy_of += _tiles(_stop(v, z_of, v)).sum(dim=2)
            dz = _stop(dy_of[:, :, None], z_of, z_of)
            if v_f is not None:
                torch.bmm(v_f.transpose(1, 2), dz, out=d_p)
            if v_p is not None:
                torch.bmm(dz, v_p.transpose(1, 2), out=d_f)
        return d_dy, d_filters, d_patches, None


def _filtered_sum(filters: Tensor, patches: Tensor) -> Tensor:
    y = filters.new_empty(*filters.shape[:2], patches.shape[2] // 4)
    z = _workspace(filters, patches)
    for f, p, y_of in _few_at_once(filters, patches, y):
        z_of = torch.bmm(f, p, out=z[: len(f)]).relu_()
        torch.sum(_tiles(z_of), dim=2, out=y_of)
    return y


def _gradient(dy: Tensor, filters: Tensor, patches: Tensor, wanted: tuple[bool, bool]) -> Results:
    """Gradients for filters and patches, those that are wanted."""
    d_filters = torch.empty_like(filters) if wanted[0] else None
    d_patches = torch.empty_like(patches) if wanted[1] else None
    z = _workspace(filters, patches)
    for f, p, dy_of, d_f, d_p in _few_at_once(filters, patches, dy, d_filters, d_patches):
        dz = torch.bmm(f, p, out=z[: len(f)])
        _stop(dy_of[:, :, None], dz, dz)
        if d_f is not None:
            torch.bmm(dz, p.transpose(1, 2), out=d_f)
        if d_p is not None:
            torch.bmm(f.transpose(1, 2), dz, out=d_p)
    return [d_filters, d_patches]


def _few_at_once(*tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Of each tensor `[B, ...]`, the parts of an image for each thread; of none, nothing."""
    few = torch.get_num_threads()
    return zip(*[repeat(None) if of is None else of.split(few) for of in tensors], strict=False)


def _workspace(filters: Tensor, patches: Tensor) -> Tensor:
    """Room for what the filters give on a few images at once, `[b, O, P]`."""
    return filters.new_empty(torch.get_num_threads(), filters.shape[1], patches.shape[2])


def _tiles(z_BOP: Tensor) -> Tensor:
    """`[B, O, 4, Q]`."""
    return z_BOP.view(*z_BOP.shape[:2], 4, -1)


def _stop(gradient: Tensor, z_BOP: Tensor, out: Tensor) -> Tensor:
    """Writes to `out` the gradient, `[b, O, P]` or `[b, O, 1, Q]`, where z is positive and 0 elsewhere."""
    z = _tiles(z_BOP)
    tiles = gradient.expand_as(z) if gradient.ndim == 4 else _tiles(gradient)
    torch.ops.aten.threshold_backward.grad_input(tiles, z, 0, grad_input=_tiles(out))
    return out
