"""DP-SGD: clipping against gradients taken one record at a time, noise against its formula, ε against another
accountant, and every way to get an ε that does not hold."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from memberscope.errors import ConfigError, MissingExtraError
from memberscope.models import MODELS, build
from memberscope.models.base import Classifier
from memberscope.training.accounting import delta_of, require_opacus
from memberscope.training.clipping import Clipping
from memberscope.training.dpsgd import PrivateSteps, epsilon_of, noise_for, preflight
from memberscope.training.inputs import Encoder, Normalisation
from memberscope.training.recipe import Recipe
from memberscope.training.schedule import learning_rate_at
from memberscope.training.separable import check_model
from memberscope.types import Dataset

pytest.importorskip("opacus")

SMALL: dict[str, dict[str, Any]] = {
    "cnn": {"widths": [8, 16], "norm": "group"},
    "densenet": {"depth": 16, "norm": "group"},
    "fcn": {"widths": [48, 32]},
    "resnet": {"width": 8, "blocks": [1, 1], "norm": "group"},
    "vit": {"dim": 32, "blocks": 1, "heads": 2},
}
PLAIN = Encoder.of(Normalisation(), False, False, "cpu")


def recipe_of(privacy: dict[str, Any] | None = None, **keys: Any) -> Recipe:
    keys.setdefault("model", {"name": "fcn", "widths": [16]})
    # PRV takes a second, so the tests that are not about it do without.
    return Recipe.parse(keys | {"privacy": {"noise_multiplier": 1.0, "accountant": "rdp"} | (privacy or {})})


def steps_of(
    recipe: Recipe,
    inputs: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    augment: Callable[[Tensor], Tensor] | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> PrivateSteps:
    torch.manual_seed(5)
    model = build(recipe.model.name, tuple(inputs.shape[1:]), int(labels.max()) + 1, **recipe.model_options())
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return PrivateSteps(model, inputs, labels, PLAIN, augment, recipe, seed=seed, device="cpu", after_step=after_step)


def toy(n: int = 60, width: int = 10, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, width, generator=generator), torch.arange(n) % classes


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone()


def gradients(model: nn.Module, groups: list[tuple[Tensor, Tensor]], label_smoothing: float = 0.0) -> Tensor:
    """``(B, P)`` the gradient of each record, a group of copies, by autograd on that record alone."""
    rows = []
    for batch, labels in groups:
        model.zero_grad()
        F.cross_entropy(model(batch), labels, label_smoothing=label_smoothing).backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).clone())
    model.zero_grad()
    return torch.stack(rows)


def clipped_sum(rows: Tensor, clip: float) -> Tensor:
    return (rows * (clip / (rows.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1)).sum(0)


# Clipping.


@pytest.mark.parametrize(("copies", "last"), [(1, False), (3, False), (1, True)])
@pytest.mark.parametrize("mode", ["ghost", "hooks"])
@pytest.mark.parametrize("name", MODELS)
def test_clipped_sum_is_that_of_records_taken_one_by_one(name: str, mode: Any, copies: int, last: bool) -> None:
    shape = (10,) if name == "fcn" else (3, 8, 8)
    torch.manual_seed(0)
    model = build(name, shape, 5, **SMALL[name]).double().train()
    batch, labels = torch.randn(6 * copies, *shape, dtype=torch.float64), torch.randint(0, 5, (6,))
    if last and name != "fcn":
        batch = batch.contiguous(memory_format=torch.channels_last)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups = [(batch[copies * i : copies * (i + 1)], label.expand(copies)) for i, label in enumerate(labels)]
    rows = gradients(model, groups, 0.1)
    clip = float(rows.norm(dim=1).median())
    sums, loss = Clipping(model, mode, clip, copies, 0.1)(batch, labels)
    got = torch.cat([sums[parameter].flatten() for parameter in model.parameters()])
    torch.testing.assert_close(got, clipped_sum(rows, clip), rtol=1e-9, atol=1e-12)
    assert 0 < (rows.norm(dim=1) > clip).sum() < 6
    with torch.no_grad():
        expected = F.cross_entropy(model(batch), labels.repeat_interleave(copies), label_smoothing=0.1) * 6
    assert loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 3, stride=2, padding=1, dilation=2),
        nn.Conv2d(3, 30, 2, bias=False),
        nn.Conv2d(3, 6, 3, groups=3),
        nn.Conv2d(3, 6, 3, padding="same"),
        nn.Conv2d(3, 40, 7, padding=2),
    ],
    ids=["strided", "few places", "grouped", "same", "wide"],
)
def test_convolutions_of_every_shape(layer: nn.Conv2d) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer, nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * layer.out_channels, 3))
    model.double().train()
    batch, labels = torch.randn(5, 3, 9, 9, dtype=torch.float64), torch.arange(5) % 3
    rows = gradients(model, [(batch[i : i + 1], labels[i : i + 1]) for i in range(5)])
    clip = float(rows.norm(dim=1).median())
    sums, _ = Clipping(model, "ghost", clip)(batch, labels)
    got = torch.cat([sums[parameter].flatten() for parameter in model.parameters()])
    torch.testing.assert_close(got, clipped_sum(rows, clip), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["ghost", "hooks"])
def test_a_step_without_noise_is_the_formula(mode: str) -> None:
    inputs, labels = toy()
    privacy = {"noise_multiplier": 0.0, "clip": 0.7, "grad_sample_mode": mode, "physical_batch_size": 7}
    recipe = recipe_of(privacy, optimizer="sgd", momentum=0.0, learning_rate=0.5, batch_size=20, epochs=3)
    steps = steps_of(recipe, inputs, labels)
    for index in steps.batches():
        before = flat(steps.model)
        rows = gradients(steps.model, [(inputs[i : i + 1], labels[i : i + 1]) for i in index.tolist()])
        # Divided by the expected size, whatever the drawn one is.
        expected = before - 0.5 * clipped_sum(rows, 0.7) / 20
        steps.step(index)
        torch.testing.assert_close(flat(steps.model), expected, rtol=1e-4, atol=1e-6)


def test_pieces_and_modes_lead_to_the_same_weights(images: Dataset) -> None:
    inputs, labels = torch.from_numpy(images.inputs[:80]).float() / 16, torch.from_numpy(images.labels[:80])
    model = {"name": "cnn", "widths": [4, 8], "hidden": 16}
    found = []
    for mode, physical in [("ghost", 512), ("ghost", 5), ("hooks", 11)]:
        privacy = {"noise_multiplier": 0.3, "grad_sample_mode": mode, "physical_batch_size": physical}
        steps = steps_of(recipe_of(privacy, model=model, norm="group", batch_size=20), inputs, labels)
        steps.epoch(0)
        found.append(flat(steps.model))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found[0], found[2], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("copies", [1, 4])
def test_one_record_moves_a_step_by_at_most_the_clip(copies: int) -> None:
    inputs, labels = toy()
    inputs[7] *= 1e4
    augmentation = {"bit_flip": 0.1} if copies > 1 else None
    privacy = {"noise_multiplier": 0.0, "clip": 0.3, "multiplicity": copies, "physical_batch_size": 4}
    recipe = recipe_of(
        privacy, optimizer="sgd", momentum=0.0, learning_rate=1.0, batch_size=10, augmentation=augmentation
    )
    with_it, without = (steps_of(recipe, inputs, labels) for _ in range(2))
    with_it.step(torch.tensor([3, 7, 12]))
    without.step(torch.tensor([3, 12]))
    moved = (flat(with_it.model) - flat(without.model)).norm().item()
    assert moved == pytest.approx(0.3 / 10, rel=1e-3)


def test_multiplicity_averages_fresh_copies_before_clipping() -> None:
    inputs, labels = toy(20)
    seen: list[Tensor] = []

    def shift(batch: Tensor) -> Tensor:
        changed = batch + torch.randn(batch.shape, generator=generator)
        seen.append(changed)
        return changed

    generator = torch.Generator().manual_seed(3)
    privacy = {"noise_multiplier": 0.0, "clip": 0.5, "multiplicity": 3, "physical_batch_size": 8}
    keys: dict[str, Any] = {
        "augmentation": {"bit_flip": 0.1},
        "optimizer": "sgd",
        "momentum": 0.0,
        "learning_rate": 1.0,
    }
    steps = steps_of(recipe_of(privacy, batch_size=5, **keys), inputs, labels, augment=shift)
    before = flat(steps.model)
    index = torch.tensor([4, 9, 11, 17, 18])
    shadow = build("fcn", (10,), 3, **recipe_of().model_options())
    shadow.load_state_dict(steps.model.state_dict())
    steps.step(index)
    assert [len(piece) for piece in seen] == [6, 6, 3]
    copies = torch.cat(seen)
    rows = gradients(shadow, [(copies[3 * i : 3 * i + 3], labels[j].expand(3)) for i, j in enumerate(index)])
    torch.testing.assert_close(flat(steps.model), before - clipped_sum(rows, 0.5) / 5, rtol=1e-4, atol=1e-6)


# Noise and sampling.


def test_an_empty_batch_is_a_step_of_noise() -> None:
    inputs, labels = toy(100, width=600)
    keys: dict[str, Any] = {"model": {"name": "fcn", "widths": [64]}, "optimizer": "sgd", "momentum": 0.0}
    recipe = recipe_of({"noise_multiplier": 1.5, "clip": 2.0}, learning_rate=1.0, batch_size=20, **keys)
    steps = steps_of(recipe, inputs, labels)
    before = flat(steps.model)
    loss = steps.step(torch.empty(0, dtype=torch.int64))
    noise = (flat(steps.model) - before).double().numpy()
    assert loss.item() == 0 and steps.ledger.steps == 1
    # σ C / expected batch, to four standard errors; and Gaussian.
    assert noise.std() == pytest.approx(1.5 * 2.0 / 20, rel=4 / np.sqrt(2 * len(noise)))
    assert abs(noise.mean()) < 4 * noise.std() / np.sqrt(len(noise))
    assert stats.kstest(noise / 0.15, "norm").pvalue > 1e-3


def test_empty_batches_are_drawn_trained_on_and_counted() -> None:
    inputs, labels = toy(25)
    steps = steps_of(recipe_of(batch_size=1), inputs, labels)
    sizes = []
    for index in steps.batches():
        before = flat(steps.model)
        steps.step(index)
        sizes.append(len(index))
        assert not torch.equal(before, flat(steps.model))
    assert 0 in sizes and len(sizes) == 25
    statement = steps.statement()
    assert (statement["steps"], statement["drawn_batches"]) == (25, 25)
    assert statement["epsilon"] > 0


def test_batches_are_poisson_samples_of_the_members() -> None:
    inputs, labels = toy(50)
    steps = steps_of(recipe_of(batch_size=10), inputs, labels, seed=4)
    drawn = [index for _ in range(400) for index in steps.batches()]
    assert len(drawn) == 400 * 5
    hits = torch.zeros(len(drawn), 50)
    for row, index in zip(hits, drawn, strict=True):
        assert len(index.unique()) == len(index)
        row[index] = 1
    sizes = hits.sum(1).numpy()
    assert sizes.mean() == pytest.approx(10, abs=4 * np.sqrt(50 * 0.2 * 0.8 / len(drawn)))
    assert sizes.var() == pytest.approx(50 * 0.2 * 0.8, rel=4 * np.sqrt(2 / len(drawn)))
    # Each member as often as any other, and independently of them.
    assert stats.chisquare(hits.sum(0)).pvalue > 1e-3
    correlation = np.corrcoef(hits.T.numpy())[np.triu_indices(50, 1)]
    assert abs(correlation.mean()) < 1e-3 and abs(correlation).max() < 4.5 / np.sqrt(len(drawn))


@pytest.mark.parametrize("mode", ["ghost", "hooks"])
def test_the_seed_decides_every_byte(mode: str) -> None:
    inputs, labels = toy()
    found = []
    for seed in (1, 1, 2):
        steps = steps_of(recipe_of({"grad_sample_mode": mode}, batch_size=10), inputs, labels, seed=seed)
        torch.manual_seed(seed + len(found))
        losses = [steps.epoch(epoch) for epoch in range(2)]
        found.append((losses, flat(steps.model)))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][1], found[2][1])


@pytest.mark.parametrize(
    ("optimizer", "mode"), [("sgd", "ghost"), ("adam", "ghost"), ("adamw", "ghost"), ("sgd", "hooks")]
)
def test_the_memory_format_does_not_matter(optimizer: str, mode: str) -> None:
    # Fused optimisers on the CPU take a gradient of other strides for one of the same, and Opacus' convolutions
    # take an image of other strides for a contiguous one.
    torch.manual_seed(0)
    inputs, labels = torch.randn(24, 3, 8, 8), torch.arange(24) % 3
    found = []
    for channels_last in (False, True):
        keys: dict[str, Any] = {"model": {"name": "resnet", "width": 8, "blocks": [1]}, "norm": "group"}
        recipe = recipe_of(
            {"noise_multiplier": 0.2, "grad_sample_mode": mode},
            channels_last=channels_last,
            optimizer=optimizer,
            batch_size=8,
            **keys,
        )
        given = inputs.contiguous(memory_format=torch.channels_last) if channels_last else inputs
        steps = steps_of(recipe, given, labels)
        steps.epoch(0)
        found.append(torch.cat([p.detach().contiguous().flatten() for p in steps.model.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


# ε.


@pytest.mark.parametrize(("batch_size", "noise", "epochs"), [(20, 1.0, 4), (5, 0.7, 2), (50, 2.0, 20)])
def test_epsilon_of_a_run_is_that_of_another_accountant(batch_size: int, noise: float, epochs: int) -> None:
    accounting = pytest.importorskip("dp_accounting")
    inputs, labels = toy(200)
    found = {}
    for name in ("prv", "rdp"):
        recipe = recipe_of({"noise_multiplier": noise, "accountant": name}, batch_size=batch_size, epochs=epochs)
        steps = steps_of(recipe, inputs, labels)
        for epoch in range(epochs):
            steps.epoch(epoch)
        found[name] = steps.statement()
    count = epochs * (200 // batch_size)
    event = accounting.SelfComposedDpEvent(
        accounting.PoissonSampledDpEvent(batch_size / 200, accounting.GaussianDpEvent(noise)), count
    )
    for name, accountant, tolerance in [
        ("prv", accounting.pld.PLDAccountant(), 0.02),
        ("rdp", accounting.rdp.RdpAccountant(), 0.01),
    ]:
        statement = found[name]
        assert (statement["steps"], statement["drawn_batches"], statement["accountant"]) == (count, count, name)
        assert statement["delta"] == 1e-5 and statement["reason"] == ""
        exact = accountant.compose(event).get_epsilon(1e-5)
        assert statement["epsilon"] == pytest.approx(exact, rel=tolerance)
        # An upper bound must not be below a tight one.
        assert statement["epsilon"] >= exact * (1 - 1e-3)
    assert found["prv"]["epsilon"] < found["rdp"]["epsilon"]


def test_epsilon_rises_with_steps_and_sampling_and_falls_with_noise() -> None:
    for name in ("prv", "rdp"):
        base = epsilon_of(1.0, 0.1, 50, 1e-5, name)[0]
        assert base < epsilon_of(1.0, 0.1, 100, 1e-5, name)[0]
        assert base > epsilon_of(1.0, 0.05, 50, 1e-5, name)[0]
        assert base > epsilon_of(2.0, 0.1, 50, 1e-5, name)[0]
        assert base > epsilon_of(1.0, 0.1, 50, 1e-4, name)[0]


def test_prv_is_opacus_own() -> None:
    for noise, rate, count in [(1.0, 0.1, 50), (2.0, 0.02, 400)]:
        opacus = importlib.import_module("opacus.accountants").PRVAccountant()
        opacus.history = [(noise, rate, count)]
        # Both bounds lie within 0.01 of the truth, on grids of other widths.
        assert epsilon_of(noise, rate, count, 1e-5, "prv")[0] == pytest.approx(opacus.get_epsilon(1e-5), abs=1e-3)


def test_prv_falls_back_to_rdp() -> None:
    # A grid of hundreds of millions of points; and so much noise that PRV's own error is larger than ε.
    for noise in (0.15, 300.0):
        assert epsilon_of(noise, 0.1, 1000, 1e-5, "prv") == epsilon_of(noise, 0.1, 1000, 1e-5, "rdp")
        assert epsilon_of(noise, 0.1, 1000, 1e-5, "prv")[1] == "rdp"


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
@pytest.mark.parametrize("epsilon", [0.3, 2.0, 12.0])
def test_noise_for_is_the_inverse_and_never_above(epsilon: float, accountant: str) -> None:
    noise = noise_for(epsilon, 0.05, 100, 1e-5, accountant)
    reached = epsilon_of(noise, 0.05, 100, 1e-5, accountant)[0]
    assert 0.99 * epsilon <= reached <= epsilon


def test_a_target_epsilon_is_kept() -> None:
    inputs, labels = toy()
    privacy = {"noise_multiplier": None, "epsilon": 3.0, "accountant": "rdp", "delta": 1e-3}
    steps = steps_of(recipe_of(privacy, batch_size=12, epochs=2), inputs, labels)
    for epoch in range(2):
        steps.epoch(epoch)
    statement = steps.statement()
    assert 2.97 <= statement["epsilon"] <= 3.0
    assert statement["delta"] == 1e-3 and statement["noise_multiplier"] == steps.noise_multiplier
    with pytest.raises(ConfigError, match="Raise epsilon"):
        noise_for(1e-4, 0.1, 100, 1e-5, "rdp")


def test_delta_stays_below_one_in_n() -> None:
    assert delta_of(None, 1000) == 1e-5
    assert delta_of(None, 10**6) == pytest.approx(1e-7)
    with pytest.raises(ConfigError, match=r"below 1/n = 0\.01.*delta 0\.01"):
        delta_of(0.01, 100)


# Misuse: an ε that does not hold is not printed.


def test_a_permutation_in_place_of_the_sampler_gets_no_epsilon() -> None:
    inputs, labels = toy()
    steps = steps_of(recipe_of(batch_size=20), inputs, labels)
    for index in torch.randperm(60).split(20):
        steps.step(index)
    # The engine was private, clipped and noised, and its accountant counted: it would print an ε.
    assert steps.accountant.get_epsilon(1e-5) > 0
    statement = steps.statement()
    assert statement["epsilon"] is None
    assert "3 of 3 steps trained on records that the Poisson sampler had not drawn" in statement["reason"]
    assert (statement["steps"], statement["drawn_batches"]) == (3, 0)


def drop(steps: PrivateSteps) -> None:
    for place, index in enumerate(steps.batches()):
        if place:
            steps.step(index)


def repeat(steps: PrivateSteps) -> None:
    for place, index in enumerate(steps.batches()):
        steps.step(index)
        if not place:
            steps.step(index)


def swap(steps: PrivateSteps) -> None:
    """As many steps as batches, the last one dropped for a second use of the first."""
    batches = list(steps.batches())
    for index in [*batches[:-1], batches[0]]:
        steps.step(index)


def trim(steps: PrivateSteps) -> None:
    for index in steps.batches():
        steps.step(index[:10])


def alter(steps: PrivateSteps) -> None:
    for index in steps.batches():
        index[0] = 0 if index[0] else 1
        steps.step(index)


def push(steps: PrivateSteps) -> None:
    """An update past Opacus, with a gradient that is neither clipped nor noised."""
    steps.epoch(0)
    F.cross_entropy(steps.model(steps.inputs), steps.labels).backward()
    steps.optimizer.original_optimizer.step()


def quieten(steps: PrivateSteps) -> None:
    for place, index in enumerate(steps.batches()):
        steps.optimizer.noise_multiplier = 0.0 if place == 1 else 1.0
        steps.step(index)


@pytest.mark.parametrize(
    ("misuse", "reason"),
    [
        (drop, "1 of 3 drawn batches were not trained on"),
        (repeat, "1 of 4 steps .* used twice"),
        (swap, "1 of 3 steps .* used twice"),
        (trim, "3 of 3 steps trained on records that the Poisson sampler had not drawn"),
        (alter, "3 of 3 steps trained on records that the Poisson sampler had not drawn"),
        (push, "the weights moved 4 times for 3 drawn batches"),
        (quieten, "the accountant saw"),
        (lambda steps: None, "no step was taken"),
    ],
    ids=["drop", "repeat", "swap", "trim", "alter", "push", "quieten", "nothing"],
)
def test_misuse_gets_no_epsilon(misuse: Callable[[PrivateSteps], None], reason: str) -> None:
    inputs, labels = toy()
    steps = steps_of(recipe_of(batch_size=20), inputs, labels)
    misuse(steps)
    statement = steps.statement()
    assert statement["epsilon"] is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(statement["reason"])


def test_right_use_by_hand_keeps_epsilon() -> None:
    inputs, labels = toy()
    steps, own = (steps_of(recipe_of(batch_size=20), inputs, labels) for _ in range(2))
    for index in list(steps.batches())[::-1]:
        steps.step(index.to(torch.int32))
    own.epoch(0)
    assert steps.statement()["epsilon"] == own.statement()["epsilon"] > 0


def test_clipping_alone_guarantees_nothing() -> None:
    inputs, labels = toy()
    steps = steps_of(recipe_of({"noise_multiplier": 0.0}, batch_size=20), inputs, labels)
    steps.epoch(0)
    statement = steps.statement()
    assert statement["epsilon"] is None and statement["steps"] == 3
    assert statement["reason"] == "no noise was added: clipping alone guarantees nothing"


# The rest of the contract.


def test_it_learns_and_leaves_a_plain_model(table: Dataset) -> None:
    inputs, labels = torch.from_numpy(table.inputs).float() / 16, torch.from_numpy(table.labels)
    calls: list[int] = []
    model = {"name": "fcn", "widths": [32], "activation": "relu"}
    recipe = recipe_of(
        {"noise_multiplier": 0.5}, model=model, batch_size=60, epochs=30, learning_rate=1e-2, schedule="cosine"
    )
    steps = steps_of(recipe, inputs, labels, after_step=lambda: calls.append(1))
    losses = []
    for epoch in range(30):
        losses.append(steps.epoch(epoch))
        rate = steps.optimizer.param_groups[0]["lr"]
        assert rate == learning_rate_at(recipe, (epoch + 1) * len(steps) - 1, len(steps))
    assert losses[0] > 2.0 > 1.0 > losses[-1]
    assert len(calls) == steps.ledger.steps == 30 * 4
    fresh = build("fcn", (64,), 10, **recipe.model_options())
    assert list(steps.model.state_dict()) == list(fresh.state_dict())
    assert not any(m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in steps.model.modules())
    fresh.load_state_dict(steps.model.state_dict())
    assert (fresh.eval()(inputs).argmax(1) == labels).float().mean() > 0.7


def test_the_loss_is_the_mean_over_drawn_records() -> None:
    inputs, labels = toy()
    inputs[:], labels[:] = inputs[1].clone(), 1
    steps = steps_of(recipe_of(batch_size=20, learning_rate=1e-12, label_smoothing=0.1), inputs, labels)
    with torch.no_grad():
        expected = F.cross_entropy(steps.model(inputs[:1]), labels[:1], label_smoothing=0.1).item()
    assert steps.epoch(0) == pytest.approx(expected, rel=1e-5)


def test_a_batch_as_large_as_the_set_is_refused() -> None:
    inputs, labels = toy()
    with pytest.raises(ConfigError, match=r"below the 60 members.*batch_size 60.*at most 59"):
        steps_of(recipe_of(batch_size=60), inputs, labels)


def test_copies_must_fit_the_physical_batch() -> None:
    recipe = recipe_of({"multiplicity": 8, "physical_batch_size": 4}, augmentation={"bit_flip": 0.1})
    with pytest.raises(ConfigError, match=r"holds all copies.*multiplicity of 8"):
        preflight(recipe, (10,), 3)


@pytest.mark.parametrize("mode", ["ghost", "hooks"])
@pytest.mark.parametrize("name", MODELS)
def test_preflight_passes_every_model(name: str, mode: str) -> None:
    options = {key: value for key, value in SMALL[name].items() if key != "norm"}
    privacy = {"grad_sample_mode": mode, "multiplicity": 2}
    shape = (10,) if name == "fcn" else (3, 8, 8)
    augmentation = {"bit_flip": 0.1} if name == "fcn" else {"flip": True}
    keys = {"norm": "group"} if "norm" in SMALL[name] else {}
    before = torch.get_rng_state()
    preflight(
        recipe_of(privacy, model={"name": name, **options}, dropout=0.2, augmentation=augmentation, **keys), shape, 4
    )
    assert torch.equal(before, torch.get_rng_state())


class Body(Classifier):
    """A small network around one layer under suspicion."""

    def __init__(self, suspect: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.suspect = suspect
        self.dropout = nn.Dropout(0.0)
        self.classifier = nn.Linear(4, 4)

    def features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.suspect(self.first(x))
        return maps.mean((2, 3))


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - 0.5 * x.mean(0, keepdim=True)


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(torch.tanh(self.layer(x)))
        return result


class Overwriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result.mul_(2)


class Bypassed(Overwriting):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.layer.weight, self.layer.bias)


@pytest.mark.parametrize("mode", ["ghost", "hooks"])
@pytest.mark.parametrize(
    ("suspect", "complaint"),
    [
        (nn.BatchNorm2d(4), r"'suspect' \(BatchNorm2d\)\. Set norm to group"),
        (nn.BatchNorm2d(4, affine=False), r"'suspect' \(BatchNorm2d\)\. Set norm to group"),
        (nn.Sequential(nn.Identity(), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)), r"'suspect\.1'"),
        (nn.ReLU(inplace=True), r"'suspect' \(ReLU\).*inplace=False"),
        (nn.ConvTranspose2d(4, 4, 1), r"'suspect' \(ConvTranspose2d\), which has none.*Conv2d"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), r"others at 'suspect' \(Conv2d\)"),
        (Bare(), r"'suspect' \(Bare\), which has none"),
        (Centred(), r"agree with gradients taken one record at a time"),
        (Bypassed(), r"'suspect\.layer' \(Conv2d\)"),
    ],
    ids=["batch", "plain batch", "instance", "inplace", "transposed", "circular", "bare", "centred", "bypassed"],
)
def test_preflight_names_the_layer(suspect: nn.Module, complaint: str, mode: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        check_model(Body(suspect), recipe_of({"grad_sample_mode": mode}), (3, 6, 6))


def test_preflight_of_a_layer_used_twice_or_overwritten() -> None:
    with pytest.raises(ConfigError, match=r"'suspect\.layer' \(Conv2d\), used 2 times.*hooks"):
        check_model(Body(Twice()), recipe_of(), (3, 6, 6))
    check_model(Body(Twice()), recipe_of({"grad_sample_mode": "hooks"}), (3, 6, 6))
    for mode in ("ghost", "hooks"):
        with pytest.raises(ConfigError, match="place"):
            check_model(Body(Overwriting()), recipe_of({"grad_sample_mode": mode}), (3, 6, 6))


def test_parameters_of_two_layers_or_of_none_are_refused() -> None:
    shared = Body(nn.Conv2d(4, 4, 1))
    shared.classifier.bias = shared.first.bias  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="belong to one layer"):
        check_model(shared, recipe_of(), (3, 6, 6))
    frozen = Body(nn.Conv2d(4, 4, 1).requires_grad_(False))
    with pytest.raises(ConfigError, match=r"'suspect' \(Conv2d\), which is frozen"):
        check_model(frozen, recipe_of(), (3, 6, 6))


def test_a_missing_opacus_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus.utils.module_utils", None)
    for call in (lambda: preflight(recipe_of(), (10,), 3), lambda: epsilon_of(9.0, 0.1, 10, 1e-5, "rdp")):
        with pytest.raises(MissingExtraError, match=r"memberscope\[dp\]"):
            call()


def test_importing_opacus_leaves_the_root_logger_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.delitem(sys.modules, "opacus.utils.module_utils")
    require_opacus()
    assert logging.root.handlers == []
    # Without that care it is not.
    monkeypatch.delitem(sys.modules, "opacus.utils.module_utils")
    importlib.import_module("opacus.utils.module_utils")
    assert logging.root.handlers != []
