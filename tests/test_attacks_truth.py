"""Attacks in worlds with known answers: they see what leaks, by how much, and nothing where nothing leaks."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memberscope.attacks import ATTACKS, DEFAULT, AttackP, Base, RmiaOffline, RmiaOnline, attack
from memberscope.errors import ConfigError, SignalsError
from memberscope.signals.derive import scaled_logits
from memberscope.types import Signals
from worlds import (
    auc,
    auc_error,
    gaussian_auc,
    gaussian_tpr,
    gaussian_world,
    leak_world,
    membership,
    null_world,
    signals_of,
)

NAMES = tuple(kind.name for kind in ATTACKS)
ALONE = ("gap", "loss", "confidence", "entropy", "modified_entropy", "scaled_logit", "attack_p")
LABEL_FREE = ("confidence", "entropy")


def score(name: str, signals: Signals, target: int, seed: int = 0) -> NDArray[np.float64]:
    return attack(name)(signals, target, np.random.default_rng(seed))


def flipped(signals: Signals, rows: list[int], records: NDArray[np.int64]) -> Signals:
    """The same outputs with the membership of ``records`` in ``rows`` turned round."""
    members = signals.members.copy()
    members[np.ix_(rows, records)] ^= True
    return replace(signals, members=members, cache={})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("queries", [1, 3])
def test_higher_means_more_likely_a_member(name: str, queries: int) -> None:
    world = leak_world(16, 500, 5, np.random.default_rng(1), 4.0, 1.0, queries=queries)
    found = np.mean([auc(score(name, world.signals, t), world.signals.members[t]) for t in range(4)])
    # Every record's φ rises by 4. A difference of losses sees little of that where the loss is near 0 already.
    least = {"gap": 0.56, "calibrated_loss": 0.7} | dict.fromkeys(ALONE[1:], 0.78)
    assert found > least.get(name, 0.9)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ALONE])
def test_reference_attacks_find_the_planted_records(name: str) -> None:
    world = leak_world(32, 1500, 10, np.random.default_rng(2), 5.0, 0.2)
    found, flat = [], []
    for target in range(4):
        values, members = score(name, world.signals, target), world.signals.members[target]
        found.append(auc(values[world.planted], members[world.planted]))
        flat.append(auc(values[~world.planted], members[~world.planted]))
        # Among the members, the planted ones come first.
        assert auc(values[members], world.planted[members]) > (0.65 if name == "calibrated_loss" else 0.8)
    assert np.mean(found) > (0.7 if name == "calibrated_loss" else 0.93)
    assert abs(np.mean(flat) - 0.5) < 4 * auc_error(600, 600) / 2


@cache
def homogeneous(models: int, strength: float, spread: float, records: int = 3000) -> Signals:
    return gaussian_world(models, records, strength, np.random.default_rng(models), spread=spread)


def measured(name: str, signals: Signals) -> tuple[float, float]:
    """Mean AUC over all targets and its standard error (twins share their references)."""
    values = np.array([auc(score(name, signals, t), signals.members[t]) for t in range(len(signals))])
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values) / 2))


@pytest.mark.parametrize("strength", [0.3, 1.0, 2.0])
def test_a_global_threshold_finds_a_shift_of_known_size(strength: float) -> None:
    for name in ("scaled_logit", "loss"):
        found, error = measured(name, homogeneous(16, strength, 0.0))
        assert found == pytest.approx(gaussian_auc(strength), abs=4 * error)


@pytest.mark.parametrize("models", [6, 16, 40])
@pytest.mark.parametrize("strength", [0.5, 1.5])
def test_lira_offline_reaches_its_closed_form(models: int, strength: float) -> None:
    """With the pooled variance it is a threshold on φ − mean_out: AUC and TPR are known for any number of models."""
    signals = homogeneous(models, strength, 3.0)
    references = (models - 2) / 2
    found, error = measured("lira_offline_pooled", signals)
    assert found == pytest.approx(gaussian_auc(strength, references), abs=4 * error)
    rates = []
    for target in range(models):
        values, members = score("lira_offline_pooled", signals, target), signals.members[target]
        rates.append((values[members] > np.quantile(values[~members], 0.9)).mean())
    spread = 4 * np.std(rates) / np.sqrt(models / 2)
    assert np.mean(rates) == pytest.approx(gaussian_tpr(strength, 0.1, references), abs=spread)


@pytest.mark.parametrize("models", [6, 16, 40])
def test_lira_online_reaches_what_its_model_predicts(models: int) -> None:
    """Pooled variance, simulated from the sampling distributions of the two means."""
    strength, n = 1.0, (models - 2) / 2
    rng = np.random.default_rng(0)
    mean_in = strength + rng.normal(size=400_000) / np.sqrt(n)
    mean_out = rng.normal(size=400_000) / np.sqrt(n)
    member = rng.random(400_000) < 0.5
    x = rng.normal(size=400_000) + strength * member
    ratio = (x - mean_out) ** 2 - (x - mean_in) ** 2
    ranks = np.empty(400_000)
    ranks[ratio.argsort()] = np.arange(400_000)
    positive = member.sum()
    predicted = (ranks[member].sum() - positive * (positive - 1) / 2) / (positive * (400_000 - positive))
    found, error = measured("lira_online_pooled", homogeneous(models, strength, 3.0))
    assert found == pytest.approx(predicted, abs=4 * np.hypot(error, auc_error(200_000, 200_000)))


def test_many_references_reach_the_best_possible() -> None:
    signals = homogeneous(128, 1.0, 3.0, 800)
    for name in ("lira_online", "lira_online_pooled", "bavaria", "lira_hierarchical"):
        found, error = measured(name, signals)
        assert gaussian_auc(1.0) - 0.012 - 4 * error < found < gaussian_auc(1.0) + 4 * error
    # A global threshold drowns in the records' difficulty.
    assert measured("loss", signals)[0] < 0.6


def test_bavaria_meets_the_better_of_both_variances() -> None:
    rng = np.random.default_rng(3)
    for models in (8, 16, 64):
        members = membership(models, 1500, rng, "pairs")
        noise = np.exp(rng.normal(0, 0.7, (1, 1500, 1)))
        phi = 3 * rng.normal(size=(1, 1500, 1)) + 0.8 * members[:, :, None] + noise * rng.normal(size=(models, 1500, 1))
        signals = signals_of(phi, members, 1, rng)
        aucs = {name: measured(name, signals)[0] for name in ("lira_online", "lira_online_pooled", "bavaria")}
        assert aucs["bavaria"] > max(aucs["lira_online"], aucs["lira_online_pooled"]) - 0.002


def test_in_pairs_base_and_online_rmia_rank_alike() -> None:
    """Lassila et al. 2025: with equal weights of IN and OUT, BASE is RMIA's ratio and the share a function of it."""
    signals = leak_world(10, 400, 3, np.random.default_rng(4), 2.0, 0.5).signals
    rng = np.random.default_rng(0)
    for target in (0, 7):
        base, rmia = Base(2.0)(signals, target, rng), RmiaOnline(temperature=2.0)(signals, target, rng)
        np.testing.assert_array_equal(base.argsort(kind="stable"), rmia.argsort(kind="stable"))
        np.testing.assert_allclose(np.sort(rmia), np.arange(400) / 400)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "attack_p"])
