"""Checks on outputs and membership: each fires on its problem and stays quiet without it."""

from __future__ import annotations

import numpy as np
import pytest

from memberscope.data.membership import bernoulli, complementary_pairs
from memberscope.signals.checks import check_signals
from memberscope.types import Signals
from worlds import null_world


def signals(members: np.ndarray, rng: np.random.Generator, gap: float = 0.0) -> Signals:
    models, records = members.shape
    labels = rng.integers(0, 3, records)
    logits = rng.normal(size=(models, records, 3))
    logits[:, np.arange(records), labels] += 1 + gap * members
    return Signals(tuple(logits), "logits", members, labels)


def level(found: Signals, code: str) -> str:
    return next(check.level for check in check_signals(found, range(len(found))) if check.code == code)


def balanced(models: int, records: int, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(np.argsort(rng.random((models, records)), axis=0) < models // 2)


DESIGNS = {
    "pairs": (lambda rng: complementary_pairs(8, 1500, rng), "ok"),
    "independent": (lambda rng: bernoulli(8, 1500, 0.5, rng), "ok"),
    "balanced": (lambda rng: balanced(8, 1500, rng), "ok"),
    "a pair short of a row": (lambda rng: complementary_pairs(8, 1500, rng)[:7], "ok"),
    "a balanced pool short of a row": (lambda rng: balanced(8, 1500, rng)[:7], "error"),
    "several seeds of one split": (lambda rng: np.repeat(bernoulli(3, 1500, 0.5, rng), 3, axis=0), "error"),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_counting_is_noticed_where_it_tells_membership(name: str) -> None:
    make, expected = DESIGNS[name]
    found = [level(signals(make(rng), rng), "MS011") for rng in map(np.random.default_rng, range(20))]
    assert found == [expected] * 20


def test_overfitting_is_told_from_generalising() -> None:
    rng = np.random.default_rng(0)
    members = complementary_pairs(4, 2000, rng)
    assert level(signals(members, rng, gap=3.0), "MS009") == "warning"
    assert level(signals(members, rng, gap=0.0), "MS009") == "ok"


def test_sizes_of_training_sets() -> None:
    rng = np.random.default_rng(1)
    members = bernoulli(5, 2000, 0.5, rng)
    members[4] = rng.random(2000) < 0.3
    assert level(signals(members, rng), "MS008") == "warning"
    assert level(signals(complementary_pairs(4, 2000, rng), rng), "MS008") == "ok"


def test_numbers_of_non_members_and_references() -> None:
    rng = np.random.default_rng(2)
    assert level(signals(complementary_pairs(4, 400, rng), rng), "MS005") == "warning"
    assert level(signals(complementary_pairs(4, 2000, rng), rng), "MS005") == "info"
    assert level(signals(complementary_pairs(20, 2000, rng), rng), "MS005") == "ok"
    assert level(signals(complementary_pairs(4, 400, rng), rng), "MS010") == "warning"
    assert level(signals(complementary_pairs(20, 400, rng), rng), "MS010") == "ok"


def test_sound_world_raises_no_error() -> None:
    found = null_world(16, 2000, 5, np.random.default_rng(3))
    assert not [check for check in check_signals(found, range(16)) if check.level == "error"]
