"""The walk through scores in order in C, where there is a compiler; in whole numbers, so with the very same result."""

from __future__ import annotations

from ctypes import CDLL, c_int64

import numpy as np
from numpy.typing import NDArray

from memberscope.large import address
from memberscope.statistics.places import Ints
from memberscope.statistics.walking import State
from memberscope.training.native import kernels

# Scores below which compiling costs more than it brings.
_WORTH_COMPILING = 1 << 15

# As in kernels/walk.c.
_WALK = np.dtype(
    [
        ("before", "<i8", 4),
        ("totals", "<i8", 4),
        ("moments", "<i8"),
        ("wanted", "<i8", 3),
        ("wins", "<i8", 2),
        ("member_squares", "<i8", 2),
        ("other_squares", "<i8", 2),
        ("distinct", "<i8"),
        ("best_key", "<i8", 2),
        ("best", "<f8", 2),
    ]
)


def library(scores: int) -> CDLL | None:
    """The kernels for so many scores in all; None where NumPy walks."""
    return kernels("walk").library if scores >= _WORTH_COMPILING else None


def block_counts(found: CDLL, keys: Ints) -> NDArray[np.int32]:
    """Records of each label before every 64th key, and in all, ``(B + 1, 4)``."""
    result = np.empty((len(keys) // 64 + 2, 4), np.int32)
    found.block_counts(address(keys), c_int64(len(keys)), address(result))
    return result


class CompiledState(State):
    """What a walk in C has found so far."""

    library: CDLL

    def group(self, key: int, low: Ints, high: Ints) -> None:
        self._walk(np.array([key], np.int64), low, high, np.ascontiguousarray(high - low))

    def piece(self, keys: Ints, low: Ints, high: Ints) -> None:
        self._walk(keys, low, high, None)

    def _walk(self, keys: Ints, low: Ints, high: Ints, sizes: Ints | None) -> None:
        places = []
        for wanted, labels in zip(self.wanted, ([0, 2], [0], [2]), strict=True):
            a, b = np.searchsorted(wanted, [low[labels].sum(), high[labels].sum()])
            places.append(wanted[a:b])
        wanted = np.concatenate(places)
        found = np.empty((5, len(wanted)), np.int64)
        state = np.zeros((), _WALK)
        state["before"], state["totals"] = low, self.ranked.totals.sum(axis=0)
        state["moments"], state["wanted"] = self.moments, [len(part) for part in places]
        state["best"], state["best_key"] = [b[0] for b in self.best], [b[1] for b in self.best]
        self.library.walk(
            address(keys),
            c_int64(len(keys)),
            None if sizes is None else address(sizes),
            address(wanted),
            address(found),
            c_int64(len(wanted)),
            address(state),
        )
        if not self.only_places:
            self.wins += _whole(state["wins"])
            self.member_squares += _whole(state["member_squares"])
            self.other_squares += _whole(state["other_squares"])
            self.distinct += int(state["distinct"])
            self.best = [(float(state["best"][half]), int(state["best_key"][half])) for half in (0, 1)]
        for own, part in zip(self.found, np.split(found, np.cumsum(state["wanted"])[:2], axis=1), strict=True):
            if part.size:
                own.append(part)


def _whole(words: Ints) -> int:
    """A number of 128 bits from its low and high word."""
    return (int(words[1]) << 64) + (int(words[0]) & (1 << 64) - 1)
