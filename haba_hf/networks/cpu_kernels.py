"""What a ConvNet block costs most on a CPU, put another way: the same functions, differentiable as often as wanted.

PyTorch's average pooling of contiguous images and its instance normalization behind a convolution of one to three
channels take as long on a CPU as all the large convolutions together. As matrix products they take a fraction of it;
`make benchmark` shows by how much.

Shape legend: B batch, C/H/W of the input, O output channels, K = 9 C numbers of a patch, P positions.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


def normalized_convolution(images_BCHW: Tensor, convolution: nn.Conv2d, norm: nn.GroupNorm, padding: int) -> Tensor:
    r"""
    Instance normalization of a 3x3 convolution, without ever holding what the convolution gives.

    With the patches p of an image, mean m and covariance S, a filter w gives an output of mean w.m + b and variance
    w.S.w, so that normalizing it is another filter, of its own for each image:

        gamma (w.p + b - mean) / std + beta = (gamma w / std).(p - m) + beta.

    Returns:
        `[B, O, H', W']`. The convolution's bias plays no part, as in any normalization of each channel by itself.
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
    filters_BOK = scale_BO[:, :, None] * weight_OK
    assert convolution.bias is not None
    shift_O = norm.bias + 0 * convolution.bias  # a gradient of zero rather than none
    output = torch.baddbmm(shift_O[None, :, None], filters_BOK, patches_BKP)
    return output.view(len(output), -1, height, width)
