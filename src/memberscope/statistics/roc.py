"""Figures of one attack on one target, each with an interval that holds.

Scores are two samples, members' and non-members'. A record is accused when its score is at or above a
threshold; tied scores are accused together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from memberscope.statistics.intervals import (
    Estimate,
    clopper_pearson,
    difference,
    mover,
    order_statistic_ranks,
)
from memberscope.text import percent

Floats = NDArray[np.float64]

# Fewer false alarms than this leave nothing to measure a rate by.
LEAST_FALSE_ALARMS = 10


def auc(members: Floats, non_members: Floats) -> float:
    """P(member's score > non-member's) + ½ P(equal).

    >>> auc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    return float(placements(members, np.sort(non_members)).mean())


def placements(scores: Floats, ordered: Floats) -> Floats:
    """Share of ``ordered`` (sorted) that each of ``scores`` beats, ties one half, in the order of the sorted scores."""
    values = np.sort(scores)
    # Sorted queries walk through memory once; unsorted ones cost several times as much.
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return below / (2 * len(ordered))


def auc_estimate(members: Floats, non_members: Floats) -> Estimate:
    """AUC with DeLong's interval (DeLong et al. 1988), from placement values by sorting.

    Where the normal interval would leave [0, 1] it is taken on the logit scale; with perfect separation the
    bound is that of a proportion with as many trials as the smaller sample has records.
    """
    m, n = len(members), len(non_members)
    if m < 2 or n < 2:
        return Estimate.missing(f"needs 2 members and 2 non-members, has {m} and {n}")
    inside, outside = np.sort(members), np.sort(non_members)
    below, reached = (np.searchsorted(outside, inside, side) for side in ("left", "right"))
    beats = (below + reached) / (2 * n)
    # A member is below a non-member that comes after all that it reaches: counting spares searching once more.
    under, upto = (np.cumsum(np.bincount(at, minlength=n + 1))[:n] for at in (reached, below))
    beaten = (under + upto) / (2 * m)
    value = float(beats.mean())
    deviation = float(np.sqrt(beats.var(ddof=1) / m + beaten.var(ddof=1) / n))
    return area_estimate(value, deviation, min(m, n))


def area_estimate(value: float, deviation: float, smaller: int) -> Estimate:
    """An AUC with its standard error, and the size of the smaller sample, as an estimate."""

    def interval(level: float) -> tuple[float, float]:
        if deviation == 0:
            k = smaller
            return clopper_pearson(round(value * k), k, level) if value in (0.0, 1.0) else (value, value)
        z = -float(ndtri((1 - level) / 2))
        low, high = value - z * deviation, value + z * deviation
        if low >= 0 and high <= 1:
            return low, high
        centre, spread = np.log(value / (1 - value)), z * deviation / (value * (1 - value))
        return float(1 / (1 + np.exp(spread - centre))), float(1 / (1 + np.exp(-spread - centre)))

    return Estimate(value, interval)


class Curve(NamedTuple):
    """ROC points from (0, 0) to (1, 1): rates at every different score, highest first."""

    fpr: Floats
    tpr: Floats
    thresholds: Floats


