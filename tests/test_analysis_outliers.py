"""Outlier scores and the verdict: planted outliers are found, chance is not, every formula has a slow oracle."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from scipy.stats import mannwhitneyu, norm, spearmanr
from sklearn.covariance import ledoit_wolf

from memberscope.analysis import outlier_scores
from memberscope.analysis.matched import matched_effect
from memberscope.analysis.outlier_scores import (
    TITLES,
    ModelView,
    centroid_distances,
    label_error,
    model_scores,
    nearest_centroids,
    neighbour_disagreement,
)
from memberscope.analysis.outlier_verdict import judge
from memberscope.analysis.outliers import outliers, rank_correlation
from memberscope.analysis.vulnerability import VulnerableSet
from memberscope.errors import MissingExtraError, SignalsError
from memberscope.statistics.intervals import benjamini_hochberg
from memberscope.types import Figure, Signals
from memberscope.types.analyses import Outliers, OutlierScore
from worlds import membership

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
SCORES = tuple(name for name in TITLES if name != "loss_trace_iqr")


@dataclass(frozen=True)
class World:
    """Gaussian classes as several models see them; ``far`` records lie off their class, ``wrong`` are mislabelled."""

    signals: Signals
    features: Floats
    truth: NDArray[np.int64]
    far: Bools
    wrong: Bools
    names: tuple[str, ...]

    def views(self, *, features: bool = True) -> Iterator[ModelView]:
        for row, logits in enumerate(self.signals.outputs):
            yield ModelView(row, self.features[row].astype(np.float32) if features else None, logits[:, 0])

    def vulnerable(self, which: Bools, score: Floats | None = None) -> VulnerableSet:
        judged = self.signals.members.any(axis=0) & ~self.signals.population
        which = which & judged
        score = which + np.linspace(0, 0.5, len(which)) if score is None else score
        return VulnerableSet(which, judged & ~which, judged, which * 1.0, score, "bavaria")


def world(
    seed: int,
    n: int = 800,
    classes: int = 4,
    width: int = 12,
    models: int = 4,
    planted: float = 0.05,
    noise: float = 0.3,
) -> World:
    """Every model sees the same points turned its own way; it knows the class means, and its members better."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    kind = rng.random(n)
    far, wrong = kind < planted, (kind >= planted) & (kind < 2 * planted)
    means = 4.0 * np.eye(classes, width)
    points = means[truth] + rng.normal(0, 0.6, (n, width)) * np.where(far, 4.0, 1.0)[:, None]
    # An outlier lies beyond its class, most of the way to another and out of its plane.
    other = (truth + rng.integers(1, classes, n)) % classes
    points[far] += 0.7 * (means[other[far]] - means[truth[far]])
    labels = np.where(wrong, other, truth)
    members = membership(models, n, rng)
    features = np.empty((models, n, width))
    logits = np.empty((models, n, classes))
    for row in range(models):
        turn = np.linalg.qr(rng.normal(size=(width, width)))[0]
        seen = points + rng.normal(0, noise, points.shape)
        features[row] = seen @ turn
        logits[row] = seen @ means.T / 4 - 2
        logits[row, np.arange(n), labels] += 3.0 * members[row]
    signals = Signals(logits.astype(np.float32), "logits", members, labels, np.array([f"r{i:04d}" for i in range(n)]))
    return World(signals, features, truth, far, wrong, tuple(f"class {k}" for k in range(classes)))


@cache
def planted() -> World:
    return world(1)


@cache
def found() -> Outliers:
    w = planted()
    rng = np.random.default_rng(2)
    plants = w.far | w.wrong
    trace = plants + rng.normal(0, 0.3, len(plants))
    return outliers(w.views(), w.signals, 0, w.vulnerable(plants), trace, w.names, seed=3)


def score(result: Outliers, name: str, view: str = "out") -> OutlierScore:
    return next(part for part in result.scores if (part.name, part.view) == (name, view))


def value(figure: Figure) -> float:
    assert figure.value is not None, figure.reason
    return figure.value


# --- what the analysis finds -------------------------------------------------------------------------------------


def test_planted_outliers_are_found() -> None:
    result = found()
    assert result.verdict == "yes"
    assert result.sentence.startswith("Yes: the vulnerable records are outliers of their class.")
    for name in ("feature_cosine", "low_confidence"):
        measured = score(result, name)
        assert value(measured.auroc) > 0.95
        assert (measured.effect.low or 0) > 0.8
        assert value(measured.precision["0.05"]) > 0.95
        assert measured.adjusted_p_value is not None and measured.adjusted_p_value < 1e-9
    plants = planted().far | planted().wrong
    assert result.vulnerable == plants.sum() and result.controls == (~plants).sum()
    assert result.base_rate == pytest.approx(plants.mean())
    assert result.models == 4


