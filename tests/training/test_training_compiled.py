"""Fused training: the same mathematics as the plain modules, to rounding, and the modules stay what they are."""

from __future__ import annotations

import copy
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from memberscope.models import build
from memberscope.models.densenet import Bottleneck
from memberscope.models.options import DensenetOptions
from memberscope.training.answers import TrainingData
from memberscope.training.compiled import fused
from memberscope.training.convolutions import convolution
from memberscope.training.dense_block import Layer, dense_block
from memberscope.training.inputs import Normalisation
from memberscope.training.loop import train
from memberscope.training.native import dense_kernels
from memberscope.training.recipe import Recipe
from memberscope.types import Dataset

KERNELS = dense_kernels()
native = pytest.mark.skipif(KERNELS.library is None, reason=KERNELS.reason or "kernels are there")
BF16 = Recipe.parse({"model": {"name": "densenet", "depth": 16}, "precision": "bf16", "channels_last": True})


class Block(nn.Module):
    """A dense block with its transition, as plain modules."""

    def __init__(self, channels: int, layers: int, growth: int, transition: bool) -> None:
        super().__init__()
        options = DensenetOptions(growth=growth)
        self.layers = nn.Sequential(*(Bottleneck(channels + i * growth, options) for i in range(layers)))
        total = channels + layers * growth
        self.transition = (
            nn.Sequential(nn.BatchNorm2d(total), nn.ReLU(), nn.Conv2d(total, total // 2, 1, bias=False))
            if transition
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.transition(self.layers(x))
        return result

    def fused(self, x: Tensor) -> Tensor:
        assert KERNELS.library is not None
        layers = [Layer.of(layer) for layer in self.layers if isinstance(layer, Bottleneck)]
        last = None
        if isinstance(self.transition, nn.Sequential):
            norm, _, mix = self.transition
            assert isinstance(norm, nn.BatchNorm2d) and isinstance(mix, nn.Conv2d)
            last = norm, mix
        return dense_block(KERNELS.library, x, layers, last)


def block_and_batch(
    shape: tuple[int, ...], layers: int, growth: int, transition: bool, offset: float, seed: int
) -> tuple[Block, Tensor, Tensor]:
    """A block with uneven norms, whose weights bfloat16 holds exactly, inputs, and a gradient with a large mean."""
    torch.manual_seed(sum(shape) + 1000 * seed)
    block = Block(shape[1], layers, growth, transition)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, offset, 0.2)
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.bfloat16().float()
    x = torch.randn(shape) * torch.linspace(0.3, 3, shape[1])[:, None, None] + torch.randn(shape[1], 1, 1)
    wide = block(x.clone()).shape[1]
    block.apply(lambda module: module.reset_running_stats() if isinstance(module, nn.BatchNorm2d) else None)
    gradient = 0.2 * torch.randn(shape[0], wide, *shape[2:]) + torch.randn(wide, 1, 1)
    gradient += torch.linspace(0, 1, shape[2])[:, None]
    return block, x.bfloat16(), gradient.bfloat16()


def everything(block: Block, x: Tensor, gradient: Tensor, how: str) -> dict[str, Tensor]:
    """Output, every gradient and every running statistic, computed in the way ``how``."""
    block = copy.deepcopy(block).double() if how == "double" else copy.deepcopy(block)
    x = (x.double() if how == "double" else x).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "bf16"):
        y = block.fused(x) if how == "fused" else block(x)
    y.backward(gradient.to(y.dtype))  # type: ignore[no-untyped-call]
    assert x.grad is not None
    found = {"output": y.detach(), "input": x.grad}
    found |= {name: parameter.grad for name, parameter in block.named_parameters() if parameter.grad is not None}
    return found | dict(block.named_buffers())


def distance(found: Tensor, truth: Tensor) -> float:
    """Of ``found``, as a share of the truth; where that is nothing, absolute."""
    size = float(truth.double().norm())
    return float((found.double() - truth.double()).norm()) / (size or 1.0)


SHAPES = [
    ((4, 24, 8, 8), 3, 12, False),
    ((4, 24, 8, 8), 3, 12, True),
    ((3, 24, 7, 7), 2, 12, True),
    ((5, 20, 14, 10), 3, 4, True),
    ((5, 48, 8, 8), 4, 16, True),
    ((2, 30, 2, 2), 2, 8, False),
    ((3, 108, 12, 12), 4, 12, True),
    ((9, 108, 16, 16), 4, 12, True),
]


@native
@pytest.mark.parametrize(("shape", "layers", "growth", "transition"), SHAPES)
def test_dense_block_is_as_exact_as_the_plain_modules(
    shape: tuple[int, ...], layers: int, growth: int, transition: bool
) -> None:
    # A unit that rounding switches on or off in the forward pass moves a gradient by several per cent, here or in
    # the plain modules as chance has it: errors are those over several batches.
    errors: dict[str, list[tuple[float, float]]] = {}
    for seed in range(6):
        given = block_and_batch(shape, layers, growth, transition, offset=0.1, seed=seed)
        truth, plain, ours = (everything(*given, how) for how in ("double", "bf16", "fused"))
        assert ours.keys() == truth.keys()
        for name, value in truth.items():
            assert ours[name].shape == value.shape
            errors.setdefault(name, []).append((distance(ours[name], value), distance(plain[name], value)))
    for name, found in errors.items():
        mine, theirs = np.sqrt(np.mean(np.square(found), axis=0))
        assert mine < 1.5 * theirs + 1e-3, name


@native
@pytest.mark.parametrize(("shape", "layers", "growth", "transition"), SHAPES[4:])
def test_dense_block_where_no_unit_is_off(shape: tuple[int, ...], layers: int, growth: int, transition: bool) -> None:
    # Without ReLU's jumps rounding is the only error left, and every part of batch norm's gradient shows.
    given = block_and_batch(shape, layers, growth, transition, offset=6.0, seed=0)
    truth, plain, ours = (everything(*given, how) for how in ("double", "bf16", "fused"))
    # The first norms' shifts go into the next norm, which takes them out again: their gradients are rounding alone.
    shown = [name for name in truth if distance(plain[name], truth[name]) < 0.1]
    assert len(shown) > len(truth) - 2 * layers - 2 and "input" in shown
    for name in shown:
        assert distance(ours[name], truth[name]) < 1.5 * distance(plain[name], truth[name]) + 1e-3, name


CONVOLUTIONS = [(3, 1, 1, 4, 4), (3, 2, 1, 8, 6), (3, 1, 1, 7, 5), (1, 2, 0, 5, 8), (3, 1, 0, 6, 6), (5, 3, 2, 9, 9)]


@pytest.mark.parametrize(("kernel", "stride", "padding", "height", "width"), CONVOLUTIONS)
def test_convolution_as_products_equals_the_plain_one(
    kernel: int, stride: int, padding: int, height: int, width: int
) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 6, height, width, requires_grad=True), torch.randn(4, 6, kernel, kernel)
    weight = weight.contiguous(memory_format=torch.channels_last).requires_grad_()
    ours, plain = convolution(x, weight, stride, padding), F.conv2d(x, weight, None, stride, padding)
    gradient = torch.randn_like(plain)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad(y, (x, weight), gradient) for y in (ours, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "padding", "height", "width"), CONVOLUTIONS)
