"""Figures of one attack over several targets of a pool: scores pooled, spread by bootstrap over targets.

Targets of one pool are not independent records, so the unit that is drawn again is the target; twins (one
trained on what the other was not) are drawn together, since their chance deviations mirror each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from memberscope.statistics.intervals import Estimate
from memberscope.statistics.roc import Counts

Floats = NDArray[np.float64]

REPEATS = 1_000
_BINS = 512


def bin_ranks(count: int) -> NDArray[np.int64]:
    """Ranks from the top, from 1, of the non-members whose scores are the bins' edges.

    Even in rank for the area, finer towards the top for the low false-alarm rates.
    """
    ranks = np.concatenate([np.linspace(0, count - 1, _BINS), np.geomspace(1, count, _BINS) - 1])
    return np.asarray(np.unique(ranks.astype(np.int64)) + 1)


@dataclass(frozen=True, eq=False)
class Binned:
    """Scores of C clusters counted in B bins, highest first: what a bootstrap over clusters needs.

    Args:
        positives: ``(C, B)`` members' scores at or above each edge, cumulated.
        negatives: ``(C, B)`` likewise for non-members.
        weights: ``(R, C)`` how often each cluster is drawn in each repeat.
        inflation: factor on variances, see :class:`~memberscope.statistics.measure.Measurement`.
    """

    positives: Floats
    negatives: Floats
    weights: Floats
    inflation: float = 1.0

    @classmethod
    def of_counts(
        cls, positives: Floats, negatives: Floats, rng: np.random.Generator, inflation: float = 1.0
    ) -> Binned:
        """From counts, with the draws of a bootstrap over clusters."""
        count = len(positives)
        draws = rng.multinomial(count, np.full(count, 1 / count), size=REPEATS)
        return cls(positives, negatives, draws.astype(np.float64), inflation)

    # Not kept: 16 MB for each attack would be held to the end of an audit.
    @property
    def _curves(self) -> tuple[Floats, Floats]:
        """TPR and FPR at every edge in every repeat, ``(R, B)`` both."""
        hits, alarms = self.weights @ self.positives, self.weights @ self.negatives
        return hits / hits[:, -1:], alarms / alarms[:, -1:]

    def band(self, rates: Floats) -> Floats:
        """Standard error of the TPR at each of many false-positive rates, ``(P,)``."""
        values = np.stack([np.interp(rates, x, y) for y, x in zip(*self._curves, strict=True)])
        count = len(self.positives)
        return np.asarray(np.std(values, axis=0) * np.sqrt(self.inflation * count / (count - 1)))

    def spread(self, statistic: Callable[[Floats, Floats], Floats]) -> float:
        """Standard error of ``statistic(tpr, fpr)``, ``(R, B)`` curves to ``(R,)``, over the bootstrap."""
        return self.spreads([statistic])[0]

    def spreads(self, statistics: Sequence[Callable[[Floats, Floats], Floats]]) -> list[float]:
        """Standard errors of several statistics, of the same curves."""
        curves, count = self._curves, len(self.positives)
        inflation = np.sqrt(self.inflation * count / (count - 1))
        return [float(np.std(statistic(*curves)) * inflation) for statistic in statistics]


def curve_area(tpr: Floats, fpr: Floats) -> Floats:
    """Area under each row's curve by trapezes, ``(R,)``."""
    zero = np.zeros((len(tpr), 1))
    y, x = np.hstack([zero, tpr]), np.hstack([zero, fpr])
    return np.asarray((np.diff(x, axis=1) * (y[:, 1:] + y[:, :-1]) / 2).sum(axis=1))


def curve_at(rate: float) -> Callable[[Floats, Floats], Floats]:
    """TPR of each row's curve at FPR ``rate``, linear between the bins."""

    def at(tpr: Floats, fpr: Floats) -> Floats:
        after = np.argmax(fpr >= rate, axis=1)
        row = np.arange(len(fpr))
        x1, y1 = fpr[row, after], tpr[row, after]
        before = np.maximum(after - 1, 0)
        x0, y0 = np.where(after > 0, fpr[row, before], 0.0), np.where(after > 0, tpr[row, before], 0.0)
        return np.asarray(y0 + (y1 - y0) * (rate - x0) / np.where(x1 > x0, x1 - x0, 1.0))

    return at


