"""Faster forwards for plain training: the model's modules, names and weights stay what they are.

``torch.compile`` is not used: docs/speed-convolutions.md holds the measurements.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from memberscope.models.base import Classifier
from memberscope.models.densenet import Bottleneck, Densenet
from memberscope.training.convolutions import convolution, pays, plain
from memberscope.training.dense_block import Layer, dense_block
from memberscope.training.mode import fits_kernels
from memberscope.training.native import dense_kernels, fcn_kernels, pooling_kernels, require
from memberscope.training.pooling import fits, max_pool, pools_by_two
from memberscope.training.recipe import Recipe


def describe_kernels(recipe: Recipe, device: str) -> dict[str, str]:
    """Which kernels models of this recipe train on, if it depends on the machine; compiles them if need be.

    Returns:
        ``{}``, or ``kernels`` with the name of those, for a manifest's environment: other kernels, other bytes.
    """
    if fits_kernels(recipe, device):
        return {"kernels": fcn_kernels().name}
    if recipe.model.name != "densenet" or not _on_this_processor(recipe, device) or recipe.threads != 1:
        return {}
    options = recipe.model_options()
    fit = options["norm"] == "batch" and not options["dropout"] and options["growth"] in (4, 8, 12, 16)
    return {"kernels": dense_kernels().name} if fit else {}


def _on_this_processor(recipe: Recipe, device: str) -> bool:
    return recipe.precision == "bf16" and recipe.privacy is None and torch.device(device).type == "cpu"


@contextmanager
def fused(model: Classifier, recipe: Recipe, device: str, kernels: str | None = None) -> Iterator[None]:
    """Inside, ``model`` trains through fused operations where there are some for it; else nothing changes.

    Only the ``forward`` of single modules is replaced, and only while they are in training mode: questions,
    hooks and per-sample gradients see the plain modules.

    Args:
        kernels: of dense blocks, by the name that :func:`describe_kernels` gave where training was planned; None
            takes what this machine has.

    Raises:
        PoolError: this process does not have the kernels of that name.
    """
    replaced: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
    if _on_this_processor(recipe, device):
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and plain(module):
                replaced[module] = _convolution(module)
            if isinstance(module, nn.MaxPool2d) and pools_by_two(module):
                replaced[module] = _pooling(module)
        if isinstance(model, Densenet) and recipe.threads == 1 and _dense_layers_fit(model):
            library = require(kernels, dense_kernels())
            if library is not None:
                replaced[model.body] = _dense_body(model, library, model.body.forward)
    for module, forward in replaced.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


def _convolution(module: nn.Conv2d) -> Callable[[Tensor], Tensor]:
    own = module.forward

    def forward(x: Tensor) -> Tensor:
        if not module.training or x.dtype != torch.bfloat16 or not pays(module, x):
            return own(x)
        return convolution(x, module.weight, module.stride[0], int(module.padding[0]))

    return forward


def _pooling(module: nn.MaxPool2d) -> Callable[[Tensor], Tensor]:
    own, library = module.forward, pooling_kernels().library

    def forward(x: Tensor) -> Tensor:
        return own(x) if library is None or not module.training or not fits(x) else max_pool(library, x)

    return forward


def _dense_layers_fit(model: Densenet) -> bool:
    """Whether the kernels know these layers: batch norm, no dropout, at most 16 channels a layer, from 16 n."""
    layers = [module for module in model.body.children() if isinstance(module, Bottleneck)]
    norms = [layer.new[place] for layer in layers for place in (0, 4)]
    last = [layer.new[6] for layer in layers]
    return (
        bool(layers)
        and all(isinstance(norm, nn.BatchNorm2d) and norm.affine for norm in norms)
        and not any(isinstance(module, nn.Dropout) and module.p for module in model.body.modules())
        and all(isinstance(m, nn.Conv2d) and m.in_channels % 16 == 0 and m.out_channels <= 16 for m in last)
    )


def _dense_body(model: Densenet, library: ctypes.CDLL, own: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if not model.training:
            return own(x)
        modules = list(model.body.children())
        place = 0
        while place < len(modules):
            module = modules[place]
            if not isinstance(module, Bottleneck):
                x, place = module(x), place + 1
                continue
            layers = []
            while isinstance(bottleneck := modules[place], Bottleneck):
                layers.append(Layer.of(bottleneck))
                place += 1
            transition = None
            if place + 2 < len(modules):
                norm, _, convolution = modules[place : place + 3]
                assert isinstance(norm, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d)
                transition = norm, convolution
                place += 3
            x = dense_block(library, x, layers, transition)
        return x

    return forward
