"""Which models may serve as references for a target, and running moments over them.

Every row of a pool can be target. Leaving the target out of a design in which every record is in the same
number of models would give its membership away by counting: a member of the target is in one reference
fewer than a non-member. So, in such a design, one more model that disagrees with the target about the record
is left out with it: its complementary twin where there is one, else the next row of opposite membership.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memberscope.signals.derive import scaled_logits
from memberscope.types import Signals

Floats = NDArray[np.float64]


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
    """The row left out with ``target`` for each record, ``(N,)``, or None where counts give nothing away."""
    plan = design(signals)
    if plan.twin[target] >= 0:
        return np.full(signals.records, plan.twin[target])
    if not plan.balanced or len(signals) < 3:
        return None
    members = signals.members
    result = np.full(signals.records, -1, np.int64)
    for step in range(1, len(signals)):
        row = (target + step) % len(signals)
        take = (result < 0) & (members[row] != members[target])
        result[take] = row
    # A population record is in no model; any row will do, for members and non-members do not differ there.
    result[result < 0] = (target + 1) % len(signals)
    return result


def reference_rows(signals: Signals, target: int) -> NDArray[np.int64]:
    """Rows that serve as references for ``target`` (its twin left out), ``(R,)``."""
    keep = np.ones(len(signals), np.bool_)
    keep[[target, *(twin for twin in (design(signals).twin[target],) if twin >= 0)]] = False
    return np.flatnonzero(keep)


def usable(signals: Signals, target: int) -> NDArray[np.bool_]:
    """Which model may speak about which record, ``(M, N)``: all but the target and its partner."""
    result = np.ones(signals.members.shape, np.bool_)
    result[target] = False
    left_out = partner(signals, target)
    if left_out is not None:
        result[left_out, np.arange(signals.records)] = False
    return result


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


def moments(signals: Signals, target: int, scale: str = "phi", temperature: float = 1.0) -> Moments:
    """Moments over the references of ``target``, from running moments over all rows: O(N) a target.

    Args:
        signals: the pool's outputs.
        target: the row left out (with its partner).
        scale: ``"phi"`` scaled logit, ``"p"`` probability of the label, ``"loss"`` cross-entropy.
        temperature: divides the logits.
    """
    values = values_of(signals, scale, temperature)
    key = ("moments", scale, float(temperature))
    if key not in signals.cache:
        members = signals.members
        signals.cache[key] = (_sums(values, members), _sums(values, ~members))
    total_in, total_out = signals.cache[key]
    left_out = partner(signals, target)
    rows = [np.full(signals.records, target)] + ([] if left_out is None else [left_out])
    for row in rows:
        value = np.take_along_axis(values, row[None, :, None], axis=0)[0]
        member = signals.members[row, np.arange(signals.records)]
        total_in = _remove(total_in, value, member)
        total_out = _remove(total_out, value, ~member)
    return Moments(*_finish(total_in), *_finish(total_out))


def values_of(signals: Signals, scale: str, temperature: float = 1.0) -> Floats:
    """φ, p_y or loss of every model, ``(M, N, Q)``, cached."""
    if scale == "phi":
        return scaled_logits(signals, temperature)
    key = (scale, float(temperature))
    if key not in signals.cache:
        phi = scaled_logits(signals, temperature)
        if scale == "p":
            from scipy.special import expit

            signals.cache[key] = expit(phi)
        elif scale == "loss":
            signals.cache[key] = np.logaddexp(0.0, -phi)
        else:
            raise ValueError(f"unknown scale {scale!r}")
    values: Floats = signals.cache[key]
    return values


_Sums = tuple[Floats, Floats, Floats]


def _sums(values: Floats, where: NDArray[np.bool_]) -> _Sums:
    """Count (N,), mean (N, Q) and sum of squared deviations (N, Q) over the rows chosen by ``where``."""
    count = where.sum(axis=0).astype(np.float64)
    safe = np.maximum(count, 1)[:, None]
    mean = np.zeros(values.shape[1:])
    for row, chosen in zip(values, where, strict=True):
        mean += np.where(chosen[:, None], row, 0.0)
    mean /= safe
    # Two passes: deviations from the mean itself, so that a later subtraction loses nothing.
    squares = np.zeros(values.shape[1:])
    for row, chosen in zip(values, where, strict=True):
        squares += np.where(chosen[:, None], row - mean, 0.0) ** 2
    return count, mean, squares


def _remove(sums: _Sums, value: Floats, where: NDArray[np.bool_]) -> _Sums:
    """Sums without one value a record, where it was counted (Welford's update run backwards)."""
    count, mean, squares = sums
    fewer = count - where
    gone = where[:, None]
    delta = value - mean
    new_mean = np.where(gone, mean - delta / np.maximum(fewer, 1)[:, None], mean)
    new_squares = np.where(gone, squares - delta * (value - new_mean), squares)
    return fewer, new_mean, np.maximum(new_squares, 0.0)


def _finish(sums: _Sums) -> _Sums:
    count, mean, squares = sums
    some, several = (count > 0)[:, None], (count > 1)[:, None]
    mean = np.where(some, mean, np.nan)
    return count, mean, np.where(several, squares / np.maximum(count - 1, 1)[:, None], np.nan)
