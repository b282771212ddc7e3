"""Free triage: whether the losses that a training saw anyway point at its vulnerable records.

Triage is meant for somebody who has trained one model, without references. So each target is judged alone, by its
own trace, among its own training records, and the figures are means over targets. What is vulnerable is decided by
all targets together.

Two things vary: which records there are, and which models. The same record stands in the traces of many targets, so
records are the unit of one interval (a sandwich estimate, which for one target is DeLong's), clusters of targets
that of another, and distances add in quadrature. In a pool whose targets disagree little the first is the larger
by far: 8 targets with the same 20 vulnerable records know 20 of them, not 160.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from memberscope.statistics import cluster, roc
from memberscope.statistics.intervals import Estimate, clopper_pearson, mover, proportion
from memberscope.text import percent
from memberscope.types.analyses import TriageScore

if TYPE_CHECKING:
    from memberscope.analysis.vulnerability import VulnerableSet

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SHARES = (0.01, 0.03, 0.05)
LEAST_IN_TOP = 5

_TITLES: dict[Literal["loss_trace_iqr", "loss_trace_mean"], str] = {
    "loss_trace_iqr": "Interquartile range of the loss over the epochs",
    "loss_trace_mean": "Mean loss over the epochs",
}


def triage(
    iqr: Floats, mean: Floats, vulnerable: VulnerableSet, clusters: NDArray[np.int64], seed: int = 0
) -> list[TriageScore]:
    """How well the interquartile range and the mean of a record's loss trace find the vulnerable records.

    Args:
        iqr: ``(T, N)`` of each record's loss over the epochs of each target; NaN where the target did not train on it.
        mean: ``(T, N)`` likewise. Higher is taken for more vulnerable in both.
        vulnerable: what is to be found.
        clusters: ``(T,)`` cluster of each target; twins are one.
        seed: breaks ties at the border of the top.
    """
    scores = zip(_TITLES, (iqr, mean), strict=True)
    return [
        _one(name, np.where(vulnerable.judged, values, np.nan), vulnerable, clusters, seed) for name, values in scores
    ]


def _one(
    name: Literal["loss_trace_iqr", "loss_trace_mean"],
    values: Floats,
    vulnerable: VulnerableSet,
    clusters: NDArray[np.int64],
    seed: int,
) -> TriageScore:
    traced = ~np.isnan(values).all(axis=1)
    values, clusters = values[traced], np.unique(clusters[traced], return_inverse=True)[1].astype(np.int64)
    precision = {}
    for share in SHARES:
        top = top_share(values, share, seed)
        picked = top.sum(axis=1)
        if not len(picked) or picked.min() < LEAST_IN_TOP:
            few = f"needs {LEAST_IN_TOP} records in the top {percent(share)} of a model's training records"
            precision[f"{share:g}"] = Estimate.missing(f"{few}, has {picked.min() if len(picked) else 0}").figure()
        else:
            precision[f"{share:g}"] = pooled_share(top, vulnerable.vulnerable, clusters).figure()
    auroc = mean_auc(values, vulnerable.vulnerable, clusters)
    return TriageScore(name=name, title=_TITLES[name], auroc=auroc.figure(), precision=precision)


def top_share(values: Floats, share: float, seed: int) -> Bools:
    """The highest ``share`` of each row's values, ``(T, N)``; of the tied at the border as many as fit, at random.

    >>> top_share(np.array([[3.0, 1.0, 2.0, np.nan]]), 0.34, 0).astype(int).tolist()
    [[1, 0, 0, 0]]
    """
    draw: Floats = np.random.default_rng([seed, 5]).random((values.shape[1],))
    top = np.zeros(values.shape, np.bool_)
    for row in range(len(values)):
        scored = np.flatnonzero(~np.isnan(values[row]))
        order = np.lexsort((draw[scored], -values[row, scored]))
        top[row, scored[order[: int(share * len(scored) + 0.5)]]] = True
    return top


def pooled_share(chosen: Bools, right: Bools, clusters: NDArray[np.int64]) -> Estimate:
    """Share of the chosen (target, record) pairs whose record is ``right``.

    Args:
        chosen: ``(T, N)``.
        right: ``(N,)``.
        clusters: ``(T,)`` cluster of each target.

    Returns:
        With one target, Clopper-Pearson's interval; with more, cluster-robust over records and over clusters of
        targets, combined in quadrature.
    """
    picks = chosen.sum(axis=0)
    hits = picks * right
    total, found, different = int(picks.sum()), int(hits.sum()), int((picks > 0).sum())
    if len(chosen) == 1 or not total:
        return proportion(found, total)
    value = found / total
    if found in (0, total) or different < 2:
        # However often a record was chosen, it is one record.
        return Estimate(value, lambda level: clopper_pearson(round(value * different), different, level))
    parts = [cluster.ratio(hits[picks > 0], picks[picks > 0])]
    if clusters.max() > 0:
        sums = np.zeros((2, int(clusters.max()) + 1), np.int64)
        np.add.at(sums[0], clusters, (chosen & right).sum(axis=1))
        np.add.at(sums[1], clusters, chosen.sum(axis=1))
        parts.append(cluster.ratio(sums[0], sums[1]))
    return _in_quadrature(value, parts)


def mean_auc(values: Floats, positive: Bools, clusters: NDArray[np.int64]) -> Estimate:
    """Mean over targets of the AUC of each one's scores, ties one half.

    Args:
        values: ``(T, N)`` higher = more likely positive; NaN where not scored.
        positive: ``(N,)`` the truth, the same for all targets.
        clusters: ``(T,)`` cluster of each target.

    Returns:
        With one target, DeLong's interval; with more, DeLong's components summed record by record, and the spread
        over clusters of targets, combined in quadrature.
    """
    scored = ~np.isnan(values)
    usable = np.flatnonzero(np.minimum((scored & positive).sum(axis=1), (scored & ~positive).sum(axis=1)) >= 2)
    if not len(usable):
        most = int((scored & positive).sum(axis=1).max(initial=0))
        return Estimate.missing(f"needs 2 vulnerable records and 2 others in one training, has {most} vulnerable")
    if len(usable) == 1:
        row = values[usable[0]]
        return roc.auc_estimate(row[scored[usable[0]] & positive], row[scored[usable[0]] & ~positive])
    areas = np.empty(len(usable))
    influence = np.zeros(values.shape[1])
    for place, target in enumerate(usable):
        inside, outside = np.flatnonzero(scored[target] & positive), np.flatnonzero(scored[target] & ~positive)
        beats = _placements(values[target, inside], values[target, outside])
        beaten = _placements(values[target, outside], values[target, inside])
        areas[place] = beats.mean()
        influence[inside] += (beats - areas[place]) / len(inside)
        influence[outside] += (1 - beaten - areas[place]) / len(outside)
    value = float(areas.mean())
    influence /= len(usable)
    seen = scored[usable].any(axis=0)
    sizes = [int((seen & side).sum()) for side in (positive, ~positive)]
    variance = sum(
        float((influence[seen & side] ** 2).sum()) * n / (n - 1)
        for n, side in zip(sizes, (positive, ~positive), strict=True)
    )
    parts = [_over_records(value, variance**0.5, min(sizes))]
    numbers = np.unique(clusters[usable])
    if len(numbers) > 1:
        means = np.array([areas[clusters[usable] == number].mean() for number in numbers])
        error = float(means.std(ddof=1) / len(means) ** 0.5)
        parts.append(Estimate(value, cluster.t_interval(value, error, len(means), logit=False)))
    return _in_quadrature(value, parts)


def _placements(scores: Floats, others: Floats) -> Floats:
    """Share of ``others`` that each score beats, ties one half, in the order of ``scores``."""
    order = np.argsort(scores, kind="stable")
    result = np.empty(len(scores))
    result[order] = roc.placements(scores, np.sort(others))
    return result


def _over_records(value: float, deviation: float, records: int) -> Estimate:
    """Interval whose degrees of freedom are those of the smaller side's records."""
    if deviation == 0 and value in (0.0, 1.0):
        return proportion(round(value * records), records)
    return Estimate(value, cluster.t_interval(value, deviation, records, logit=True))


def _in_quadrature(value: float, parts: list[Estimate]) -> Estimate:
    def interval(level: float) -> tuple[float, float]:
        lows, highs = zip(*(part.interval(level) for part in parts), strict=True)
        return mover(value, [min(low, value) for low in lows], [max(high, value) for high in highs])

    return Estimate(value, interval)
