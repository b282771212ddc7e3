"""Means over records with their t intervals, and paired differences of matched records."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr

from memberscope.statistics.cluster import t_interval
from memberscope.statistics.intervals import Estimate, proportion


def mean_of_shares(values: ArrayLike, what: str) -> Estimate:
    """Mean of shares ``(n,)`` in [0, 1] with its t interval on the logit scale.

    Where every share is 0 or every one is 1, the interval is Clopper-Pearson's, because spread says nothing there.

    Args:
        values: one a record.
        what: what the records are, for the reason why there is no mean.

    >>> mean_of_shares([0.2, 0.4, 0.3], "maps").figure().value.__round__(3)
    0.3
    >>> mean_of_shares([], "maps").reason
    'no maps to measure'
    """
    shares = np.asarray(values, np.float64)
    if not len(shares):
        return Estimate.missing(f"no {what} to measure")
    value = float(shares.mean())
    if not 0 < value < 1:
        return proportion(round(value) * len(shares), len(shares))
    if len(shares) < 2:
        return Estimate(value, lambda level: (0.0, 1.0))
    deviation = float(shares.std(ddof=1) / np.sqrt(len(shares)))
    return Estimate(value, t_interval(value, deviation, len(shares), logit=True))


def paired(differences: ArrayLike) -> tuple[Estimate, float]:
    """Mean of paired differences ``(n,)``, n >= 2, with its t interval, and the two-sided p-value against 0.

    Under the hypothesis of no difference the two of a pair could change places, so a difference is symmetric about
    0 and the t distribution holds well for few pairs already (Student 1908).

    >>> estimate, p = paired([1.0, 2.0, 3.0])
    >>> round(estimate.value, 3), round(p, 4)
    (2.0, 0.0742)
    """
    values = np.asarray(differences, np.float64)
    n, value = len(values), float(np.mean(values))
    deviation = float(values.std(ddof=1) / np.sqrt(n))
    estimate = Estimate(value, t_interval(value, deviation, n, logit=False))
    if deviation == 0:
        return estimate, 1.0 if value == 0 else 0.0
    return estimate, float(2 * stdtr(n - 1, -abs(value) / deviation))
