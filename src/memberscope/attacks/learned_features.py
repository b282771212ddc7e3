"""What the learned likelihood ratio knows of a record: its statistics under the references, and its surroundings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from memberscope.attacks.interface import Floats, settled
from memberscope.attacks.lira_hierarchical import Shrunk, shrink
from memberscope.signals.moments import Moments
from memberscope.types import Signals

# Directions of the outputs that are kept; more classes are projected at random.
_DIRECTIONS = 32
# Any fixed number: the same signals give the same scores.
_SEED = 20_261_122
# Records' worth of prior in every ridge regression.
_RIDGE = 30.0
# Digits beyond are traces of the order of summation.
_DECIMALS = 6
# Records of a class closer together than this are in one place.
_SAME = 1e-6
_PIECE = 1 << 15

NAMES = (
    "phi",
    "log ratio",
    "mean OUT",
    "mean IN",
    "log scale OUT",
    "log scale IN",
    "z OUT",
    "z IN",
    "residual of the class",
    "residual of like records of the class",
    "residual of like records",
    "membership of like records of the class",
)


def embedding(signals: Signals, order: NDArray[np.int64]) -> NDArray[np.float32]:
    """Where a record lies: the mean output of all models, centred over classes, at unit length, ``(n, D)``.

    Every model counts, whoever trained on the record: no membership enters.
    """
    width = max(2, signals.outputs[0].shape[-1])
    turn = None
    if width > _DIRECTIONS:
        turn = np.random.default_rng(_SEED).standard_normal((width, _DIRECTIONS)) / np.sqrt(_DIRECTIONS)
    result = np.empty((len(order), min(width, _DIRECTIONS)), np.float32)
    step = max(1, _PIECE // width)
    for start in range(0, len(order), step):
        records = order[start : start + step]
        total = np.zeros((len(records), width))
        for row in signals.outputs:
            values = np.asarray(row[records, 0], np.float64)
            if signals.kind == "probabilities":
                values = np.concatenate([1 - values, values], axis=1) if values.shape[1] == 1 else values
                # Far below what is told apart among like records, and above what rounding takes.
                values = np.log(np.maximum(values, 1e-6))
            elif values.shape[1] == 1:
                values = np.concatenate([np.zeros_like(values), values], axis=1)
            total += values
        total -= total.mean(axis=1, keepdims=True)
        length = np.sqrt((total**2).sum(axis=1, keepdims=True))
        total /= np.where(length > 0, length, 1)
        result[start : start + step] = total if turn is None else total @ turn
    return result


@dataclass(frozen=True, eq=False)
class _Ridge:
    """Regression on a fixed basis ``(n, D)`` that predicts each record from the others."""

    records: NDArray[np.int64]
    basis: Floats
    solver: Floats
    leverage: Floats

    @classmethod
    def on(cls, records: NDArray[np.int64], basis: Floats) -> _Ridge:
        solver = np.asarray(np.linalg.inv(basis.T @ basis + _RIDGE * np.eye(basis.shape[1])), np.float64)
        return cls(records, basis, solver, ((basis @ solver) * basis).sum(axis=1))

    def __call__(self, values: Floats) -> Floats:
        own = values[self.records]
        fitted = self.basis @ (self.solver @ (self.basis.T @ own))
        return np.asarray((fitted - self.leverage * own) / (1 - self.leverage))


class Surroundings:
    """Ridge regressions over like records of one model; each record's own value is left out.

    Args:
        place: ``(n, D)`` :func:`embedding`.
        labels: ``(n,)``.
    """

    def __init__(self, place: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        where = place.astype(np.float64)
        self._labels, self._size = labels, np.bincount(labels)[labels]
        self._anywhere = _Ridge.on(np.arange(len(labels)), where)
        order = np.argsort(labels, kind="stable")
        self._within = []
        for chosen in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
            around = where[chosen] - where[chosen].mean(axis=0)
            length = np.sqrt((around**2).sum(axis=1).mean())
            constant = np.full((len(chosen), 1), np.sqrt(2.0))
            around /= length if length > _SAME else 1.0
            self._within.append(_Ridge.on(chosen, np.hstack([constant, around])))

    def of_class(self, values: Floats) -> Floats:
        """Mean of the others of the class, drawn to 0, ``(n,)``."""
        total = np.bincount(self._labels, values)[self._labels]
        return np.asarray((total - values) / (self._size - 1 + _RIDGE))

    def within_class(self, values: Floats) -> Floats:
        """What like records of the class say, ``(n,)``."""
        result = np.empty_like(values)
        for ridge in self._within:
            result[ridge.records] = ridge(values)
        return result

    def anywhere(self, values: Floats) -> Floats:
        """What like records of any class say, ``(n,)``."""
        return self._anywhere(values)


def features(phi: Floats, known: Moments, around: Surroundings) -> NDArray[np.float32]:
    """One row a record, ``(n, F)`` as :data:`NAMES`, means over the queries; NaN without a reference on a side.

    Args:
        phi: ``(n, Q)`` of the model that plays target.
        known: moments over its references.
        around: of the same records.
    """
    each = [_of_query(phi[:, q], shrink(known, q), around) for q in range(phi.shape[1])]
    values = each[0] if len(each) == 1 else np.mean(each, axis=0)
    return settled(values, _DECIMALS).astype(np.float32)


def _of_query(phi: Floats, shrunk: Shrunk, around: Surroundings) -> Floats:
    inside, outside = shrunk.densities(phi)
    ratio, z_in, z_out = inside - outside, shrunk.inside.z(phi), shrunk.outside.z(phi)
    # How likely a member as far as the record alone tells, and how far off under either answer.
    member = np.nan_to_num(expit(ratio), nan=0.5)
    residual = np.nan_to_num(member * z_in + (1 - member) * z_out)
    return np.stack(
        [
            phi,
            ratio,
            shrunk.outside.mean,
            shrunk.inside.mean,
            0.5 * np.log(shrunk.outside.spread),
            0.5 * np.log(shrunk.inside.spread),
            z_out,
            z_in,
            around.of_class(residual),
            around.within_class(residual),
            around.anywhere(residual),
            around.within_class(member - member.mean()),
        ],
        axis=1,
    )
