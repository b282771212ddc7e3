"""Statistics against scikit-learn, exact small cases, and coverage under the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_curve

from memberscope.statistics import cluster, roc
from memberscope.statistics.intervals import (
    benjamini_hochberg,
    clopper_pearson,
    difference,
    order_statistic_ranks,
    proportion,
)
from memberscope.statistics.measure import Measurement, positive_predictive_value
from memberscope.types import Figure, Scores


def tied_sample(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(0.5, 1, n), 1), np.round(rng.normal(0, 1, n + 37), 1)


@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_sklearn_with_ties(seed: int) -> None:
    members, others = tied_sample(seed)
    truth = np.r_[np.ones(len(members)), np.zeros(len(others))]
    expected = roc_auc_score(truth, np.r_[members, others])
    assert roc.auc(members, others) == pytest.approx(expected, abs=1e-12)
    assert roc.auc_estimate(members, others).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_roc_curve_equals_sklearn_with_ties(seed: int) -> None:
    members, others = tied_sample(seed)
    truth = np.r_[np.ones(len(members)), np.zeros(len(others))]
    fpr, tpr, thresholds = sklearn_curve(truth, np.r_[members, others], drop_intermediate=False)
    ours = roc.roc_curve(members, others)
    np.testing.assert_allclose(ours.fpr, fpr, atol=1e-12)
    np.testing.assert_allclose(ours.tpr, tpr, atol=1e-12)
    np.testing.assert_array_equal(ours.thresholds[1:], thresholds[1:])


def test_delong_equals_the_definition() -> None:
    """The structural components written out as double loops (DeLong et al. 1988, eqs 3 to 6)."""
    rng = np.random.default_rng(0)
    members, others = np.round(rng.normal(0.6, 1, 60), 1), np.round(rng.normal(size=80), 1)
    kernel = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in others] for x in members])
    v10, v01 = kernel.mean(axis=1), kernel.mean(axis=0)
    deviation = np.sqrt(v10.var(ddof=1) / len(members) + v01.var(ddof=1) / len(others))
    low, high = roc.auc_estimate(members, others).interval(0.95)
    assert low == pytest.approx(kernel.mean() - stats.norm.isf(0.025) * deviation, abs=1e-12)
    assert high == pytest.approx(kernel.mean() + stats.norm.isf(0.025) * deviation, abs=1e-12)


def test_auc_interval_stays_inside_and_open_at_perfect_separation() -> None:
    perfect = roc.auc_estimate(np.arange(50.0) + 100, np.arange(40.0)).figure()
    assert perfect.value == 1 and perfect.high == 1 and perfect.low == pytest.approx(0.025 ** (1 / 40))
    near = roc.auc_estimate(np.r_[np.arange(50.0) + 38, 0.5], np.arange(40.0)).figure()
    assert near.low is not None and near.high is not None
    assert 0 < near.low < near.value < near.high < 1  # type: ignore[operator]


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (37, 5000)])
def test_clopper_pearson_equals_scipy(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, "exact")
    assert clopper_pearson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_difference_covers() -> None:
    rng = np.random.default_rng(1)
    p, q, n = 0.12, 0.1, 300
    inside = [
        low <= p - q <= high
        for low, high in (difference((rng.binomial(n, p), n), (rng.binomial(n, q), n)) for _ in range(2000))
    ]
    assert np.mean(inside) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 2000)


@pytest.mark.parametrize(("n", "rate"), [(1000, 0.01), (1000, 0.1), (20000, 0.001)])
def test_order_statistics_enclose_the_rate(n: int, rate: float) -> None:
    """Uniform scores: the share above the rank-th largest is known exactly for each draw."""
    strict, lax = order_statistic_ranks(n, rate, 0.95)
    rng = np.random.default_rng(2)
    share = np.array([np.sort(1 - rng.random(n))[[max(strict, 1) - 1, lax - 1]] for _ in range(2000)])
    error = 3 * np.sqrt(0.025 * 0.975 / 2000)
    assert np.mean(share[:, 0] > rate) <= 0.025 + error
    assert np.mean(share[:, 1] < rate) <= 0.025 + error
    # Not needlessly wide either: one rank further in would break the promise.
    assert stats.beta(strict + 1, n - strict).cdf(rate) < 0.975
    assert stats.beta(lax - 1, n + 2 - lax).sf(rate) < 0.975


def test_threshold_never_exceeds_the_rate_and_is_the_lowest_that_does_not() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        others = np.round(rng.normal(size=300), 1)
        threshold = roc.threshold_at(others, 0.1)
        assert np.mean(others >= threshold) <= 0.1
        lower = others[others < threshold].max()
        assert np.mean(others >= lower) > 0.1


def test_tpr_at_fpr_known_case() -> None:
    members, others = np.r_[np.full(30, 5.0), np.zeros(70)], np.r_[np.full(10, 4.0), np.arange(990) / 1e3]
    assert roc.tpr_estimate(members, others, 0.01).value == pytest.approx(0.3)


def test_rates_that_cannot_be_measured_say_why() -> None:
    rng = np.random.default_rng(4)
    few = roc.tpr_estimate(rng.normal(size=500), rng.normal(size=999), 0.01)
    assert few.value is None and "1,000" in few.reason and "999" in few.reason
    assert roc.tpr_estimate(rng.normal(size=500), rng.normal(size=1000), 0.01).value is not None
    tied = roc.tpr_estimate(rng.integers(0, 2, 2000).astype(float), rng.integers(0, 2, 2000).astype(float), 0.01)
    assert tied.value is None and "tied" in tied.reason


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_tpr_interval_covers_the_population_value(shift: float) -> None:
    """True ROC of two normals; a Clopper-Pearson interval alone falls far short, which is why it is not used."""
    rng = np.random.default_rng(5)
    truth = stats.norm.sf(stats.norm.isf(0.1) - shift)
    inside, naive = [], []
    for _ in range(1000):
        members, others = rng.normal(shift, 1, 500), rng.normal(size=500)
        estimate = roc.tpr_estimate(members, others, 0.1)
        low, high = estimate.interval(0.95)
        inside.append(low <= truth <= high)
        low, high = clopper_pearson(round((estimate.value or 0) * 500), 500)
        naive.append(low <= truth <= high)
    error = 3 * np.sqrt(0.95 * 0.05 / 1000)
    assert np.mean(inside) >= 0.95 - error
    assert np.mean(inside) <= 0.995
    assert np.mean(naive) < 0.95 - error


def advantage(scores: np.ndarray, members: np.ndarray) -> Figure:
    """Of one target's scores."""
    return Measurement(Scores("x", scores[None], members[None], (0,)), np.array([-1])).pooled.advantage.figure()


