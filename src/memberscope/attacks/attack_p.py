"""Attack P: how unusual is the record's loss among records known not to be members?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memberscope.attacks.interface import Attack, Floats, mean_over_queries
from memberscope.errors import ConfigError
from memberscope.signals.derive import scaled_logits_row
from memberscope.types import Access, Signals


@dataclass(frozen=True)
class AttackP(Attack):
    """Share of held-out non-members of the record's class that are fitted worse than the record.

    Ye et al. 2022, "Enhanced Membership Inference Attacks", attack P. The held-out non-members are the
    population if there is one. Otherwise records are dealt at random into ``folds`` and each is compared with
    the non-members of the other folds: its own membership never decides what it is compared with.

    Args:
        per_class: compare within the record's class.
        folds: number of folds where there is no population.
    """

    per_class: bool = True
    folds: int = 5

    name: ClassVar[str] = "attack_p"
    title: ClassVar[str] = "Attack P (population percentile)"
    source: ClassVar[str] = "Ye et al. 2022"
    access: ClassVar[Access] = Access.ROUNDED

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ConfigError("at least 2 folds", str(self.folds), "Raise folds.")

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        phi = mean_over_queries(scaled_logits_row(signals, target))
        group = signals.labels if self.per_class else np.zeros_like(signals.labels)
        result = np.full(signals.records, np.nan)
        if signals.population.any():
            _percentiles(phi, group, np.ones(len(phi), np.bool_), signals.population, result)
            return result
        fold = rng.permutation(signals.records) % self.folds
        # Equal values get different percentiles in different folds, a little lower for members; so ties are
        # broken by lot before.
        order = np.lexsort((rng.random(signals.records), phi))
        phi[order] = np.arange(signals.records)
        for part in range(self.folds):
            _percentiles(phi, group, fold == part, (fold != part) & ~signals.members[target], result)
        return result


def _percentiles(
    phi: Floats,
    group: NDArray[np.int64],
    scored: NDArray[np.bool_],
    held_out: NDArray[np.bool_],
    result: Floats,
) -> None:
    """Write the mid-rank percentile of each scored record among the held-out ones of its group into ``result``."""
    for label in np.unique(group[scored]):
        known = np.sort(phi[held_out & (group == label)])
        if len(known):
            chosen = scored & (group == label)
            below = np.searchsorted(known, phi[chosen], "left") + np.searchsorted(known, phi[chosen], "right")
            result[chosen] = below / (2 * len(known))