def test_the_sentence_says_what_was_measured() -> None:
    result = found()
    geometry, hardness = score(result, "feature_cosine"), score(result, "low_confidence")
    for measured in (geometry, hardness):
        assert f"({'Cliff' if measured is geometry else ''}" in result.sentence
        assert (
            f"{value(measured.effect):.2f}, {measured.effect.low:.2f} to {measured.effect.high:.2f}" in result.sentence
        )
        assert f"in {50 * (1 + value(measured.effect)):.0f}\u00a0%" in result.sentence
    assert f"against {100 * result.base_rate:.0f}\u00a0% of all" in result.sentence


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("view", ["out", "target"])
def test_higher_means_more_of_an_outlier(name: str, view: str) -> None:
    w = planted()
    # Records with a false label are outliers to every score; in the target a member's answer is fitted to it.
    result = outliers(w.views(), w.signals, 0, w.vulnerable(w.wrong), None, w.names)
    assert value(score(result, name, view).auroc) > (0.9 if view == "out" else 0.8)
    assert value(score(result, name, view).effect) > 0.6


def test_the_loss_trace_is_one_more_score_of_the_target() -> None:
    trace = score(found(), "loss_trace_iqr", "target")
    assert value(trace.auroc) == pytest.approx(norm.cdf(1 / (0.3 * 2**0.5)), abs=0.02)
    assert [part.view for part in found().scores] == ["out"] * 10 + ["target"] * 11


def test_false_labels_are_found_and_their_true_class_named() -> None:
    w = planted()
    for view in w.views():
        errors = model_scores(view, w.signals.labels, w.signals.members[view.row])["label_error"]
        seen = ~w.signals.members[view.row]
        assert errors[w.wrong & seen].min() > np.quantile(errors[~w.wrong & ~w.far & seen], 0.99)
    result = outliers(w.views(), w.signals, 0, w.vulnerable(w.wrong), None, w.names)
    records = {str(record): i for i, record in enumerate(w.signals.ids)}
    assert len(result.top) == min(60, int(w.wrong.sum()))
    for row in result.top:
        assert row.nearest_class == w.names[w.truth[records[row.id]]] != row.label_name
        assert row.percentiles["low_confidence"] > 0.8


def test_chance_is_not_found() -> None:
    """150 worlds in which the vulnerable records are drawn by lot, and so is their membership score."""
    covered: dict[str, list[bool]] = {"auroc": [], "effect": [], "spearman": []}
    p_values, verdicts = [], []
    for seed in range(150):
        w = world(seed, n=240, classes=3, width=4, models=2)
        rng = np.random.default_rng([seed, 7])
        chosen = rng.random(240) < 0.2
        result = outliers(w.views(), w.signals, 0, w.vulnerable(chosen, rng.normal(size=240)), None, w.names)
        verdicts.append(result.verdict)
        for name in ("feature_cosine", "neighbour_disagreement", "low_confidence"):
            measured = score(result, name)
            for key, truth in (("auroc", 0.5), ("effect", 0.0), ("spearman", 0.0)):
                figure = getattr(measured, key)
                covered[key].append(figure.low <= truth <= figure.high)
        p_values.append(score(result, "low_confidence").p_value)
    # 450 figures, three to a world: a share of .95 is known to about .015.
    for key, inside in covered.items():
        assert 0.915 < np.mean(inside) < 0.985, key
    p = np.array(p_values, np.float64)
    assert 0.01 <= np.mean(p < 0.05) <= 0.1 and 0.4 < np.mean(p < 0.5) < 0.6
    assert set(verdicts) <= {"no", "undecided"}


def test_protected_outliers_make_the_opposite() -> None:
    w = planted()
    plants = w.far | w.wrong
    chosen = ~plants & (np.arange(len(plants)) % 3 > 0)
    vulnerable = replace(w.vulnerable(chosen), protected=plants)
    result = outliers(w.views(), w.signals, 0, vulnerable, None, w.names)
    assert result.verdict == "no"
    assert result.sentence.startswith("No, the opposite: the vulnerable records are more typical of their class")


# --- who is looked at ----------------------------------------------------------------------------------------------