def test_advantage_of_a_coin_is_zero_on_average_and_covered() -> None:
    rng = np.random.default_rng(6)
    values, inside, maxima = [], [], []
    for _ in range(1000):
        scores, members = rng.normal(size=600), rng.random(600) < 0.5
        figure = advantage(scores, members)
        values.append(figure.value)
        inside.append(figure.low <= 0 <= figure.high)  # type: ignore[operator]
        curve = roc.roc_curve(scores[members], scores[~members])
        maxima.append((curve.tpr - curve.fpr).max())
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(1000)
    assert np.mean(inside) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 1000)
    assert np.mean(maxima) > 0.04  # what the uncorrected maximum would have reported


def test_advantage_finds_a_real_gap() -> None:
    rng = np.random.default_rng(7)
    members = rng.random(20_000) < 0.5
    scores = rng.normal(size=20_000) + 1.0 * members
    figure = advantage(scores, members)
    truth = 2 * stats.norm.cdf(0.5) - 1
    assert figure.value == pytest.approx(truth, abs=0.02)
    assert figure.low <= truth <= figure.high  # type: ignore[operator]


def pool_scores(rng: np.random.Generator, targets: int, records: int, shift: float, twins: bool) -> Measurement:
    """Shared record difficulty, so that targets are dependent; a shift for members that varies by target."""
    members = rng.random((targets, records)) < 0.5
    twin = np.full(targets, -1)
    if twins:
        members[1::2] = ~members[::2]
        twin = np.arange(targets) ^ 1
    strength = shift + (0.3 * rng.normal(size=(targets, 1)) if shift else 0.0)
    values = rng.normal(size=records) + rng.normal(size=(targets, records)) + strength * members
    return Measurement(Scores("x", values, members, tuple(range(targets))), twin, int(rng.integers(1 << 30)))