@pytest.mark.parametrize("design", ["bernoulli", "pairs"])
def test_the_targets_own_membership_is_never_seen(name: str, design: Any) -> None:
    signals = leak_world(8, 200, 3, np.random.default_rng(7), 2.0, 0.5, design).signals
    records = np.arange(0, 200, 3)
    # In pairs the twin is the target's mirror image and is turned with it.
    rows = [2] if design == "bernoulli" else [2, 3]
    np.testing.assert_array_equal(score(name, signals, 2), score(name, flipped(signals, rows, records), 2))
    # The references' membership is seen, or there would be nothing to test (BASE's mean is over all of them).
    if name not in (*ALONE, "base") and (name, design) != ("rmia_online", "pairs"):
        others = [4] if design == "bernoulli" else [4, 5]
        assert (score(name, signals, 2) != score(name, flipped(signals, others, records), 2)).any()


def test_attack_p_compares_a_record_with_others_only() -> None:
    signals = null_world(2, 100, 1, np.random.default_rng(8))
    before = AttackP(per_class=False)(signals, 0, np.random.default_rng(1))
    for i in range(5):
        after = AttackP(per_class=False)(flipped(signals, [0, 1], np.array([i])), 0, np.random.default_rng(1))
        assert after[i] == before[i]
        assert (after != before).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("design", ["pairs", "balanced"])