def test_a_model_that_trained_on_a_record_has_no_say_in_the_out_view() -> None:
    w = planted()
    changed = tuple(row.copy() for row in w.signals.outputs)
    for row, logits in enumerate(changed):
        logits[w.signals.members[row], 0, 0] += 50.0
    other = replace(w, signals=replace(w.signals, outputs=changed))
    plants = w.vulnerable(w.far)
    before, after = (outliers(v.views(), v.signals, 0, plants, None, v.names) for v in (w, other))
    for name in ("low_confidence", "low_margin", "label_error", "feature_cosine"):
        one, two = (score(result, name).model_copy(update={"adjusted_p_value": None}) for result in (before, after))
        assert one == two
    assert score(before, "low_confidence", "target") != score(after, "low_confidence", "target")


def test_a_score_of_the_out_view_is_the_mean_over_models_that_never_saw_the_record() -> None:
    w = planted()
    plants = w.vulnerable(w.far)
    result = outliers(w.views(), w.signals, 0, plants, None, w.names)
    each = [model_scores(view, w.signals.labels, w.signals.members[view.row]) for view in w.views()]
    for name in SCORES:
        by_hand = np.full(w.signals.records, np.nan)
        for i in range(w.signals.records):
            said = [values[name][i] for row, values in enumerate(each) if not w.signals.members[row, i]]
            by_hand[i] = np.mean(said) if said else np.nan
        judged = by_hand[plants.judged & ~np.isnan(by_hand)]
        for row in result.top:
            mine = by_hand[int(row.id[1:])]
            assert row.percentiles[name] == pytest.approx(np.mean(judged < mine), abs=2 / len(judged))


def test_a_record_that_all_viewed_models_trained_on_has_no_out_view() -> None:
    w = planted()
    rows = (0, 2)
    both = w.signals.members[list(rows)].all(axis=0)
    plants = w.far & w.signals.members.any(axis=0)
    views = [view for view in w.views() if view.row in rows]
    result = outliers(views, w.signals, 0, w.vulnerable(plants), None, w.names)
    assert {row.id for row in result.top if not row.percentiles} == {
        str(w.signals.ids[i]) for i in np.flatnonzero(plants & both)
    }
    assert all(bool(row.nearest_class) == bool(row.percentiles) for row in result.top)


def test_the_target_is_seen_on_its_members_alone() -> None:
    w = planted()
    members = w.signals.members[2]
    result = outliers(w.views(), w.signals, 2, w.vulnerable(w.far), None, w.names)
    values = model_scores(list(w.views())[2], w.signals.labels, members)["logit_euclidean"]
    effect = matched_effect(np.where(members, values, np.nan), w.far, ~w.far, w.signals.labels)
    assert score(result, "logit_euclidean", "target").effect == effect.delta.figure()
    without = outliers([view for view in w.views() if view.row != 2], w.signals, 2, w.vulnerable(w.far), None, w.names)
    assert {part.view for part in without.scores} == {"out"}


def test_records_that_are_not_judged_count_nowhere() -> None:
    w = planted()
    judged = np.arange(w.signals.records) % 2 == 0
    half = replace(w.vulnerable(w.far), judged=judged)
    result = outliers(w.views(), w.signals, 0, half, None, w.names)
    assert result.vulnerable == (w.far & judged).sum()
    assert all(int(row.id[1:]) % 2 == 0 for row in result.top)
    assert value(score(result, "low_confidence").auroc) != value(score(found(), "low_confidence").auroc)


def test_the_most_exposed_come_first_and_at_most_sixty() -> None:
    w = planted()
    rng = np.random.default_rng(4)
    plants = replace(
        w.vulnerable(w.far | w.wrong), support=rng.choice([0.5, 1.0], w.signals.records), score=rng.normal(size=800)
    )
    result = outliers(w.views(), w.signals, 0, plants, None, w.names)
    chosen = np.flatnonzero(plants.vulnerable)
    by_hand = sorted(chosen, key=lambda i: (-plants.support[i], -plants.score[i]))[:60]
    assert [row.id for row in result.top] == [str(w.signals.ids[i]) for i in by_hand]
    assert len(chosen) > 60


# --- figures, against slow oracles -----------------------------------------------------------------------------------


