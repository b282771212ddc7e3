"""Figures of ranked scores, each with an interval that holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memberscope.statistics import cluster
from memberscope.statistics.cluster import Binned, bin_ranks
from memberscope.statistics.intervals import (
    LEVEL,
    Estimate,
    clopper_pearson,
    mover,
    order_statistic_ranks,
)
from memberscope.statistics.places import NEVER, Places, Walk
from memberscope.statistics.ranked import Ranked
from memberscope.statistics.roc import area_estimate, needs_more, tied

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def allowed(rate: float, count: int) -> int:
    """How many of ``count`` non-members a threshold may accuse at a false-alarm rate of at most ``rate``."""
    return int(np.floor(rate * count + 1e-9))


def _around(rate: float, count: int) -> Ints:
    """Ranks of non-members that may bound the rate at any level up to 1 − 1e-14, and the threshold's own."""
    middle = allowed(rate, count)
    reach = int(8 * np.sqrt(middle)) + 50
    return np.arange(max(1, middle - reach), min(count, middle + reach) + 1)


@dataclass(frozen=True, eq=False)
class Sample:
    """Ranked scores, walked through once.

    Args:
        ranked: the scores.
        walk: what was found on the way, with the ranks around each rate of ``rates``.
        rates: false-positive rates.
    """

    ranked: Ranked
    walk: Walk
    rates: tuple[float, ...]

    @classmethod
    def of(
        cls, ranked: Ranked, rates: tuple[float, ...], *, halves: float = 0.0, moments: bool = False, more: bool = False
    ) -> Sample:
        """Walk through scores.

        Args:
            ranked: the scores.
            rates: false-positive rates at which the TPR will be asked for.
            halves: false-positive rate at which each half's threshold will be asked for; none if 0.
            moments: whether the AUC's standard error is wanted.
            more: whether bins and a curve are wanted.
        """
        count = ranked.non_members
        asked = [_around(rate, count) for rate in rates]
        if more and count:
            asked += [bin_ranks(count), _curve_ranks(count)]
        own = [allowed(halves, others) for _, others in ranked.halves]
        return cls(
            ranked,
            ranked.walk(
                [np.unique(np.concatenate(asked)), *(np.array([k] if k else [], np.int64) for k in own)],
                moments=moments,
            ),
            rates,
        )

    def auc(self) -> float:
        """P(member's score > non-member's) + ½ P(equal)."""
        return self.walk.twice_wins / (2 * self.ranked.members * self.ranked.non_members)

    def auc_estimate(self) -> Estimate:
        """AUC with DeLong's interval; needs ``moments``."""
        m, n = self.ranked.members, self.ranked.non_members
        if m < 2 or n < 2:
            return Estimate.missing(f"needs 2 members and 2 non-members, has {m} and {n}")
        wins, (inside, outside) = self.walk.twice_wins, self.walk.squares
        # Whole numbers throughout: nothing cancels where the scores separate almost perfectly.
        by_member = (m * inside - wins**2) / (m * (m - 1) * 4 * n**2)
        by_other = (n * outside - (2 * m * n - wins) ** 2) / (n * (n - 1) * 4 * m**2)
        return area_estimate(self.auc(), float(np.sqrt(by_member / m + by_other / n)), min(m, n))

    def _place(self, rank: int) -> tuple[int, int, int]:
        return self.ranked.threshold(self.walk.places[0], 0, rank)

    def unmeasurable(self, rate: float) -> str:
        """Why the rate cannot be measured, or an empty string."""
        count = self.ranked.non_members
        if reason := needs_more(count, rate):
            return reason
        reached = self._place(allowed(rate, count))[2] / count
        return tied(self.walk.distinct, rate, reached) if reached < rate / 2 else ""

    def tpr(self, rate: float) -> float:
        """TPR at the lowest threshold with at most this false-positive rate."""
        return self._place(allowed(rate, self.ranked.non_members))[1] / self.ranked.members

    def tpr_estimate(self, rate: float) -> Estimate:
        """See :func:`memberscope.statistics.roc.tpr_estimate`."""
        members, count = self.ranked.members, self.ranked.non_members
        if not members:
            return Estimate.missing("no members were scored")
        if reason := self.unmeasurable(rate):
            return Estimate.missing(reason)
        value = self.tpr(rate)
        hits = round(value * members)
        # The scores themselves are not kept.
        reach = _around(rate, count)
        at = self._hits(reach)
        first = int(reach[0])

        def interval(level: float) -> tuple[float, float]:
            strict, lax = order_statistic_ranks(count, rate, level)
            inside = first <= strict < first + len(at)
            tpr_strict = float(at[strict - first]) / members if inside else 0.0
            tpr_lax = float(at[lax - first]) / members if first <= lax < first + len(at) else 1.0
            low, high = clopper_pearson(hits, members, level)
            return mover(value, [low, min(tpr_strict, value)], [high, max(tpr_lax, value)])

        return Estimate(value, interval)

    def _hits(self, ranks: Ints) -> Ints:
        """Members at or above the non-members of these ranks, which were asked for."""
        return self._index(ranks).hits.astype(np.int32 if self.ranked.members < 1 << 31 else np.int64)

    def _index(self, ranks: Ints) -> Places:
        places = self.walk.places[0]
        index = np.searchsorted(self.walk.ranks, ranks)
        return Places(*(getattr(places, name)[index] for name in Places.__dataclass_fields__))

    def half_threshold(self, half: int, rate: float) -> int:
        """Key of the threshold at ``rate`` among the non-members outside (0) or inside (1) the half."""
        rank = allowed(rate, self.ranked.halves[half][1])
        return self.ranked.threshold(self.walk.places[1 + half], 1 + half, rank)[0]

    def accusations(self, thresholds: tuple[int, int], clusters: Ints, halves: tuple[int, ...] = (1, 0)) -> Ints:
        """Accusations per cluster in each half at the threshold chosen on the other, ``(C, 4)``.

        Args:
            thresholds: keys chosen outside and inside the half.
            clusters: ``(T,)`` cluster of each target.
            halves: which are judged: 1 inside, 0 outside the half.

        Returns:
            Columns as in :class:`~memberscope.statistics.roc.Counts`.
        """
        total = np.zeros((int(clusters.max()) + 1, 4), np.int64)
        for half in halves:
            if not all(self.ranked.halves[1 - half]):
                continue
            accused = self.ranked.at_least(np.array([thresholds[1 - half]]))[:, 0]
            for column, what in enumerate((accused, self.ranked.totals)):
                np.add.at(total[:, column], clusters, what[:, 2 * half + 1])
                np.add.at(total[:, 2 + column], clusters, what[:, 2 * half])
        return total

    def binned(self, clusters: Ints, rng: np.random.Generator, inflation: float) -> Binned:
        """The scores counted in bins, cluster by cluster; needs ``more``."""
        edges = np.unique(self._index(bin_ranks(self.ranked.non_members)).keys)[::-1]
        counts = np.zeros((int(clusters.max()) + 1, len(edges) + 1, 4))
        at = self.ranked.at_least(np.append(NEVER, edges))
        np.add.at(counts, clusters, at)
        # The last column holds everything, scores below the lowest edge too.
        counts[:, -1] = 0
        np.add.at(counts[:, -1], clusters, self.ranked.totals)
        return Binned.of_counts(counts[..., 1] + counts[..., 3], counts[..., 0] + counts[..., 2], rng, inflation)

    def curve(self) -> tuple[Floats, Floats]:
        """ROC points from (0, 0) to (1, 1), FPR and TPR, about 120 of them; needs ``more``."""
        members, count = self.ranked.members, self.ranked.non_members
        most = np.array([_most(rate, count) for rate in _curve_rates(count)])
        inner = most[most < count]
        # The lowest score above the first non-member that must not be accused.
        places = self._index(np.unique(inner) + 1)
        hits, alarms = np.append(places.hits_above, [0, members]), np.append(places.alarms_above, [0, count])
        _, index = np.unique(hits + alarms, return_index=True)
        return 1 - (count - alarms[index]) / count, 1 - (members - hits[index]) / members

    def band(self, fpr: Floats, tpr: Floats) -> list[tuple[float, float]]:
        """Pointwise intervals of one target's curve, threshold and rate both uncertain."""
        members, count = self.ranked.members, self.ranked.non_members
        inner = [(float(x), float(y)) for x, y in zip(fpr, tpr, strict=True) if 0 < x < 1]
        ranks = [order_statistic_ranks(count, round(x, 6), LEVEL) for x, _ in inner]
        wanted = np.unique([rank for pair in ranks for rank in pair if 1 <= rank <= count]).astype(np.int64)
        empty = np.zeros(0, np.int64)
        found = self.ranked.walk([wanted, empty, empty], only_places=True).places[0].hits
        at = {0: 0.0, count + 1: 1.0} | {int(r): h / members for r, h in zip(wanted, found, strict=True)}
        bounds = {}
        for (x, y), (strict, lax) in zip(inner, ranks, strict=True):
            low, high = clopper_pearson(round(y * members), members)
            bounds[x] = mover(y, [low, min(at[strict], y)], [high, max(at[lax], y)])
        return [bounds.get(float(x), (float(y), float(y))) for x, y in zip(fpr, tpr, strict=True)]