@pytest.mark.parametrize("twins", [False, True])
def test_pooled_intervals_cover_on_null_pools(twins: bool) -> None:
    rng = np.random.default_rng(8)
    inside = []
    for _ in range(300):
        pooled = pool_scores(rng, 10, 600, 0.0, twins).pooled
        figures = (pooled.auc, 0.5), (pooled.advantage, 0.0), (pooled.tpr[0.1], 0.1)
        inside.append([low <= truth <= high for (low, high), truth in ((e.interval(0.95), t) for e, t in figures)])
    assert (np.mean(inside, axis=0) >= 0.95 - 3.5 * np.sqrt(0.95 * 0.05 / 300)).all(), np.mean(inside, axis=0)


def test_pooled_interval_knows_that_targets_differ() -> None:
    """Targets that leak differently: records alone would promise far too much."""
    rng = np.random.default_rng(9)
    truth = np.mean([pool_scores(rng, 60, 1500, 1.0, False).pooled.auc.value for _ in range(12)])
    inside, alone = [], []
    for _ in range(200):
        measurement = pool_scores(rng, 8, 1500, 1.0, False)
        low, high = measurement.pooled.auc.interval(0.95)
        inside.append(low <= truth <= high)
        scores = measurement.scores
        low, high = roc.auc_estimate(scores.values[scores.members], scores.values[~scores.members]).interval(0.95)
        alone.append(low <= truth <= high)
    assert np.mean(inside) >= 0.90
    assert np.mean(alone) < 0.6


def test_pooled_point_estimates_are_those_of_the_pooled_scores() -> None:
    measurement = pool_scores(np.random.default_rng(10), 6, 800, 0.7, False)
    scores = measurement.scores
    members, others = scores.values[scores.members], scores.values[~scores.members]
    assert measurement.pooled.auc.value == pytest.approx(roc.auc(members, others), abs=1e-12)
    assert measurement.pooled.tpr[0.01].value == pytest.approx(
        np.mean(members >= roc.threshold_at(others, 0.01)), abs=1e-12
    )
    assert measurement.binned is not None
    # The bootstrap's binned curve is the same curve: its area differs from the exact one by less than 5e-4.
    one = np.ones((1, 6))
    area = cluster.curve_area(
        *((one @ part) / (one @ part)[:, -1:] for part in (measurement.binned.positives, measurement.binned.negatives))
    )
    assert area[0] == pytest.approx(roc.auc(members, others), abs=5e-4)


def test_one_pair_of_twins_gets_an_interval_too() -> None:
    measurement = pool_scores(np.random.default_rng(11), 2, 3000, 1.0, True)
    figure = measurement.pooled.auc.figure()
    assert figure.low < figure.value < figure.high  # type: ignore[operator]
    assert figure.high - figure.low < 0.06  # type: ignore[operator]


def test_scores_that_are_missing_are_left_out() -> None:
    rng = np.random.default_rng(12)
    values, members = rng.normal(size=(1, 3000)), rng.random((1, 3000)) < 0.5
    holes = values.copy()
    holes[0, ::7] = np.nan
    kept = np.ones(3000, bool)
    kept[::7] = False
    whole = Measurement(Scores("x", values[:, kept], members[:, kept], (0,)), np.array([-1]))
    part = Measurement(Scores("x", holes, members, (0,)), np.array([-1]))
    assert part.pooled.auc.figure() == whole.pooled.auc.figure()
    assert part.pooled.tpr[0.01].figure() == whole.pooled.tpr[0.01].figure()


def test_benjamini_hochberg_equals_scipy() -> None:
    p = np.random.default_rng(13).random(200) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p), atol=1e-12)


def test_ppv_is_bayes() -> None:
    figure = positive_predictive_value(proportion(300, 1000), proportion(10, 1000), 0.1)
    assert figure.value == pytest.approx(0.1 * 0.3 / (0.1 * 0.3 + 0.9 * 0.01))
    assert figure.low < figure.value < figure.high  # type: ignore[operator]


def test_operating_point_is_chosen_on_other_records() -> None:
    """On a null attack the measured false-alarm rate is the nominal one, and covered."""
    rng = np.random.default_rng(14)
    inside = []
    for seed in range(200):
        members = rng.random((1, 4000)) < 0.5
        point = Measurement(
            Scores("x", rng.normal(size=(1, 4000)), members, (0,)), np.array([-1]), seed
        ).operating_point
        assert point is not None
        inside.append(point.precision.low <= members.mean() <= point.precision.high)  # type: ignore[operator]
    assert np.mean(inside) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 200)
