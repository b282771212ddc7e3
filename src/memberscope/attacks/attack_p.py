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
        fold = (rng.permutation(signals.records) % self.folds).astype(np.int16)
        lots = rng.random(signals.records)
        # Equal values get different percentiles in different folds, a little lower for members; so ties are
        # broken by lot before.
        order = np.argsort(phi)
        equal = phi[order[1:]] == phi[order[:-1]]
        if equal.any():
            order = np.lexsort((lots, phi))
        small = np.int16 if group.max() < 1 << 15 else np.int64
        order = order[np.argsort(group[order].astype(small), kind="stable")]
        return self._in_folds(order, group[order], fold[order], ~signals.members[target][order])

    def _in_folds(
        self, order: NDArray[np.int64], group: NDArray[np.int64], fold: NDArray[np.int16], known: NDArray[np.bool_]
    ) -> Floats:
        """Percentiles of records that come group by group from the worst to the best fitted."""
        result = np.full(len(order), np.nan)
        starts = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
        sizes = np.diff(np.append(starts, len(group)))
        # Held-out records below each one in its group: all, less those of its own fold.
        below, total = _below(known, starts, sizes)
        for part in range(self.folds):
            scored = fold == part
            own, mine = _below(known & scored, starts, sizes)
            count = (total - mine)[scored]
            with np.errstate(invalid="ignore"):
                share = (below - own)[scored] / count
            share[count == 0] = np.nan
            result[order[scored]] = share
        return result


def _below(
    chosen: NDArray[np.bool_], starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Chosen records before each one in its group, and in its group at all, ``(N,)`` both."""
    before = np.cumsum(chosen, dtype=np.int32)
    last = before[starts + sizes - 1]
    before -= chosen
    first = before[starts]
    before -= np.repeat(first, sizes)
    return before, np.repeat(last - first, sizes)


def _percentiles(
    phi: Floats,
    group: NDArray[np.int64],
    scored: NDArray[np.bool_],
    held_out: NDArray[np.bool_],
    result: Floats,
) -> None:
    """Write the mid-rank percentile of each scored record among the held-out ones of its group into ``result``."""
    order = np.argsort(group, kind="stable")
    for chosen in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        known = np.sort(phi[chosen[held_out[chosen]]])
        own = chosen[scored[chosen]]
        if len(known):
            below = np.searchsorted(known, phi[own], "left") + np.searchsorted(known, phi[own], "right")
            result[own] = below / (2 * len(known))
