"""Where nothing leaks, no attack may find anything: every design, few and many models, ties and constant models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memberscope.attacks import ATTACKS, Base, RmiaOffline, RmiaOnline, attack
from memberscope.signals.references import Design, usable
from memberscope.types import Signals
from worlds import auc, auc_error, membership, null_world

NAMES = tuple(kind.name for kind in ATTACKS)


def score(name: str, signals: Signals, target: int) -> NDArray[np.float64]:
    return attack(name)(signals, target, np.random.default_rng(0))


NULL_SIZES = {"pairs": (4, 6, 16, 33), "bernoulli": (4, 6, 16, 33), "balanced": (4, 6, 16, 33)}
DRAWS, TARGETS, RECORDS = 20, 5, 240


def z_scores(
    design: Any, models: int, name: str, worlds: tuple[Signals, ...], made: Any = None, targets: int = TARGETS
) -> NDArray[np.float64]:
    """(draws, targets): each target's AUC less one half, in units of its standard deviation if nothing leaks."""
    kind = attack(name) if made is None else made
    result = np.full((len(worlds), min(targets, models)), np.nan)
    for draw, signals in enumerate(worlds):
        for j in range(result.shape[1]):
            target = (draw + j) % models
            if kind.lacks(signals, target):
                continue
            values = kind(signals, target, np.random.default_rng(draw))
            scored = ~np.isnan(values)
            member = signals.members[target][scored]
            if 0 < member.sum() < len(member):
                chance = auc_error(int(member.sum()), int((~member).sum()))
                result[draw, j] = (auc(values[scored], member) - 0.5) / chance
    return result


@cache
def null_worlds(design: Any, models: int) -> tuple[Signals, ...]:
    rng = np.random.default_rng([models, len(design)])
    # Models differ in quality: that is what a careless choice of references turns into an alarm.
    return tuple(null_world(models, RECORDS, 3, rng, design, shift=1.5) for _ in range(DRAWS))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "lira_learned"])
def test_where_nothing_leaks_every_attack_stays_at_one_half(name: str) -> None:
    fixed = {"rmia_offline": RmiaOffline(1.0, 2.0, 0.3), "rmia_online": RmiaOnline(1.0, 2.0), "base": Base(2.0)}
    together = []
    for design, sizes in NULL_SIZES.items():
        for models in sizes:
            z = z_scores(design, models, name, null_worlds(design, models), fixed.get(name))
            if np.isnan(z).all():
                continue
            means = np.nanmean(z, axis=1)
            means = means[~np.isnan(means)]
            assert abs(means.mean()) < 4 * means.std(ddof=1) / np.sqrt(len(means)), (design, models)
            together.append(z[~np.isnan(z)])
            if name != "gap":
                # Each target alone varies as chance does; gap's ties make it vary less.
                assert np.mean(together[-1] ** 2) < 1.75, (design, models)
    everything = np.concatenate(together)
    assert abs(everything.mean()) < 4 * everything.std(ddof=1) / np.sqrt(len(everything) / 2)
    assert 0.75 < np.mean(everything**2) < 1.2 or name == "gap"


def test_where_nothing_leaks_the_learned_ratio_learns_nothing() -> None:
    """Fewer worlds, since it trains a classifier for each target; benchmarks/null_audits.py has hundreds."""
    together = []
    for design in NULL_SIZES:
        for models in (6, 16):
            z = z_scores(design, models, "lira_learned", null_worlds(design, models)[:6], targets=3)
            means = z.mean(axis=1)
            assert abs(means.mean()) < 5 * means.std(ddof=1) / np.sqrt(len(means)), (design, models)
            together.append(z.ravel())
    everything = np.concatenate(together)
    assert abs(everything.mean()) < 4 / np.sqrt(len(everything) / 2)
    assert 0.6 < np.mean(everything**2) < 1.5


@pytest.mark.parametrize("name", ["rmia_offline", "rmia_online", "base"])
@pytest.mark.parametrize(("design", "models"), [("pairs", 6), ("balanced", 6), ("bernoulli", 6), ("pairs", 16)])
def test_tuning_on_references_leaks_nothing(name: str, design: Any, models: int) -> None:
    z = z_scores(design, models, name, null_worlds(design, models))
    means = z.mean(axis=1)
    assert abs(means.mean()) < 4 * means.std(ddof=1) / np.sqrt(DRAWS)
    assert np.mean(z**2) < 1.75


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("design", ["pairs", "bernoulli", "balanced"])
def test_ties_of_saturated_scores_are_not_broken_by_membership(name: str, design: Any) -> None:
    """Two decimals, four answers of five saturated: arithmetic noise of 1e-16 must not order equal records."""
    rng = np.random.default_rng(5)
    z = []
    for _ in range(5 if name == "lira_learned" else 12):
        members = membership(8, 300, rng, design)
        phi = rng.normal(7, 1.5, (8, 300, 1)) + rng.normal(size=(1, 300, 1))
        p = (1 / (1 + np.exp(-phi))).round(2)
        two = np.stack([(1 - p).round(2), p], axis=3)
        signals = Signals(two, "probabilities", members, np.ones(300, np.int64))  # type: ignore[arg-type]
        each = [auc(score(name, signals, t), signals.members[t]) - 0.5 for t in range(8)]
        z.append(np.mean(each))
    # The floor is for gap, which is exactly ½ when all answers are right.
    assert abs(np.mean(z)) < 4 * np.std(z, ddof=1) / np.sqrt(len(z)) + 1e-9


COUNTING = ("bavaria", "lira_hierarchical", "lira_learned")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "attack_p"])
@pytest.mark.parametrize("design", ["pairs", "bernoulli", "balanced"])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_models_that_all_say_the_same_score_all_records_alike(name: str, design: Any, kind: Any) -> None:
    members = membership(9, 100, np.random.default_rng(6), design)
    z = np.broadcast_to(np.array([0.1, 2.3, -0.7]), (9, 100, 3))
    outputs = z if kind == "logits" else np.exp(z) / np.exp(z).sum(axis=2, keepdims=True)
    signals = Signals(outputs, kind, members, np.ones(100, np.int64))  # type: ignore[arg-type]
    for target in range(9):
        values, allowed = score(name, signals, target), usable(signals, target)
        # Five equal answers may be trusted more than four, but the target's membership must not show.
        count = (allowed & members).sum(axis=0) if name in COUNTING else np.zeros(100)
        for number in np.unique(count):
            assert len(np.unique(values[(count == number) & ~np.isnan(values)])) <= 1
        assert np.isfinite(values).sum() > 50


def blind_to_the_design(signals: Signals) -> Signals:
    """The same signals, told that counts give nothing away: the target alone is left out."""
    return replace(signals, cache={("design",): Design(np.full(len(signals), -1), False)})


@pytest.mark.parametrize("design", ["pairs", "balanced"])
@pytest.mark.parametrize("name", ["lira_online", "lira_online_pooled", "bavaria"])
def test_without_the_partner_rule_counting_gives_membership_away(name: str, design: Any) -> None:
    worlds = null_worlds(design, 6)
    blind = tuple(blind_to_the_design(signals) for signals in worlds)
    honest, careless = z_scores(design, 6, name, worlds), z_scores(design, 6, name, blind)
    assert np.mean(honest**2) < 1.75
    alarms = abs(careless.mean()) / (careless.std() / np.sqrt(DRAWS)), np.mean(careless**2)
    assert alarms[0] > 6 or alarms[1] > 2.5
