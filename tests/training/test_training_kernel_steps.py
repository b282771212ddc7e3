"""The C kernel of fully connected networks: its steps against float64, its optimisers against PyTorch's formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from memberscope.errors import PoolError
from memberscope.models import build
from memberscope.models.fcn import Fcn
from memberscope.training.answers import TrainingData
from memberscope.training.compiled import describe_kernels
from memberscope.training.inputs import Normalisation
from memberscope.training.kernel_steps import KernelFcn
from memberscope.training.loop import Trained
from memberscope.training.mode import resolve, stack_size
from memberscope.training.native import PLAIN, fcn_kernels
from memberscope.training.pool import read_metrics, train_pool
from memberscope.training.recipe import Recipe
from memberscope.training.stacked import train_stack
from memberscope.training.stacked_model import StackedFcn, linear_layers
from memberscope.types import Dataset

KERNELS = fcn_kernels()
pytestmark = pytest.mark.skipif(KERNELS.library is None, reason=KERNELS.reason or "kernels are there")

WIDTHS = {
    "paper": (600, (1024, 512, 256, 128), 100),
    "uneven": (70, (33, 47), 5),
    "tiny": (3, (1,), 2),
    "wide": (31, (100,), 65),
}
RECORDS = 300


def network(shape: str, activation: str = "tanh", seed: int = 0) -> Fcn:
    features, widths, classes = WIDTHS[shape]
    torch.manual_seed(seed)
    model = build("fcn", (features,), classes, widths=widths, activation=activation)
    assert isinstance(model, Fcn)
    return model


def records(shape: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    features, _, classes = WIDTHS[shape]
    rng = torch.Generator().manual_seed(seed)
    table = (torch.rand(RECORDS, features, generator=rng) < 0.3).to(torch.uint8)
    return table, torch.randint(0, classes, (RECORDS,), generator=rng)


def recipe(shape: str, **changes: Any) -> Recipe:
    model = {"name": "fcn", "widths": WIDTHS[shape][1]}
    return Recipe.parse({"model": model, "precision": "bf16", "batch_size": 128} | changes)


def by_hand(
    model: Fcn, x: Tensor, labels: Tensor, smoothing: float = 0.0, masks: Sequence[Tensor] = ()
) -> tuple[float, Tensor, list[Tensor]]:
    """The mean loss, each record's cross-entropy, and the mean's gradients (weights, then biases), in float64."""
    layers = linear_layers(model)
    parameters = [
        value.detach().double().requires_grad_()
        for value in [layer.weight for layer in layers] + [layer.bias for layer in layers]
    ]
    hidden = x.double()
    activate = torch.tanh if any(isinstance(module, torch.nn.Tanh) for module in model.modules()) else torch.relu
    for place in range(len(layers)):
        hidden = F.linear(hidden, parameters[place], parameters[len(layers) + place])
        if place < len(layers) - 1:
            hidden = activate(hidden)
            hidden = hidden * masks[place].t().double() if masks else hidden
    mean = F.cross_entropy(hidden, labels, label_smoothing=smoothing)
    mean.backward()  # type: ignore[no-untyped-call]
    own = F.cross_entropy(hidden, labels, reduction="none").detach()
    return mean.item(), own, [parameter.grad for parameter in parameters if parameter.grad is not None]


def weights_of(net: KernelFcn) -> list[Tensor]:
    weights, biases = net.read()
    return [*(weight.t() for weight in weights), *biases]


def gradients(model: Fcn, x: Tensor, index: Tensor, labels: Tensor, **how: Any) -> tuple[float, Tensor, list[Tensor]]:
    """Loss, own losses and gradients by the kernel: what a step of plain SGD of rate 1 takes away."""
    assert KERNELS.library is not None
    smoothing = how.pop("smoothing", 0.0)
    plain = Recipe.parse(
        {"model": "fcn", "optimizer": "sgd", "momentum": 0, "batch_size": 128, "label_smoothing": smoothing}
    )
    net = KernelFcn(KERNELS.library, model, plain)
    before = weights_of(net)
    total, own = net.step(x, index, labels[index], 1.0, **how)
    return total, own, [a - b for a, b in zip(before, weights_of(net), strict=True)]


def errors(found: Sequence[Tensor], true: Sequence[Tensor]) -> list[float]:
    return [float((a.double() - b).norm() / (b.norm() + 1e-12)) for a, b in zip(found, true, strict=True)]


@pytest.mark.parametrize("shape", WIDTHS)
@pytest.mark.parametrize("count", [1, 37, 128, 129])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_step_is_as_near_to_float64_as_pytorchs_own_bfloat16(shape: str, count: int, smoothing: float) -> None:
    model, (table, labels) = network(shape), records(shape)
    index = torch.randperm(RECORDS)[:count]
    mean, own, true = by_hand(model, table[index], labels[index], smoothing)
    total, mine, found = gradients(model, table, index, labels, smoothing=smoothing)
    torch.testing.assert_close(mine.double(), own, atol=0.02, rtol=0.02)
    assert abs(total / count - mean) < 0.01
    # PyTorch's operations in bfloat16, the derivatives by hand.
    stack = StackedFcn([model], torch.bfloat16)
    logits = stack.forward(table[index].bfloat16()[None], [None] * (len(stack.weights) - 1))
    signal = logits.softmax(2) - smoothing / logits.shape[2]
    signal.scatter_add_(2, labels[index][None, :, None], torch.full((1, count, 1), smoothing - 1))
    stack.backward(signal / count)
    plain = [gradient[0].t() for gradient in stack.gradients] + [gradient[0, 0] for gradient in stack.bias_gradients]
    for ours, theirs in zip(errors(found, true), errors(plain, true), strict=True):
        assert ours < max(1.5 * theirs, 0.004)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_masks_and_constants_reach_every_layer(activation: str) -> None:
    model, (table, labels) = network("uneven", activation), records("uneven")
    index, rng = torch.arange(40), torch.Generator().manual_seed(1)
    masks = [torch.bernoulli(torch.full((width, 40), 0.7), generator=rng) / 0.7 for width in (33, 47)]
    scale, shift = torch.rand(70, generator=rng) + 0.5, torch.rand(70, generator=rng) - 0.5
    _, own, true = by_hand(model, table[index] * scale + shift, labels[index], masks=masks)
    _, mine, found = gradients(model, table, index, labels, masks=masks, constants=(scale, shift))
    torch.testing.assert_close(mine.double(), own, atol=0.02, rtol=0.02)
    assert max(errors(found, true)) < 0.02
    # The same numbers given as floats.
    floats = (table * scale + shift).contiguous()
    again = gradients(model, floats, index, labels, masks=masks)[2]
    assert max(errors(again, [value.double() for value in found])) < 0.004


def _sgd(x: Tensor, g: Tensor, state: dict[str, Tensor], step: int, r: Recipe) -> Tensor:
    g = g + r.weight_decay * x
    if r.momentum:
        state["m"] = r.momentum * state.get("m", torch.zeros_like(g)) + g
        g = g + r.momentum * state["m"] if r.nesterov else state["m"]
    return x - r.learning_rate * g


def _adam(x: Tensor, g: Tensor, state: dict[str, Tensor], step: int, r: Recipe) -> Tensor:
    if r.optimizer == "adamw":
        x = x * (1 - r.learning_rate * r.weight_decay)
    else:
        g = g + r.weight_decay * x
    b1, b2 = r.betas
    state["m"] = b1 * state.get("m", torch.zeros_like(g)) + (1 - b1) * g
    state["v"] = b2 * state.get("v", torch.zeros_like(g)) + (1 - b2) * g * g
    root = (state["v"] / (1 - b2**step)).sqrt() + 1e-8
    return x - r.learning_rate * state["m"] / (1 - b1**step) / root


OPTIMISERS: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "sgd": (_sgd, {"optimizer": "sgd", "momentum": 0, "learning_rate": 0.5}),
    "sgd, decay": (_sgd, {"optimizer": "sgd", "momentum": 0, "weight_decay": 0.1, "learning_rate": 0.5}),
    "momentum": (_sgd, {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1}),
    "nesterov": (_sgd, {"optimizer": "sgd", "momentum": 0.8, "nesterov": True, "learning_rate": 0.1}),
    "adam": (_adam, {}),
    "adam, decay": (_adam, {"weight_decay": 0.01, "betas": (0.8, 0.99)}),
    "adamw": (_adam, {"optimizer": "adamw", "weight_decay": 0.1}),
    "adam, clipped": (_adam, {"gradient_clip": 0.05}),
    "momentum, clipped": (_sgd, {"optimizer": "sgd", "gradient_clip": 0.05, "learning_rate": 0.5}),
    "adam, averaged": (_adam, {"ema": 0.6}),
    "sgd, averaged": (_sgd, {"optimizer": "sgd", "momentum": 0, "ema": 0.9, "learning_rate": 0.5}),
    "adamw, averaged": (_adam, {"optimizer": "adamw", "weight_decay": 0.1, "ema": 0.9}),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_follow_their_formulas(name: str) -> None:
    """Gradients of the kernel itself, weights in float64: what is left is float's rounding."""
    assert KERNELS.library is not None
    formula, changes = OPTIMISERS[name]
    how = recipe("uneven", **changes)
    model, (table, labels) = network("uneven"), records("uneven")
    net = KernelFcn(KERNELS.library, model, how)
    # Without its average, so that the weights themselves can be read.
    twin = KernelFcn(KERNELS.library, model, how.model_copy(update={"ema": None}))
    start = [value.double() for value in weights_of(twin)]
    average, states = [value.clone() for value in start], [{} for _ in start]
    places = torch.Generator().manual_seed(2)
    for step in range(1, 6):
        index = torch.randint(0, RECORDS, (64,), generator=places)
        before = weights_of(twin)
        face = network("uneven")
        with torch.no_grad():
            for layer, weight, bias in zip(linear_layers(face), before, before[len(before) // 2 :], strict=False):
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)
        found = [gradient.double() for gradient in gradients(face, table, index, labels)[2]]
        if how.gradient_clip:
            norm = torch.stack([gradient.norm() for gradient in found]).norm()
            assert norm > how.gradient_clip
            found = [gradient * how.gradient_clip / (norm + 1e-6) for gradient in found]
        expected = [formula(x.double(), g, state, step, how) for x, g, state in zip(before, found, states, strict=True)]
        for each in (net, twin):
            each.step(table, index, labels[index], how.learning_rate)
        for x, value in zip(weights_of(twin), expected, strict=True):
            torch.testing.assert_close(x.double(), value, atol=2e-6, rtol=2e-5)
        if how.ema:
            share = 1 - min(how.ema, (1 + step) / (10 + step))
            average = [a + share * (x.double() - a) for a, x in zip(average, weights_of(twin), strict=True)]
            for a, value in zip(weights_of(net), average, strict=True):
                torch.testing.assert_close(a.double(), value, atol=2e-6, rtol=2e-5)
    assert not any(torch.equal(x.double(), value) for x, value in zip(weights_of(twin), start, strict=True))


def test_weights_come_back_as_they_were_given() -> None:
    assert KERNELS.library is not None
    model = network("uneven")
    with torch.no_grad():
        # Halves of which the nearest bfloat16 lies above, below and in the middle; zeros, denormals, the largest.
        odd = torch.tensor([1.00390625, -1.001953125, 3e38, -3e-39, 0.0, -0.0, 1 + 2**-23])
        linear_layers(model)[0].weight[0, :7] = odd
    net = KernelFcn(KERNELS.library, model, recipe("uneven"))
    for layer, weight, bias in zip(linear_layers(model), *net.read(), strict=True):
        assert torch.equal(layer.weight.view(torch.int32), weight.t().contiguous().view(torch.int32))
        assert torch.equal(layer.bias, bias)


def test_the_processors_state_is_left_as_it_was() -> None:
    """Tiles are oneDNN's too, and denormal numbers everybody's."""
    left, right = torch.randn(64, 64).bfloat16(), torch.randn(64, 64).bfloat16()
    before = left @ right
    model, (table, labels) = network("paper"), records("paper")
    gradients(model, table, torch.arange(128), labels)
    assert torch.equal(left @ right, before)
    assert np.float32(1e-40) * np.float32(0.5) > 0


@pytest.fixture(scope="module")
def data() -> TrainingData:
    rng = np.random.default_rng(3)
    centres = rng.random((6, 40)) < 0.5
    labels = rng.integers(0, 6, 400)
    inputs = (centres[labels] ^ (rng.random((400, 40)) < 0.15)).astype(np.uint8)
    return TrainingData(inputs, labels, 6, Normalisation.fit(inputs))


@pytest.fixture(scope="module")
def half() -> NDArray[np.bool_]:
    return np.random.default_rng(4).permuted(np.tile(np.arange(400) < 190, (3, 1)), axis=1)


def run(data: TrainingData, members: NDArray[np.bool_], kernels: str, **changes: Any) -> list[Trained]:
    how = Recipe.parse({"model": {"name": "fcn", "widths": [48, 24]}, "epochs": 6, "precision": "bf16"} | changes)
    rows = range(len(members))
    return train_stack(
        data, members, how, seeds=[(5, row) for row in rows], names=[f"m{row}" for row in rows], kernels=kernels
    )


VARIATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.3},
    "smoothing": {"label_smoothing": 0.1},
    "sgd, step": {"optimizer": "sgd", "learning_rate": 0.05, "schedule": "step", "milestones": [3]},
    "clip, ema, warmup": {"gradient_clip": 0.5, "ema": 0.9, "warmup": 1},
    "augmented": {"augmentation": {"bit_flip": 0.1}},
    "kept epochs": {"trajectory": [2, 6]},
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_training_is_that_of_the_stack(data: TrainingData, half: NDArray[np.bool_], name: str) -> None:
    """Same streams of chance: losses of the same records in the same epochs, apart by bfloat16's rounding."""
    ours, theirs = (run(data, half, kernels, **VARIATIONS[name]) for kernels in (KERNELS.name, PLAIN))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.traces.loss is not None and other.traces.loss is not None
        assert mine.traces.loss.shape == other.traces.loss.shape == (6, len(mine.traces.loss[0]))
        assert np.abs(mine.traces.loss - other.traces.loss).mean() < 0.02
        np.testing.assert_allclose(mine.metrics.loss, other.metrics.loss, rtol=0.02)
        assert abs(mine.metrics.train_accuracy - other.metrics.train_accuracy) < 0.03
        assert np.array_equal(mine.traces.epochs, other.traces.epochs)
        if len(mine.traces.epochs):
            assert np.abs(mine.traces.phi - other.traces.phi).mean() < 0.05


