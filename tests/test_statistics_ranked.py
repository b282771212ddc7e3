"""Figures from one sort equal those of the sorted samples themselves, whatever ties, gaps and sizes there are."""

from __future__ import annotations

import numpy as np
import pytest

from memberscope import large
from memberscope.statistics import cluster, compiled, ranked, roc
from memberscope.statistics.figures import Sample
from memberscope.statistics.intervals import order_statistic_ranks
from memberscope.statistics.measure import FPRS, Measurement
from memberscope.training.native import kernels
from memberscope.types import Scores

KINDS = ("smooth", "tenths", "whole", "binary", "apart", "holes")


def made(kind: str, seed: int, targets: int, records: int) -> Scores:
    rng = np.random.default_rng(seed)
    members = rng.random((targets, records)) < 0.5
    values = rng.normal(size=members.shape) + 0.5 * members
    if kind == "tenths":
        values = np.round(values, 1)
    elif kind == "whole":
        values = np.round(values) * -1.0
    elif kind == "binary":
        values = (values > 0).astype(float)
    elif kind == "apart":
        values += 100 * members
    elif kind == "holes":
        values[:, ::9] = np.nan
    return Scores("x", values, members, tuple(range(targets)))


def sides(scores: Scores, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, members = scores.values[:, chosen], scores.members[:, chosen]
    known = ~np.isnan(values)
    return values[known & members], values[known & ~members]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("targets", "records"), [(1, 50), (3, 700), (2, 6000)])