def t_interval(value: float, deviation: float, clusters: int, *, logit: bool) -> Callable[[float], tuple[float, float]]:
    """Student-t interval with clusters − 1 degrees of freedom, on the logit scale for a rate in (0, 1)."""

    def interval(level: float) -> tuple[float, float]:
        reach = -float(stdtrit(clusters - 1, (1 - level) / 2)) * deviation
        if logit and 0 < value < 1:
            centre, reach = np.log(value / (1 - value)), reach / (value * (1 - value))
            return float(1 / (1 + np.exp(min(reach - centre, 700)))), float(1 / (1 + np.exp(-reach - centre)))
        return value - reach, value + reach

    return interval


def mean_bounds(value: float | None, parts: list[Estimate], reason: str) -> Estimate:
    """Figure of a single cluster of several targets: bounds are the mean of the targets' own bounds.

    Right however the targets depend on each other, if wider than need be.
    """
    usable = [part for part in parts if part.value is not None]
    if value is None or not usable:
        return Estimate.missing(reason or (parts[0].reason if parts else "no target"))

    def interval(level: float) -> tuple[float, float]:
        reach = [(part.interval(level), float(part.value or 0.0)) for part in usable]
        below = float(np.mean([middle - bounds[0] for bounds, middle in reach]))
        above = float(np.mean([bounds[1] - middle for bounds, middle in reach]))
        return value - below, value + above

    return Estimate(value, interval)


def ratio(numerator: NDArray[np.int64], denominator: NDArray[np.int64], inflation: float = 1.0) -> Estimate:
    """Ratio of sums over C >= 2 clusters, ``(C,)`` both, with the cluster-robust interval of a ratio estimator."""
    total = int(denominator.sum())
    if not total:
        return Estimate.missing("no records to count")
    value, count = float(numerator.sum() / total), len(numerator)
    residual = numerator - value * denominator
    deviation = _jackknife(residual) * inflation**0.5 / total
    if value in (0.0, 1.0) or deviation == 0:
        from memberscope.statistics.intervals import proportion

        return proportion(int(numerator.sum()), total)
    return clipped(value, t_interval(value, deviation, count, logit=True))


def advantage_pooled(counts: NDArray[np.int64], inflation: float = 1.0) -> Estimate:
    """TPR − FPR over C >= 2 clusters, with the cluster-robust interval of the difference of two ratios."""
    hits, members, alarms, others = (counts[:, column].astype(np.float64) for column in range(4))
    if not members.sum() or not others.sum():
        return Estimate.missing("no members or no non-members were scored")
    tpr, fpr = hits.sum() / members.sum(), alarms.sum() / others.sum()
    residual = (hits - tpr * members) / members.sum() - (alarms - fpr * others) / others.sum()
    count = len(counts)
    deviation = _jackknife(residual) * inflation**0.5
    return clipped(float(tpr - fpr), t_interval(float(tpr - fpr), deviation, count, logit=False), -1.0)


def _jackknife(residual: Floats) -> float:
    """Standard error of a sum over few clusters from its residuals (CR3: each cluster's leverage is 1/C)."""
    count = len(residual)
    return float(np.sqrt(np.sum(residual**2)) * count / (count - 1))


def clipped(value: float, interval: Callable[[float], tuple[float, float]], least: float = 0.0) -> Estimate:
    """An estimate whose interval is kept between ``least`` and 1."""

    def within(level: float) -> tuple[float, float]:
        low, high = interval(level)
        return max(low, least), min(high, 1.0)

    return Estimate(value, within)


def as_counts(row: NDArray[np.int64]) -> Counts:
    """One cluster's counts."""
    return Counts(*(int(value) for value in row))
