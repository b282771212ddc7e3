"""The difference of one figure between two audits, and intervals carried from one confidence level to another."""

from __future__ import annotations

from math import exp, log

from scipy.special import ndtri, stdtrit

from memberscope.statistics.intervals import mover

# A value with the bounds of its interval: value, low, high.
Interval = tuple[float, float, float]


def difference(new: Interval, old: Interval) -> Interval:
    """new − old of two independent figures at the confidence of their own intervals.

    The method of variance estimates recovery (Zou & Donner 2008): each side's distance to its bound adds in
    quadrature, whatever made the intervals. Two audits that share records or references have figures that rise and
    fall together; their difference then varies less than this says, so that the interval is wide rather than narrow.

    >>> tuple(round(part, 3) for part in difference((0.30, 0.26, 0.34), (0.20, 0.17, 0.24)))
    (0.1, 0.043, 0.15)
    """
    (a, low_a, high_a), (b, low_b, high_b) = new, old
    value = a - b
    low, high = mover(
        value, [value - (a - low_a), value - (high_b - b)], [value + (high_a - a), value + (b - low_b)], (-1, 1)
    )
    return value, low, high


def carried(figure: Interval, level: float, to: float, clusters: int) -> tuple[float, float]:
    """Bounds of a rate or an area at the confidence ``to``, from those at ``level`` where nothing else was kept.

    Distances grow as Student's t with ``clusters`` − 1 degrees of freedom does, the normal quantile for one cluster;
    of the plain scale and the logit scale each bound takes the wider one. At a value of 0 or 1, where the miss of an
    exact interval is a root of the error, the bound moves by at least as much as that root.

    Args:
        figure: value and bounds at ``level``.
        level: confidence of the bounds that are there.
        to: confidence wanted, not below ``level``.
        clusters: the fewest independent targets that the figure may rest on.
    """
    value, low, high = figure
    if to <= level:
        return low, high
    before, after = (1 - level) / 2, (1 - to) / 2
    if clusters > 1:
        ratio = float(stdtrit(clusters - 1, after) / stdtrit(clusters - 1, before))
    else:
        ratio = float(ndtri(after) / ndtri(before))
    if value in (0.0, 1.0):
        ratio = max(ratio, log(after) / log(before))
    return (
        max(0.0, min(value - ratio * (value - low), _scaled(value, low, ratio))),
        min(1.0, max(value + ratio * (high - value), _scaled(value, high, ratio))),
    )


def _scaled(value: float, bound: float, ratio: float) -> float:
    """The bound moved away from the value on the logit scale."""
    if not (0 < value < 1 and 0 < bound < 1):
        return bound
    centre = log(value / (1 - value))
    place = centre + ratio * (log(bound / (1 - bound)) - centre)
    return 1 / (1 + exp(-max(-700.0, min(700.0, place))))