def test_centroid_distances_from_the_formula() -> None:
    rng = np.random.default_rng(5)
    n, width = 120, 6
    points = rng.normal(2, 1, (n, width)) @ rng.normal(size=(width, width))
    labels, members = rng.integers(0, 3, n), rng.random(n) < 0.5
    fast = centroid_distances(points.astype(np.float32), labels, members, 3)
    points = points.astype(np.float32).astype(np.float64)
    centroids = np.stack([points[members & (labels == k)].mean(axis=0) for k in range(3)])
    residual = (points - centroids[labels])[members]
    precision = np.linalg.inv(ledoit_wolf(residual, assume_centered=True)[0])
    for i in range(n):
        x, c = points[i], centroids[labels[i]]
        assert fast["cosine"][i] == pytest.approx(1 - x @ c / np.sqrt(x @ x * (c @ c)), abs=1e-9)
        assert fast["euclidean"][i] == pytest.approx(np.sqrt(((x - c) ** 2).sum()))
        assert fast["mahalanobis"][i] == pytest.approx(np.sqrt((x - c) @ precision @ (x - c)), rel=1e-6)


def test_mahalanobis_bears_dead_and_collinear_features() -> None:
    rng = np.random.default_rng(6)
    labels, members = rng.integers(0, 2, 200), np.arange(200) < 100
    few = rng.normal(size=(200, 3)) + 3 * labels[:, None]
    many = np.hstack([few, few @ rng.normal(size=(3, 300)), np.zeros((200, 5))]).astype(np.float32)
    many[150] += 10
    distances = centroid_distances(many, labels, members, 2)["mahalanobis"]
    assert np.isfinite(distances).all() and distances.argmax() == 150
    plain = centroid_distances(few, labels, members, 2)["mahalanobis"]
    # Far from singular and many members: hardly shrunk, so 3 dimensions have a mean square of about 3.
    assert np.mean(plain[:100] ** 2) == pytest.approx(3, rel=0.05)


def test_neighbours_one_by_one() -> None:
    rng = np.random.default_rng(7)
    features = (rng.normal(size=(150, 5)) + 1000).astype(np.float32)
    labels, members = rng.integers(0, 3, 150), rng.random(150) < 0.5
    fast = neighbour_disagreement(features, labels, members, rng)
    for i in range(150):
        gaps = [(((features[i] - features[j]) ** 2).sum(), labels[j]) for j in np.flatnonzero(members) if j != i]
        nearest = [label for _, label in sorted(gaps, key=lambda gap: gap[0])[:10]]
        assert fast[i] == pytest.approx(np.mean([label != labels[i] for label in nearest]))


def test_confidence_and_margin_from_the_formula() -> None:
    rng = np.random.default_rng(8)
    logits, labels = rng.normal(0, 4, (60, 5)), rng.integers(0, 5, 60)
    scores = model_scores(ModelView(0, None, logits), labels, np.arange(60) < 30)
    for i, (z, y) in enumerate(zip(logits, labels, strict=True)):
        p = softmax(z)
        assert scores["low_confidence"][i] == pytest.approx(logsumexp(np.delete(z, y)) - z[y])
        assert scores["low_margin"][i] == pytest.approx(1 - (p[y] - np.delete(p, y).max()))
    sure = np.array([[100.0, 0.0], [101.0, 0.0]])
    resolved = model_scores(ModelView(0, None, sure), np.zeros(2, np.int64), np.array([True, False]))
    assert resolved["low_margin"][0] > resolved["low_margin"][1] > 0


def test_label_error_is_cleanlab_on_each_side_of_the_border() -> None:
    from cleanlab.rank import get_label_quality_scores

    w = planted()
    logits, labels, members = w.signals.outputs[0][:, 0], w.signals.labels, w.signals.members[0]
    mine = label_error(logits, labels, members)
    for side in (members, ~members):
        p = softmax(logits[side].astype(np.float64), axis=1)
        theirs = get_label_quality_scores(labels[side], p, method="normalized_margin", adjust_pred_probs=True)
        np.testing.assert_allclose(mine[side], 1 - theirs, atol=1e-9)
    rare = np.zeros(len(members), np.bool_)
    rare[np.flatnonzero(labels == 0)] = True
    p = softmax(logits.astype(np.float64), axis=1)
    plain = get_label_quality_scores(labels, p, method="normalized_margin")
    np.testing.assert_allclose(label_error(logits, labels, rare), 1 - plain, atol=1e-9)


def test_nearest_centroids_from_the_formula() -> None:
    w = planted()
    view = next(w.views())
    members, labels = w.signals.members[0], w.signals.labels
    records = np.array([3, 50, 7])
    fast = nearest_centroids(view, labels, members, records)
    for i, record in enumerate(records):
        for k in range(4):
            c = w.features[0][members & (labels == k)].mean(axis=0)
            x = w.features[0][record]
            assert fast[i, k] == pytest.approx(x @ c / np.linalg.norm(x) / np.linalg.norm(c), abs=1e-6)