def auc_pooled(whole: Sample, binned: Binned | None, parts: list[Estimate], spread: float) -> Estimate:
    """AUC over all targets' scores together; ``spread`` is its standard error over clusters of targets."""
    if whole.ranked.members < 2 or whole.ranked.non_members < 2:
        return Estimate.missing("needs 2 members and 2 non-members")
    value = whole.auc()
    if binned is None:
        return cluster.mean_bounds(value, parts, "")
    return cluster.clipped(value, cluster.t_interval(value, spread, len(binned.positives), logit=False))


def tpr_pooled(whole: Sample, fpr: float, binned: Binned | None, parts: list[Estimate], spread: float) -> Estimate:
    """TPR at ``fpr`` over all targets, with one threshold for all of them; ``spread`` as for the AUC."""
    reason = whole.unmeasurable(fpr) or ("" if whole.ranked.members else "no members were scored")
    if reason:
        return Estimate.missing(reason)
    value = whole.tpr(fpr)
    if binned is None:
        if any(part.value is None for part in parts):
            # Too few non-members in each target alone: treat the pooled records as one sample.
            return whole.tpr_estimate(fpr)
        return cluster.mean_bounds(value, parts, "")
    if value in (0.0, 1.0) or spread == 0:
        # No spread to scale; the records themselves still bound the rate.
        return whole.tpr_estimate(fpr)
    return Estimate(value, cluster.t_interval(value, spread, len(binned.positives), logit=True))


CURVE_POINTS = 120


def _curve_rates(count: int) -> Floats:
    """Even on a log axis down to one false alarm, and even on a linear one."""
    return np.unique(
        np.concatenate([np.geomspace(1 / count, 1, CURVE_POINTS // 2), np.linspace(0, 1, CURVE_POINTS // 2)])
    )


def _curve_ranks(count: int) -> Ints:
    most = np.array([_most(rate, count) for rate in _curve_rates(count)])
    return np.asarray(most[most < count] + 1)


def _most(rate: float, count: int) -> int:
    """Largest number of false alarms whose share does not exceed the rate, in floating-point numbers."""
    guess = min(count, int(rate * count) + 1)
    while guess and 1 - (count - guess) / count > rate:
        guess -= 1
    return guess
