"""A stack gives every model what it would have got alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from memberscope.data.embedded import digits
from memberscope.errors import ConfigError, PoolError
from memberscope.models import build
from memberscope.models.fcn import Fcn
from memberscope.training.answers import TrainingData
from memberscope.training.inputs import Normalisation
from memberscope.training.loop import Trained, train
from memberscope.training.recipe import Recipe
from memberscope.training.stacked import train_stack
from memberscope.training.stacked_model import StackedFcn, fill
from memberscope.types import Dataset

WIDTHS = {"name": "fcn", "widths": [24, 12]}
NET = {"model": WIDTHS, "learning_rate": 0.01, "epochs": 4, "batch_size": 32, "precision": "fp32"}


def material(dataset: Dataset, *, bits: bool = False, validation: bool = False) -> TrainingData:
    inputs = (dataset.inputs > 7).astype(np.uint8) if bits else dataset.inputs
    other = digits().take(np.arange(240, 400))
    held = (other.inputs, other.labels) if validation else None
    return TrainingData(inputs, dataset.labels, dataset.classes, Normalisation.fit(inputs), held)


def subsets(*counts: int) -> NDArray[np.bool_]:
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(240) < count for count in counts])


def both(data: TrainingData, members: NDArray[np.bool_], **recipe: Any) -> tuple[list[Trained], list[Trained]]:
    parsed = Recipe.parse({**NET, "precision": "fp32", **recipe})
    seeds, names = [(5, row) for row in range(len(members))], [f"model {row}" for row in range(len(members))]
    stacked = train_stack(data, members, parsed, seeds=seeds, names=names)
    alone = [
        train(data, member, parsed, seed=seed, name=name)
        for member, seed, name in zip(members, seeds, names, strict=True)
    ]
    return stacked, alone


def assert_alike(stacked: list[Trained], alone: list[Trained]) -> None:
    for ours, theirs in zip(stacked, alone, strict=True):
        assert list(ours.state) == list(theirs.state)
        for key, value in ours.state.items():
            assert torch.allclose(value, theirs.state[key], rtol=1e-4, atol=2e-6), key
        for name in ("epochs", "best_epoch", "train_accuracy", "held_out_accuracy"):
            assert getattr(ours.metrics, name) == getattr(theirs.metrics, name), name
        assert ours.metrics.loss == pytest.approx(theirs.metrics.loss, rel=1e-4)
        assert ours.traces.reason == theirs.traces.reason
        assert (ours.traces.loss is None) == (theirs.traces.loss is None)
        if ours.traces.loss is not None and theirs.traces.loss is not None:
            assert ours.traces.loss.shape == theirs.traces.loss.shape
            assert np.allclose(ours.traces.loss, theirs.traces.loss, rtol=1e-3, atol=1e-5, equal_nan=True)
        assert ours.traces.epochs.tolist() == theirs.traces.epochs.tolist()
        assert np.allclose(ours.traces.phi, theirs.traces.phi, atol=1e-3)
        assert np.array_equal(ours.traces.correct, theirs.traces.correct)


@pytest.mark.parametrize(
    "recipe",
    [
        {"weight_decay": 1e-3, "schedule": "onecycle", "betas": [0.8, 0.99]},
        {"optimizer": "adamw", "weight_decay": 1e-2, "schedule": "cosine", "gradient_clip": 0.5},
        {"optimizer": "sgd", "nesterov": True, "weight_decay": 1e-3, "label_smoothing": 0.1, "warmup": 1},
        {"optimizer": "sgd", "momentum": 0, "schedule": "step", "milestones": [2], "loss_trace": False},
        {"dropout": 0.3, "model": {"name": "fcn", "widths": [24, 12, 8], "activation": "relu"}},
        {"ema": 0.9, "trajectory": [1, 3], "dropout": 0.2},
        {"trajectory": [2, 4], "label_smoothing": 0.2, "evaluation_batch_size": 50},
    ],
    ids=lambda recipe: ",".join(recipe),
)
@pytest.mark.parametrize("counts", [(120, 120, 120), (123, 121, 126), (120,)], ids=str)
def test_a_stack_equals_its_models_alone(recipe: dict[str, Any], counts: tuple[int, ...], table: Dataset) -> None:
    # 121 to 126 records: last batches of different sizes, one of them longer than the batch size's rest.
    assert_alike(*both(material(table), subsets(*counts), **recipe))


def test_bits_flip_for_each_model_by_itself(table: Dataset) -> None:
    stacked, alone = both(
        material(table, bits=True), subsets(120, 125, 118), augmentation={"bit_flip": 0.1}, dropout=0.1
    )
    assert_alike(stacked, alone)


def test_images_are_shifted_and_mirrored_for_each_model_by_itself(images: Dataset) -> None:
    assert_alike(*both(material(images), subsets(120, 125), augmentation={"crop": 1, "flip": True}))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_tables_of_numbers_are_normalised_as_alone(dtype: type[np.generic], table: Dataset) -> None:
    wide = Dataset(table.inputs.astype(dtype), table.labels)
    assert_alike(*both(material(wide), subsets(120, 121), epochs=2))


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
@pytest.mark.parametrize("extra", [{}, {"ema": 0.8}, {"trajectory": [1, 2, 5, 9], "dropout": 0.2}], ids=str)
def test_models_stop_early_by_themselves(metric: str, extra: dict[str, Any], table: Dataset) -> None:
    stacked, alone = both(
        material(table, validation=True),
        subsets(120, 121, 123, 126),
        epochs=25,
        learning_rate=0.03,
        early_stopping={"patience": 2, "metric": metric},
        **extra,
    )
    assert_alike(stacked, alone)
    ends = {model.metrics.epochs for model in stacked}
    # Otherwise nothing here tests that the stack goes on without the models that have stopped.
    assert len(ends) > 1 or extra == {"ema": 0.8}


def test_the_bytes_repeat_and_every_model_is_another(table: Dataset) -> None:
    recipe = Recipe.parse({**NET, "precision": "bf16", "dropout": 0.2})
    first, again = (
        train_stack(material(table), subsets(120, 121), recipe, seeds=[(1, 0), (1, 1)], names=["a", "b"])
        for _ in range(2)
    )
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(one.state[key], other.state[key]) for key in one.state)
    assert not any(torch.equal(first[0].state[key], first[1].state[key]) for key in first[0].state)


def test_bfloat16_learns_as_the_single_loop_does(table: Dataset) -> None:
    data, members = material(table), subsets(120, 120)
    recipe = {"epochs": 30, "precision": "bf16"}
    stacked, alone = both(data, members, **recipe)
    for ours, theirs in zip(stacked, alone, strict=True):
        assert ours.metrics.train_accuracy == theirs.metrics.train_accuracy == 1.0
        assert ours.metrics.held_out_accuracy == pytest.approx(theirs.metrics.held_out_accuracy, abs=0.06)
        assert ours.metrics.loss == pytest.approx(theirs.metrics.loss, rel=0.3)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_derivatives_are_autograds(activation: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    models = [build("fcn", (20,), 5, widths=[16, 12], activation=activation) for _ in range(3)]
    assert all(isinstance(model, Fcn) for model in models)
    stack = StackedFcn([model for model in models if isinstance(model, Fcn)], dtype)
    batch, labels = torch.randn(3, 9, 20), torch.randint(5, (3, 9))
    with torch.no_grad():
        logits = stack.forward(batch.to(dtype), [None, None])
        gradient = logits.softmax(2)
        gradient.scatter_add_(2, labels[:, :, None], -torch.ones(3, 9, 1))
        stack.backward(gradient / 9)
    for place, model in enumerate(models):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            theirs = model(batch[place])
        torch.nn.functional.cross_entropy(theirs.float(), labels[place]).backward()  # type: ignore[no-untyped-call]
        room = 1e-6 if dtype == torch.float32 else 4e-3
        weights = [parameter.grad for parameter in model.parameters()][::2]
        biases = [parameter.grad for parameter in model.parameters()][1::2]
        for ours, reference in zip(stack.gradients, weights, strict=True):
            assert reference is not None and torch.allclose(ours[place].t(), reference, atol=room)
        for ours, reference in zip(stack.bias_gradients, biases, strict=True):
            assert reference is not None and torch.allclose(ours[place, 0], reference, atol=room)


def test_a_row_of_a_stack_is_a_model() -> None:
    torch.manual_seed(0)
    models = [build("fcn", (6,), 3, widths=[5]) for _ in range(2)]
    stack = StackedFcn([model for model in models if isinstance(model, Fcn)], torch.float32)
    other = build("fcn", (6,), 3, widths=[5])
    assert isinstance(other, Fcn)
    fill(other, *stack.row(1))
    expected: dict[str, Tensor] = models[1].state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in other.state_dict().items())


def test_the_model_that_diverges_is_named(table: Dataset) -> None:
    model = {"name": "fcn", "activation": "relu"}
    recipe = Recipe.parse({**NET, "model": model, "optimizer": "sgd", "learning_rate": 1e6, "epochs": 20})
    with pytest.raises(PoolError, match=r"training of (a|b) .* of 20.*Lower learning_rate"):
        train_stack(material(table), subsets(120, 120), recipe, seeds=[(0, 0), (0, 1)], names=["a", "b"])


@pytest.mark.parametrize(
    ("recipe", "why"),
    [({"model": "cnn"}, "not cnn"), ({"mixup": 1.0}, "mixup"), ({"curriculum": {}}, "curriculum")],
)
def test_what_cannot_be_stacked_is_refused(recipe: dict[str, Any], why: str, table: Dataset) -> None:
    with pytest.raises(ConfigError, match=why):
        train_stack(material(table), subsets(120), Recipe.parse({**NET, **recipe}), seeds=[(0, 0)], names=["a"])


def test_bytes_are_read_where_they_lie(tmp_path: Path, table: Dataset) -> None:
    # A read-only memory map, as workers get it: trained on without a copy and without a warning.
    np.save(tmp_path / "inputs.npy", table.inputs)
    mapped = np.load(tmp_path / "inputs.npy", mmap_mode="r")
    data = TrainingData(mapped, table.labels, table.classes, Normalisation.fit(table.inputs))
    seeds, names = [(5, 0), (5, 1)], ["a", "b"]
    recipe = Recipe.parse({**NET, "precision": "fp32"})
    ours = train_stack(data, subsets(120, 121), recipe, seeds=seeds, names=names)
    theirs = train_stack(material(table), subsets(120, 121), recipe, seeds=seeds, names=names)
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(one.state[key], other.state[key]) for key in one.state)