@pytest.mark.parametrize("digits", [0, 6])
def test_effect_over_all_pairs_of_a_class(digits: int) -> None:
    rng = np.random.default_rng(9)
    classes, values = rng.integers(0, 6, 300), np.round(rng.normal(0, 2, 300), digits)
    cases = rng.random(300) < 0.15
    controls = ~cases & (rng.random(300) < 0.7)
    values[5] = np.nan
    result = matched_effect(values, cases, controls, classes)
    signs = [
        np.sign(values[i] - values[j])
        for i in np.flatnonzero(cases)
        for j in np.flatnonzero(controls)
        if classes[i] == classes[j] and not np.isnan(values[i] + values[j])
    ]
    assert result.delta.value == pytest.approx(np.mean(signs))


def test_p_value_is_the_rank_sum_test_in_one_class_and_the_permutation_test_in_many() -> None:
    rng = np.random.default_rng(10)
    values, cases = np.round(rng.normal(size=80), 1), np.arange(80) < 25
    one = matched_effect(values, cases, ~cases, np.zeros(80, np.int64))
    theirs = mannwhitneyu(values[cases], values[~cases], use_continuity=False, method="asymptotic").pvalue
    assert one.p_value == pytest.approx(theirs)
    classes = rng.integers(0, 5, 80)
    values = values + 3 * classes + 0.5 * cases
    many = matched_effect(values, cases, ~cases, classes)
    permuted, order = [], np.argsort(classes, kind="stable")
    for _ in range(800):
        drawn = np.empty(80, np.bool_)
        drawn[order] = cases[order][np.lexsort((rng.random(80), classes[order]))]
        permuted.append(matched_effect(values, drawn, ~drawn, classes).delta.value)
    share = np.mean(np.abs(np.array(permuted, np.float64)) >= abs(many.delta.value or 0) - 1e-9)
    assert many.p_value == pytest.approx(share, abs=0.04)


def test_a_score_that_only_tells_classes_apart_has_no_effect() -> None:
    rng = np.random.default_rng(11)
    n = 4000
    classes = rng.integers(0, 8, n)
    cases = rng.random(n) < np.where(classes < 4, 0.02, 0.2)
    values = classes + 0.1 * rng.normal(size=n)
    effect = matched_effect(values, cases, ~cases, classes).delta.figure()
    assert abs(value(effect)) < 0.1 and effect.low is not None and effect.high is not None
    assert effect.low < 0 < effect.high
    assert values[cases].mean() > values[~cases].mean() + 1
    flat = matched_effect(classes.astype(np.float64), cases, ~cases, classes)
    assert flat.delta.value is None and flat.p_value is None and "same score" in flat.delta.reason


@pytest.mark.parametrize(("m", "n", "classes", "shift"), [(20, 200, 2, 0.5), (40, 800, 60, 1.0), (150, 1500, 10, 0.0)])
def test_effect_intervals_cover(m: int, n: int, classes: int, shift: float) -> None:
    rng = np.random.default_rng(12)
    truth, inside = 2 * norm.cdf(shift / 2**0.5) - 1, 0
    cases = np.arange(m + n) < m
    for _ in range(300):
        groups = rng.integers(0, classes, m + n)
        figure = matched_effect(
            3 * groups + rng.normal(size=m + n) + shift * cases, cases, ~cases, groups
        ).delta.figure()
        assert figure.low is not None and figure.high is not None
        inside += figure.low <= truth <= figure.high
    assert 0.915 < inside / 300 < 0.99


def test_effect_intervals_keep_their_width_when_all_pairs_agree() -> None:
    cases = np.arange(40) < 8
    figure = matched_effect(cases * 1.0 + np.linspace(0, 0.5, 40), cases, ~cases, np.zeros(40, np.int64)).delta.figure()
    assert figure.value == 1 and figure.high == 1 and figure.low is not None and 0 < figure.low < 0.5


def test_rank_correlation_is_scipys_and_its_interval_covers() -> None:
    rng = np.random.default_rng(13)
    a = np.round(rng.normal(size=90), 1)
    b = a + rng.normal(size=90)
    b[4] = np.nan
    keep = ~np.isnan(b)
    assert rank_correlation(a, b).value == pytest.approx(spearmanr(a[keep], b[keep]).statistic)
    rho, inside = 0.7, 0
    truth = 6 / np.pi * np.arcsin(rho / 2)
    for _ in range(400):
        x = rng.normal(size=60)
        y = rho * x + (1 - rho**2) ** 0.5 * rng.normal(size=60)
        figure = rank_correlation(x, y).figure()
        assert figure.low is not None and figure.high is not None
        inside += figure.low <= truth <= figure.high
    assert 0.92 < inside / 400 < 0.98
    perfect = rank_correlation(x, 2 * x).figure()
    assert perfect.value == pytest.approx(1) and perfect.low is not None and perfect.low < 0.9999
    assert rank_correlation(x, np.ones(60)).value is None


