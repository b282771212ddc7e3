"""Digits and the purchases generator: content, determinism, and the structure that it promises."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats

from memberscope.data import load
from memberscope.data.purchases import Shoppers, purchases
from memberscope.errors import ConfigError
from memberscope.types import Dataset


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    table, images = load("digits"), load("digits", as_images=True)
    assert (table.inputs == bunch.data).all()
    assert (images.inputs[:, 0] == bunch.images).all()
    assert (table.labels == bunch.target).all()
    assert (table.kind, images.kind) == ("table", "image")
    assert table.inputs.dtype == np.uint8
    assert table.ids[[0, -1]].tolist() == ["digits-0001", "digits-1797"]
    assert table.feature_names[9] == "row 2 column 2"
    assert table.inputs[5, 9] == images.inputs[5, 0, 1, 1]


@pytest.fixture(scope="module")
def shoppers() -> Dataset:
    return purchases(20_000)


def test_purchases_are_the_beginning_of_more_and_depend_on_the_seed(shoppers: Dataset) -> None:
    for records in (1, 5000):
        fewer = load("purchases", records=records)
        assert (fewer.inputs == shoppers.inputs[:records]).all()
        assert (fewer.labels == shoppers.labels[:records]).all()
        assert (fewer.ids == shoppers.ids[:records]).all()
        assert (fewer.groups["oddity"] == shoppers.groups["oddity"][:records]).all()
    other = load("purchases", n=1000, seed=1)
    assert abs(np.mean(other.inputs == shoppers.inputs[:1000]) - 0.88) < 0.05


def test_purchases_have_purchase100s_shape(shoppers: Dataset) -> None:
    assert shoppers.inputs.shape == (20_000, 600)
    assert set(np.unique(shoppers.inputs)) == {0, 1}
    assert shoppers.classes == 100
    basket = shoppers.inputs.sum(axis=1)
    assert 36 < basket.mean() < 46
    assert np.quantile(basket, 0.99) > 1.6 * basket.mean(), "shoppers differ in activity"
    sizes = np.bincount(shoppers.labels, minlength=100)
    assert sizes.min() > 100
    assert sizes.max() < 3 * sizes.min()
    assert shoppers.ids[[0, -1]].tolist() == ["purchases-000001", "purchases-020000"]


def test_oddities_have_their_shares_and_their_nature(shoppers: Dataset) -> None:
    population = Shoppers()
    oddity = shoppers.groups["oddity"]
    for name, share in (("atypical", population.atypical), ("mislabelled", population.mislabelled)):
        low, high = stats.binom.interval(1 - 1e-6, len(shoppers), share)
        assert low <= (oddity == name).sum() <= high
    # A classifier that knows the class means agrees with most labels, with few of the mislabelled ones.
    typical = oddity == "typical"
    means = np.stack([shoppers.inputs[typical & (shoppers.labels == k)].mean(axis=0) for k in range(100)])
    scores = shoppers.inputs.astype(np.float64) @ means.T - (means**2).sum(axis=1) / 2
    agrees = scores.argmax(axis=1) == shoppers.labels
    assert agrees[typical].mean() > 0.65
    assert agrees[oddity == "mislabelled"].mean() < 0.03
    assert 0.1 < agrees[oddity == "atypical"].mean() < agrees[typical].mean() - 0.2


def test_mislabelling_changes_labels_and_leaves_baskets(shoppers: Dataset) -> None:
    clean = purchases(4000, 0, Shoppers(mislabelled=0.0))
    wrong = shoppers.groups["oddity"][:4000] == "mislabelled"
    assert (clean.inputs == shoppers.inputs[:4000]).all()
    assert set(clean.groups["oddity"]) == {"typical", "atypical"}
    assert ((clean.labels != shoppers.labels[:4000]) == wrong).all()


def test_the_largest_size_takes_seconds() -> None:
    started = time.process_time()
    data = purchases(197_324)
    assert time.process_time() - started < 15, "about 3.5 s of one idle core; a shared one counts more"
    sizes = np.bincount(data.labels, minlength=100)
    assert sizes.max() < 2 * sizes.min()
    assert len({row.tobytes() for row in data.inputs}) > 197_300, "shoppers hardly ever repeat each other"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"records": 0}, "at least 1 record"),
        ({"records": 197_325}, "1 to 197,324 records; got 197,325"),
        ({"seed": -1}, "a seed of at least 0"),
        ({"records": 5, "n": 6}, "records=5 and n=6"),
        ({"sise": 6}, "got 'sise'"),
    ],
)
def test_impossible_requests_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load("purchases", **options)
