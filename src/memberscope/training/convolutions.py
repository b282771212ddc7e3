"""Convolutions as matrix products where oneDNN's own bfloat16 kernels are slow: many channels on small maps.

Measured on one AMX core at batch 64: 3×3, 512 to 512 channels on 4×4 maps, forward and backward 100 ms in oneDNN
(64 of them for the gradient of the weights) and 25 ms here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLACES, CHANNELS = 64, 128  # at most so many outputs an image, at least so many input channels
SMALL = 16  # at most so many outputs an image for the gradient of the input, too


def pays(module: nn.Conv2d, x: Tensor) -> bool:
    """Whether :func:`convolution` is the faster way for this layer on inputs like ``x`` ``(B, C, H, W)``."""
    (kernel, other), (stride, _), padding = module.kernel_size, module.stride, int(module.padding[0])
    if kernel == 1:
        return stride > 1 and padding == 0
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in x.shape[2:])
    return kernel == other and height * width <= PLACES and module.in_channels >= CHANNELS


def plain(module: nn.Conv2d) -> bool:
    """Whether the layer is one that :func:`convolution` can compute at all."""
    shapes = all(len(set(pair)) == 1 for pair in (module.kernel_size, module.stride, module.dilation))
    given = isinstance(module.padding, tuple) and len(set(module.padding)) == 1
    return shapes and given and module.groups == 1 and module.dilation[0] == 1 and module.bias is None


def convolution(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """``F.conv2d(x, weight, None, stride, padding)`` in the type of ``x``, channels last.

    Args:
        x: ``(B, C, H, W)``.
        weight: ``(K, C, k, k)``, of any floating type.
    """
    result: Tensor = _Convolution.apply(x, weight, stride, padding)  # type: ignore[no-untyped-call]
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        kernel = weight.shape[2]
        columns, places = _columns(x, kernel, stride, padding)
        matrix = weight.to(x.dtype).permute(0, 2, 3, 1).reshape(len(weight), -1)
        ctx.save_for_backward(columns, matrix)
        ctx.shapes = x.shape, weight.shape, weight.dtype, places, stride, padding
        with torch.autocast(x.device.type, enabled=False):
            return (columns @ matrix.t()).view(*places, -1).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        columns, matrix = ctx.saved_tensors
        shape, (wide, channels, kernel, _), dtype, places, stride, padding = ctx.shapes
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, wide).to(columns.dtype)
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = _input_gradient(rows, gradient, matrix, shape, kernel, places, stride, padding)
        if ctx.needs_input_grad[1]:
            # The product wants its left operand in order; oneDNN transposes more slowly than a copy does.
            dw = (rows.t().contiguous() @ columns).view(wide, kernel, kernel, channels).permute(0, 3, 1, 2).to(dtype)
        return dx, dw, None, None


def _columns(x: Tensor, kernel: int, stride: int, padding: int) -> tuple[Tensor, tuple[int, int, int]]:
    """The k × k neighbourhood of every output, ``(B h w, k k C)``, and ``(B, h, w)``."""
    pixels = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding)).contiguous()
    count, height, width, channels = pixels.shape
    high, wide = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    image, line, pixel, _ = pixels.stride()
    # Neighbours in a row lie side by side in memory: k pixels are one run.
    runs = pixels.as_strided(
        (count, high, wide, kernel, kernel * channels), (image, line * stride, pixel * stride, line, 1)
    )
    return runs.reshape(count * high * wide, -1), (count, high, wide)


def _input_gradient(
    rows: Tensor, gradient: Tensor, matrix: Tensor, shape: torch.Size, kernel: int,
    places: tuple[int, int, int], stride: int, padding: int,
) -> Tensor:  # fmt: skip
    count, channels, height, width = shape
    _, high, wide = places
    weight = matrix.view(-1, kernel, kernel, channels).permute(0, 3, 1, 2)
    if kernel > 1 and high * wide > SMALL:
        empty = gradient.new_empty(()).expand(shape)
        both = [stride, stride], [padding, padding], [1, 1]
        found: Tensor = torch.ops.aten.convolution_backward(
            gradient.to(matrix.dtype), empty, weight, None, *both, False, [0, 0], 1, [True, False, False]
        )[0]
        return found
    parts = (rows @ matrix).view(count, high, wide, kernel, kernel, channels)
    result = torch.zeros(
        count, height + 2 * padding, width + 2 * padding, channels, dtype=rows.dtype, device=rows.device
    )
    for i in range(kernel):
        for j in range(kernel):
            result[:, i : i + stride * high : stride, j : j + stride * wide : stride] += parts[:, :, :, i, j]
    return result[:, padding : padding + height, padding : padding + width].permute(0, 3, 1, 2)
