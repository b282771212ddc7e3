"""One model: it learns, it sees its members only, and a plain loop gets the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from memberscope.errors import PoolError
from memberscope.models import MODELS, build
from memberscope.training.answers import TrainingData
from memberscope.training.inputs import Encoder, Normalisation
from memberscope.training.loop import Metrics, train
from memberscope.training.recipe import Recipe
from memberscope.training.steps import batches
from memberscope.types import Dataset

SMALL: dict[str, dict[str, Any]] = {
    "cnn": {"widths": [16, 32]},
    "densenet": {"depth": 16},
    "fcn": {"widths": [64, 32]},
    "resnet": {"width": 8, "blocks": [1, 1]},
    "vit": {"dim": 48, "blocks": 2},
}


def fit(dataset: Dataset, member: NDArray[np.bool_], seed: int = 0, **recipe: Any) -> tuple[dict[str, Tensor], Metrics]:
    data = TrainingData(dataset.inputs, dataset.labels, dataset.classes, Normalisation.fit(dataset.inputs))
    trained = train(data, member, Recipe.parse(recipe), seed=(seed, 0), name="model 0")
    return trained.state, trained.metrics


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_random_labels(name: str, precision: str, images: Dataset) -> None:
    # Random labels can only be memorised; held-out records can only be guessed.
    labels = np.random.default_rng(3).integers(0, 3, 96)
    dataset = Dataset(images.inputs[:96], labels)
    member = np.arange(96) < 24
    _, metrics = fit(
        dataset,
        member,
        model={"name": name, **SMALL[name]},
        learning_rate=3e-3,
        epochs=60,
        batch_size=12,
        precision=precision,
        channels_last=precision == "bf16",
    )
    assert metrics.train_accuracy >= 0.95
    assert metrics.held_out_accuracy < 0.6
    assert metrics.loss < 0.5


def test_held_out_records_leave_no_trace(table: Dataset, members: NDArray[np.bool_]) -> None:
    member = members[0]
    inputs, labels = table.inputs.copy(), table.labels.copy()
    inputs[~member], labels[~member] = 1, 0
    normalisation = Normalisation.fit(table.inputs)
    recipe = Recipe.parse({"model": {"name": "fcn", "widths": [16]}, "epochs": 3})
    states = [
        train(TrainingData(x, y, 10, normalisation), member, recipe, seed=(0, 0), name="m").state
        for x, y in ((table.inputs, table.labels), (inputs, labels))
    ]
    assert same(*states)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3, "label_smoothing": 0.1},
        {"optimizer": "adam", "weight_decay": 1e-3, "schedule": "onecycle", "betas": [0.8, 0.99]},
        {"optimizer": "adamw", "weight_decay": 1e-2, "schedule": "cosine", "gradient_clip": 0.5},
        {"optimizer": "sgd", "momentum": 0, "schedule": "step", "milestones": [2], "dropout": 0.3},
    ],
)
def test_weights_equal_a_plain_loops(options: dict[str, Any], table: Dataset, members: NDArray[np.bool_]) -> None:
    recipe = Recipe.parse(
        {
            "model": {"name": "fcn", "widths": [24, 12]},
            "learning_rate": 0.01,
            "epochs": 4,
            "precision": "fp32",
            **options,
        }
    )
    state, _ = fit(table, members[0], seed=5, **recipe.as_json())

    initial, order = np.random.SeedSequence([5, 0]).generate_state(2, np.uint64)
    with torch.random.fork_rng():
        torch.manual_seed(int(initial))
        model = build("fcn", (64,), 10, widths=[24, 12], dropout=recipe.dropout)
        shuffle = torch.Generator().manual_seed(int(order))
        everything = table.inputs.astype(np.float64)
        x = torch.tensor((everything - everything.mean(0)) / np.where(everything.std(0) > 0, everything.std(0), 1))
        x, y = x[members[0]].float(), torch.tensor(table.labels[members[0]])
        rate, decay, steps = recipe.learning_rate, recipe.weight_decay, 2
        optimizer: torch.optim.Optimizer = {
            "sgd": lambda: torch.optim.SGD(
                model.parameters(),
                rate,
                momentum=recipe.momentum,
                nesterov=recipe.nesterov,
                weight_decay=decay,
                foreach=False,
            ),
            "adam": lambda: torch.optim.Adam(
                model.parameters(), rate, betas=recipe.betas, weight_decay=decay, foreach=False
            ),
            "adamw": lambda: torch.optim.AdamW(model.parameters(), rate, weight_decay=decay, foreach=False),
        }[recipe.optimizer]()
        schedule: torch.optim.lr_scheduler.LRScheduler = {
            "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
            "onecycle": lambda: torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, 4 * steps, cycle_momentum=False),
            "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4 * steps),
            "step": lambda: torch.optim.lr_scheduler.MultiStepLR(optimizer, [2 * steps]),
        }[recipe.schedule]()
        for _ in range(4):
            permutation = torch.randperm(120, generator=shuffle)
            for start in (0, 64):
                index = permutation[start : start + 64]
                optimizer.zero_grad()
                criterion = torch.nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
                criterion(model(x[index]), y[index]).backward()
                if recipe.gradient_clip:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
                optimizer.step()
                schedule.step()
    for key, value in model.state_dict().items():
        assert torch.allclose(state[key], value, rtol=1e-4, atol=2e-6), key


def test_same_seed_same_bytes_and_another_seed_another_model(images: Dataset, members: NDArray[np.bool_]) -> None:
    recipe = {
        "model": {"name": "cnn", **SMALL["cnn"]},
        "epochs": 2,
        "dropout": 0.2,
        "precision": "bf16",
        "channels_last": True,
    }
    first, again, other = (fit(images, members[0], seed, **recipe)[0] for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_the_callers_random_state_and_threads_are_left_alone(table: Dataset, members: NDArray[np.bool_]) -> None:
    torch.manual_seed(11)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    state, _ = fit(table, members[0], model={"name": "fcn", "widths": [8]}, epochs=1, dropout=0.5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    torch.manual_seed(12)
    again, _ = fit(table, members[0], model={"name": "fcn", "widths": [8]}, epochs=1, dropout=0.5)
    assert same(state, again)


def test_diverging_training_names_model_and_epoch(table: Dataset, members: NDArray[np.bool_]) -> None:
    with pytest.raises(PoolError, match=r"training of model 0 .* epoch \d+ of 20.*Lower learning_rate"):
        fit(
            table,
            members[0],
            model={"name": "fcn", "activation": "relu"},
            optimizer="sgd",
            learning_rate=1e6,
            epochs=20,
        )


def test_label_smoothing_keeps_confidence_down(table: Dataset, members: NDArray[np.bool_]) -> None:
    recipe = {"model": {"name": "fcn", "widths": [32]}, "epochs": 60, "learning_rate": 5e-3}
    plain, smooth = (fit(table, members[0], **recipe, label_smoothing=value)[1] for value in (0.0, 0.2))
    assert plain.train_accuracy == smooth.train_accuracy == 1.0
    # The smoothed loss cannot fall below the entropy of the smoothed label: here .77 nats.
    target = np.full(10, 0.02) + 0.8 * (np.arange(10) == 0)
    assert smooth.loss >= -(target * np.log(target)).sum() > 0.7 > plain.loss


@pytest.mark.parametrize("size", [1, 2, 3, 64])
@pytest.mark.parametrize("count", [1, 2, 7, 65, 129])
def test_batches_hold_every_record_once(count: int, size: int) -> None:
    pieces = batches(torch.randperm(count), size)
    assert sorted(torch.cat(pieces).tolist()) == list(range(count))
    assert all(len(piece) <= size + 1 for piece in pieces)
    if size > 1 and count > 1:
        assert all(len(piece) > 1 for piece in pieces)


def encoded(inputs: NDArray[Any], channels_last: bool = False) -> NDArray[np.float32]:
    encoder = Encoder.of(Normalisation.fit(inputs), inputs.ndim == 4, channels_last, "cpu")
    whole = encoder(encoder.load(inputs.copy()))
    streamed = torch.cat([batch for _, batch in encoder.stream(inputs, 7)])
    assert torch.equal(whole, streamed)
    assert whole.dtype == torch.float32
    result: NDArray[np.float32] = whole.numpy()
    return result


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32, np.float64])
def test_binary_tables_are_left_as_they_are(dtype: type[np.generic]) -> None:
    inputs = (np.random.default_rng(0).random((50, 8)) < 0.3).astype(dtype)
    assert np.array_equal(encoded(inputs), inputs.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_other_tables_are_standardised_by_feature(dtype: type[np.generic]) -> None:
    inputs = np.random.default_rng(0).integers(0, 200, (5000, 6)).astype(dtype)
    inputs[:, 2] = 7
    result = encoded(inputs)
    assert np.abs(result.mean(0)).max() < 1e-4
    assert result.std(0)[[0, 1, 3, 4, 5]] == pytest.approx(np.ones(5), abs=1e-4)
    assert not result[:, 2].any()


def test_large_offsets_keep_their_digits() -> None:
    seconds = 1.7e9 + np.random.default_rng(0).normal(size=(300, 1))
    assert encoded(seconds)[:, 0] == pytest.approx(((seconds - seconds.mean()) / seconds.std())[:, 0], abs=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_are_standardised_by_channel(channels_last: bool) -> None:
    inputs = np.random.default_rng(0).integers(0, 255, (40, 3, 8, 8)).astype(np.uint8)
    inputs[:, 1] //= 3
    result = encoded(inputs, channels_last)
    assert np.abs(result.mean((0, 2, 3))).max() < 1e-4
    assert result.std((0, 2, 3)) == pytest.approx(np.ones(3), abs=1e-4)