def test_every_figure_equals_that_of_the_samples(
    kind: str, targets: int, records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small pieces, so that a few thousand scores are many of them.
    monkeypatch.setattr(ranked, "_PIECE", 256)
    scores = made(kind, records, targets, records)
    everyone = np.ones(records, np.bool_)
    measurement = Measurement(scores, np.full(targets, -1), 5)
    members, others = sides(scores, everyone)
    assert measurement.pooled.auc.value == pytest.approx(roc.auc(members, others), abs=1e-13)
    for position, measured in enumerate(measurement.targets):
        alone = scores.of(position)
        for ours, slow in (
            (measured.auc, roc.auc_estimate(*alone)),
            *((measured.tpr[fpr], roc.tpr_estimate(*alone, fpr)) for fpr in FPRS),
        ):
            assert ours.reason == slow.reason
            if slow.value is not None:
                assert ours.value == pytest.approx(slow.value, abs=1e-13)
                for level in (0.5, 0.95, 0.9999):
                    np.testing.assert_allclose(ours.interval(level), slow.interval(level), atol=1e-10)
    for fpr in FPRS:
        assert measurement.pooled.tpr[fpr].reason == roc.unmeasurable(others, fpr)
        if measurement.pooled.tpr[fpr].value is not None:
            hits = np.mean(members >= roc.threshold_at(others, fpr))
            assert measurement.pooled.tpr[fpr].value == pytest.approx(hits, abs=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_accusations_are_those_at_a_threshold_from_the_other_half(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranked, "_PIECE", 256)
    scores = made(kind, 3, 4, 2000)
    measurement = Measurement(scores, np.array([1, 0, 3, 2]), 7)
    some = np.random.default_rng(1).random(2000) < 0.3
    for chosen in (np.ones(2000, np.bool_), some):
        total = np.zeros((2, 4), np.int64)
        for half in (measurement.fold, ~measurement.fold):
            threshold = roc.threshold_at(sides(scores, ~half)[1], 0.01)
            for row in range(4):
                values, truth = scores.values[row, half & chosen], scores.members[row, half & chosen]
                accused, known = values >= threshold, ~np.isnan(values)
                total[row // 2] += [
                    np.sum(what) for what in (accused & truth, known & truth, accused & ~truth, known & ~truth)
                ]
        found = measurement.operating_counts(None if chosen.all() else chosen)
        np.testing.assert_array_equal(found, total)


def test_best_threshold_is_the_curves() -> None:
    for seed in range(30):
        scores = made(KINDS[seed % 6], seed, 1, 400)
        measurement = Measurement(scores, np.array([-1]), seed)
        labels = scores.members[0].view(np.uint8) | measurement.fold.view(np.uint8) << 1
        walk = Sample.of(ranked.Ranked([ranked.sorted_keys(scores.values[0], labels)]), (0.1,)).walk
        for half, chosen in enumerate((~measurement.fold, measurement.fold)):
            slow = roc.best_threshold(*sides(scores, chosen))
            assert ranked.score_of(walk.best[half]) == pytest.approx(slow, rel=1e-14)


def test_keys_keep_the_order_of_the_scores() -> None:
    values = np.array([-np.finfo(float).max, -3.5, -1e-300, -0.0, 0.0, 1e-300, 2.0, 1e300])
    keys = ranked.sorted_keys(values[::-1].copy(), np.zeros(8, np.uint8))
    found = np.array([ranked.score_of(int(key)) for key in keys])
    np.testing.assert_allclose(found, values, rtol=1e-15, atol=1e-300)


@pytest.mark.parametrize(("n", "rate"), [(7, 0.1), (400, 0.01), (5000, 0.5)])
def test_ranks_found_by_halving_are_those_of_the_whole_list(n: int, rate: float) -> None:
    from scipy.special import betainc

    ranks = np.arange(1, n + 1)
    below = betainc(ranks, n + 1 - ranks, rate)
    strict, lax = ranks[below >= 0.975], ranks[1 - below >= 0.975]
    assert order_statistic_ranks(n, rate, 0.95) == (
        int(strict.max()) if strict.size else 0,
        int(lax.min()) if lax.size else n + 1,
    )


def test_bins_count_every_score_once() -> None:
    scores = made("tenths", 2, 4, 900)
    measurement = Measurement(scores, np.full(4, -1), 1)
    assert measurement.binned is not None
    area = cluster.curve_area(
        *(
            (np.ones((1, 4)) @ part) / scores_of
            for part, scores_of in (
                (measurement.binned.positives, scores.members.sum()),
                (measurement.binned.negatives, (~scores.members).sum()),
            )
        )
    )
    assert area[0] == pytest.approx(measurement.pooled.auc.value, abs=5e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("targets", "records"), [(1, 50), (1, 6000), (3, 700), (5, 4000)])
@pytest.mark.parametrize("workers", ["1", "3"])
def test_the_compiled_walk_finds_what_numpys_does(
    kind: str, targets: int, records: int, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (found := kernels("walk")).library is None:
        pytest.skip(found.reason)
    monkeypatch.setattr(ranked, "_PIECE", 256)
    monkeypatch.setattr(large, "_WORTH_THREADS", 0)
    monkeypatch.setenv("MEMBERSCOPE_THREADS", workers)
    scores = made(kind, records, targets, records)
    rng = np.random.default_rng(records)
    labels = scores.members.view(np.uint8) | (rng.random(records) < 0.5).view(np.uint8) << 1
    rows = [ranked.sorted_keys(*pair) for pair in zip(scores.values, labels, strict=True)]
    walks, samples = [], []
    for worth in (1 << 60, 0):
        monkeypatch.setattr(compiled, "_WORTH_COMPILING", worth)
        whole, rng = ranked.Ranked(rows), np.random.default_rng(records)
        ranks = [np.unique(rng.integers(1, n + 1, 40)) for n in (whole.non_members, whole.halves[0][1])]
        some = [ranks[0], ranks[1], np.zeros(0, np.int64)]
        walks.append([whole.walk(some, moments=moments) for moments in (False, True)])
        walks[-1].append(whole.walk(some, only_places=True))
        samples.append(whole.below(rows[0][:: max(1, len(rows[0]) // 90)]))
    np.testing.assert_array_equal(*samples)
    for slow, fast in zip(*walks, strict=True):
        assert (fast.twice_wins, fast.squares, fast.best, fast.distinct) == (
            slow.twice_wins,
            slow.squares,
            slow.best,
            slow.distinct,
        )
        for ours, theirs in zip(fast.places, slow.places, strict=True):
            for name in ("keys", "hits", "alarms", "hits_above", "alarms_above"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
