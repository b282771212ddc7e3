"""Early stopping, augmentation, mixup, curriculum, averaging, traces: each against what it should have done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from memberscope.data.membership import splits
from memberscope.errors import ConfigError, DataError, PoolError
from memberscope.models import build
from memberscope.signals.collect import collect
from memberscope.signals.derive import scaled_logits
from memberscope.training.answers import TrainingData
from memberscope.training.augment import Augmenter, mixed
from memberscope.training.inputs import Encoder, Normalisation
from memberscope.training.loop import Trained, train
from memberscope.training.pool import read_metrics, read_traces, train_pool
from memberscope.training.recipe import Augmentation, Recipe
from memberscope.training.watch import Average
from memberscope.types import Dataset

NET: dict[str, Any] = {"model": {"name": "fcn", "widths": [32, 16]}, "learning_rate": 3e-3, "batch_size": 16}


def prepared(dataset: Dataset, **extra: Any) -> TrainingData:
    return TrainingData(dataset.inputs, dataset.labels, dataset.classes, Normalisation.fit(dataset.inputs), **extra)


def fit(data: TrainingData, member: NDArray[np.bool_], **recipe: Any) -> Trained:
    return train(data, member, Recipe.parse({**NET, **recipe}), seed=(5, 0), name="model 0")


def same(a: Trained, b: Trained) -> bool:
    return all(torch.equal(a.state[key], b.state[key]) for key in a.state)


def logits_of(data: TrainingData, trained: Trained, inputs: NDArray[Any], **recipe: Any) -> torch.Tensor:
    parsed = Recipe.parse({**NET, **recipe})
    model = build(parsed.model.name, data.inputs.shape[1:], data.classes, **parsed.model_options()).eval()
    model.load_state_dict(trained.state)
    encode = Encoder.of(data.normalisation, inputs.ndim == 4, False, "cpu")
    with torch.no_grad():
        logits: torch.Tensor = model(encode(encode.load(inputs.copy())))
    return logits


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_early_stopping_keeps_the_epoch_that_is_best_on_the_validation_split(metric: str, table: Dataset) -> None:
    # Half of the labels are wrong, so that validation is best early and then falls.
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(160) < 0.5, rng.integers(0, 10, 160), table.labels[:160])
    validation = (table.inputs[160:], table.labels[160:])
    data = prepared(Dataset(table.inputs[:160], noisy, class_names=table.class_names), validation=validation)
    member = np.arange(160) < 100
    recipe = {"epochs": 40, "learning_rate": 5e-3}
    stopped = fit(data, member, early_stopping={"patience": 6, "metric": metric}, **recipe)
    # The schedule is constant, so that a training of e epochs is the beginning of a longer one.
    values = []
    for epochs in range(1, stopped.metrics.epochs + 1):
        logits = logits_of(data, fit(data, member, **{**recipe, "epochs": epochs}), validation[0])
        labels = torch.from_numpy(validation[1])
        right = (logits.argmax(1) == labels).float().mean().item()
        values.append(right if metric == "accuracy" else -F.cross_entropy(logits.double(), labels).item())
    best = int(np.argmax(values)) + 1
    assert stopped.metrics.best_epoch == best < 34
    assert stopped.metrics.epochs == best + 6
    assert same(stopped, fit(data, member, **{**recipe, "epochs": best}))


def test_early_stopping_trains_to_the_end_while_it_gets_better(table: Dataset) -> None:
    data = prepared(table, validation=(table.inputs[:50], table.labels[:50]))
    trained = fit(data, np.arange(240) < 200, epochs=3, early_stopping={"patience": 10, "metric": "loss"})
    assert (trained.metrics.epochs, trained.metrics.best_epoch) == (3, 3)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_crops_are_shifts_and_flips_are_mirrors(memory_format: torch.memory_format) -> None:
    batch = torch.randint(1, 255, (400, 3, 6, 5), dtype=torch.uint8).contiguous(memory_format=memory_format)
    changed = Augmenter(Augmentation(crop=2, flip=True), 3)(batch)
    assert changed.dtype == torch.uint8
    assert changed.is_contiguous(memory_format=memory_format)
    seen = np.zeros((2, 5, 5), np.int64)
    for old, new in zip(batch, changed, strict=True):
        hits = []
        for mirrored in (0, 1):
            padded = F.pad(old.flip(2) if mirrored else old, (2, 2, 2, 2))
            for row in range(5):
                for column in range(5):
                    if torch.equal(padded[:, row : row + 6, column : column + 5], new):
                        hits.append((mirrored, row, column))
        assert len(hits) == 1
        seen[hits[0]] += 1
    # 400 draws over 50 equally likely changes.
    assert seen.sum() == 400
    assert abs(seen[1].sum() - 200) < 4 * 10
    assert (seen > 0).mean() > 0.98


def test_bits_flip_at_the_rate_asked_for() -> None:
    batch = (torch.rand(500, 200) < 0.3).to(torch.uint8)
    changed = Augmenter(Augmentation(bit_flip=0.1), 0)(batch)
    assert set(changed.unique().tolist()) == {0, 1}
    rate = (changed != batch).float().mean().item()
    assert abs(rate - 0.1) < 5 * (0.09 / 100_000) ** 0.5
    assert (Augmenter(Augmentation(bit_flip=0.1), 0)(batch) == changed).all()


def test_augmented_training_never_sees_the_same_batch_twice_and_asks_about_the_plain_record(images: Dataset) -> None:
    data = prepared(images)
    member = np.arange(240) < 120
    recipe = {"model": {"name": "cnn", "widths": [4]}, "epochs": 2}
    plain, changed = fit(data, member, **recipe), fit(data, member, augmentation={"crop": 2}, **recipe)
    assert not same(plain, changed)
    # With a learning rate too small to move, the losses of two epochs differ by the augmentation alone.
    still = {**recipe, "learning_rate": 1e-12, "norm": "group"}
    losses = fit(data, member, augmentation={"crop": 2}, **still).traces.loss
    unmoved = fit(data, member, **still).traces.loss
    assert losses is not None and unmoved is not None
    assert np.mean(np.abs(losses[0] - losses[1]) > 1e-3) > 0.8
    assert np.abs(unmoved[0] - unmoved[1]).max() < 1e-3


def test_mixup_mixes_pairs_and_their_labels() -> None:
    rng = np.random.default_rng(0)
    inputs, labels = torch.randn(40, 7), torch.arange(40)
    shares = []
    for _ in range(2000):
        result, partner, share = mixed(inputs, labels, 0.4, rng)
        shares.append(share)
    assert torch.allclose(result, share * inputs + (1 - share) * inputs[torch.from_numpy(partner)])
    assert sorted(partner.tolist()) == list(range(40))
    assert abs(np.mean(shares) - 0.5) < 0.03
    # Variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert abs(np.var(shares) - 1 / (4 * 1.8)) < 0.01


def test_mixup_trains_on_soft_labels(table: Dataset) -> None:
    data, member = prepared(table), np.arange(240) < 64
    recipe = {"optimizer": "sgd", "momentum": 0, "learning_rate": 0.1, "batch_size": 64, "epochs": 1}
    trained = fit(data, member, mixup=0.3, **recipe)
    words = np.random.SeedSequence([5, 0]).generate_state(5, np.uint64)
    torch.manual_seed(int(words[0]))
    model = build("fcn", (64,), 10, widths=[32, 16])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(int(words[1])))
    encode = Encoder.of(data.normalisation, False, False, "cpu")
    inputs = encode(encode.load(table.inputs[:64].copy()))[order]
    labels = torch.from_numpy(table.labels[:64])[order]
    soft, partner, share = mixed(inputs, labels, 0.3, np.random.default_rng(int(words[3])))
    target = share * F.one_hot(labels, 10) + (1 - share) * F.one_hot(labels[torch.from_numpy(partner)], 10)
    loss = F.cross_entropy(model(soft), target)
    loss.backward()  # type: ignore[no-untyped-call]
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        assert torch.allclose(trained.state[name], weight.detach() - 0.1 * weight.grad, atol=1e-6)
    assert trained.metrics.loss == pytest.approx(loss.item(), abs=1e-5)
    assert trained.traces.loss is None
    assert "mixup" in trained.traces.reason


def test_a_curriculum_starts_with_the_easiest_records(table: Dataset) -> None:
    difficulty = np.random.default_rng(1).random(240)
    data, member = prepared(table, difficulty=difficulty), np.arange(240) % 2 == 0
    trained = fit(data, member, epochs=8, curriculum={"start": 0.25, "until": 0.5})
    assert trained.traces.loss is not None
    ranks = difficulty[member].argsort().argsort()
    for epoch, share in enumerate((0.25, 0.4375, 0.625, 0.8125, 1, 1, 1, 1)):
        drawn = ~np.isnan(trained.traces.loss[epoch])
        assert (drawn == (ranks < round(share * 120))).all()


def test_average_follows_its_formula() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average, expected = Average(model, 0.5), 1.0
    for step, value in enumerate((2.0, 5.0, -3.0, 8.0, 8.0, 1.0, 0.0, 4.0, 4.0), 1):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average:
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 4.0
    average.apply()
    assert model.weight.item() == pytest.approx(expected)


def test_averaged_weights_are_what_is_kept_and_asked(images: Dataset) -> None:
    data, member = prepared(images), np.arange(240) < 120
    recipe = {"model": {"name": "cnn", "widths": [8]}, "epochs": 4, "trajectory": [2, 4]}
    plain, averaged = fit(data, member, **recipe), fit(data, member, ema=0.9, **recipe)
    assert not same(plain, averaged)
    logits = logits_of(data, averaged, images.inputs, model={"name": "cnn", "widths": [8]})
    assert ((logits.argmax(1).numpy() == images.labels) == averaged.traces.correct[-1]).all()
    assert all(value.isfinite().all() for value in averaged.state.values())


def test_loss_traces_are_the_losses_that_were_trained_on(table: Dataset) -> None:
    data, member = prepared(table), np.arange(240) < 100
    trained = fit(data, member, epochs=5, batch_size=100, precision="fp32")
    loss = trained.traces.loss
    assert loss is not None and loss.shape == (5, 100)
    torch.manual_seed(int(np.random.SeedSequence([5, 0]).generate_state(1, np.uint64)[0]))
    model = build("fcn", (64,), 10, widths=[32, 16])
    encode = Encoder.of(data.normalisation, False, False, "cpu")
    with torch.no_grad():
        logits = model(encode(encode.load(table.inputs[:100].copy())))
    expected = F.cross_entropy(logits, torch.from_numpy(table.labels[:100]), reduction="none").numpy()
    assert np.allclose(loss[0], expected, atol=1e-5)
    assert loss[-1].mean() == pytest.approx(trained.metrics.loss, abs=1e-5)
    smoothed = fit(data, member, epochs=1, batch_size=100, label_smoothing=0.2, precision="fp32")
    assert smoothed.traces.loss is not None
    assert np.allclose(smoothed.traces.loss[0], expected, atol=1e-5)
    labels = torch.from_numpy(table.labels[:100])
    assert smoothed.metrics.loss == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=0.2).item(), abs=1e-5)


Make = Callable[..., Any]


def test_the_trajectory_is_the_training_seen_at_its_epochs(
    table: Dataset, members: NDArray[np.bool_], tmp_path: Path
) -> None:
    recipe = Recipe.parse({**NET, "epochs": 6, "trajectory": [2, 6]})
    pool = train_pool(table, members, recipe, seed=1, folder=tmp_path / "long", quiet=True)
    short = train_pool(
        table, members, Recipe.parse({**NET, "epochs": 2}), seed=1, folder=tmp_path / "short", quiet=True
    )
    traces = read_traces(pool)
    assert sorted(traces) == list(range(6))
    for number, made in enumerate((short, pool)):
        signals = collect(made, table, folder=tmp_path / f"signals{number}", quiet=True)
        phi = scaled_logits(signals)[:, :, 0]
        for row, trace in traces.items():
            assert np.allclose(trace.phi[number], phi[row], atol=1e-4, rtol=1e-5)
            right = signals.outputs[row][:, 0].argmax(1) == table.labels
            assert (trace.correct[number] == right).all()
    assert all(trace.epochs.tolist() == [2, 6] for trace in traces.values())
    assert [metrics.epochs for metrics in read_metrics(pool)] == [6] * 6
    path = pool.model_path(2).with_suffix(".trace.npz")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(PoolError, match="another content"):
        read_traces(pool)


def test_a_validation_split_may_not_hold_audited_records(
    table: Dataset, members: NDArray[np.bool_], tmp_path: Path
) -> None:
    apart = splits(240, validation=40, seed=0)
    audited, validation = table.take(apart.audit), table.take(apart.validation)
    recipe = Recipe.parse({**NET, "epochs": 1, "early_stopping": {"patience": 2}})
    wanted = members[:, :200].copy()

    def start(split: Dataset | None, folder: str) -> Any:
        return train_pool(audited, wanted, recipe, folder=tmp_path / folder, validation=split, quiet=True)

    overlapping = table.take(np.append(apart.validation, apart.audit[:1]))
    with pytest.raises(DataError, match="shares no record with the audit pool"):
        start(overlapping, "a")
    renamed = table.take(apart.audit[:40])
    renamed = Dataset(renamed.inputs, renamed.labels, np.array([f"v{i}" for i in range(40)]))
    with pytest.raises(DataError, match="40 of 40"):
        start(renamed, "b")
    with pytest.raises(ConfigError, match="validation split for early_stopping"):
        start(None, "c")
    assert not any((tmp_path / name).exists() for name in "abc")
    assert len(start(validation, "d")) == 6
    # Another split is another plan.
    with pytest.raises(PoolError, match="validation is"):
        start(table.take(apart.validation[:30]), "d")


def test_what_a_recipe_lacks_is_said_before_anything_is_trained(
    table: Dataset, images: Dataset, members: NDArray[np.bool_], tmp_path: Path
) -> None:
    def start(dataset: Dataset, **recipe: Any) -> None:
        train_pool(dataset, members, Recipe.parse({**NET, **recipe}), folder=tmp_path / "pool", quiet=True)

    with pytest.raises(ConfigError, match="difficulty"):
        start(table, curriculum={})
    with pytest.raises(ConfigError, match="table of 0 and 1"):
        start(table, augmentation={"bit_flip": 0.1})
    with pytest.raises(ConfigError, match="crop and flip"):
        start(table, augmentation={"crop": 1})
    with pytest.raises(ConfigError, match="bit_flip"):
        start(images, augmentation={"bit_flip": 0.1})
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"privacy": {}}, "either noise_multiplier or epsilon"),
        ({"privacy": {"epsilon": 1, "noise_multiplier": 1}}, "either noise_multiplier or epsilon"),
        ({"privacy": {"epsilon": 1}, "mixup": 0.2}, "cannot be combined with mixup"),
        ({"privacy": {"epsilon": 1}, "early_stopping": {}}, "cannot be combined with early_stopping"),
        ({"privacy": {"epsilon": 1}, "precision": "bf16"}, "fp32"),
        ({"privacy": {"epsilon": 1, "multiplicity": 4}}, "needs an augmentation"),
        ({"model": "cnn", "privacy": {"epsilon": 1}}, "without batch normalisation"),
        ({"mixup": 0.2, "curriculum": {}}, "ixup and curriculum"),
        ({"trajectory": [3, 2], "epochs": 5}, "rising"),
        ({"trajectory": [9], "epochs": 5}, "epoch 9 of 5"),
        ({"curriculum": {"strat": 0.2}}, "strat"),
    ],
)
def test_recipes_that_contradict_themselves(recipe: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Recipe.parse(recipe)
