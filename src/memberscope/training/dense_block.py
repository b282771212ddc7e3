"""A dense block and its transition as one differentiable operation in bfloat16, on the C kernels.

Plain code normalises the same feature maps anew in every layer of the block and writes each result out. Here the
statistics of a feature map are computed once, norm and ReLU never leave the cache, and backward passes over the
maps once a layer (``kernels/dense_block.c`` says how). The mathematics are those of the plain modules; sums are
rounded at other places.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memberscope.models.densenet import Bottleneck


@dataclass(frozen=True, eq=False)
class Layer:
    """The modules of a bottleneck: norm, 1×1 convolution, norm, 3×3 convolution."""

    norm1: nn.BatchNorm2d
    product: nn.Conv2d
    norm2: nn.BatchNorm2d
    convolution: nn.Conv2d

    @classmethod
    def of(cls, bottleneck: Bottleneck) -> Layer:
        """The layer that ``bottleneck`` is; its ReLUs and dropouts (which drop nothing) are implied."""
        found = [module for module in bottleneck.new if isinstance(module, nn.BatchNorm2d | nn.Conv2d)]
        return cls(*found)  # type: ignore[arg-type]

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """In the order that the operation takes them."""
        return (
            self.norm1.weight, self.norm1.bias, self.product.weight,
            self.norm2.weight, self.norm2.bias, self.convolution.weight,
        )  # fmt: skip


def dense_block(
    library: ctypes.CDLL, x: Tensor, layers: list[Layer], transition: tuple[nn.BatchNorm2d, nn.Conv2d] | None
) -> Tensor:
    """All maps of the block ``(B, C + L k, H, W)``, or what the transition's 1×1 convolution makes of them.

    Args:
        library: of :func:`memberscope.training.native.dense_kernels`.
        x: ``(B, C, H, W)`` bfloat16.
        layers: in training mode; their running statistics are updated.
        transition: norm and 1×1 convolution after the block (its pooling is the caller's), or None.

    Returns:
        bfloat16, channels last.
    """
    parameters = [parameter for layer in layers for parameter in layer.parameters]
    if transition is not None:
        parameters += [transition[0].weight, transition[0].bias, transition[1].weight]
    result: Tensor = _DenseBlock.apply(x, library, layers, transition, *parameters)  # type: ignore[no-untyped-call]
    return result


class _Statistics:
    """Mean and 1/std of ``channels`` maps over ``count`` values each, filled in as the maps come."""

    def __init__(self, channels: int, count: int) -> None:
        self.count = count
        self.mean, self.variance, self.rstd = torch.zeros(3, channels)

    def settle(self, start: int, sums: Tensor, eps: float) -> None:
        """Take in sums and sums of squares ``(2, c)`` of the channels from ``start``."""
        end = start + sums.shape[1]
        mean = sums[0] / self.count
        variance = (sums[1] / self.count - mean * mean).clamp_(min=0)
        self.mean[start:end], self.variance[start:end] = mean, variance
        self.rstd[start:end] = (variance + eps).rsqrt()

    def remember(self, norm: nn.BatchNorm2d) -> None:
        """Move the running statistics of ``norm`` as its own forward would."""
        if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
            return
        norm.num_batches_tracked.add_(1)
        channels, momentum = norm.num_features, norm.momentum
        weight = 1 / float(norm.num_batches_tracked) if momentum is None else momentum
        norm.running_mean.lerp_(self.mean[:channels], weight)
        norm.running_var.lerp_(self.variance[:channels] * (self.count / (self.count - 1)), weight)


class _DenseBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        library: ctypes.CDLL,
        layers: list[Layer],
        transition: tuple[nn.BatchNorm2d, nn.Conv2d] | None,
        *parameters: Tensor,
    ) -> Tensor:
        images, channels, height, width = x.shape
        rows, growth = images * height * width, layers[0].convolution.out_channels
        inner, total = layers[0].product.out_channels, channels + len(layers) * growth
        maps = torch.empty(images, height, width, total, dtype=torch.bfloat16)
        maps[..., :channels] = x.permute(0, 2, 3, 1)
        known = _Statistics(total, rows)
        sums = torch.empty(2, channels, dtype=torch.float64)
        _call(library.channel_sums, maps, rows, total, channels, sums[0], sums[1])
        known.settle(0, sums, layers[0].norm1.eps)
        weights = [_rows_of(weight) for weight in parameters if weight.ndim == 4]
        squeezed = []
        for number, layer in enumerate(layers):
            gamma1, beta1, _, gamma2, beta2, _ = parameters[6 * number : 6 * number + 6]
            known.remember(layer.norm1)
            hidden, found = torch.empty(rows, inner, dtype=torch.bfloat16), _Statistics(inner, rows)
            sums = torch.empty(2, inner, dtype=torch.float64)
            _call(
                library.norm_product,
                *(maps, rows, total, channels, gamma1, beta1, known.mean, known.rstd),
                *(weights[2 * number], inner, hidden, sums[0], sums[1]),
            )
            found.settle(0, sums, layer.norm2.eps)
            found.remember(layer.norm2)
            sums = torch.empty(2, growth, dtype=torch.float64)
            _call(
                library.norm_convolution,
                *(hidden, images, height, width, inner, gamma2, beta2, found.mean, found.rstd),
                *(weights[2 * number + 1], growth, maps[..., channels:], total, sums[0], sums[1]),
            )
            known.settle(channels, sums, layer.norm1.eps)
            squeezed.append((hidden, found))
            channels += growth
        ctx.save_for_backward(*parameters)
        ctx.state = library, maps, known, squeezed, weights
        ctx.transition = transition is not None
        if transition is None:
            # Backward reads the buffer that is handed out: whoever gets it must not write to it.
            return maps.permute(0, 3, 1, 2)
        known.remember(transition[0])
        wide = transition[1].out_channels
        out, sums = torch.empty(images, height, width, wide, dtype=torch.bfloat16), torch.empty(2, wide).double()
        gamma, beta, _ = parameters[-3:]
        _call(
            library.norm_product,
            *(maps, rows, total, total, gamma, beta, known.mean, known.rstd),
            *(weights[-1], wide, out, sums[0], sums[1]),
        )
        return out.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        library, maps, known, squeezed, weights = ctx.state
        del ctx.state
        parameters: tuple[Tensor, ...] = ctx.saved_tensors
        images, height, width, total = maps.shape
        rows = images * height * width
        gradient = gradients[0].permute(0, 2, 3, 1).to(torch.bfloat16).contiguous()
        # Of what is collected behind the norms (row 0), and of that times the normalised maps (row 1).
        means = torch.zeros(2, total, dtype=torch.float64)
        grads: list[Tensor] = []

        def product(d: Tensor, place: int, weight: Tensor, behind: tuple[Tensor, ...], begin: bool) -> list[Tensor]:
            """Backward of norm, ReLU and 1×1 convolution on the first channels of the maps."""
            gamma, beta = parameters[place : place + 2]
            wide, channels = weight.shape
            sums, dw = torch.empty(2, channels, dtype=torch.float64), torch.empty(wide, channels)
            _call(
                library.norm_product_backward,
                *(d, *(behind or [None] * 5), maps, rows, total, channels, gamma, beta, known.mean, known.rstd),
                *(weight, wide, int(begin), collected, sums[0], sums[1], dw),
            )
            means[0, :channels] += gamma.double() * sums[1] / rows
            means[1, :channels] += gamma.double() * sums[0] / rows
            return [sums[0].float(), sums[1].float(), dw[:, :, None, None]]

        if ctx.transition:
            collected = torch.empty_like(maps, dtype=torch.float32)
            grads = product(gradient, len(parameters) - 3, weights[-1], (), True)
        else:
            # What arrives is a gradient of the maps themselves; completing it will multiply by 1/std.
            collected = gradient.float() / known.rstd
        channels = total
        for number in reversed(range(len(squeezed))):
            hidden, found = squeezed[number]
            gamma2, beta2 = parameters[6 * number + 3 : 6 * number + 5]
            weight, inner = weights[2 * number + 1], hidden.shape[1]
            growth = len(weight)
            channels -= growth
            dz, dw = torch.empty_like(hidden), torch.empty(weight.shape)
            sums = torch.empty(2, inner, dtype=torch.float64)
            _call(
                library.norm_convolution_backward,
                *(collected[..., channels:], maps[..., channels:], total, known.mean[channels:], known.rstd[channels:]),
                *(means[:, channels:], total, hidden, images, height, width, inner, gamma2, beta2),
                *(found.mean, found.rstd, weight, growth, dz, sums[0], sums[1], dw),
            )
            second = [sums[0].float(), sums[1].float(), dw.permute(0, 3, 1, 2)]
            behind = hidden, found.mean, found.rstd, gamma2, sums.flip(0) / rows
            grads = product(dz, 6 * number, weights[2 * number], behind, False) + second + grads
        dx = torch.empty(images, height, width, channels, dtype=torch.bfloat16)
        _call(library.complete, collected, maps, rows, total, channels, known.mean, known.rstd, means, total, dx)
        return dx.permute(0, 3, 1, 2), None, None, None, *grads


def _rows_of(weight: Tensor) -> Tensor:
    """A convolution's weight as ``(out, in)`` for 1×1, else ``(out, 3, 3, in)``."""
    moved = weight.detach().permute(0, 2, 3, 1).contiguous()
    return moved.flatten(1) if moved.shape[1:3] == (1, 1) else moved


def _call(function: Any, *arguments: Tensor | int | None) -> None:
    """Call a kernel with tensors as the addresses of their first elements."""
    passed = [ctypes.c_long(a) if isinstance(a, int) else a if a is None else _at(a) for a in arguments]
    if function(*passed):
        raise MemoryError("no memory for a dense block; train fewer models at once")


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
