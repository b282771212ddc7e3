"""The walk through scores in order with NumPy: what ``kernels/walk.c`` does where there is a compiler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memberscope.statistics.places import GROUP, NEVER, Ints, Places, Walk

if TYPE_CHECKING:
    from memberscope.statistics.ranked import Ranked

# Between marks so many keys apart a better threshold is ruled out, or looked for.
_MARK = 64


class State:
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

    def piece(self, keys: Ints, low: Ints, high: Ints) -> None:
        """Keys in order, the first of them above ``low`` records of each label, ``high`` with the last."""
        group = keys & GROUP
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

    def join(self, above: State) -> None:
        """Add what was found in the pieces that follow."""
        self.wins, self.distinct = self.wins + above.wins, self.distinct + above.distinct
        self.member_squares += above.member_squares
        self.other_squares += above.other_squares
        for half in (0, 1):
            if above.best[half][0] > 0 and above.best[half][0] >= self.best[half][0]:
                self.best[half] = above.best[half]
        for own, more in zip(self.found, above.found, strict=True):
            own += more

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
