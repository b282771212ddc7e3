"""How an attack's figure grows with its references, and how many of them and of targets are enough."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

MOST_REFERENCES = 256
# Of what the attack would find beyond chance with any number of references.
ENOUGH = 0.95


# Exponents tried: 1 is the bias of a mean over R models, 1/2 what TPRs at low false-alarm rates were seen to follow
# (Location-30, 2 to 64 references). With fewer than four numbers of references the slower one is taken.
EXPONENTS = (0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Growth:
    """value(R) = ceiling − loss/R^exponent: what the error of means over R models costs.

    Args:
        ceiling: figure with any number of references.
        loss: of one reference; at least 0.
        chance: figure of a guess.
        exponent: how fast the loss falls.
    """

    ceiling: float
    loss: float
    chance: float
    exponent: float = 0.5

    @classmethod
    def fit(cls, references: ArrayLike, values: ArrayLike, errors: ArrayLike, chance: float) -> Growth:
        """Least squares, weighted by 1/error², with the exponent that fits best; a falling figure counts as constant.

        Args:
            references: numbers R, at least two different ones.
            values: figure at each.
            errors: standard error of each, above 0.
            chance: figure of a guess.
        """
        r, y = np.asarray(references, np.float64), np.asarray(values, np.float64)
        weight = 1 / np.square(np.maximum(errors, 1e-9))
        tried = []
        for exponent in EXPONENTS if len(r) >= 4 else EXPONENTS[:1]:
            x = r**-exponent
            centre, middle = np.average(x, weights=weight), np.average(y, weights=weight)
            spread = np.average((x - centre) ** 2, weights=weight)
            loss = max(0.0, -float(np.average((x - centre) * (y - middle), weights=weight) / spread))
            found = cls(float(middle + loss * centre), loss, chance, exponent)
            missed = float((weight * (y - found.ceiling + loss * x) ** 2).sum())
            tried.append((missed, exponent, found))
        return min(tried, key=lambda each: each[:2])[2]

    def at(self, references: float) -> float:
        """Figure with so many references."""
        return float(self.ceiling - self.loss * references**-self.exponent)

    def share(self, references: float) -> float:
        """Part of what can be found beyond chance that so many references find; 1 where nothing can be."""
        room = self.ceiling - self.chance
        return 1.0 if room <= 0 else max(0.0, (self.at(references) - self.chance) / room)

    def enough(self, share: float = ENOUGH) -> int:
        """Smallest power of two, 2 to 256, that finds ``share`` of it.

        >>> Growth(0.45, 0.4, 0.01, exponent=1.0).enough()
        32
        """
        found = 2
        while found < MOST_REFERENCES and self.share(found) < share:
            found *= 2
        return found


def clusters_needed(value: float, low: float, high: float, clusters: int, limit: float) -> int | None:
    """Independent targets with which an interval would leave ``limit``, if the figure stays what it is.

    Args:
        value: figure over ``clusters`` independent targets.
        low, high: its interval.
        clusters: at least 2.
        limit: of the gate.

    Returns:
        At least 2; None where the figure is the limit itself.

    >>> clusters_needed(0.020, 0.014, 0.026, clusters=5, limit=0.023)
    20
    """
    distance = abs(limit - value)
    if distance == 0:
        return None
    reach = (high - value) if limit > value else (value - low)
    return max(2, math.ceil(clusters * (reach / distance) ** 2 - 1e-9))
