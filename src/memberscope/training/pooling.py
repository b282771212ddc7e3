"""2×2 max pooling in bfloat16, channels last, on the C kernel: PyTorch's results, bit by bit, in less time."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn


def pools_by_two(module: nn.MaxPool2d) -> bool:
    """Whether ``module`` is what the kernel computes: windows of 2×2 side by side."""
    wanted = (2, (2, 2)), (2, (2, 2)), (0, (0, 0)), (1, (1, 1))
    own = module.kernel_size, module.stride, module.padding, module.dilation
    return all(value in values for value, values in zip(own, wanted, strict=True)) and not (
        module.ceil_mode or module.return_indices
    )


def fits(x: Tensor) -> bool:
    """Whether the kernel takes ``x``: ``(B, C, H, W)`` bfloat16 on the CPU, channels last, at least 2×2."""
    right = x.dtype == torch.bfloat16 and x.ndim == 4 and x.device.type == "cpu" and min(x.shape[2:]) >= 2
    return right and x.permute(0, 2, 3, 1).is_contiguous()


def max_pool(library: ctypes.CDLL, x: Tensor) -> Tensor:
    """``(B, C, H // 2, W // 2)`` bfloat16, channels last.

    Args:
        library: of :func:`memberscope.training.native.pooling_kernels`.
        x: for which :func:`fits` is true.
    """
    result: Tensor = _MaxPool.apply(x, library)  # type: ignore[no-untyped-call]
    return result


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, library: ctypes.CDLL) -> Tensor:
        images, channels, height, width = x.shape
        out = torch.empty(images, height // 2, width // 2, channels, dtype=torch.bfloat16)
        index = torch.empty(out.shape, dtype=torch.uint8)
        sizes = [ctypes.c_long(size) for size in (images, height, width, channels)]
        library.max_pool(_at(x), *sizes, _at(out), _at(index))
        ctx.state = library, index, sizes, x.shape
        return out.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        library, index, sizes, (images, channels, height, width) = ctx.state
        gradient = gradients[0].permute(0, 2, 3, 1).to(torch.bfloat16).contiguous()
        dx = torch.empty(images, height, width, channels, dtype=torch.bfloat16)
        library.max_pool_backward(_at(gradient), _at(index), *sizes, _at(dx))
        return dx.permute(0, 3, 1, 2), None


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
