"""Designs and splits keep what they promise for every size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memberscope.data import membership
from memberscope.errors import ConfigError, DataError, PoolError


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(2, 60), st.integers(0, 2**32))
def test_pairs_put_every_record_in_exactly_half_of_the_models(pairs: int, n: int, seed: int) -> None:
    members = membership.complementary_pairs(2 * pairs, n, seed)
    assert (members.sum(axis=0) == pairs).all()
    assert (members[::2] ^ members[1::2]).all()
    assert (members[::2].sum(axis=1) == n // 2).all()
    assert (members == membership.complementary_pairs(2 * pairs, n, seed)).all()
    assert (members == membership.complementary_pairs(2 * pairs + 4, n, seed)[: 2 * pairs]).all()


def test_pairs_are_random_and_independent_of_each_other() -> None:
    members = membership.complementary_pairs(2000, 10, np.random.default_rng(1))
    even = members[::2]
    # Each of the 45 record pairs is together IN in 2/9 of rows (5 of 10 drawn without replacement).
    together = (even.T.astype(int) @ even)[np.triu_indices(10, 1)] / len(even)
    assert abs(even.mean(axis=0) - 0.5).max() < 5 * 0.5 / len(even) ** 0.5
    assert abs(together - 2 / 9).max() < 5 * (2 / 9 * 7 / 9 / len(even)) ** 0.5


def test_bernoulli_has_its_rate_and_no_one_sided_row() -> None:
    members = membership.bernoulli(400, 500, 0.3, 7)
    assert abs(members.mean() - 0.3) < 5 * (0.21 / members.size) ** 0.5
    tiny = membership.bernoulli(3000, 2, 0.5, 7)
    assert (tiny.sum(axis=1) == 1).all()
    assert not (membership.bernoulli(400, 500, 0.3, 8) == members).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: membership.complementary_pairs(5, 10), "even number of models.*got 5.*6 models"),
        (lambda: membership.complementary_pairs(0, 10), "at least 2 models"),
        (lambda: membership.complementary_pairs(2, 1), "at least 2 records"),
        (lambda: membership.bernoulli(0, 10), "at least 1 models"),
        (lambda: membership.bernoulli(2, 10, 0.0), "above 0 and below 1; got p=0"),
        (lambda: membership.bernoulli(2, 10, 1.0), "above 0 and below 1; got p=1"),
        (lambda: membership.bernoulli(2, 10, float("nan")), "above 0 and below 1; got p=nan"),
        (lambda: membership.bernoulli(2, 2, 1e-9), "one-sided 1,000 times"),
        (lambda: membership.splits(10, audit=8, validation=3), "at most 10 records together"),
        (lambda: membership.splits(10, validation=9), "at least 2 of them to audit"),
        (lambda: membership.splits(10, validation=-1), "validation of at least 0"),
        (lambda: membership.splits(10, population=-1), "population of at least 0"),
        (lambda: membership.splits(-3), "n of at least 0"),
        (
            lambda: membership.given(np.ones((2, 3), bool) & [True, False, True], models=4),
            "membership of 4 models",
        ),
        (
            lambda: membership.given(np.ones((2, 3), bool) & [True, False, True], records=4),
            "membership of 4 records",
        ),
    ],
)
def test_impossible_designs_are_refused(call: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()  # type: ignore[operator]


def test_given_membership_is_checked_and_returned() -> None:
    members = np.array([[True, False], [False, True]])
    assert (membership.given(members, models=2, records=2) == members).all()
    with pytest.raises(PoolError, match=r"booleans"):
        membership.given(members.astype(np.int64))
    with pytest.raises(PoolError, match=r"every record"):
        membership.given(np.array([[True, False], [True, True]]))


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(2, 300), st.booleans())
def test_splits_are_disjoint_sized_and_proportional(data: st.DataObject, n: int, stratified: bool) -> None:
    audit = data.draw(st.integers(2, n))
    validation = data.draw(st.integers(0, n - audit))
    population = data.draw(st.integers(0, n - audit - validation))
    labels = np.random.default_rng(n).integers(0, 5, n) if stratified else None
    parts = membership.splits(n, audit=audit, validation=validation, population=population, seed=3, labels=labels)
    assert [len(parts.audit), len(parts.validation), len(parts.population)] == [audit, validation, population]
    together = np.concatenate([parts.audit, parts.validation, parts.population])
    assert len(set(together.tolist())) == len(together)
    assert together.min() >= 0
    assert together.max() < n
    if labels is not None:
        whole = np.bincount(labels, minlength=5)
        for part in (parts.audit, parts.validation, parts.population):
            share = np.bincount(labels[part], minlength=5) - whole * len(part) / n
            assert abs(share).max() <= 3


def test_splits_default_to_auditing_the_rest_and_depend_on_the_seed() -> None:
    one, two = (
        membership.splits(1000, population=100, seed=1),
        membership.splits(1000, population=100, seed=2),
    )
    assert len(one.audit) == 900
    assert not np.array_equal(one.population, two.population)
    assert np.array_equal(one.population, membership.splits(1000, population=100, seed=1).population)


def test_splits_need_one_label_a_record() -> None:
    with pytest.raises(DataError, match=r"one label a record"):
        membership.splits(10, labels=np.zeros(9, int))
