"""When a growing pool may stop, and how many references are advised, in worlds where both are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from memberscope.attacks import Attack, attack
from memberscope.auditing.looks import still_open
from memberscope.auditing.power import advise, gained
from memberscope.signals.references import design
from memberscope.statistics.looks import levels
from memberscope.statistics.measure import Measured, Measurement
from memberscope.statistics.verdict import judge
from memberscope.types import Gate, Scores, Signals
from worlds import gaussian_world, leak_world, null_world

LEVEL = levels(4)[0]


def measured(signals: Signals, names: Sequence[str]) -> tuple[dict[str, Attack], dict[str, Measured]]:
    attacks = {name: attack(name) for name in names}
    pooled = {}
    for name, each in attacks.items():
        values = np.stack([each(signals, row, np.random.default_rng(row)) for row in range(len(signals))])
        scores = Scores(name, values, signals.members, tuple(range(len(signals))))
        pooled[name] = Measurement(scores, design(signals).twin).pooled
    return attacks, pooled


def opened(signals: Signals, gate: Gate, names: Sequence[str], doublings: float) -> str:
    attacks, pooled = measured(signals, names)
    return still_open(signals, attacks, pooled, [gate], range(len(signals)), level=LEVEL, doublings=doublings, seed=0)


def test_a_pool_that_leaks_nothing_stops_at_the_first_look() -> None:
    signals = null_world(10, 3_000, 1, np.random.default_rng(0), shift=0.0)
    assert opened(signals, Gate(metric="auc", limit=0.65), ["loss", "bavaria"], 3.0) == ""


def test_a_gate_that_fails_is_decided_whatever_may_come() -> None:
    signals = leak_world(10, 3_000, 1, np.random.default_rng(0), 6.0).signals
    assert opened(signals, Gate(metric="auc", limit=0.55), ["bavaria"], 30.0) == ""


def test_a_limit_within_the_interval_keeps_the_gate_open() -> None:
    signals = null_world(10, 1_000, 1, np.random.default_rng(0))
    assert opened(signals, Gate(metric="auc", limit=0.501), ["bavaria"], 3.0).startswith("Inconclusive")


def test_few_references_pass_no_model_that_many_would_fail() -> None:
    """Hard and easy records: with 8 references the attack stays below a limit that it passes with 64."""
    few = gaussian_world(10, 4_000, 1.0, np.random.default_rng(3), spread=3.0)
    many = gaussian_world(66, 4_000, 1.0, np.random.default_rng(3), spread=3.0)
    (_, weak), (_, strong) = measured(few, ["lira_online"]), measured(many, ["lira_online"])
    high, low = weak["lira_online"].auc.interval(LEVEL)[1], strong["lira_online"].auc.interval(0.95)[0]
    assert high + 0.01 < low
    gate = Gate(metric="auc", limit=(high + low) / 2, attack="lira_online")
    assert judge(gate, weak, LEVEL).verdict == "pass"
    assert judge(gate, strong).verdict == "fail"
    assert "may still gain enough" in opened(few, gate, ["lira_online"], 3.0)
    # Told that no more references will come, the same figures decide.
    assert opened(few, gate, ["lira_online"], 0.0) == ""


def test_a_figure_that_cannot_be_bounded_keeps_a_pass_open() -> None:
    """With 4 references LiRA online cannot be tried with half of them."""
    signals = null_world(6, 3_000, 1, np.random.default_rng(0), shift=0.0)
    assert "may still gain enough" in opened(signals, Gate(metric="auc", limit=0.9), ["lira_online"], 1.0)


def test_advice_predicts_what_more_references_find() -> None:
    """From 8 references the AUC with 64 is extrapolated to within what the players' spread allows."""
    signals = gaussian_world(66, 3_000, 1.0, np.random.default_rng(5), spread=3.0)
    found = gained(signals, attack("bavaria"), range(66), [2, 4, 8, 64], 0)
    assert found is not None
    middle = found.figures["auc"].mean(axis=1)
    assert (np.diff(middle) > 0).all()
    advice = advise(signals, attack("bavaria"), range(66), [], 33, 0)
    assert advice is not None
    assert [point.references for point in advice.points] == [2, 4, 8, 16, 32, 64]
    assert advice.share is not None and 0.5 < advice.share <= 1
    assert advice.models is None


def test_advice_where_nothing_leaks_and_where_a_gate_is_open() -> None:
    signals = null_world(18, 4_000, 1, np.random.default_rng(1))
    _, pooled = measured(signals, ["bavaria"])
    auc = pooled["bavaria"].auc
    assert auc.value is not None
    limit = (auc.value + auc.interval(0.95)[1]) / 2
    result = judge(Gate(metric="auc", limit=limit, attack="bavaria"), pooled)
    assert result.verdict == "inconclusive"
    advice = advise(signals, attack("bavaria"), range(18), [result], 9, 0)
    assert advice is not None and advice.share is None
    assert "nothing beyond chance" in advice.sentence
    assert advice.models is not None and advice.models > 18
    assert f"{advice.models:,} models" in advice.sentence


def test_too_few_models_give_no_advice() -> None:
    signals = null_world(4, 500, 1, np.random.default_rng(1))
    assert advise(signals, attack("bavaria"), range(4), [], 2, 0) is None


def test_what_is_gained_does_not_depend_on_the_order_of_the_records() -> None:
    signals = gaussian_world(10, 500, 1.0, np.random.default_rng(2), spread=1.0)
    order = np.random.default_rng(9).permutation(500)
    turned = replace(
        signals,
        outputs=tuple(output[order] for output in signals.outputs),
        members=signals.members[:, order],
        labels=signals.labels[order],
        ids=signals.ids[order],
        population=signals.population[order],
        cache={},
    )
    one, other = (gained(each, attack("bavaria"), range(10), [2, 4, 8], 0) for each in (signals, turned))
    assert one is not None and other is not None
    np.testing.assert_allclose(one.figures["auc"], other.figures["auc"], atol=1e-12)


@pytest.mark.parametrize("name", ["loss", "gap"])
def test_attacks_without_references_gain_nothing(name: str) -> None:
    """They cannot hold a pool open."""
    signals = null_world(10, 2_000, 3, np.random.default_rng(0), shift=0.0)
    assert opened(signals, Gate(metric="auc", limit=0.65, attack=name), [name], 3.0) == ""
