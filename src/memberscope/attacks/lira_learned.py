"""A likelihood ratio learned from the references: each plays target, and a classifier learns what members look like."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memberscope.attacks.interface import Attack, Floats, settled
from memberscope.attacks.learned_features import Surroundings, embedding, features
from memberscope.signals.derive import scaled_logits
from memberscope.signals.moments import Moments, moments
from memberscope.signals.references import by_id, counts, design, usable
from memberscope.types import Access, Signals

# Any fixed number: the same signals give the same scores.
_SEED = 20_261_122

# Classifiers a pool: twins stay together, and up to this many pairs each has its own.
_FOLDS = 12
# Rows that play target for one classifier, and records of each: more change nothing that can be measured.
_PLAYERS = 24
_LEARNT = 6_000
# Records scored together; bounds memory, and no one's surroundings need more.
_TOGETHER = 20_000


@dataclass(frozen=True)
class LiraLearned(Attack):
    """Log-odds of membership by a gradient-boosted classifier trained on references that play target.

    Every player's records get their statistics under the other references (its twin left out): φ, the shrunk means
    and scales and the log ratio of ``lira_hierarchical``, and how far the player is off on like records. The
    classifier learns the player's membership from them, whatever the shape of the densities; then the target is
    scored with its own references' statistics. This is LiRA (Carlini et al. 2022) with the ratio learned on the
    shadow models' own task (Shokri et al. 2017).

    The target is in no training row and in no statistic of one, nor is its twin: the pool is cut into at most
    twelve folds of whole pairs, and a fold's targets share a classifier that saw no membership of the fold. Draws
    come from a fixed seed and follow the record id. docs/attacks.md has what folds and caps cost.

    Args:
        iterations: boosting rounds.
        learning_rate: of the boosting.
        leaves: at most so many a tree.
    """

    iterations: int = 80
    learning_rate: float = 0.08
    leaves: int = 10

    name: ClassVar[str] = "lira_learned"
    title: ClassVar[str] = "LiRA, learned likelihood ratio"
    source: ClassVar[str] = "after Carlini et al. 2022; Shokri et al. 2017"
    access: ClassVar[Access] = Access.ROUNDED
    minimum: ClassVar[int] = 4
    recommended: ClassVar[int] = 8
    contrasts: ClassVar[bool] = True
    # Surroundings are kept for one part of the records at a time.
    serial: ClassVar[bool] = True

    def lacks(self, signals: Signals, target: int) -> str:
        reason = super().lacks(signals, target)
        if reason:
            return reason
        inside, outside = counts(signals, target)
        if not ((inside > 1) & (outside > 1)).any():
            return (
                "needs records that at least two references trained on and two did not, so that a reference can play "
                "target, and there are none"
            )
        return ""

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        result = np.full(signals.records, np.nan)
        classifier = self._classifier(signals, target)
        if classifier is None:
            return result
        order, place = _located(signals)
        phi, known = scaled_logits(signals)[target], moments(signals, target)
        parts = -(-len(order) // _TOGETHER)
        for part in range(parts):
            records = order[part::parts]
            around = _around(signals, part, place[part::parts], signals.labels[records])
            table = features(phi[records], _of(known, records), around)
            scored = np.isfinite(table).all(axis=1)
            with _one_thread():
                result[records[scored]] = classifier.decision_function(table[scored]) if scored.any() else 0
        return settled(result)

    def _classifier(self, signals: Signals, target: int) -> Any:
        """The fold's classifier, trained once; None where no reference can play target."""
        fold = _fold(signals, target)
        key = (self, fold)
        with signals.cache.setdefault(("learned lock", fold), threading.Lock()):
            if key not in signals.cache:
                signals.cache[key] = self._train(signals, target, fold)
            return signals.cache[key]

    def _train(self, signals: Signals, target: int, fold: tuple[int, ...]) -> Any:
        from sklearn.ensemble import HistGradientBoostingClassifier

        tables = list(_played(signals, target, fold))
        if not tables:
            return None
        table, truth = (np.concatenate(part) for part in zip(*tables, strict=True))
        if truth.all() or not truth.any():
            return None
        model = HistGradientBoostingClassifier(
            max_iter=self.iterations,
            learning_rate=self.learning_rate,
            max_leaf_nodes=self.leaves,
            min_samples_leaf=int(np.clip(len(truth) // 200, 5, 100)),
            l2_regularization=1.0,
            early_stopping=False,
            random_state=0,
        )
        with _one_thread():
            return model.fit(table, truth)


def _one_thread() -> Any:
    """Sums in one order, so the same scores on any number of cores."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, "openmp")


def _located(signals: Signals) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The audited records by id, and where they lie."""
    key = ("learned order",)
    if key not in signals.cache:
        order = by_id(signals)[0]
        order = order[~signals.population[order]]
        signals.cache[key] = order, embedding(signals, order)
    located: tuple[NDArray[np.int64], NDArray[np.float32]] = signals.cache[key]
    return located


def _around(signals: Signals, part: int, place: NDArray[np.float32], labels: NDArray[np.int64]) -> Surroundings:
    """The surroundings of one part of the records; kept for the last part asked for."""
    key = ("learned surroundings",)
    held: tuple[int, Surroundings] | None = signals.cache.get(key)
    if held is None or held[0] != part:
        held = part, Surroundings(place, labels)
        signals.cache[key] = held
    return held[1]


def _of(known: Moments, records: NDArray[np.int64]) -> Moments:
    return Moments(
        known.n_in[records],
        known.mean_in[records],
        known.var_in[records],
        known.n_out[records],
        known.mean_out[records],
        known.var_out[records],
    )


def _draws_partners(signals: Signals) -> bool:
    """Counts give membership away and not every row has a twin: what is left out differs from record to record."""
    plan = design(signals)
    return plan.balanced and bool((plan.twin < 0).any())


def _fold(signals: Signals, target: int) -> tuple[int, ...]:
    """The rows that the target's classifier must not know: its twin and it, and others to share with."""
    if _draws_partners(signals):
        return (target,)
    twin = design(signals).twin
    first = np.where(twin >= 0, np.minimum(twin, np.arange(len(twin))), np.arange(len(twin)))
    unit = np.unique(first, return_inverse=True)[1]
    number = unit % min(int(unit.max()) + 1, _FOLDS)
    return tuple(int(row) for row in np.flatnonzero(number == number[target]))


def _played(signals: Signals, target: int, fold: tuple[int, ...]) -> Any:
    """Features ``(n, F)`` and membership ``(n,)`` of each reference that plays target."""
    order, place = _located(signals)
    chosen = np.linspace(0, len(order) - 1, min(len(order), _LEARNT)).round().astype(np.int64)
    records = order[chosen]
    around = Surroundings(place[chosen], signals.labels[records])
    phi = np.ascontiguousarray(scaled_logits(signals)[:, records])
    members = signals.members[:, records]
    if _draws_partners(signals):
        speaks = usable(signals, target, records)
    else:
        speaks = np.ones(members.shape, np.bool_)
        speaks[list(fold)] = False
    rows = np.flatnonzero(speaks.any(axis=1))
    for player in rows[np.linspace(0, len(rows) - 1, min(_PLAYERS, len(rows))).round().astype(np.int64)]:
        others = _without(signals, speaks, members, int(player), fold[0])
        table = features(phi[player], _moments(phi, members, others), around)
        usable_ = speaks[player] & np.isfinite(table).all(axis=1)
        if usable_.any():
            yield table[usable_], members[player, usable_]


def _without(
    signals: Signals, speaks: NDArray[np.bool_], members: NDArray[np.bool_], player: int, fold: int
) -> NDArray[np.bool_]:
    """Who may speak when ``player`` plays target: by the same rule as for the target."""
    result = speaks.copy()
    result[player] = False
    twin = design(signals).twin[player]
    if twin >= 0:
        result[twin] = False
    elif design(signals).balanced:
        draw = np.random.default_rng([_SEED, fold, player]).random(members.shape)
        opposite = result & (members != members[player])
        drawn = np.argmax(np.where(opposite, draw, -1.0), axis=0)
        columns = np.flatnonzero(opposite.any(axis=0))
        result[drawn[columns], columns] = False
    return result


def _moments(phi: Floats, members: NDArray[np.bool_], speaks: NDArray[np.bool_]) -> Moments:
    """Moments over the rows that speak; phi ``(M, n, Q)``."""
    result: list[Floats] = []
    for side in (members & speaks, ~members & speaks):
        where = side[:, :, None]
        count = side.sum(axis=0).astype(np.float64)
        mean = np.where(where, phi, 0.0).sum(axis=0) / np.maximum(count, 1)[:, None]
        squares = (np.where(where, phi - mean, 0.0) ** 2).sum(axis=0)
        variance = squares / np.maximum(count - 1, 1)[:, None]
        result += [
            count,
            np.where(count[:, None] > 0, mean, np.nan),
            np.where(count[:, None] > 1, variance, np.nan),
        ]
    return Moments(*result)