def test_the_order_of_records_does_not_matter(name: str, design: Any) -> None:
    rng = np.random.default_rng(9)
    # More records than tuning looks at, and for attack P a population, with which nothing is dealt at random.
    signals = leak_world(8, 2600, 2, rng, 2.0, 0.5, design, population=300 if name == "attack_p" else 0).signals
    order = rng.permutation(2600)
    turned = replace(
        signals,
        outputs=tuple(row[order] for row in signals.outputs),
        members=signals.members[:, order],
        labels=signals.labels[order],
        ids=signals.ids[order],
        population=signals.population[order],
        cache={},
    )
    np.testing.assert_allclose(score(name, turned, 1), score(name, signals, 1)[order], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_scores_whatever_was_asked_before(name: str) -> None:
    signals = leak_world(8, 150, 3, np.random.default_rng(10), 2.0, 0.5, "balanced").signals
    first = score(name, signals, 3, seed=4)
    for other in NAMES:
        score(other, signals, 5)
    np.testing.assert_array_equal(score(name, signals, 3, seed=4), first)
    np.testing.assert_array_equal(score(name, replace(signals, cache={}), 3, seed=4), first)


NEEDS_OUT = {"attack_r", "calibrated_loss", "rmia_offline", "lira_offline_pooled"}
NEEDS_BOTH = {"lira_online_pooled", "bavaria", "lira_hierarchical", "lira_learned"}


@pytest.mark.parametrize("name", NAMES)
def test_records_that_cannot_be_scored_are_nan(name: str) -> None:
    rng = np.random.default_rng(11)
    members = membership(9, 100, rng, "bernoulli")
    members[1:, 0], members[1:, 1] = True, False  # always and never IN, among the references of row 0
    members[1:, 2] = [True] * 7 + [False]  # a single OUT
    members[1:, 3] = [False] * 7 + [True]  # a single IN
    members[1:, 4:] = membership(8, 96, rng, "pairs")
    values = score(name, signals_of(rng.normal(2, 1, (9, 100, 1)), members, 1, rng), 0)
    missing = {"lira_offline": [0, 2], "lira_online": [0, 1, 2, 3]}.get(name, [])
    missing = [0] if name in NEEDS_OUT else [0, 1] if name in NEEDS_BOTH else missing
    assert np.flatnonzero(np.isnan(values)).tolist() == missing
    assert np.isfinite(values[4:]).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_population_is_never_scored(name: str) -> None:
    signals = leak_world(8, 200, 3, np.random.default_rng(12), 2.0, 0.5, population=50).signals
    values = score(name, signals, 0)
    assert np.isnan(values[150:]).all() and np.isfinite(values[:150]).all()


def test_what_each_attack_lacks() -> None:
    rng = np.random.default_rng(13)

    def runs(signals: Signals, target: int = 0) -> set[str]:
        return {kind.name for kind in ATTACKS if not kind().lacks(signals, target)}

    one = {*ALONE}
    assert runs(null_world(1, 50, 3, rng, "bernoulli")) == one
    assert runs(null_world(2, 50, 3, rng, "pairs")) == one  # the twin is no reference
    with_one = one | {"calibrated_loss", "rmia_offline", "base"}
    assert runs(null_world(2, 50, 3, rng, "bernoulli")) == with_one
    with_two = with_one | {"lira_offline_pooled", "rmia_online", "bavaria", "lira_hierarchical"}
    assert runs(null_world(3, 50, 3, rng, "bernoulli")) == with_two
    assert runs(null_world(4, 50, 3, rng, "pairs")) == with_two
    assert runs(null_world(5, 50, 3, rng, "bernoulli")) == set(NAMES)
    assert runs(null_world(6, 50, 3, rng, "pairs")) == set(NAMES)
    rounded = null_world(6, 200, 2, rng, kind="probabilities", digits=2)
    assert runs(rounded) == set(NAMES)
    answers = tuple(rng.integers(0, 3, (6, 50)))
    labels = Signals(answers, "labels", membership(6, 50, rng), rng.integers(0, 3, 50))
    assert runs(labels) == {"gap"}


def test_attacks_say_what_is_missing() -> None:
    rng = np.random.default_rng(14)
    two = null_world(2, 50, 3, rng)
    with pytest.raises(SignalsError, match="at least 4 reference models, and none can serve"):
        score("lira_online", two, 0)
    with pytest.raises(SignalsError, match="at least 1 reference model, and none can serve"):
        score("base", two, 0)
    for target in (-1, 2):
        with pytest.raises(SignalsError, match="a target row from 0 to 1"):
            score("loss", two, target)
    labels = Signals(tuple(rng.integers(0, 3, (2, 50))), "labels", membership(2, 50, rng), rng.integers(0, 3, 50))
    with pytest.raises(SignalsError, match="needs rounded, and only label"):
        score("loss", labels, 0)
    with pytest.raises(ConfigError, match=r"'lira_onlin' \(did you mean 'lira_online'\?\)"):
        attack("lira_onlin")
    for bad in (lambda: RmiaOnline(gamma=0.5), lambda: RmiaOffline(a=1.5), lambda: AttackP(folds=1)):
        with pytest.raises(ConfigError):
            bad()
    assert DEFAULT in NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_half_and_single_precision_outputs_keep_the_answer(name: str, dtype: Any) -> None:
    world = leak_world(12, 300, 5, np.random.default_rng(15), 3.0, 1.0)
    low = replace(world.signals, outputs=tuple(row.astype(dtype) for row in world.signals.outputs), cache={})
    full, rough = (auc(score(name, s, 0), s.members[0]) for s in (world.signals, low))
    assert rough == pytest.approx(full, abs=0.02 if dtype is np.float16 else 1e-3)
    assert scaled_logits(low).dtype == np.float64


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_any_number_of_classes(name: str, classes: int) -> None:
    world = leak_world(8, 150, classes, np.random.default_rng(16), 4.0, 1.0)
    # A hundred and fifty records of a thousand classes have nobody of their own class to be compared with.
    kind = AttackP(per_class=classes < 1000) if name == "attack_p" else attack(name)
    values = kind(world.signals, 0, np.random.default_rng(0))
    assert np.isfinite(values).all()
    assert auc(values, world.signals.members[0]) > (0.5 if name in ("gap", *LABEL_FREE) else 0.6)


@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits_give_finite_scores(name: str) -> None:
    rng = np.random.default_rng(17)
    world = leak_world(8, 100, 4, rng, 4.0, 1.0)
    outputs = [row.copy() for row in world.signals.outputs]
    for row in outputs:
        row[:30] *= 1e3  # φ to ±1e4
        row[30:40] = 0.0
    signals = replace(world.signals, outputs=tuple(outputs), cache={})
    for target in range(8):
        assert np.isfinite(score(name, signals, target)).all()
