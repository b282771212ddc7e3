"""What one attack says about every record of every target; the only thing that statistics see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import SignalsError
from memberscope.large import pieces, release


@dataclass(frozen=True, eq=False)
class Scores:
    """One attack's scores: higher means more likely a member.

    Args:
        attack: the attack's name.
        values: ``(T, N)`` float64, possibly a memory map; NaN where a record could not be scored for a target.
        members: ``(T, N)`` bool, the truth.
        targets: ``(T,)`` row of the signals that each target is.
    """

    attack: str
    values: NDArray[np.float64]
    members: NDArray[np.bool_]
    targets: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape != self.members.shape or len(self.targets) != len(self.values):
            raise SignalsError(
                "scores and membership of one shape (T, N), and T targets",
                f"{self.values.shape}, {self.members.shape} and {len(self.targets)} targets",
                f"Make the attack {self.attack!r} return one score a record.",
            )
        if any(_infinite(row) for row in self.values):
            raise SignalsError(
                "finite scores (NaN for a record that cannot be scored)",
                "infinity",
                f"Mend the attack {self.attack!r}.",
            )

    def of(self, position: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Members' and non-members' scores of the target at ``position``, unscored records left out."""
        values, members = self.values[position], self.members[position]
        scored = ~np.isnan(values)
        return values[scored & members], values[scored & ~members]


def _infinite(values: NDArray[np.float64]) -> bool:
    found = any(bool(np.isinf(values[where]).any()) for where in pieces(len(values)))
    release(values)
    return found
