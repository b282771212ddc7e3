"""Intervals for proportions and their differences, and corrections for looking at many things."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, betainc, betaincinv

from memberscope.types import Figure

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and its two-sided interval at any confidence level, or the reason why there is none.

    Args:
        value: the point estimate, None if it cannot be measured.
        interval: level in (0, 1) to (low, high), low <= value <= high.
        reason: why there is no value.
    """

    value: float | None
    interval: Callable[[float], tuple[float, float]]
    reason: str = ""

    def figure(self, level: float = LEVEL) -> Figure:
        """As it stands in the findings."""
        if self.value is None:
            return Figure.not_measurable(self.reason)
        low, high = self.interval(level)
        return Figure(value=self.value, low=min(low, self.value), high=max(high, self.value))

    @classmethod
    def missing(cls, reason: str) -> Estimate:
        """An estimate that cannot be made."""
        return cls(None, lambda level: (float("nan"), float("nan")), reason)


def clopper_pearson(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact two-sided interval of a proportion (Clopper & Pearson 1934).

    >>> [round(bound, 4) for bound in clopper_pearson(0, 10)]
    [0.0, 0.3085]
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"0 <= successes <= trials, trials >= 1; got {successes} of {trials}")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(betaincinv(successes + 1, trials - successes, 1 - tail))
    return low, high


def proportion(successes: int, trials: int) -> Estimate:
    """A proportion with its Clopper-Pearson interval."""
    if trials < 1:
        return Estimate.missing("no records to count")
    return Estimate(successes / trials, lambda level: clopper_pearson(successes, trials, level))


def mover(
    value: float, low_parts: list[float], high_parts: list[float], bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """Interval of a quantity with several independent sources of error, from the bound each leaves alone.

    The method of variance estimates recovery (Zou & Donner 2008; Newcombe 1998, method 10, is its case for a
    difference of proportions): distances from the value to the bounds add in quadrature.
    """
    low = value - sqrt(sum((value - part) ** 2 for part in low_parts))
    high = value + sqrt(sum((part - value) ** 2 for part in high_parts))
    return max(low, bounds[0]), min(high, bounds[1])


def difference(a: tuple[int, int], b: tuple[int, int], level: float = LEVEL) -> tuple[float, float]:
    """Interval of p_a − p_b for two independent (successes, trials), from Clopper-Pearson bounds of each."""
    (low_a, high_a), (low_b, high_b) = clopper_pearson(*a, level), clopper_pearson(*b, level)
    p_a, p_b = a[0] / a[1], b[0] / b[1]
    value = p_a - p_b
    return mover(value, [low_a + value - p_a, value - (high_b - p_b)], [high_a - p_b, value + (p_b - low_b)], (-1, 1))


@lru_cache(maxsize=4096)
def order_statistic_ranks(n: int, rate: float, level: float) -> tuple[int, int]:
    """Ranks (from the top) of two of ``n`` scores whose exceedance rates enclose ``rate``, each at (1 + level)/2.

    The share of the population above the j-th largest of n draws is Beta(j, n + 1 − j) distributed. The first
    rank's rate is below ``rate``, the second's above it, each with probability (1 + level)/2 or more. Rank 0
    stands for a threshold above all scores, rank n + 1 for one below all.
    """
    wanted = (1 + level) / 2

    def first(holds: Callable[[int], bool]) -> int:
        """Lowest rank for which it holds, n + 1 if for none; once it holds it does for all higher ranks."""
        low, high = 1, n + 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(middle) else (middle + 1, high)
        return low

    def below(rank: int) -> float:
        return float(betainc(rank, n + 1 - rank, rate))

    return first(lambda rank: not below(rank) >= wanted) - 1, first(lambda rank: 1 - below(rank) >= wanted)


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p-values, ``(n,)``: reject those <= q for a false-discovery rate <= q (Benjamini & Hochberg 1995).

    >>> benjamini_hochberg([0.01, 0.04, 0.03, 0.5]).round(4).tolist()
    [0.04, 0.0533, 0.0533, 0.5]
    """
    p = np.asarray(p_values, np.float64)
    if p.size == 0:
        return p
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted


def binomial_tail(successes: int, trials: int, rate: float) -> float:
    """P(X >= successes) for X ~ Binomial(trials, rate)."""
    return 1.0 if successes <= 0 else float(1 - bdtr(successes - 1, trials, rate))
