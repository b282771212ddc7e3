"""Every attack against its slow oracle, to 1e-9, on worlds of every design, kind and size."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from learned_oracle import lira_learned
from memberscope.attacks import ATTACKS, Base, Bavaria, RmiaOffline, RmiaOnline
from memberscope.attacks.bavaria import fit_scaled_f, student_t_logpdf
from memberscope.attacks.tuning import tune
from memberscope.signals.references import usable
from memberscope.types import Signals
from oracles import ORACLES as OF_ONE_FORMULA
from oracles import Oracle, tuned
from worlds import leak_world

ORACLES: dict[str, Callable[..., list[float]]] = OF_ONE_FORMULA | {"lira_learned": lira_learned}

# Its oracle plays every game record by record: one world of each design, and what is special about a world once.
LEARNED = {
    "pairs, three queries",
    "bernoulli, one column",
    "bernoulli, some never IN",
    "balanced, three queries",
    "two decimals",
    "population",
}

# name: models, records, classes, design, queries, further options
WORLDS: dict[str, tuple[int, int, int, Any, int, dict[str, Any]]] = {
    "pairs": (16, 50, 10, "pairs", 1, {}),
    "pairs, three queries": (8, 40, 10, "pairs", 3, {}),
    "pairs and a single row": (9, 40, 2, "pairs", 1, {}),
    "bernoulli, some never IN": (5, 60, 10, "bernoulli", 1, {}),
    "bernoulli, one column": (12, 40, 1, "bernoulli", 1, {}),
    "balanced, three queries": (9, 40, 2, "balanced", 3, {}),
    "balanced, float32": (12, 40, 10, "balanced", 1, {"dtype": np.float32}),
    "probabilities": (10, 40, 10, "pairs", 1, {"kind": "probabilities"}),
    "probabilities, one column": (9, 40, 1, "bernoulli", 3, {"kind": "probabilities"}),
    "two decimals": (8, 60, 2, "balanced", 1, {"kind": "probabilities", "digits": 2}),
    "four decimals": (8, 40, 4, "pairs", 1, {"kind": "probabilities", "digits": 4}),
    "population": (8, 60, 3, "pairs", 1, {"population": 20}),
    "population, balanced": (7, 60, 3, "balanced", 1, {"population": 20}),
    "population, bernoulli": (7, 60, 3, "bernoulli", 1, {"population": 20}),
    "four models": (4, 40, 3, "pairs", 1, {}),
}


@cache
def world(name: str) -> Signals:
    models, records, classes, design, queries, options = WORLDS[name]
    rng = np.random.default_rng(sum(map(ord, name)))
    return leak_world(models, records, classes, rng, 1.5, 0.5, design, queries, **options).signals


@cache
def allowed(name: str) -> Callable[[int], list[list[int]]]:
    @cache
    def rows(target: int) -> list[list[int]]:
        return [[int(m) for m in np.flatnonzero(column)] for column in usable(world(name), target).T]

    return rows


@cache
def oracle(name: str, target: int) -> Oracle:
    return Oracle(world(name), target, allowed(name), np.random.default_rng(7))


def targets(name: str) -> tuple[int, ...]:
    return 0, WORLDS[name][0] - 1


CASES = [(name, kind) for name in WORLDS for kind in ATTACKS if kind.name != "lira_learned" or name in LEARNED]


@pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda value: value if isinstance(value, str) else value.name)
def test_attack_equals_its_oracle(name: str, kind: Any) -> None:
    assert kind.name in ORACLES, f"write a slow oracle of {kind.name} in tests/oracles.py"
    for target in targets(name):
        if kind().lacks(world(name), target):
            assert len(world(name)) <= 5
            continue
        ours = kind()(world(name), target, np.random.default_rng(7))
        slow = oracle(name, target)
        slow.rng = np.random.default_rng(7)
        theirs = np.array(ORACLES[kind.name](slow))
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
        assert np.isfinite(theirs).sum() > 10
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_every_oracle_belongs_to_an_attack() -> None:
    assert set(ORACLES) == {kind.name for kind in ATTACKS}


@pytest.mark.parametrize(
    "name", ["pairs", "bernoulli, some never IN", "balanced, three queries", "two decimals", "population"]
)
@pytest.mark.parametrize("kind", ["rmia_offline", "rmia_online", "base"])
def test_the_temperature_is_the_best_of_the_references_that_play_target(kind: str, name: str) -> None:
    for target in targets(name):
        chosen = tune(world(name), target, kind)
        temperature, a = tuned(oracle(name, target), kind)
        assert chosen.temperature == temperature
        if kind == "rmia_offline":
            assert chosen.a == a


@pytest.mark.parametrize("gamma", [1.0, 1.5, 4.0])
@pytest.mark.parametrize("name", ["bernoulli, some never IN", "population", "two decimals"])
def test_rmia_with_given_parameters(gamma: float, name: str) -> None:
    slow = oracle(name, 0)
    for kind, attack in (
        ("rmia_offline", RmiaOffline(gamma, 3.0, 0.45)),
        ("rmia_online", RmiaOnline(gamma, 3.0, 0.45)),
    ):
        ours = attack(world(name), 0, np.random.default_rng(0))
        theirs = ORACLES[kind](slow, gamma=gamma, given=(3.0, 0.45))
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_base_and_bavaria_with_given_parameters() -> None:
    slow, signals = oracle("pairs", 0), world("pairs")
    np.testing.assert_allclose(
        Base(0.7)(signals, 0, np.random.default_rng(0)), ORACLES["base"](slow, given=0.7), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(
        Bavaria(5.0)(signals, 0, np.random.default_rng(0)), ORACLES["bavaria"](slow, degrees=5.0), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("degrees", [2.5, 6.0, 15.0])
def test_the_prior_of_the_variances_is_recovered(degrees: float) -> None:
    """Variances drawn from the very model: s² ~ s₀²·ν₀/χ²(ν₀) · χ²(d)/d."""
    rng = np.random.default_rng(3)
    n, d, scale = 200_000, rng.integers(2, 9, 200_000).astype(float), 0.3
    variance = scale * degrees / rng.chisquare(degrees, n) * rng.chisquare(d) / d
    fitted, centre = fit_scaled_f(variance, d)
    assert fitted == pytest.approx(degrees, rel=0.08)
    assert centre == pytest.approx(scale, rel=0.02)


def test_equal_variances_pool_and_none_leave_the_prior_vague() -> None:
    d = np.full(1000, 7.0)
    assert fit_scaled_f(np.full(1000, 2.0), d)[0] == 1e6
    assert fit_scaled_f(np.full(1000, np.nan), np.zeros(1000)) == (1.0, 1.0)
    assert fit_scaled_f(np.zeros(1000), d) == (1.0, 1.0)
    one_constant = np.r_[0.0, np.random.default_rng(0).chisquare(7, 999) / 7]
    assert fit_scaled_f(one_constant, d)[1] == pytest.approx(1.0, rel=0.1)


def test_student_t_meets_the_normal_law() -> None:
    x = np.linspace(-5, 5, 11)
    ours = student_t_logpdf(x, np.full(11, 1e6), np.zeros(11), np.full(11, 4.0))
    np.testing.assert_allclose(ours, -0.5 * np.log(2 * np.pi * 4) - x**2 / 8, atol=1e-4)
