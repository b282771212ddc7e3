"""Which models may serve as references for a target, and running moments over them.

Every row of a pool can be target. Leaving the target out of a design in which every record is in the same
number of models would give its membership away by counting: a member of the target is in one reference
fewer than a non-member. So, in such a design, one more model that disagrees with the target about the record
is left out with it: its complementary twin where there is one, else one drawn at random for each record among
those of opposite membership. Then what is left has the same distribution for members and non-members. (A
rule that goes by position, such as "the next row", balances the counts and still tells: a row near the target
that is IN could only stay if the target is IN too, so that a pool whose models differ in quality alarms.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from memberscope.large import PIECE, in_threads, pieces, release, threads
from memberscope.signals.derive import loss, probability, scaled_logits
from memberscope.types import Signals

T = TypeVar("T")
Floats = NDArray[np.float64]

# Any fixed number: the same signals give the same scores.
_SEED = 20_260_312


@dataclass(frozen=True, eq=False)
class Design:
    """How a pool's membership was drawn, as far as leaving a target out must know.

    Args:
        twin: ``(M,)`` row that is the exact complement of each row, −1 without one.
        balanced: every audited record is in the same number of models.
    """

    twin: NDArray[np.int64]
    balanced: bool


def design(signals: Signals) -> Design:
    """The membership design, found from the membership itself."""
    key = ("design",)
    if key not in signals.cache:
        members = signals.members[:, ~signals.population]
        packed = np.packbits(members, axis=1)
        complement = np.packbits(~members, axis=1)
        rows: dict[bytes, list[int]] = {}
        for row, bits in enumerate(packed):
            rows.setdefault(bits.tobytes(), []).append(row)
        twin = np.full(len(members), -1, np.int64)
        for row, bits in enumerate(complement):
            # Rows drawn as pairs stand next to each other; take the nearest if there are several.
            found = rows.get(bits.tobytes(), [])
            if found:
                twin[row] = min(found, key=lambda other: (abs(other - row), other))
        counts = members.sum(axis=0)
        signals.cache[key] = Design(twin, bool(counts.min() == counts.max()))
    result: Design = signals.cache[key]
    return result


def partner(signals: Signals, target: int) -> NDArray[np.int64] | None:
    """The row left out with ``target`` for each record, ``(N,)``, or None where counts give nothing away.

    A population record, which is in no model, has none: −1.
    """
    plan = design(signals)
    if plan.twin[target] < 0 and not plan.balanced:
        return None
    if plan.twin[target] >= 0:
        return np.where(signals.population, -1, plan.twin[target])
    rows, ones = _sides(signals)
    member = signals.members[target]
    draw = np.random.default_rng([_SEED, target]).random(signals.records)[by_id(signals)[1]]
    # The first `ones` rows of a column are IN; a member needs one of the rest.
    place = np.where(member, ones + (draw * (len(rows) - ones)).astype(np.int64), (draw * ones).astype(np.int64))
    return np.where(signals.population, -1, rows[place, np.arange(signals.records)])


def _sides(signals: Signals) -> tuple[NDArray[np.int64], int]:
    """Rows without a twin, ``(M', N)``, for each record those that trained on it first; and how many did."""
    key = ("sides",)
    if key not in signals.cache:
        single = np.flatnonzero(design(signals).twin < 0)
        members = signals.members[single]
        rows = single.astype(np.int32)[np.argsort(~members, axis=0, kind="stable")]
        signals.cache[key] = rows, int(members[:, ~signals.population][:, 0].sum())
    rows, ones = signals.cache[key]
    return rows, ones


def by_id(signals: Signals) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Records in the order of their ids, and each record's place in it: what is drawn for a record follows its id."""
    key = ("by id",)
    if key not in signals.cache:
        order = np.argsort(signals.ids)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        signals.cache[key] = order, place
    order, place = signals.cache[key]
    return order, place


def reference_rows(signals: Signals, target: int) -> NDArray[np.int64]:
    """Rows that serve as references for ``target`` (its twin left out), ``(R,)``."""
    keep = np.ones(len(signals), np.bool_)
    keep[[target, *(twin for twin in (design(signals).twin[target],) if twin >= 0)]] = False
    return np.flatnonzero(keep)


def targets_among_references(signals: Signals, targets: Sequence[int]) -> float:
    """Share of a target's references that are targets themselves, mean over targets; 0 without references."""
    rows = [reference_rows(signals, target) for target in targets]
    return float(np.mean([np.isin(row, list(targets)).mean() if len(row) else 0.0 for row in rows]))


def usable(signals: Signals, target: int, records: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
    """Which model may speak about which record, ``(M, N)``: all but the target and its partner.

    With ``records`` only the columns of these.
    """
    columns = np.arange(signals.records) if records is None else records
    result = np.ones((len(signals), len(columns)), np.bool_)
    result[target] = False
    left_out = partner(signals, target)
    if left_out is not None:
        rows = left_out[columns]
        chosen = np.flatnonzero(rows >= 0)
        result[rows[chosen], chosen] = False
    return result


def counts(signals: Signals, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of the models that may speak about each record trained on it, and how many did not, ``(N,)`` both."""
    key = ("counts",)
    if key not in signals.cache:
        signals.cache[key] = signals.members.sum(axis=0)
    inside = signals.cache[key] - signals.members[target]
    outside = len(signals) - 1 - inside
    left_out = partner(signals, target)
    if left_out is not None:
        chosen = np.flatnonzero(left_out >= 0)
        trained = signals.members[left_out[chosen], chosen]
        inside[chosen] -= trained
        outside[chosen] -= ~trained
    return inside, outside


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
    with _lock(signals):
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


def of_pair(signals: Signals, target: int, key: Hashable, make: Callable[[], T]) -> T:
    """What ``make`` gives, kept until this thread asks about another target than this one and its twin.

    The two have the same references, and most often come one after the other.
    """
    held = signals.cache.setdefault(("held",), threading.local())
    pair = _pair(signals, target)
    if getattr(held, "pair", None) != pair:
        held.pair, held.made = pair, {}
    if key not in held.made:
        held.made[key] = make()
    made: T = held.made[key]
    return made


def _lock(signals: Signals) -> threading.RLock:
    lock: threading.RLock = signals.cache.setdefault(("lock",), threading.RLock())
    return lock


def _pair(signals: Signals, target: int) -> frozenset[int]:
    """A target and its twin: they have the same references, and most often come one after the other.

    Not for a population record, of which the twin may speak.
    """
    twin = int(design(signals).twin[target])
    return frozenset({target} if twin < 0 or signals.population.any() else {target, twin})


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
    with _lock(signals):
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