def test_precision_is_the_share_at_the_top() -> None:
    w = planted()
    plants = w.vulnerable(w.far | w.wrong)
    trace = np.random.default_rng(14).normal(size=800) + 0.8 * plants.vulnerable
    result = outliers([], w.signals, 0, plants, trace, w.names)
    measured = score(result, "loss_trace_iqr", "target")
    order = np.flatnonzero(plants.judged)[np.argsort(-trace[plants.judged])]
    assert plants.judged.all()
    for key, count in (("0.01", 8), ("0.03", 24), ("0.05", 40)):
        assert value(measured.precision[key]) == pytest.approx(plants.vulnerable[order[:count]].mean())
    few = replace(plants, judged=np.arange(800) < 300)
    measured = score(outliers([], w.signals, 0, few, trace, w.names), "loss_trace_iqr", "target")
    assert measured.precision["0.01"].value is None and "are 3" in str(measured.precision["0.01"].reason)
    assert measured.precision["0.05"].value is not None


def test_ties_are_ordered_by_lot_and_not_by_place() -> None:
    w = planted()
    first = np.arange(800) < 400
    tied = np.where(np.arange(800) % 2 == 0, 1.0, 0.0)
    shares = [
        value(
            score(
                outliers([], w.signals, 0, w.vulnerable(first), tied, w.names, seed=seed), "loss_trace_iqr", "target"
            ).precision["0.05"]
        )
        for seed in range(30)
    ]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06) and np.std(shares) > 0.02


def test_p_values_are_adjusted_over_all_scores() -> None:
    parts = found().scores
    np.testing.assert_allclose(
        [part.adjusted_p_value for part in parts], benjamini_hochberg([part.p_value or 0.0 for part in parts])
    )


def test_same_seed_same_bytes() -> None:
    w = planted()
    one, two = (
        outliers(w.views(), w.signals, 0, w.vulnerable(w.far), None, w.names, seed=1).model_dump_json()
        for _ in range(2)
    )
    assert one == two


# --- verdict ---------------------------------------------------------------------------------------------------------


def measured(low: float, high: float, name: str = "low_confidence", precision: float | None = 0.64) -> OutlierScore:
    middle = Figure(value=(low + high) / 2, low=low, high=high)
    missing = Figure.not_measurable("too few")
    share = missing if precision is None else Figure(value=precision, low=0.0, high=1.0)
    return OutlierScore(
        name=name,
        title=name,
        view="out",
        auroc=missing,
        precision={"0.01": missing, "0.03": share, "0.05": share},
        spearman=missing,
        effect=middle,
        p_value=0.5,
        adjusted_p_value=0.5,
    )


@pytest.mark.parametrize(
    ("geometry", "hardness", "verdict", "said"),
    [
        ((0.5, 0.6), (0.7, 0.8), "yes", "Yes: the vulnerable records are outliers of their class."),
        ((0.2, 0.3), (0.7, 0.8), "partly", "tend to be outliers of their class, if not strongly by both measures."),
        ((0.5, 0.6), (-0.1, 0.1), "partly", "than protected ones, but models that never saw them do not find them"),
        ((0.5, 0.6), (-0.4, -0.3), "partly", "yet models that never saw them find them easier, not harder."),
        ((0.5, 0.6), (0.0, 0.3), "partly", "whether models that never saw them find them notably harder is open."),
        ((-0.1, 0.1), (0.5, 0.6), "partly", "but they do not lie notably further from the centroid of their class."),
        ((-0.5, -0.4), (0.5, 0.6), "partly", "yet they lie nearer to the centroid of their class, not further"),
        (
            (-0.3, 0.3),
            (0.5, 0.6),
            "partly",
            "whether they lie notably further from the centroid of their class is open",
        ),
        (
            (-0.1, 0.1),
            (0.0, 0.1),
            "no",
            "No: the vulnerable records are not notably more outlying than protected ones of",
        ),
        ((-0.5, -0.4), (0.0, 0.1), "no", "of their class, and they lie nearer to its centroid."),
        ((0.0, 0.1), (-0.5, -0.4), "no", "of their class, and they are easier for models that never saw them."),
        ((-0.5, -0.4), (-0.6, -0.2), "no", "No, the opposite: the vulnerable records are more typical of their class"),
        ((0.0, 0.3), (0.0, 0.1), "undecided", "Undecided: these records do not settle whether"),
        ((0.1, 0.5), (0.1, 0.5), "undecided", "Undecided: these records do not settle whether"),
        (None, (0.5, 0.6), "partly", "whether they lie notably further from the centroid of their class is open."),
        (None, (0.0, 0.1), "undecided", "Undecided: these records do not settle whether"),
        (
            None,
            None,
            "undecided",
            "Undecided: too few vulnerable or protected records were shown to a model that did not",
        ),
    ],
)
def test_every_verdict_and_its_sentence(
    geometry: tuple[float, float] | None, hardness: tuple[float, float] | None, verdict: str, said: str
) -> None:
    first = None if geometry is None else measured(*geometry, name="feature_cosine")
    second = None if hardness is None else measured(*hardness)
    decided, sentence = judge(first, second, 100, 500, 0.12)
    assert decided == verdict
    assert said in sentence
    for bounds in (geometry, hardness):
        if bounds is not None:
            text = f"{sum(bounds) / 2:.2f}, {bounds[0]:.2f} to {bounds[1]:.2f})".replace("-", "−")
            assert text.replace("−0.00", "0.00") in sentence


