"""Which models may serve as references for a target.

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

from memberscope.types import Signals

T = TypeVar("T")

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
        members = signals.members
        if signals.population.any():
            members = members[:, ~signals.population]
        packed = np.packbits(members, axis=1)
        # The bits that fill the last byte are zeros on both sides.
        complement = ~packed
        complement[:, -1] &= np.packbits(np.ones((members.shape[1] - 1) % 8 + 1, np.bool_))[0]
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


def of_pair(signals: Signals, target: int, key: Hashable, make: Callable[[], T]) -> T:
    """What ``make`` gives, kept until this thread asks about another target than this one and its twin.

    The two have the same references, and most often come one after the other.
    """
    held = signals.cache.setdefault(("held",), threading.local())
    pair = pair_of(signals, target)
    if getattr(held, "pair", None) != pair:
        held.pair, held.made = pair, {}
    if key not in held.made:
        held.made[key] = make()
    made: T = held.made[key]
    return made


def lock(signals: Signals) -> threading.RLock:
    lock: threading.RLock = signals.cache.setdefault(("lock",), threading.RLock())
    return lock


def pair_of(signals: Signals, target: int) -> frozenset[int]:
    """A target and its twin: they have the same references, and most often come one after the other.

    Not for a population record, of which the twin may speak.
    """
    twin = int(design(signals).twin[target])
    return frozenset({target} if twin < 0 or signals.population.any() else {target, twin})


def by_pair(signals: Signals, targets: Sequence[int]) -> list[list[int]]:
    """Positions of the targets, a target and its twin together, in the order of the first of them."""
    found: dict[frozenset[int], list[int]] = {}
    for position, target in enumerate(targets):
        found.setdefault(pair_of(signals, target), []).append(position)
    return list(found.values())
