"""Attack R: how unusual is the target's answer among models that never saw the record?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memberscope.attacks.interface import Attack, Floats, mean_over_queries
from memberscope.large import PIECE, in_threads, pieces, release, threads
from memberscope.signals.derive import scaled_logits
from memberscope.signals.references import partner, usable
from memberscope.types import Access, Signals


@dataclass(frozen=True)
class AttackR(Attack):
    """Share of the record's OUT reference models that fit it worse than the target; ties count one half.

    Ye et al. 2022, "Enhanced Membership Inference Attacks", attack R. With n OUT models it takes at most
    2n + 1 values, so that low false-alarm rates cannot be reached with few of them.
    """

    name: ClassVar[str] = "attack_r"
    title: ClassVar[str] = "Attack R (reference percentile)"
    source: ClassVar[str] = "Ye et al. 2022"
    access: ClassVar[Access] = Access.ROUNDED
    minimum: ClassVar[int] = 4
    recommended: ClassVar[int] = 64

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        phi, out = scaled_logits(signals), usable(signals, target)
        out &= ~signals.members
        result = np.empty(signals.records)
        for at in pieces(signals.records, max(1, PIECE // signals.queries)):
            result[at] = _share_below(phi[:, at], out[:, at], target)
        release(phi)
        return result

    def score_all(
        self, signals: Signals, targets: Sequence[int], rngs: Sequence[np.random.Generator], into: Floats | None = None
    ) -> Floats:
        values = np.empty((len(targets), signals.records)) if into is None else into
        phi = scaled_logits(signals)
        left_out = [partner(signals, target) for target in targets]
        audited = ~signals.population

        # All targets compare with the same models: piece by piece each answer is read once.
        def work(at: slice) -> None:
            part, outside = np.ascontiguousarray(phi[:, at]), ~signals.members[:, at]
            ranks = _ranks(part, outside)
            for row, target, rows in zip(values, targets, left_out, strict=True):
                gone = None if rows is None else rows[at]
                if ranks is not None:
                    share = _from_ranks(part, outside, ranks, target, gone)
                else:
                    out = outside.copy()
                    out[target] = False
                    if gone is not None:
                        chosen = np.flatnonzero(gone >= 0)
                        out[gone[chosen], chosen] = False
                    share = _share_below(part, out, target)
                row[at] = np.where(audited[at], share, np.nan)

        # All models' answers of a piece stay in cache.
        step = max(1, PIECE // 4 // signals.queries)
        for chunk in pieces(signals.records, 16 * step):
            inner = (
                slice(chunk.start + at.start, chunk.start + at.stop) for at in pieces(chunk.stop - chunk.start, step)
            )
            for _ in in_threads(work, inner, threads(values.size)):
                pass
            # From the start on: to read one piece maps pages around it, of the last one too.
            for source in (*phi, *values):
                release(source[: chunk.stop])
        return values


_Ranks = tuple[NDArray[np.int32], NDArray[np.int64]]


def _ranks(phi: Floats, outside: NDArray[np.bool_]) -> _Ranks | None:
    """OUT models below each model's answer, ``(M, n, Q)``, and OUT models of each record; None if answers are equal."""
    models, queries = len(phi), phi.shape[2]
    by_record = np.ascontiguousarray(phi.reshape(models, -1).T)
    order = np.argsort(by_record, axis=1)
    ordered = np.take_along_axis(by_record, order, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        return None
    out = np.take_along_axis(np.repeat(outside.T, queries, axis=0), order, axis=1)
    before = np.cumsum(out, axis=1, dtype=np.int32)
    before -= out
    result = np.empty_like(before)
    np.put_along_axis(result, order, before, axis=1)
    return np.ascontiguousarray(result.T).reshape(phi.shape), outside.sum(axis=0)


def _from_ranks(
    phi: Floats, outside: NDArray[np.bool_], ranks: _Ranks, target: int, gone: NDArray[np.int64] | None
) -> Floats:
    """As :func:`_share_below`, without the target and ``gone``, the row that is left out with it (−1 for none)."""
    below, count = ranks[0][target].astype(np.float64), ranks[1] - outside[target]
    if gone is not None:
        column = np.arange(len(gone))
        taken = (gone >= 0) & outside[gone, column]
        below -= (phi[gone, column] < phi[target]) & taken[:, None]
        count -= taken
    with np.errstate(invalid="ignore"):
        return np.asarray(mean_over_queries(2 * below) / (2 * np.where(count > 0, count, np.nan)))


def _share_below(phi: Floats, out: NDArray[np.bool_], target: int) -> Floats:
    """Share of the OUT models below the target, mean over queries ``(n,)``; NaN without any.

    Args:
        phi: ``(M, n, Q)``.
        out: ``(M, n)`` models to compare with.
        target: row of ``phi``.
    """
    # Below counts twice, equal once.
    below = np.zeros(phi.shape[1:], np.uint16)
    for row, where in zip(phi, out, strict=True):
        lower = row < phi[target]
        lower &= where[:, None]
        below += lower
        np.less_equal(row, phi[target], out=lower)
        lower &= where[:, None]
        below += lower
    count = out.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(mean_over_queries(below.astype(np.float64)) / (2 * np.where(count > 0, count, np.nan)))
