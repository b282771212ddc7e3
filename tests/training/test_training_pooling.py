"""Max pooling on the C kernel is PyTorch's, bit by bit, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from memberscope.models import build
from memberscope.training.compiled import fused
from memberscope.training.native import PLAIN, pooling_kernels
from memberscope.training.pooling import fits, max_pool, pools_by_two
from memberscope.training.recipe import Recipe

KERNELS = pooling_kernels()
native = pytest.mark.skipif(KERNELS.library is None, reason=KERNELS.reason or "kernels are there")


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int16)


def both(x: Tensor, gradient: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Result and gradient of ours and of PyTorch's."""
    assert KERNELS.library is not None
    found = []
    for pool in (lambda own: max_pool(KERNELS.library, own), nn.MaxPool2d(2)):
        own = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = pool(own)
        out.backward(gradient)
        assert own.grad is not None
        found.append([out.detach(), own.grad])
    return found[0], found[1]


@native
@pytest.mark.parametrize("shape", [(3, 32, 8, 8), (2, 5, 7, 9), (1, 70, 2, 3), (4, 64, 16, 16), (2, 33, 3, 2)])
def test_the_same_bits(shape: tuple[int, int, int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    # Few values, so that many windows hold equal ones; and zeros of both signs.
    x = (torch.randint(-3, 3, shape, generator=rng) * torch.tensor(0.5)).bfloat16()
    x[x == 0] *= torch.where(torch.rand(int((x == 0).sum()), generator=rng) < 0.5, -1.0, 1.0).bfloat16()
    x = x.to(memory_format=torch.channels_last)
    gradient = torch.randn((*shape[:2], shape[2] // 2, shape[3] // 2), generator=rng).bfloat16()
    gradient = gradient.to(memory_format=torch.channels_last)
    ours, theirs = both(x, gradient)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape and torch.equal(bits(mine), bits(other))


@native
@pytest.mark.parametrize("odd", [float("nan"), -float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-40])
def test_odd_numbers_win_where_they_win_in_pytorch(odd: float) -> None:
    x = torch.zeros(4, 32, 2, 2, dtype=torch.bfloat16)
    for place in range(4):
        x[place, :, place // 2, place % 2] = odd
    x = x.to(memory_format=torch.channels_last)
    ours, theirs = both(x, torch.ones(4, 32, 1, 1, dtype=torch.bfloat16))
    assert torch.equal(ours[0].isnan(), theirs[0].isnan())
    assert torch.equal(ours[0].nan_to_num(7), theirs[0].nan_to_num(7)) and torch.equal(ours[1], theirs[1])


def test_other_windows_and_layouts_are_left_to_pytorch() -> None:
    assert pools_by_two(nn.MaxPool2d(2)) and pools_by_two(nn.MaxPool2d((2, 2), stride=(2, 2)))
    others = (nn.MaxPool2d(3), nn.MaxPool2d(2, 1), nn.MaxPool2d(2, padding=1), nn.MaxPool2d(2, dilation=2))
    assert not any(map(pools_by_two, (*others, nn.MaxPool2d(2, ceil_mode=True))))
    x = torch.zeros(2, 8, 4, 4, dtype=torch.bfloat16)
    assert fits(x.to(memory_format=torch.channels_last))
    assert not fits(x) and not fits(x.float().to(memory_format=torch.channels_last)) and not fits(x[:, :, :1])


@native
def test_a_net_takes_it_while_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("cnn", (3, 8, 8), 4, widths=[16, 32], hidden=8).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recipe = Recipe.parse({"model": "cnn", "precision": "bf16", "channels_last": True})
    x = torch.randn(6, 3, 8, 8).to(memory_format=torch.channels_last)
    gradients = []
    for inside in (True, False):
        model.zero_grad()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            if inside:
                with fused(model, recipe, "cpu", PLAIN):
                    assert any(
                        "forward" in vars(module) for module in model.modules() if isinstance(module, nn.MaxPool2d)
                    )
                    loss = model(x).float().square().sum()
            else:
                loss = model(x).float().square().sum()
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
