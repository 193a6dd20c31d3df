"""Convolution with its second derivative in closed form, which can be replayed."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .replay import Results, replayable


def convolution(x_BCHW: Tensor, module: nn.Conv2d) -> Tensor:
    """
    `module(x_BCHW)` on a CPU, differentiable twice, for a module of one group. Under autocast it is the module itself,
    and nothing is recorded or replayed.
    """
    if torch.is_autocast_enabled("cpu"):
        return module(x_BCHW)
    return _Convolution.apply(x_BCHW, module.weight, module.bias, (module.stride, module.padding, module.dilation))


def _gradient(dy: Tensor, x: Tensor, weight: Tensor, how: tuple, wanted: tuple[bool, bool, bool]) -> Results:
    """Gradients for input, weight and bias, those that are wanted."""
    backward = torch.ops.aten.convolution_backward
    return list(backward(dy, x, weight, [len(weight)], *how, False, [0, 0], 1, wanted))


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, how: tuple) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        (y,) = replayable(lambda: [torch.conv2d(x, weight, bias, *how)])
        assert y is not None
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *_ConvolutionGradient.apply(dy, x, weight, ctx.how, tuple(ctx.needs_input_grad[:3])), None


class _ConvolutionGradient(Function):
    @staticmethod
    def forward(
        ctx: Any, dy: Tensor, x: Tensor, weight: Tensor, how: tuple, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(dy, x, weight)
        ctx.set_materialize_grads(False)
        ctx.how = how
        return tuple(replayable(lambda: _gradient(dy, x, weight, how, wanted)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_x: Tensor | None, v_weight: Tensor | None, v_bias: Tensor | None) -> tuple:
        """
        Gradients for dy, x and weight, v being those for the gradients of x, weight and bias. In v_x . d_x + v_weight
        . d_weight + v_bias . d_bias, dy meets convolutions of v_x by weight and of x by v_weight.
        """
        dy, x, weight = ctx.saved_tensors
        d_dy, d_x, d_weight = torch.zeros((), dtype=dy.dtype), None, None
        if v_weight is not None:
            d_dy = torch.conv2d(x, v_weight, None, *ctx.how)
            d_x, _, _ = _gradient(dy, x, v_weight, ctx.how, (True, False, False))
        if v_x is not None:
            d_dy = torch.conv2d(v_x, weight, None, *ctx.how) + d_dy
            _, d_weight, _ = _gradient(dy, v_x, weight, ctx.how, (False, True, False))
        if v_bias is not None:
            d_dy = (d_dy + v_bias[:, None, None]).expand_as(dy)
        return d_dy, d_x, d_weight, None, None