def test_too_few_to_decide() -> None:
    for counts in ((9, 500), (500, 9)):
        verdict, sentence = judge(measured(0.5, 0.6), measured(0.5, 0.6), *counts, 0.1)
        assert verdict == "undecided"
        assert f"{counts[0]} vulnerable and {counts[1]} protected" in sentence and "10 of each" in sentence
    w = planted()
    few = np.flatnonzero(w.far)[:9]
    result = outliers(w.views(), w.signals, 0, w.vulnerable(np.isin(np.arange(800), few)), None, w.names)
    assert result.verdict == "undecided" and value(score(result, "low_confidence").auroc) > 0.8
    none = outliers(w.views(), w.signals, 0, w.vulnerable(np.zeros(800, np.bool_)), None, w.names)
    assert none.verdict == "undecided" and none.vulnerable == 0 and none.top == []
    assert score(none, "low_confidence").auroc.reason == "needs 2 vulnerable records and 2 others, has 0 and 800"


def test_the_sentence_reads_well() -> None:
    first, second = measured(0.55, 0.65, "feature_cosine"), measured(0.72, 0.76)
    assert judge(first, second, 100, 500, 0.12)[1].replace("\u00a0", " ") == (
        "Yes: the vulnerable records are outliers of their class. Judged by models that never saw it, a vulnerable "
        "record lies further from the centroid of its class than a protected one of that class in 80 % of pairs "
        "(Cliff's delta 0.60, 0.55 to 0.65) and gets less confidence in its label in 87 % (0.74, 0.72 to 0.76); "
        "of the 5 % of records with the least confidence, 64 % are vulnerable, against 12 % of all."
    )
    alone = judge(None, measured(0.72, 0.76, precision=None), 100, 500, 0.12)[1]
    assert alone.endswith(
        "gets less confidence in its label than a protected one of its class in 87\u00a0% of pairs "
        "(Cliff's delta 0.74, 0.72 to 0.76)."
    )


# --- edges -----------------------------------------------------------------------------------------------------------


def test_logits_alone() -> None:
    w = planted()
    result = outliers(w.views(features=False), w.signals, 0, w.vulnerable(w.wrong), None, w.names)
    names = {part.name for part in result.scores}
    assert "from the centroid of its class in logits than a protected one" in result.sentence
    assert names == {
        "logit_cosine",
        "logit_euclidean",
        "logit_mahalanobis",
        "low_confidence",
        "low_margin",
        "label_error",
    }
    assert result.verdict == "yes"
    assert all(row.nearest_class and row.nearest_class != row.label_name for row in result.top)


def test_a_class_with_one_record_or_one_member() -> None:
    w = planted()
    labels = w.signals.labels.copy()
    labels[labels == 3] = 0
    labels[7] = 3
    signals = replace(w.signals, labels=labels)
    view = next(w.views())
    for members in (signals.members[0], ~signals.members[0]):
        scores = model_scores(view, labels, members)
        for name in SCORES:
            centroid = name.startswith(("feature", "logit"))
            assert np.isnan(scores[name][7]) == centroid
            assert np.isfinite(np.delete(scores[name], 7)).all()
    plants = w.far.copy()
    plants[7] = True
    result = outliers(w.views(), signals, 0, w.vulnerable(plants), None, w.names)
    row = next((row for row in result.top if row.id == "r0007"), None)
    assert row is not None and "low_confidence" in row.percentiles and "feature_cosine" not in row.percentiles
    assert row.nearest_class in w.names[:3]


