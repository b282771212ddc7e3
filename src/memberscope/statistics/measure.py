"""From one attack's scores to its figures, per target and over all targets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from memberscope.large import in_threads, release, threads
from memberscope.statistics import cluster, roc
from memberscope.statistics.figures import Sample, auc_pooled, tpr_pooled
from memberscope.statistics.intervals import Estimate, proportion
from memberscope.statistics.ranked import Ranked, score_of, sorted_keys
from memberscope.types import Figure, Scores
from memberscope.types.findings import OperatingPoint

FPRS = (0.1, 0.01, 0.001)
PRIORS = (0.01, 0.1, 0.5)
OPERATING_FPR = 0.01


@dataclass(frozen=True, eq=False)
class Measured:
    """Estimates of one attack on one target or on all targets, at any confidence level."""

    auc: Estimate
    advantage: Estimate
    tpr: dict[float, Estimate]

    def estimate(self, metric: str, fpr: float = OPERATING_FPR) -> Estimate:
        """The estimate of a gate's metric: ``"tpr"`` (at ``fpr``), ``"auc"`` or ``"advantage"``."""
        return self.tpr[fpr] if metric == "tpr" else {"auc": self.auc, "advantage": self.advantage}[metric]


@dataclass(frozen=True, eq=False)
class Measurement:
    """All figures of one attack's scores.

    Args:
        scores: ``(T, N)``.
        twins: ``(M,)`` row of each row's complementary twin, −1 without one.
        seed: draws the halves and the bootstrap; the same for every attack, so that attacks compare in pairs.
        sharing: share of a target's references that are targets too, for an attack that contrasts IN with OUT
            references; 0 for others.
    """

    scores: Scores
    twins: NDArray[np.int64]
    seed: int = 0
    sharing: float = 0.0

    @cached_property
    def fold(self) -> NDArray[np.bool_]:
        """``(N,)`` the half of the records that each record is in."""
        return _half(self.seed, self.scores.values.shape[1])

    @cached_property
    def clusters(self) -> NDArray[np.int64]:
        """``(T,)`` number of the cluster of each target: twins are one."""
        first = [min(row, int(self.twins[row])) if self.twins[row] >= 0 else row for row in self.scores.targets]
        return np.unique(first, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def inflation(self) -> float:
        """Factor on variances over C clusters of targets that are each other's references.

        An attack that contrasts IN with OUT references sums one term a reference for each target, and two targets
        that are each other's references share that term. A share s of shared terms makes the variance of the mean
        1 + s times that of independent targets, and their sample variance too small by 1 − s/(C − 1). Without
        both, a pool's 95 % interval covered 84 % of the time (benchmarks/null_audits.py).
        """
        others = int(self.clusters.max())
        return (1 + self.sharing) * others / max(others - self.sharing, 0.5) if self.sharing else 1.0

    @property
    def binned(self) -> cluster.Binned | None:
        """Scores in bins for a bootstrap over clusters; None with a single cluster."""
        return self._figures.binned

    @property
    def targets(self) -> list[Measured]:
        """The figures of each target."""
        return self._figures.targets

    @property
    def pooled(self) -> Measured:
        """The figures over all targets; with one target, its own."""
        return self._figures.pooled

    @property
    def scored(self) -> NDArray[np.int64]:
        """``(T,)`` records that each target's scores say something about."""
        return self._figures.scored

    @property
    def thresholds(self) -> tuple[float, float]:
        """Operating thresholds chosen outside and inside the half :attr:`fold`, each used on the other."""
        return self._figures.thresholds

    @property
    def curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """ROC points of all targets together: FPR and TPR, about 120 of them."""
        return self._figures.curve

    @property
    def band(self) -> list[tuple[float, float]] | None:
        """Pointwise intervals of :attr:`curve` with a single cluster, None with more."""
        return self._figures.band

    @cached_property
    def _figures(self) -> _Figures:
        """Everything that needs the scores in order, which are then let go."""
        half = self.fold.view(np.uint8) << 1

        def work(position: int) -> tuple[NDArray[np.int64], Measured]:
            values = self.scores.values[position]
            keys = sorted_keys(values, self.scores.members[position].view(np.uint8) | half)
            release(values)
            return keys, _one(keys)

        count = len(self.scores.targets)
        found = list(in_threads(work, range(count), threads(self.scores.values.size)))
        rows, targets = [keys for keys, _ in found], [measured for _, measured in found]
        clusters, ranked = self.clusters, Ranked(rows)
        whole = Sample.of(ranked, FPRS, halves=OPERATING_FPR, more=True)
        binned = None
        if clusters.max() >= 1:
            binned = whole.binned(clusters, np.random.default_rng([self.seed, 2]), self.inflation)
        keys = whole.half_threshold(0, OPERATING_FPR), whole.half_threshold(1, OPERATING_FPR)
        curve = whole.curve()
        return _Figures(
            targets,
            targets[0] if len(targets) == 1 else self._pooled(whole, binned, targets),
            binned,
            (score_of(keys[0]), score_of(keys[1])),
            whole.accusations(keys, clusters),
            whole.unmeasurable(OPERATING_FPR),
            curve,
            whole.band(*curve) if binned is None else None,
            (all(ranked.halves[0]), all(ranked.halves[1])),
            ranked.totals.sum(axis=1),
        )

    def _pooled(self, whole: Sample, binned: cluster.Binned | None, parts: list[Measured]) -> Measured:
        counts = whole.accusations(whole.walk.best, self.clusters)
        advantage = (
            cluster.advantage_pooled(counts, self.inflation)
            if len(counts) > 1
            else cluster.mean_bounds(
                roc.advantage_estimate(cluster.as_counts(counts[0])).value,
                [part.advantage for part in parts],
                "no members or no non-members were scored",
            )
        )
        spreads = [0.0] * (1 + len(FPRS))
        if binned is not None and whole.ranked.members and whole.ranked.non_members:
            spreads = binned.spreads([cluster.curve_area, *map(cluster.curve_at, FPRS)])
        return Measured(
            auc_pooled(whole, binned, [part.auc for part in parts], spreads[0]),
            advantage,
            {
                fpr: tpr_pooled(whole, fpr, binned, [part.tpr[fpr] for part in parts], spread)
                for fpr, spread in zip(FPRS, spreads[1:], strict=True)
            },
        )

    def operating_counts(self, chosen: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Accusations per cluster, ``(C, 4)``, at the 1 % threshold chosen on the other half of the records.

        Args:
            chosen: ``(N,)`` count only these records; the thresholds stay those of all records.
        """
        if chosen is None:
            return self._figures.accusations
        total = np.zeros((int(self.clusters.max()) + 1, 4), np.int64)
        index = np.flatnonzero(chosen)
        for position, c in enumerate(self.clusters):
            values, members = self.scores.values[position][index], self.scores.members[position][index]
            total[c] += self.accused(values, members, self.fold[index])
        return total

    def accused(
        self, values: NDArray[np.float64], members: NDArray[np.bool_], fold: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """One target's accusations among some records, ``(4,)``, columns as in :meth:`operating_counts`.

        Args:
            values: ``(n,)`` their scores.
            members: ``(n,)`` whether each is a member.
            fold: ``(n,)`` the half that each is in.
        """
        judged = ~np.isnan(values) & np.where(fold, *self._figures.judged)
        accused = judged & (values >= np.where(fold, *self.thresholds))
        return np.array(
            [np.sum(what) for what in (accused & members, judged & members, accused & ~members, judged & ~members)]
        )

    @cached_property
    def operating_point(self) -> OperatingPoint | None:
        """What the 1 % threshold does to records that it was not chosen on; None where 1 % is not measurable."""
        if self._figures.unmeasurable:
            return None
        counts = self.operating_counts()
        tpr, fpr = rate(counts, 0, self.inflation), rate(counts, 2, self.inflation)
        if tpr.value is None or fpr.value is None:
            return None
        both = tpr.figure(), fpr.figure()
        members, others = counts[:, 1].sum(), counts[:, 3].sum()
        return OperatingPoint(
            nominal_fpr=OPERATING_FPR,
            tpr=both[0],
            fpr=both[1],
            precision=positive_predictive_value(tpr, fpr, float(members / (members + others))),
            balanced_accuracy=_half_sum(tpr, fpr),
            ppv_at_prior={f"{prior:g}": positive_predictive_value(tpr, fpr, prior) for prior in PRIORS},
        )


@lru_cache(maxsize=4)
def _half(seed: int, records: int) -> NDArray[np.bool_]:
    half = np.zeros(records, np.bool_)
    half[np.random.default_rng([seed, 1]).permutation(records)[: records // 2]] = True
    half.flags.writeable = False
    return half


@dataclass(frozen=True, eq=False)
class _Figures:
    """What one pass over the scores in order leaves behind."""

    targets: list[Measured]
    pooled: Measured
    binned: cluster.Binned | None
    thresholds: tuple[float, float]
    accusations: NDArray[np.int64]
    unmeasurable: str
    curve: tuple[NDArray[np.float64], NDArray[np.float64]]
    band: list[tuple[float, float]] | None
    judged: tuple[bool, bool]
    scored: NDArray[np.int64]


def _one(keys: NDArray[np.int64]) -> Measured:
    """The figures of one target."""
    alone = Sample.of(Ranked([keys]), FPRS, moments=True)
    # One way only: where the halves agree both advantages are high, so that judging both ways gives two
    # dependent values, and an interval that takes them for independent covers 93.6 % instead of 95 %.
    counts = alone.accusations(alone.walk.best, np.zeros(1, np.int64), (1,))
    return Measured(
        alone.auc_estimate(),
        roc.advantage_estimate(cluster.as_counts(counts[0])),
        {fpr: alone.tpr_estimate(fpr) for fpr in FPRS},
    )


def rate(counts: NDArray[np.int64], column: int, inflation: float = 1.0) -> Estimate:
    """TPR (column 0) or FPR (column 2) of per-cluster counts: exact for one cluster, cluster-robust for more."""
    done, of = counts[:, column], counts[:, column + 1]
    return proportion(int(done[0]), int(of[0])) if len(counts) == 1 else cluster.ratio(done, of, inflation)


def accuracies(
    correct: NDArray[np.bool_], members: NDArray[np.bool_], others: NDArray[np.bool_], clusters: NDArray[np.int64]
) -> tuple[Estimate, Estimate]:
    """Train and test accuracy over targets.

    Args:
        correct: ``(T, N)`` whether each target classifies each record correctly.
        members: ``(T, N)`` records that each target was trained on.
        others: ``(T, N)`` records to test it on.
        clusters: ``(T,)`` cluster of each target.
    """
    counts = np.zeros((int(clusters.max()) + 1, 4), np.int64)
    for column, what in enumerate((correct & members, members, correct & others, others)):
        np.add.at(counts[:, column], clusters, what.sum(axis=1))
    return rate(counts, 0), rate(counts, 2)


def positive_predictive_value(tpr: Estimate, fpr: Estimate, prior: float) -> Figure:
    """Share of accusations that are right where a share ``prior`` of the candidates are members.

    Bounds from the bounds of both rates, each at half the error (Bonferroni), so at least 95 %.
    """
    if tpr.value is None or fpr.value is None:
        return Figure.not_measurable(tpr.reason or fpr.reason)
    if tpr.value + fpr.value == 0:
        return Figure.not_measurable("nobody was accused")

    def ppv(hits: float, alarms: float) -> float:
        # No accusation at all is right as often as a guess.
        return prior * hits / (prior * hits + (1 - prior) * alarms) if hits + alarms > 0 else prior

    (tpr_low, tpr_high), (fpr_low, fpr_high) = tpr.interval(0.975), fpr.interval(0.975)
    value = ppv(tpr.value, fpr.value)
    return Figure(value=value, low=min(value, ppv(tpr_low, fpr_high)), high=max(value, ppv(tpr_high, fpr_low)))


def _half_sum(tpr: Estimate, fpr: Estimate) -> Figure:
    """Balanced accuracy (TPR + 1 − FPR)/2, bounds at half the error each."""
    assert tpr.value is not None and fpr.value is not None
    (tpr_low, tpr_high), (fpr_low, fpr_high) = tpr.interval(0.975), fpr.interval(0.975)
    return Figure(
        value=(tpr.value + 1 - fpr.value) / 2, low=(tpr_low + 1 - fpr_high) / 2, high=(tpr_high + 1 - fpr_low) / 2
    )
