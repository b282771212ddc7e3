"""LiRA: the likelihood ratio of the record's scaled logit under models that did and did not train on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from memberscope.attacks.interface import Attack, Floats, by_piece, settled
from memberscope.large import PIECE, pieces
from memberscope.signals.derive import scaled_logits
from memberscope.signals.moments import moments
from memberscope.signals.references import of_pair
from memberscope.types import Access, Signals


@dataclass(frozen=True)
class _Lira(Attack):
    """What the four variants share.

    Carlini et al. 2022, "Membership Inference Attacks From First Principles", algorithm 1 and §VI.

    Args:
        variance_floor: smallest variance of a record, as a share of the pooled one; without it two models that
            happen to agree give an infinite score.
    """

    variance_floor: float = 1e-3

    pooled: ClassVar[bool] = False
    access: ClassVar[Access] = Access.ROUNDED
    recommended: ClassVar[int] = 64

    def _variance(self, shared: Floats, variance: Floats) -> Floats:
        """Variance of each record, ``(n, Q)``: its own, floored, or ``shared``, ``(Q,)``, for all."""
        if self.pooled:
            return np.broadcast_to(shared, variance.shape)
        return np.maximum(variance, self.variance_floor * shared)


def _shared(count: Floats, variance: Floats) -> Floats:
    """The variance pooled over all records, ``(Q,)``."""
    degrees, total = np.zeros(variance.shape[1]), np.zeros(variance.shape[1])
    for records in pieces(len(count), max(1, PIECE // variance.shape[1])):
        own, weight = variance[records], (count[records] - 1)[:, None]
        known = ~np.isnan(own)
        degrees += np.where(known, weight, 0.0).sum(axis=0)
        total += np.where(known, own * weight, 0.0).sum(axis=0)
    shared = np.where(degrees > 0, total / np.maximum(degrees, 1), np.nan)
    # Equal answers of all models (a constant model) leave no variance at all; any positive number will do.
    return np.where(shared > 0, shared, 1.0)


def _shared_of(signals: Signals, target: int) -> tuple[Floats, Floats]:
    """Pooled variances IN and OUT."""

    def make() -> tuple[Floats, Floats]:
        known = moments(signals, target)
        return _shared(known.n_in, known.var_in), _shared(known.n_out, known.var_out)

    return of_pair(signals, target, "pooled variances", make)


@dataclass(frozen=True)
class _Online(_Lira):
    contrasts: ClassVar[bool] = True

    def _weights(self, signals: Signals, target: int) -> tuple[Floats, Floats, Floats]:
        """1/(2σ_in²), 1/(2σ_out²) and log(σ_out/σ_in), ``(N, Q)``; one row for all with pooled variances."""
        known, shared = moments(signals, target), _shared_of(signals, target)
        both = known.var_in, known.var_out
        if self.pooled:
            both = shared[0][None], shared[1][None]
        result = np.empty((3, *both[0].shape))
        for records in pieces(len(both[0]), max(1, PIECE // signals.queries)):
            var_in, var_out = (self._variance(s, v[records]) for s, v in zip(shared, both, strict=True))
            ratio = var_out / var_in
            np.log(ratio, out=ratio)
            np.multiply(ratio, 0.5, out=result[2, records])
            np.divide(0.5, var_in, out=result[0, records])
            np.divide(0.5, var_out, out=result[1, records])
        return result[0], result[1], result[2]

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        phi, known = scaled_logits(signals)[target], moments(signals, target)
        inside, outside, constant = of_pair(signals, target, self, lambda: self._weights(signals, target))

        def ratio(records: slice) -> Floats:
            where = slice(None) if self.pooled else records
            own = phi[records]
            gain = own - known.mean_out[records]
            gain *= gain
            gain *= outside[where]
            cost = own - known.mean_in[records]
            cost *= cost
            cost *= inside[where]
            gain -= cost
            gain += constant[where]
            return np.asarray(gain)

        return settled(by_piece(signals, ratio))


@dataclass(frozen=True)
class _Offline(_Lira):
    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        phi, known = scaled_logits(signals)[target], moments(signals, target)
        shared = _shared_of(signals, target)[1]

        # The z-score itself: its normal CDF, as published, saturates at 1 for the records that matter.
        def z(records: slice) -> Floats:
            distance = phi[records] - known.mean_out[records]
            distance /= np.sqrt(self._variance(shared, known.var_out[records]))
            return np.asarray(distance)

        return settled(by_piece(signals, z))


@dataclass(frozen=True)
class LiraOnline(_Online):
    """log N(φ; μ_in, σ_in) − log N(φ; μ_out, σ_out), every record with its own variances."""

    name: ClassVar[str] = "lira_online"
    title: ClassVar[str] = "LiRA, online, per-record variance"
    source: ClassVar[str] = "Carlini et al. 2022"
    minimum: ClassVar[int] = 4


@dataclass(frozen=True)
class LiraOnlinePooled(_Online):
    """log N(φ; μ_in, σ_in) − log N(φ; μ_out, σ_out) with one pair of variances pooled over all records."""

    name: ClassVar[str] = "lira_online_pooled"
    title: ClassVar[str] = "LiRA, online, pooled variance"
    source: ClassVar[str] = "Carlini et al. 2022"
    pooled: ClassVar[bool] = True
    minimum: ClassVar[int] = 4
    recommended: ClassVar[int] = 16


@dataclass(frozen=True)
class LiraOffline(_Offline):
    """(φ − μ_out)/σ_out from models that did not train on the record, its own σ_out."""

    name: ClassVar[str] = "lira_offline"
    title: ClassVar[str] = "LiRA, offline, per-record variance"
    source: ClassVar[str] = "Carlini et al. 2022"
    minimum: ClassVar[int] = 4


@dataclass(frozen=True)
class LiraOfflinePooled(_Offline):
    """(φ − μ_out)/σ_out with σ_out pooled over all records."""

    name: ClassVar[str] = "lira_offline_pooled"
    title: ClassVar[str] = "LiRA, offline, pooled variance"
    source: ClassVar[str] = "Carlini et al. 2022"
    pooled: ClassVar[bool] = True
    minimum: ClassVar[int] = 2
    recommended: ClassVar[int] = 16


__all__ = ["LiraOffline", "LiraOfflinePooled", "LiraOnline", "LiraOnlinePooled"]