@pytest.mark.parametrize("columns", [1, 2])
def test_two_classes(columns: int) -> None:
    w = world(15, classes=2)
    outputs = tuple(row[:, :, 1:] - row[:, :, :1] if columns == 1 else row for row in w.signals.outputs)
    binary = replace(w, signals=replace(w.signals, outputs=outputs))
    result = outliers(binary.views(), binary.signals, 0, binary.vulnerable(w.wrong), None, w.names)
    assert result.verdict == "yes"
    assert value(score(result, "label_error").auroc) > 0.95
    assert value(score(result, "logit_mahalanobis").auroc) > 0.9
    one = outliers(w.views(), w.signals, 0, w.vulnerable(w.wrong), None, w.names)
    for name in ("low_confidence", "low_margin", "label_error"):
        assert value(score(result, name).auroc) == pytest.approx(value(score(one, name).auroc), abs=1e-3)


@pytest.mark.parametrize("constant", [0.0, 2.5])
def test_constant_features_are_named_and_not_judged(constant: float) -> None:
    w = replace(planted(), features=np.full(planted().features.shape, constant))
    result = outliers(w.views(), w.signals, 0, w.vulnerable(w.far), None, w.names)
    scores = model_scores(next(w.views()), w.signals.labels, w.signals.members[0])
    assert np.isnan(scores["feature_mahalanobis"]).all() and np.isnan(scores["neighbour_disagreement"]).all()
    assert np.allclose(scores["feature_euclidean"], 0)
    assert np.isnan(scores["feature_cosine"]).all() if constant == 0 else np.allclose(scores["feature_cosine"], 0)
    for name in ("feature_mahalanobis", "neighbour_disagreement"):
        assert score(result, name).effect.value is None and score(result, name).adjusted_p_value is None
    assert result.verdict == "partly" and "is open" in result.sentence


def test_no_view_at_all() -> None:
    w = planted()
    result = outliers([], w.signals, 0, w.vulnerable(w.far), None, w.names)
    assert (result.verdict, result.models, result.scores) == ("undecided", 0, [])
    assert {row.nearest_class for row in result.top} == {""}


def test_large_pools_are_searched_in_blocks_and_by_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(16)
    labels, members = rng.integers(0, 5, 8000), np.arange(8000) < 5000
    features = (rng.normal(size=(8000, 8)) + 1.2 * np.eye(5, 8)[labels]).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    tracemalloc.start()
    whole = neighbour_disagreement(mapped, labels, members, rng)
    distances = centroid_distances(mapped, labels, members, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All pairs in float32 would be 160 MB, and their order another 320.
    assert peak < 40e6
    np.testing.assert_array_equal(distances["cosine"], centroid_distances(features, labels, members, 5)["cosine"])
    monkeypatch.setattr(outlier_scores, "PAIRS", 1)
    sampled = neighbour_disagreement(features, labels, members, np.random.default_rng(1))
    again = neighbour_disagreement(features, labels, members, np.random.default_rng(1))
    np.testing.assert_array_equal(sampled, again)
    assert np.any(sampled != whole) and np.corrcoef(sampled, whole)[0, 1] > 0.6
    assert sampled.mean() == pytest.approx(whole.mean(), abs=0.03)


def test_bad_input_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    w = planted()
    view = next(w.views())
    assert view.features is not None
    labels, members = w.signals.labels, w.signals.members[0]
    with pytest.raises(SignalsError, match="features"):
        ModelView(0, view.features[:-1], view.logits)
    with pytest.raises(SignalsError, match="NaN or infinity from model 0"):
        model_scores(
            replace(view, features=np.where(np.arange(800)[:, None] == 9, np.nan, view.features)), labels, members
        )
    with pytest.raises(SignalsError, match="labels from 0 to 3"):
        model_scores(view, labels + 1, members)
    with pytest.raises(SignalsError, match="same order"):
        model_scores(view, labels[1:], members)
    with pytest.raises(SignalsError, match="different rows"):
        outliers([view, view], w.signals, 0, w.vulnerable(w.far), None, w.names)
    with pytest.raises(SignalsError, match="different rows"):
        outliers([replace(view, row=4)], w.signals, 0, w.vulnerable(w.far), None, w.names)
    monkeypatch.setitem(sys.modules, "cleanlab.rank", None)
    with pytest.raises(MissingExtraError, match=r"memberscope\[analysis\]"):
        model_scores(view, labels, members)
