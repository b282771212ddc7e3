"""Judging a gate more than once while a pool grows, at the error of a single judgement.

Every look at the data is another chance to be wrong. The looks share the error of one: the last has half of it, the
earlier ones the other half in equal parts, and by the union bound the chance that any of them is wrong stays below
their sum. Group-sequential boundaries (O'Brien & Fleming 1979) would be a little narrower, but they hold for one
statistic that accumulates; here the attack itself changes as references are added, so nothing is assumed about how
the looks depend on each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from memberscope.errors import ConfigError
from memberscope.statistics.intervals import LEVEL

# Models of the first look: below that, neither references nor targets are worth judging by.
FIRST = 10


def levels(looks: int, level: float = LEVEL) -> tuple[float, ...]:
    """Confidence level of each of ``looks`` judgements, all of which hold together at ``level``.

    >>> [round(each, 4) for each in levels(1)], [round(each, 4) for each in levels(4)]
    ([0.95], [0.9917, 0.9917, 0.9917, 0.975])
    """
    if looks < 1:
        raise ConfigError("at least 1 look", str(looks), "Give the sizes at which to look.")
    error = 1 - level
    early = error / 2 / max(looks - 1, 1)
    return (*(1 - early for _ in range(looks - 1)), level if looks == 1 else 1 - error / 2)


def sizes(models: int) -> tuple[int, ...]:
    """Numbers of models at which to look, the last is ``models``: 8, 16, 32 … references, a target and its twin.

    >>> sizes(66), sizes(40), sizes(8)
    ((10, 18, 34, 66), (10, 18, 40), (8,))
    """
    found = []
    references = FIRST - 2
    # A look that saves less than a third of the models costs more error than it saves time.
    while references + 2 <= 2 * models / 3:
        found.append(references + 2)
        references *= 2
    return (*found, models)


def gain_bound(fewer: ArrayLike, more: ArrayLike, doublings: float, level: float) -> float:
    """How much an attack may still gain, at most, when its references are doubled ``doublings`` times.

    What references add shrinks with their number (for means over R models the loss is of order 1/R), so that each
    doubling gains at most what the last one did. A pass that is given early must survive that gain: otherwise few
    references would pass a model only because they attack it badly.

    Args:
        fewer: figure of each independent target with half of the references, at least 2.
        more: the same targets with all of them.
        doublings: log2 of the final number of references over the present one.
        level: confidence of the bound, one-sided.

    Returns:
        ``doublings`` times the upper bound of the mean gain, at least 0; infinite with fewer than 2 targets.
    """
    gains = np.asarray(more, np.float64) - np.asarray(fewer, np.float64)
    if len(gains) < 2:
        return float("inf")
    error = float(gains.std(ddof=1) / np.sqrt(len(gains)))
    bound = float(gains.mean()) + float(stdtrit(len(gains) - 1, level)) * error
    return doublings * max(0.0, bound)
