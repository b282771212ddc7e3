"""Cases against controls of the same class: how far apart they stand, whatever tells the classes apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from memberscope.statistics.intervals import Estimate, clopper_pearson
from memberscope.statistics.roc import placements

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Fewer on one side say nothing about spread.
LEAST = 5


@dataclass(frozen=True, eq=False)
class Matched:
    """An effect against class-matched controls.

    Args:
        delta: Cliff's delta, −1 to 1: P(case higher) − P(control higher) over pairs of one class.
        p_value: two-sided, of the stratified rank test; None where not measurable.
        cases: cases with a control of their class.
        controls: controls with a case of their class.
    """

    delta: Estimate
    p_value: float | None
    cases: int
    controls: int


@dataclass(frozen=True, eq=False)
class _Stratum:
    """One class: the share of controls that each case beats, of cases that beat each control, ties one half."""

    cases: Floats
    controls: Floats
    null_variance: float

    @classmethod
    def of(cls, cases: Floats, controls: Floats) -> _Stratum:
        m, n = len(cases), len(controls)
        total = m + n
        ties = np.unique(np.concatenate([cases, controls]), return_counts=True)[1].astype(np.float64)
        spread = total + 1 - float((ties**3 - ties).sum()) / (total * (total - 1))
        return cls(placements(cases, np.sort(controls)), 1 - placements(controls, np.sort(cases)), m * n * spread / 12)

    @property
    def pairs(self) -> int:
        return len(self.cases) * len(self.controls)


def matched_effect(values: Floats, cases: Bools, controls: Bools, classes: NDArray[np.int64]) -> Matched:
    """Cliff's delta (1993) of ``values`` between cases and controls of the same class, pooled over all such pairs.

    The interval takes DeLong's variance within each class (around the pooled value in a class with fewer than
    five records of that side, where there is no spread of its own to estimate), Student's t with one less than
    the smaller side's records as degrees of freedom, on the logit scale of (1 + delta)/2. With perfect
    separation its bound is that of a proportion with as many trials as the smaller side has records.

    The p-value is that of the sum over classes of Mann–Whitney's U against its exact mean and variance, ties
    counted, when cases and controls of each class are exchangeable: van Elteren's test (1960) with pairs as the
    weights, so that what is tested is what is reported.

    Args:
        values: ``(N,)``, NaN where not known.
        cases: ``(N,)``.
        controls: ``(N,)``, none of them a case.
        classes: ``(N,)`` class of each record.

    Returns:
        An estimate with its reason where either side has fewer than five records with a partner.
    """
    finite = np.isfinite(values)
    strata = []
    for name in np.unique(classes[cases & finite]):
        inside = finite & (classes == name)
        if (inside & controls).any():
            strata.append(_Stratum.of(values[inside & cases], values[inside & controls]))
    m, n = sum(len(stratum.cases) for stratum in strata), sum(len(stratum.controls) for stratum in strata)
    if min(m, n) < LEAST:
        return Matched(
            Estimate.missing(
                f"needs {LEAST} vulnerable records and {LEAST} controls of their classes, has {m} and {n}"
            ),
            None,
            m,
            n,
        )
    null = sum(stratum.null_variance for stratum in strata)
    if null <= 0:
        return Matched(Estimate.missing("all records of a class have the same score"), None, m, n)
    pairs = sum(stratum.pairs for stratum in strata)
    wins = sum(len(stratum.controls) * float(stratum.cases.sum()) for stratum in strata)
    share = wins / pairs
    deviation = float(np.sqrt(sum(_variance(stratum, share) for stratum in strata))) / pairs
    p_value = float(2 * ndtr(-abs(wins - pairs / 2) / np.sqrt(null)))
    return Matched(Estimate(2 * share - 1, _interval(share, deviation, min(m, n))), p_value, m, n)


def _variance(stratum: _Stratum, share: float) -> float:
    """What one class adds to the variance of the number of wins."""
    total = 0.0
    for own, others in ((stratum.cases, len(stratum.controls)), (stratum.controls, len(stratum.cases))):
        count = len(own)
        if count >= LEAST:
            squares = float(own.var(ddof=1)) * count
        else:
            squares = float(((own - share) ** 2).sum())
        total += others**2 * squares
    return total


def _interval(share: float, deviation: float, trials: int) -> Callable[[float], tuple[float, float]]:
    def interval(level: float) -> tuple[float, float]:
        if deviation == 0 or not 0 < share < 1:
            low, high = clopper_pearson(round(share * trials), trials, level)
        else:
            centre = np.log(share / (1 - share))
            reach = -float(stdtrit(trials - 1, (1 - level) / 2)) * deviation / (share * (1 - share))
            low, high = (1 / (1 + np.exp(-np.clip(bound, -700, 700))) for bound in (centre - reach, centre + reach))
        return float(2 * low - 1), float(2 * high - 1)

    return interval