def test_gradients_of_the_products(kernel: int, stride: int, padding: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 1, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: convolution(a, b, stride, padding), (x, weight))


@pytest.mark.parametrize(
    ("name", "options", "side"),
    [("densenet", {"depth": 16}, 8), ("resnet", {"width": 64, "blocks": [1, 1]}, 16), ("cnn", {}, 16)],
)
def test_fused_model_trains_alike_and_stays_itself(name: str, options: dict[str, object], side: int) -> None:
    torch.manual_seed(0)
    model = build(name, (3, side, side), 4, **options).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, y = torch.randn(16, 3, side, side), torch.randint(0, 4, (16,))
    recipe = Recipe.parse({"model": {"name": name, **options}, "precision": "bf16"})
    plain_model = copy.deepcopy(model)
    before = list(model.state_dict())

    def gradients(net: nn.Module) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(x)
        F.cross_entropy(logits.float(), y).backward()  # type: ignore[no-untyped-call]
        return [parameter.grad for parameter in net.parameters() if parameter.grad is not None]

    with fused(model, recipe, "cpu"):
        ours = gradients(model)
        assert list(model.state_dict()) == before
        model.eval()
        plain_model.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert torch.equal(model(x), plain_model.eval()(x))
    assert [type(module) for module in model.modules()] == [type(module) for module in plain_model.modules()]
    assert not any("forward" in vars(module) for module in model.modules())
    torch.manual_seed(0)
    fresh = build(name, (3, side, side), 4, **options).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    both = [torch.cat([part.flatten() for part in grads]) for grads in (ours, gradients(fresh))]
    assert F.cosine_similarity(*both, 0) > 0.98


def state_of(dataset: Dataset, member: NDArray[np.bool_], recipe: Recipe) -> dict[str, NDArray[np.float32]]:
    data = TrainingData(dataset.inputs, dataset.labels, dataset.classes, Normalisation.fit(dataset.inputs))
    state = train(data, member, recipe, seed=(0, 0), name="model 0").state
    return {key: value.numpy() for key, value in state.items()}


def test_same_bytes_again_and_in_another_process(images: Dataset, members: NDArray[np.bool_]) -> None:
    models = {"densenet": {"depth": 10}, "resnet": {"width": 64, "blocks": [1, 1]}}
    recipes = [
        Recipe.parse({"model": {"name": name, **options}, "epochs": 1, "precision": "bf16", "channels_last": True})
        for name, options in models.items()
    ]
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        for recipe in recipes:
            first = state_of(images, members[0], recipe)
            again = state_of(images, members[0], recipe)
            there = process.submit(state_of, images, members[0], recipe).result()
            assert all(np.array_equal(first[key], state[key]) for state in (again, there) for key in first)
