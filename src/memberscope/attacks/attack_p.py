"""Attack P: how unusual is the record's loss among records known not to be members?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
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
        order, starts = _grouped(signals, per_class=self.per_class)
        values, ranked, tied = phi[order], np.empty_like(order), False
        for a, b in pairwise(starts.tolist()):
            # Class by class, so that a sort stays in cache.
            place = np.argsort(values[a:b])
            ordered = values[a:b][place]
            tied = tied or bool((ordered[1:] == ordered[:-1]).any())
            ranked[a:b] = order[a:b][place]
        if tied:
            # Equal values get different percentiles in different folds, a little lower for members; so ties are
            # broken by lot before.
            ranked = np.lexsort((rng.random(signals.records), phi, group))
        return self._in_folds(ranked, starts, fold[ranked], ~signals.members[target][ranked])

    def _in_folds(
        self, order: NDArray[np.int64], starts: NDArray[np.int64], fold: NDArray[np.int16], known: NDArray[np.bool_]
    ) -> Floats:
        """Percentiles of records that come group by group, from the worst to the best fitted."""
        sizes = np.diff(starts)
        below, total = _below(known, starts[:-1], sizes)
        # Held-out records below each one in its group: all, less those of its own fold, counted fold by fold.
        group = np.repeat(np.arange(len(sizes)) * self.folds, sizes) + fold
        small = np.int16 if len(sizes) * self.folds < 1 << 15 else np.int64
        part = np.argsort(group.astype(small), kind="stable")
        parts = np.bincount(group, minlength=len(sizes) * self.folds)
        present = parts[parts > 0]
        own, mine = _below(known[part], np.cumsum(present) - present, present)
        share, count = below[part] - own, total[part] - mine
        result = np.empty(len(order))
        with np.errstate(invalid="ignore", divide="ignore"):
            result[order[part]] = np.where(count > 0, share / count, np.nan)
        return result


def _grouped(signals: Signals, *, per_class: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Records class by class (or all together), and where each class that there is begins, and the last ends."""
    key = ("grouped", per_class)
    if key not in signals.cache:
        group = signals.labels if per_class else np.zeros_like(signals.labels)
        sizes = np.bincount(group)
        starts = np.append(0, np.cumsum(sizes[sizes > 0]))
        signals.cache[key] = np.argsort(group, kind="stable"), starts
    order, starts = signals.cache[key]
    return order, starts


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