def test_alone_or_among_others_a_model_has_the_same_bytes(data: TrainingData, half: NDArray[np.bool_]) -> None:
    together = run(data, half, KERNELS.name, dropout=0.2)
    rows = [train_stack(
        data, half[row : row + 1],
        Recipe.parse({"model": {"name": "fcn", "widths": [48, 24]}, "epochs": 6, "precision": "bf16", "dropout": 0.2}),
        seeds=[(5, row)], names=["m"],
    )[0] for row in range(3)]  # fmt: skip
    for one, other in zip(together, rows, strict=True):
        assert all(torch.equal(one.state[key], other.state[key]) for key in one.state)


def test_a_model_that_stops_leaves_the_others_as_they_are(data: TrainingData, half: NDArray[np.bool_]) -> None:
    part = TrainingData(
        data.inputs, data.labels, 6, data.normalisation, (data.inputs[:60].copy(), data.labels[:60].copy()), None
    )
    stopping = {"early_stopping": {"patience": 1}, "epochs": 30, "learning_rate": 0.01}
    ended = run(part, half, KERNELS.name, **stopping)
    assert len({trained.metrics.epochs for trained in ended}) > 1
    for row, trained in enumerate(ended):
        how = Recipe.parse({"model": {"name": "fcn", "widths": [48, 24]}, "precision": "bf16"} | stopping)
        alone = train_stack(part, half[row : row + 1], how, seeds=[(5, row)], names=["m"])[0]
        assert alone.metrics.epochs == trained.metrics.epochs
        assert all(torch.equal(alone.state[key], trained.state[key]) for key in alone.state)


