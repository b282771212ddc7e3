"""Scores in order, with who is a member and which half a record is in: every figure of an attack from one sort.

A score becomes a 64-bit integer of the same order whose two lowest bits say membership and half, so that sorting
plain integers sorts the records. (Scores that differ in the last two of their 53 bits alone count as equal.) The
records of many targets are walked through in pieces of neighbouring scores that stay in cache; nothing is ever
merged whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memberscope.large import in_threads, pieces, threads
from memberscope.statistics.compiled import CompiledState, block_counts, library
from memberscope.statistics.places import GROUP, NEVER, Ints, Places, Walk
from memberscope.statistics.walking import State

Floats = NDArray[np.float64]

_MAGNITUDE = np.int64(np.iinfo(np.int64).max)
_PIECE = 1 << 15
_SAMPLES = 16
_BLOCK = 64


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
        own &= GROUP
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


class Ranked:
    """Scores of one or more targets in order.

    Args:
        rows: each target's :func:`sorted_keys`.
    """

    def __init__(self, rows: Sequence[Ints]) -> None:
        self.rows = list(rows)
        self._library = library(sum(len(row) for row in self.rows))
        self._prefix = [
            _block_counts(keys) if self._library is None else block_counts(self._library, keys) for keys in self.rows
        ]
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
        cuts = self._cuts()
        positions = np.stack([np.append(np.searchsorted(row, cuts), len(row)) for row in self.rows])
        below = np.concatenate([self.below(cuts).sum(axis=0), self.totals.sum(axis=0)[None]])

        def part(numbers: slice) -> State:
            state = self._state(ranks, moments, only_places)
            for i in range(numbers.start, numbers.stop):
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
                    state.piece(merged, below[i], below[i + 1])
            return state

        # Neighbouring pieces together, so that what is found can be joined in order.
        workers = threads(int(self.totals.sum())) if len(self.rows) > 1 else 1
        first, *rest = in_threads(part, pieces(len(cuts), -(-len(cuts) // workers)), workers)
        for state in rest:
            first.join(state)
        return first.result()

    def _state(self, ranks: Sequence[Ints], moments: bool, only_places: bool) -> State:
        if self._library is None:
            return State(self, ranks, moments, only_places)
        state = CompiledState(self, ranks, moments, only_places)
        state.library = self._library
        return state

    def _cuts(self) -> Ints:
        """Keys that cut all scores into pieces of about equal size; a score that fills a piece is one by itself."""
        if len(self.rows) == 1 and self._library is not None:
            return np.array([np.iinfo(np.int64).min & ~3])
        count = sum(len(row) for row in self.rows)
        step = max(1, _PIECE // _SAMPLES)
        # Where few scores are there each row gives a few samples; the pieces are then smaller.
        samples = np.sort(np.concatenate([row[:: max(1, min(step, len(row)))] for row in self.rows])) & GROUP
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
