"""What an attack is: a frozen dataclass whose call scores every record of one target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import SignalsError
from memberscope.large import PIECE, in_threads, pieces, release, threads
from memberscope.signals.derive import let_go
from memberscope.signals.references import by_pair, reference_rows
from memberscope.types import Access, Signals

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Attack(ABC):
    """Base of every attack: checks what it needs, then lets the subclass do the mathematics.

    Class attributes say what findings and the docs table show: ``name``; ``title``; ``access``, the least
    access it works with; ``minimum``, the fewest reference models it can work with; ``recommended``, the
    fewest it should be judged by; ``source``, the paper; ``contrasts``, whether the score rests on the difference
    between IN and OUT references, which makes targets that are each other's references vary together; ``serial``,
    whether targets must be scored one after the other.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    access: ClassVar[Access] = Access.SCORES
    minimum: ClassVar[int] = 0
    recommended: ClassVar[int] = 0
    contrasts: ClassVar[bool] = False
    serial: ClassVar[bool] = False

    @property
    def tunes(self) -> bool:
        """Whether the temperature is chosen on references, for each target."""
        return False

    def __call__(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        """Score every record of ``target``.

        Args:
            signals: outputs of M models on N records.
            target: row of the audited model; all other rows (less its twin) are references.
            rng: for attacks that draw at random; the same generator state gives the same scores.

        Returns:
            ``(N,)`` float64, higher = more likely a member; NaN for records that cannot be scored (too few
            references on one side) and for the population.

        Raises:
            SignalsError: the row does not exist, or the access or the references do not suffice.
        """
        if not 0 <= target < len(signals):
            raise SignalsError(f"a target row from 0 to {len(signals) - 1}", str(target), "Name a row of the signals.")
        reason = self.lacks(signals, target)
        if reason:
            raise SignalsError(f"what the attack {self.name!r} needs", reason, "Run another attack.")
        values = np.asarray(self.score(signals, target, rng), np.float64)
        if values.shape != (signals.records,):
            raise SignalsError(
                f"one score a record, shape ({signals.records},)",
                f"{values.shape}",
                f"Mend the attack {self.name!r}.",
            )
        if signals.population.any():
            values = np.where(signals.population, np.nan, values)
        return values

    def score_all(
        self, signals: Signals, targets: Sequence[int], rngs: Sequence[np.random.Generator], into: Floats | None = None
    ) -> Floats:
        """Score every record of many targets; each row is what the call with that target gives.

        Args:
            signals: as for one target.
            targets: rows to audit.
            rngs: a generator a target.
            into: ``(T, N)`` to write to, possibly a memory map.

        Returns:
            ``(T, N)`` scores, ``into`` if it was given.
        """
        values = np.empty((len(targets), signals.records)) if into is None else into

        def work(together: list[int]) -> None:
            for position in together:
                row = values[position]
                row[:] = self(signals, targets[position], rngs[position])
                release(row)
                let_go(signals, targets[position])

        workers = 1 if self.serial else threads(values.size)
        for _ in in_threads(work, by_pair(signals, targets), workers):
            pass
        return values

    @classmethod
    def needs(cls) -> str:
        """The least access as tables show it: an attack that rounded scores suffice for needs scores."""
        return Access.SCORES.label if cls.access == Access.ROUNDED else cls.access.label

    @abstractmethod
    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        """The mathematics: ``(N,)`` scores; everything the attack needs has been checked."""

    def lacks(self, signals: Signals, target: int) -> str:
        """Why the attack cannot run on ``target``, or an empty string."""
        if signals.access < self.access:
            return f"needs {self.access.label}, and only {signals.access.label} are given"
        count = len(reference_rows(signals, target))
        if count < self.minimum:
            models = "reference model" if self.minimum == 1 else "reference models"
            return f"needs at least {self.minimum} {models}, and {count or 'none'} can serve"
        return ""

    def temperatures(self, signals: Signals, target: int) -> Sequence[float]:
        """Temperatures at which scaled logits of all models will be asked for, so that they can be derived at once."""
        return () if self.access == Access.LABEL else (1.0,)

    def parameters(self) -> Mapping[str, Any]:
        """The fields, as JSON values for the findings."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def mean_over_queries(values: Floats) -> Floats:
    """Mean over the queries of a record, ``(N, Q)`` to ``(N,)``."""
    return values[:, 0].copy() if values.shape[1] == 1 else np.asarray(values.mean(axis=1))


def settled(values: Floats, decimals: int = 10) -> Floats:
    """``values`` without the last digits, in which arithmetic leaves its traces.

    Rounded or saturated outputs make many records equal, and running moments reach the same mean along
    different ways for a member and a non-member. Unless the difference of 1e-16 is dropped, it orders these
    records by membership (an AUC of .44 was seen where nothing leaked).
    """
    result = np.round(values, decimals)
    result += 0.0
    return result


def by_piece(signals: Signals, score: Callable[[slice], Floats]) -> Floats:
    """``score(records)``, ``(n, Q)``, of every piece of the records, as means over queries ``(N,)``.

    Pieces are so small that what is computed on the way stays in a core's cache.
    """
    result = np.empty(signals.records)
    for records in pieces(signals.records, max(1, PIECE // signals.queries)):
        result[records] = mean_over_queries(score(records))
    return result