def roc_curve(members: Floats, non_members: Floats) -> Curve:
    """Every point that a threshold can reach; of tied scores the last, where all of them are accused.

    >>> curve = roc_curve(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    >>> curve.fpr.tolist(), curve.tpr.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    thresholds = np.unique(np.concatenate([members, non_members]))[::-1]
    fpr = _share_at_least(np.sort(non_members), thresholds)
    tpr = _share_at_least(np.sort(members), thresholds)
    return Curve(np.append(0.0, fpr), np.append(0.0, tpr), np.append(np.inf, thresholds))


def _share_at_least(ordered: Floats, thresholds: Floats) -> Floats:
    return 1 - np.searchsorted(ordered, thresholds, "left") / len(ordered)


def threshold_at(non_members: Floats, fpr: float) -> float:
    """Lowest score of a non-member at which at most a share ``fpr`` of the non-members is accused; inf if none."""
    ordered = np.sort(non_members)[::-1]
    k = int(np.floor(fpr * len(ordered) + 1e-9))
    if k == 0:
        return float("inf")
    candidate = ordered[k - 1]
    if k < len(ordered) and ordered[k] == candidate:
        above = ordered[ordered > candidate]
        return float(above[-1]) if len(above) else float("inf")
    return float(candidate)


def unmeasurable(non_members: Floats, fpr: float) -> str:
    """Why the rate at ``fpr`` cannot be measured with these non-members, or an empty string."""
    if reason := needs_more(len(non_members), fpr):
        return reason
    reached = float(np.mean(non_members >= threshold_at(non_members, fpr)))
    return tied(len(np.unique(non_members)), fpr, reached) if reached < fpr / 2 else ""


def needs_more(non_members: int, fpr: float) -> str:
    """Why the rate at ``fpr`` needs more non-members than there are, or an empty string."""
    needed = int(np.ceil(LEAST_FALSE_ALARMS / fpr - 1e-9))
    if non_members >= needed:
        return ""
    return f"needs {needed:,} non-members for a false-alarm rate of {percent(fpr)}, has {non_members:,}"


def tied(values: int, fpr: float, reached: float) -> str:
    """Why no threshold has a false-alarm rate near ``fpr``, with so many different values."""
    return (
        f"tied scores ({values:,} different values): no threshold has a false-alarm rate near {percent(fpr)}; "
        f"the nearest below is {percent(reached)}"
    )


def tpr_estimate(members: Floats, non_members: Floats, fpr: float) -> Estimate:
    """True-positive rate at false-positive rate ``fpr``, with an interval that knows both samples are samples.

    The threshold comes from a finite number of non-members, so its true false-alarm rate is uncertain: a
    Clopper-Pearson interval of the TPR alone covers a null attack's 1 % about 5 times in 6, not 19 in 20. The
    uncertainty of the threshold (its exact order-statistic bounds) and of the TPR (Clopper-Pearson) are
    therefore combined (Zou & Donner 2008).
    """
    if not len(members):
        return Estimate.missing("no members were scored")
    reason = unmeasurable(non_members, fpr)
    if reason:
        return Estimate.missing(reason)
    ordered = np.sort(non_members)[::-1]
    hits = int(np.sum(members >= threshold_at(non_members, fpr)))
    value = hits / len(members)

    def interval(level: float) -> tuple[float, float]:
        strict, lax = order_statistic_ranks(len(ordered), fpr, level)
        tpr_strict = float(np.mean(members >= ordered[strict - 1])) if strict else 0.0
        tpr_lax = float(np.mean(members >= ordered[lax - 1])) if lax <= len(ordered) else 1.0
        low, high = clopper_pearson(hits, len(members), level)
        return mover(value, [low, min(tpr_strict, value)], [high, max(tpr_lax, value)])

    return Estimate(value, interval)


def best_threshold(members: Floats, non_members: Floats) -> float:
    """Threshold with the largest TPR − FPR."""
    curve = roc_curve(members, non_members)
    return float(curve.thresholds[int(np.argmax(curve.tpr - curve.fpr))])


class Counts(NamedTuple):
    """Accusations at a threshold that was chosen on other records."""

    true_positives: int
    members: int
    false_positives: int
    non_members: int


def advantage_estimate(counts: Counts) -> Estimate:
    """TPR − FPR at thresholds chosen on other records (Yeom et al. 2018), so that the choice costs no honesty.

    The maximum over thresholds on the scored records themselves is above zero for any coin toss.
    """
    if not counts.members or not counts.non_members:
        return Estimate.missing("no members or no non-members were scored")
    hits, alarms = (counts.true_positives, counts.members), (counts.false_positives, counts.non_members)
    value = hits[0] / hits[1] - alarms[0] / alarms[1]
    return Estimate(value, lambda level: difference(hits, alarms, level))