def test_numbers_and_normalised_bytes_train_alike() -> None:
    rng = np.random.default_rng(6)
    small = rng.integers(0, 256, (200, 3, 4, 4), np.uint8)
    labels, members = (small.mean((1, 2, 3)) > 127).astype(np.int64), np.arange(200)[None] % 2 == 0
    tables = [small, small.astype(np.float64)]
    done = [
        run(TrainingData(table, labels, 2, Normalisation.fit(table)), members, KERNELS.name, epochs=15)[0]
        for table in tables
    ]
    assert done[0].metrics.train_accuracy > 0.9
    np.testing.assert_allclose(done[0].metrics.loss, done[1].metrics.loss, rtol=0.02)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_training_that_runs_away_is_an_error(data: TrainingData, half: NDArray[np.bool_], activation: str) -> None:
    model = {"name": "fcn", "widths": [48, 24], "activation": activation}
    with pytest.raises(PoolError, match=r"m0.* to stay finite"):
        run(data, half, KERNELS.name, model=model, optimizer="sgd", learning_rate=1e38)


def test_other_kernels_than_planned_are_refused(data: TrainingData, half: NDArray[np.bool_]) -> None:
    with pytest.raises(PoolError, match="steps in C 000000"):
        run(data, half, "steps in C 000000")


def test_a_pool_says_what_it_is_trained_by(table: Dataset, members: NDArray[np.bool_], tmp_path: Path) -> None:
    small = Recipe.parse({"model": {"name": "fcn", "widths": [16]}, "epochs": 30})
    found = resolve(small, (64,), 10, "cpu")
    assert found.precision == "bf16" and stack_size(found, (64,), 10, 66) == 1
    assert describe_kernels(found, "cpu") == {"kernels": KERNELS.name}
    assert not describe_kernels(found.model_copy(update={"precision": "fp32"}), "cpu")
    pools = [
        train_pool(table, members, small, folder=tmp_path / engine, engine=engine, workers=2, quiet=True)
        for engine in ("serial", "processes")
    ]
    for row in range(len(members)):
        assert pools[0].model_path(row).read_bytes() == pools[1].model_path(row).read_bytes()
    assert pools[0].manifest["environment"]["kernels"] == KERNELS.name
    accuracies = [metrics.train_accuracy for metrics in read_metrics(pools[0])]
    assert min(accuracies) > 0.5
