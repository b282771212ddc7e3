"""Scores in order, with who is a member and which half a record is in: every figure of an attack from one sort.

A score becomes a 64-bit integer of the same order whose two lowest bits say membership and half, so that sorting
plain integers sorts the records. (Scores that differ in the last two of their 53 bits alone count as equal.) The
records of many targets are walked through in pieces of neighbouring scores that stay in cache; nothing is ever
merged whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memberscope.large import pieces

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A key above every score's.
NEVER = np.iinfo(np.int64).max & ~3

_MAGNITUDE = np.int64(np.iinfo(np.int64).max)
_GROUP = np.int64(~3)
_PIECE = 1 << 15
_SAMPLES = 16
_BLOCK = 64
_MARK = 64


def sorted_keys(values: Floats, labels: NDArray[np.uint8]) -> Ints:
    """The scored records' keys in order.

    Args:
        values: ``(N,)`` scores, NaN where there is none.
        labels: ``(N,)`` 1 for a member, plus 2 for a record of the half.
    """
    keys = np.empty(len(values), np.int64)
    filled = 0
    for where in pieces(len(values)):
        part, label = values[where], labels[where]
        if np.isnan(part).any():
            scored = ~np.isnan(part)
            part, label = part[scored], label[scored]
        # A zero has one sign only.
        own = (part + 0.0).view(np.int64)
        own ^= (own >> 63) & _MAGNITUDE
        own &= _GROUP
        np.bitwise_or(own, label, out=keys[filled : filled + len(own)])
        filled += len(own)
    keys = keys[:filled]
    keys.sort()
    return keys


def score_of(key: int) -> float:
    """The lowest score with this key; infinity for :data:`NEVER`."""
    if key >= NEVER:
        return float("inf")
    bits = np.array([key & ~3], np.int64)
    bits ^= (bits >> 63) & _MAGNITUDE
    return float(bits.view(np.float64)[0])


@dataclass(frozen=True, eq=False)
class Places:
    """Non-members of given rank from the top, ``(R,)`` each.

    Args:
        keys: of the rank's score, labels cleared.
        hits: members at or above it; ``alarms`` non-members.
        hits_above: members above it; ``alarms_above`` non-members.
    """

    keys: Ints
    hits: Ints
    alarms: Ints
    hits_above: Ints
    alarms_above: Ints


@dataclass(frozen=True, eq=False)
class Walk:
    """What one walk through all scores found.

    Args:
        twice_wins: over all pairs of a member and a non-member: 2 where the member is higher, 1 where equal.
        squares: sums of (2 × non-members below + equal)² over members, and the same over non-members; 0 unless asked.
        best: keys of the thresholds with the largest TPR − FPR outside and inside the half.
        ranks: the ranks asked for among all non-members.
        places: of these, and of the ranks asked for outside and inside the half.
        distinct: different scores of non-members.
    """

    twice_wins: int
    squares: tuple[int, int]
    best: tuple[int, int]
    ranks: Ints
    places: tuple[Places, Places, Places]
    distinct: int


class Ranked:
    """Scores of one or more targets in order.

    Args:
        rows: each target's :func:`sorted_keys`.
    """

    def __init__(self, rows: Sequence[Ints]) -> None:
        self.rows = list(rows)
        self._prefix = [_block_counts(keys) for keys in self.rows]
        # (T, 4) records by label.
        self.totals = np.stack([prefix[-1] for prefix in self._prefix]).astype(np.int64)
        total = self.totals.sum(axis=0)
        self.members, self.non_members = int(total[1] + total[3]), int(total[0] + total[2])
        # Members and non-members outside and inside the half.
        self.halves = ((int(total[1]), int(total[0])), (int(total[3]), int(total[2])))

    def below(self, keys: Ints) -> Ints:
        """Records of each label below each key, ``(T, Q, 4)``."""
        return np.stack([_below(row, prefix, keys) for row, prefix in zip(self.rows, self._prefix, strict=True)])

    def at_least(self, keys: Ints) -> Ints:
        """Records of each label at or above each key, ``(T, Q, 4)``."""
        return np.asarray(self.totals[:, None] - self.below(keys))

    def threshold(self, places: Places, which: int, rank: int) -> tuple[int, int, int]:
        """The lowest non-member's score that at most ``rank`` non-members reach.

        Args:
            places: ``rank`` among them.
            which: 0 among all, 1 outside the half, 2 inside it.
            rank: number of false alarms.

        Returns:
            Its key (:data:`NEVER` if there is none), and the members and non-members at or above it.
        """
        if not rank:
            return NEVER, 0, 0
        index = int(np.flatnonzero(places.alarms >= rank)[0])
        if places.alarms[index] > rank:
            above = int(places.alarms_above[index])
            if not above:
                return NEVER, 0, 0
            places, index = self.walk(ranks=_alone(which, above), only_places=True).places[which], 0
        return int(places.keys[index]), int(places.hits[index]), int(places.alarms[index])

    def walk(self, ranks: Sequence[Ints], *, moments: bool = False, only_places: bool = False) -> Walk:
        """Once through all scores from the lowest to the highest.

        Args:
            ranks: increasing ranks (1 the highest) among all non-members, outside and inside the half.
            moments: sum squares too (exactly, for the variance of the AUC).
            only_places: look up ranks alone, and leave out the pieces without any.
        """
        state = _State(self, ranks, moments, only_places)
        cuts = self._cuts()
        positions = np.stack([np.append(np.searchsorted(row, cuts), len(row)) for row in self.rows])
        below = np.concatenate([self.below(cuts).sum(axis=0), self.totals.sum(axis=0)[None]])
        for i in range(len(cuts)):
            if only_places and not state.asked(below[i], below[i + 1]):
                continue
            if i + 1 < len(cuts) and cuts[i + 1] == cuts[i] + 4:
                state.group(int(cuts[i]), below[i], below[i + 1])
                continue
            parts = [row[a:b] for row, a, b in zip(self.rows, positions[:, i], positions[:, i + 1], strict=True)]
            merged = parts[0] if len(parts) == 1 else np.concatenate(parts)
            if len(parts) > 1:
                merged.sort()
            if len(merged):
                state.piece(merged, below[i])
        return state.result()

    def _cuts(self) -> Ints:
        """Keys that cut all scores into pieces of about equal size; a score that fills a piece is one by itself."""
        count = sum(len(row) for row in self.rows)
        step = max(1, _PIECE // _SAMPLES)
        # Where few scores are there each row gives a few samples; the pieces are then smaller.
        samples = np.sort(np.concatenate([row[:: max(1, min(step, len(row)))] for row in self.rows])) & _GROUP
        wanted = max(1, round(count / _PIECE))
        chosen = samples[np.linspace(0, len(samples), wanted, endpoint=False).astype(np.int64)]
        heavy = chosen[1:][chosen[1:] == chosen[:-1]]
        return np.unique(np.concatenate([[np.iinfo(np.int64).min & ~3], chosen[1:], heavy, heavy + 4]))


def _alone(which: int, rank: int) -> list[Ints]:
    return [np.array([rank] if i == which else [], np.int64) for i in range(3)]


def _block_counts(keys: Ints) -> NDArray[np.int32]:
    """Records of each label before every :data:`_BLOCK`-th and in all, ``(B + 1, 4)``."""
    whole = len(keys) // _BLOCK
    result = np.zeros((whole + 2, 4), np.int32)
    for where in pieces(whole, _PIECE // _BLOCK):
        part = keys[where.start * _BLOCK : where.stop * _BLOCK]
        # A block's bits are one number of 64.
        bits = [np.packbits((part & bit).astype(np.bool_)).view(np.uint64) for bit in (1, 2)]
        both, member, half = (np.bitwise_count(x).astype(np.int32) for x in (bits[0] & bits[1], *bits))
        counts = result[where.start + 1 : where.stop + 1]
        counts[:, 0] = _BLOCK - member - half + both
        counts[:, 1], counts[:, 2], counts[:, 3] = member - both, half - both, both
    result[whole + 1] = np.bincount(keys[whole * _BLOCK :] & 3, minlength=4)
    return np.cumsum(result, axis=0, dtype=np.int32)


def _below(row: Ints, prefix: NDArray[np.int32], keys: Ints) -> Ints:
    position = np.searchsorted(row, keys)
    block = position // _BLOCK
    result = prefix[block].astype(np.int64)
    if not len(row):
        return result
    window = np.minimum(block[:, None] * _BLOCK + np.arange(_BLOCK), len(row) - 1)
    label = (row[window] & 3).astype(np.int8)
    label[np.arange(_BLOCK) >= (position - block * _BLOCK)[:, None]] = 4
    for number in range(4):
        result[:, number] += np.count_nonzero(label == number, axis=1)
    return result


class _State:
    """What a walk has found so far."""

    def __init__(self, ranked: Ranked, ranks: Sequence[Ints], moments: bool, only_places: bool) -> None:
        self.ranked, self.moments, self.only_places, self.ranks = ranked, moments, only_places, ranks[0]
        self.wins, self.member_squares, self.other_squares, self.distinct = 0, 0, 0, 0
        self.best = [(0.0, NEVER), (0.0, NEVER)]
        # Places from the bottom, counted from 0.
        counts = (ranked.non_members, ranked.halves[0][1], ranked.halves[1][1])
        self.wanted = [count - rank[::-1] for count, rank in zip(counts, ranks, strict=True)]
        self.found: list[list[NDArray[np.int64]]] = [[], [], []]

    def asked(self, low: Ints, high: Ints) -> bool:
        """Whether a rank is looked for among the records between these counts."""
        bounds = ((low[0] + low[2], high[0] + high[2]), (low[0], high[0]), (low[2], high[2]))
        return any(
            np.searchsorted(wanted, a) < np.searchsorted(wanted, b)
            for wanted, (a, b) in zip(self.wanted, bounds, strict=True)
        )

    def group(self, key: int, low: Ints, high: Ints) -> None:
        """A piece of equal scores, however many."""
        self._walked(np.array([key]), [np.zeros(1, np.int64) for _ in range(4)], high - low, low)

    def piece(self, keys: Ints, low: Ints) -> None:
        """Keys in order, the first of them above ``low`` records of each label."""
        group = keys & _GROUP
        new = np.empty(len(keys), np.bool_)
        new[0] = True
        np.not_equal(group[1:], group[:-1], out=new[1:])
        label = keys & 3
        total = np.bincount(label, minlength=4)
        if len(keys) < 1 << 16:
            # Four running counts of 16 bits in one number.
            ones = np.left_shift(1, label << 4)
            packed = np.cumsum(ones)
            packed -= ones
            if new.all() and not self.only_places:
                self._unequal(keys, group, packed, total, low)
                return
            starts = np.flatnonzero(new)
            packed = packed[starts]
            before = [_unpack(packed, number) for number in range(4)]
        else:
            starts = np.flatnonzero(new)
            before = [(np.cumsum(label == number) - (label == number))[starts] for number in range(4)]
        self._walked(group[starts], before, total, low)

    def _walked(self, group: Ints, before: list[Ints], total: Ints, low: Ints) -> None:
        """Groups of equal scores: records of each label before each within the piece, and the piece's totals."""
        if not self.only_places:
            for half in (0, 1):
                self._curve(half, group, before[2 * half + 1], before[2 * half], low)
            self._wins(before, total, low)
        self._places(group, before, total, low)

    def _unequal(self, keys: Ints, group: Ints, packed: Ints, total: Ints, low: Ints) -> None:
        """As :meth:`_walked` where all scores differ, with a fraction of the work."""
        # Within a piece everything is a whole number below 2^53, and so exact in floating point, where sums are fast.
        member = (keys & 1).astype(np.float64)
        members = (((packed >> 16) + (packed >> 48)) & 0xFFFF).astype(np.float64)
        others = np.arange(len(keys), dtype=np.float64)
        others -= members
        here, beaten = int(total[1] + total[3]), member * others
        also, offset, base = len(keys) - here, int(low[0] + low[2]), int(low[1] + low[3])
        wins = int(beaten.sum())
        self.distinct += also
        self.wins += 2 * (wins + offset * here)
        if self.moments:
            squares = int(np.dot(beaten, others))
            self.member_squares += 4 * (squares + 2 * offset * wins + offset**2 * here)
            beaten = members - member * members
            losses, squares = int(beaten.sum()), int(np.dot(beaten, members))
            self.other_squares += 4 * (squares + 2 * base * losses + base**2 * also)
        # The best threshold is looked for only between marks that leave room for a better one.
        marks = packed[::_MARK]
        for half, (own, rest) in enumerate(self.ranked.halves):
            if not own or not rest:
                continue
            tpr = 1 - (_unpack(marks, 2 * half + 1) + low[2 * half + 1]) / own
            fpr = 1 - (np.append(_unpack(marks, 2 * half), total[2 * half]) + low[2 * half]) / rest
            best = max(self.best[half][0], float((tpr - fpr[:-1]).max()))
            room = np.flatnonzero(tpr - fpr[1:] >= best - 1e-12)
            index = (room[:, None] * _MARK + np.arange(_MARK)).ravel()
            index = index[index < len(keys)]
            if len(index):
                chosen = packed[index]
                self._curve(half, group[index], _unpack(chosen, 2 * half + 1), _unpack(chosen, 2 * half), low)
        if self.asked(low, low + total):
            self._places(group, [_unpack(packed, number) for number in range(4)], total, low)

    def _curve(self, half: int, group: Ints, members: Ints, others: Ints, low: Ints) -> None:
        own, rest = self.ranked.halves[half]
        if not own or not rest:
            return
        gain = 1 - (members + low[2 * half + 1]) / own
        gain -= 1 - (others + low[2 * half]) / rest
        highest = float(gain.max())
        # Of equal ones the highest threshold, and none at all unless it is better than accusing nobody.
        if highest > 0 and highest >= self.best[half][0]:
            self.best[half] = highest, int(group[len(gain) - 1 - int(np.argmax(gain[::-1]))])

    def _wins(self, before: list[Ints], total: Ints, low: Ints) -> None:
        members, others = before[1] + before[3], before[0] + before[2]
        here, also = _sizes(members, int(total[1] + total[3])), _sizes(others, int(total[0] + total[2]))
        self.distinct += int(np.count_nonzero(also))
        twice = 2 * (others + int(low[0] + low[2])) + also
        self.wins += int(np.dot(here, twice))
        if self.moments:
            self.member_squares += _squares(here, twice)
            self.other_squares += _squares(also, 2 * (members + int(low[1] + low[3])) + here)

    def _places(self, group: Ints, before: list[Ints], total: Ints, low: Ints) -> None:
        for which, labels in enumerate(((0, 2), (0,), (2,))):
            wanted = self.wanted[which]
            if not len(wanted):
                continue
            start = sum(int(low[label]) for label in labels)
            count = sum(int(total[label]) for label in labels)
            first, last = np.searchsorted(wanted, [start, start + count])
            if first == last:
                continue
            running = sum((before[label] for label in labels), np.zeros(len(group), np.int64))
            # The group of the record: the last one that begins at or before it.
            index = np.searchsorted(running, wanted[first:last] - start, "right") - 1
            sides = []
            for side in ((1, 3), (0, 2)) if which == 0 else ((2 * which - 1,), (2 * which - 2,)):
                own = sum((before[label] for label in side), np.zeros(len(group), np.int64))
                size = _sizes(own, sum(int(total[label]) for label in side))
                all_of = sum(int(self.ranked.totals[:, label].sum()) for label in side)
                reached = all_of - own[index] - sum(int(low[label]) for label in side)
                sides += [reached, reached - size[index]]
            self.found[which].append(np.stack([group[index], sides[0], sides[2], sides[1], sides[3]]))

    def result(self) -> Walk:
        """Everything found."""
        places = []
        for found in self.found:
            joined = np.concatenate(found, axis=1)[:, ::-1] if found else np.zeros((5, 0), np.int64)
            places.append(Places(*joined))
        return Walk(
            self.wins,
            (self.member_squares, self.other_squares),
            (self.best[0][1], self.best[1][1]),
            self.ranks,
            (places[0], places[1], places[2]),
            self.distinct,
        )


def _unpack(packed: Ints, label: int) -> Ints:
    return (packed >> (16 * label)) & 0xFFFF


def _sizes(before: Ints, total: int) -> Ints:
    """How many are in each group, from how many are before it."""
    result = np.empty_like(before)
    np.subtract(before[1:], before[:-1], out=result[:-1])
    result[-1] = total - before[-1]
    return result


def _squares(weights: Ints, values: Ints) -> int:
    """Σ weight × value², exactly."""
    if int(weights.sum()) * int(values.max()) ** 2 < 1 << 62:
        return int(np.dot(weights, values * values))
    if len(weights) == 1:
        return int(weights[0]) * int(values[0]) ** 2
    middle = len(weights) // 2
    return _squares(weights[:middle], values[:middle]) + _squares(weights[middle:], values[middle:])
