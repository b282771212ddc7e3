"""What a walk through scores in order looks for and finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# A key above every score's, and the bits of a key that are its score's.
NEVER = np.iinfo(np.int64).max & ~3
GROUP = np.int64(~3)


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
