"""Running moments over references: summed once over all models; leaving some out is a subtraction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memberscope.large import PIECE, in_threads, pieces, release, threads
from memberscope.signals.derive import loss, probability, scaled_logits
from memberscope.signals.references import design, lock, of_pair, partner, usable
from memberscope.types import Signals

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and variance over the models that did / did not train on each record.

    Args:
        n_in: ``(N,)`` number of models trained on the record; ``n_out`` likewise of the others.
        mean_in: ``(N, Q)``; NaN where there is no model.
        var_in: ``(N, Q)`` unbiased (n − 1); NaN below two models.
    """

    n_in: Floats
    mean_in: Floats
    var_in: Floats
    n_out: Floats
    mean_out: Floats
    var_out: Floats


def moments(signals: Signals, target: int) -> Moments:
    """Moments of φ over the references of ``target``, from running moments over all rows: O(N) a target."""
    return of_pair(signals, target, "moments", lambda: _moments(signals, target))


def _moments(signals: Signals, target: int) -> Moments:
    phi, key = scaled_logits(signals), ("moments",)
    with lock(signals):
        if key not in signals.cache:
            signals.cache[key] = _moments_of_all(phi, (signals.members, ~signals.members))
    sides = signals.cache[key]
    n, q = phi.shape[1:]
    counts, means, variances = np.empty((2, n)), np.empty((2, n, q)), np.empty((2, n, q))
    leaving = _Leaving.of(signals, target)
    for records in pieces(n, max(1, PIECE // q)):
        for side, (value, where) in enumerate(leaving(phi, records)):
            count, mean, squares = (whole[records] for whole in sides[side])
            fewer = np.subtract(count, 1.0 if where is None else where, out=counts[side, records])
            # Welford's update run backwards.
            delta = value - mean
            new_mean, new_squares = means[side, records], variances[side, records]
            np.divide(delta, np.maximum(fewer, 1)[:, None], out=new_mean)
            np.subtract(mean, new_mean, out=new_mean)
            np.subtract(value, new_mean, out=new_squares)
            new_squares *= delta
            np.subtract(squares, new_squares, out=new_squares)
            # What is left of equal answers beside an unequal one that leaves is rounding, not variance.
            new_squares[new_squares <= 1e-12 * squares] = 0.0
            if where is not None:
                np.copyto(new_mean, mean, where=~where[:, None])
                np.copyto(new_squares, squares, where=~where[:, None])
            new_squares /= np.maximum(fewer - 1, 1)[:, None]
            _nan_below(new_mean, fewer, 1)
            _nan_below(new_squares, fewer, 2)
    leaving.release(phi)
    parts = zip(counts, means, variances, strict=True)
    return Moments(*_frozen([array for side in parts for array in side]))


def _frozen(arrays: list[Floats]) -> list[Floats]:
    """The arrays, no longer writable, since more than one attack will read them."""
    for array in arrays:
        array.flags.writeable = False
    return arrays


@dataclass(frozen=True, eq=False)
class Means:
    """Count ``(N,)`` and mean ``(N, Q)`` over the models that did / did not train on each record, NaN without any."""

    n_in: Floats
    mean_in: Floats
    n_out: Floats
    mean_out: Floats


_SCALES: dict[str, Callable[[Floats], Floats]] = {"p": probability, "loss": loss}


def means(signals: Signals, target: int, scale: str, temperature: float = 1.0) -> Means:
    """Means of a positive quantity over the references of ``target``, from sums over all rows: O(N) a target.

    Args:
        signals: the pool's outputs.
        target: the row left out (with its partner).
        scale: ``"p"`` probability of the label, ``"loss"`` cross-entropy.
        temperature: divides the logits.
    """
    key = ("means", scale, float(temperature))
    return of_pair(signals, target, key, lambda: _means(signals, target, scale, float(temperature)))


# A sum that drops below this share of what was taken from it has lost its digits and is formed anew.
LOST = 1e-5


def _means(signals: Signals, target: int, scale: str, temperature: float) -> Means:
    phi, of, key = scaled_logits(signals, temperature), _SCALES[scale], ("sums", scale, temperature)
    with lock(signals):
        if key not in signals.cache:
            signals.cache[key] = _sums_of_all(phi, (signals.members, ~signals.members), of)
    sides = signals.cache[key]
    n, q = phi.shape[1:]
    counts, result = np.empty((2, n)), np.empty((2, n, q))
    leaving = _Leaving.of(signals, target)
    for records in pieces(n, max(1, PIECE // q)):
        for side, (leaves, where) in enumerate(leaving(phi, records)):
            count, total = (whole[records] for whole in sides[side])
            value = of(leaves)
            if where is not None:
                value *= where[:, None]
            fewer = np.subtract(count, 1.0 if where is None else where, out=counts[side, records])
            rest = np.subtract(total, value, out=result[side, records])
            value *= LOST
            lost = np.flatnonzero((rest < value).any(axis=1) & (fewer > 0))
            if len(lost):
                where_lost = records.start + lost
                chosen = usable(signals, target, where_lost) & (signals.members[:, where_lost] == (side == 0))
                rest[lost] = (of(phi[:, where_lost]) * chosen[:, :, None]).sum(axis=0)
                # From the start on: to read one piece maps pages around it, of the last one too.
                for row in phi:
                    release(row[: records.stop])
            rest /= np.maximum(fewer, 1)[:, None]
            _nan_below(rest, fewer, 1)
    leaving.release(phi)
    return Means(*_frozen([counts[0], result[0], counts[1], result[1]]))


@dataclass(frozen=True, eq=False)
class _Leaving:
    """The values that leave the IN and the OUT side of each record when a target is left out."""

    target: int
    members: NDArray[np.bool_]
    twin: int
    partner: NDArray[np.int64] | None
    audited: NDArray[np.bool_] | None

    @classmethod
    def of(cls, signals: Signals, target: int) -> _Leaving:
        twin = int(design(signals).twin[target])
        # The partner is IN exactly where the target is OUT, so that one value leaves each side; a population
        # record, which is OUT everywhere, loses the target alone.
        audited = ~signals.population if signals.population.any() else None
        return cls(target, signals.members[target], twin, partner(signals, target), audited)

    def __call__(self, values: Floats, records: slice) -> tuple[_Side, _Side]:
        """For these records the value ``(n, Q)`` that leaves either side, and where one does (None: everywhere)."""
        own, member = values[self.target, records], self.members[records]
        if self.partner is None:
            return (own, member), (own, ~member)
        if self.twin >= 0:
            other = values[self.twin, records]
        else:
            other = np.take_along_axis(values[:, records], self.partner[None, records, None], axis=0)[0]
        audited, trained = None if self.audited is None else self.audited[records], member[:, None]
        return (np.where(trained, own, other), audited), (np.where(trained, other, own), None)

    def release(self, values: Floats) -> None:
        """Give back the memory of what was read."""
        for part in (
            (values,) if self.partner is not None and self.twin < 0 else (values[self.target], values[self.twin])
        ):
            release(part)


_Side = tuple[Floats, NDArray[np.bool_] | None]


def _moments_of_all(values: Floats, sides: tuple[NDArray[np.bool_], ...]) -> list[tuple[Floats, Floats, Floats]]:
    """Count (N,), mean (N, Q) and sum of squared deviations (N, Q) over the rows of each side."""
    n, q = values.shape[1:]
    result = [(np.empty(n), np.zeros((n, q)), np.zeros((n, q))) for _ in sides]

    def work(records: slice) -> None:
        part = values[:, records]
        for where, (counts, means, sums) in zip(sides, result, strict=True):
            chosen = where[:, records]
            count, mean, squares = counts[records], means[records], sums[records]
            chosen.sum(axis=0, out=count, dtype=np.float64)
            for row, own in zip(part, chosen, strict=True):
                mean += row * own[:, None]
            mean /= np.maximum(count, 1)[:, None]
            # Two passes: deviations from the mean itself, so that a later subtraction loses nothing.
            for row, own in zip(part, chosen, strict=True):
                deviation = (row - mean) * own[:, None]
                deviation *= deviation
                squares += deviation
            squares[squares <= 1e-26 * np.maximum(mean**2, 1) * count[:, None]] = 0.0

    _over_records(work, values)
    return result


def _sums_of_all(
    phi: Floats, sides: tuple[NDArray[np.bool_], ...], of: Callable[[Floats], Floats]
) -> list[tuple[Floats, Floats]]:
    """Count (N,) and sum (N, Q) over the rows of each side."""
    sums = [np.zeros(phi.shape[1:]) for _ in sides]

    def work(records: slice) -> None:
        parts = [(total[records], side[:, records]) for total, side in zip(sums, sides, strict=True)]
        for row in range(len(phi)):
            value = of(phi[row, records])
            for total, side in parts:
                total += value * side[row][:, None]

    _over_records(work, phi)
    return [(side.sum(axis=0).astype(np.float64), total) for side, total in zip(sides, sums, strict=True)]


def _over_records(work: Callable[[slice], None], values: Floats) -> None:
    """Do ``work`` on every piece of the records of ``(M, N, Q)`` values, in threads, and give their memory back."""
    n, q = values.shape[1:]
    step = max(1, PIECE // q)
    # What is given back at once is large enough to make the call worth it.
    for start in range(0, n, 16 * step):
        chunk = slice(start, min(start + 16 * step, n))
        inner = (slice(chunk.start + part.start, chunk.start + part.stop) for part in pieces(chunk.stop - start, step))
        for _ in in_threads(work, inner, threads(values[:, chunk].size)):
            pass
        for row in values:
            release(row[chunk])


def _nan_below(values: Floats, count: Floats, least: int) -> None:
    """Overwrite ``values`` with NaN where fewer than ``least`` models speak."""
    few = count < least
    if few.any():
        values[few] = np.nan
