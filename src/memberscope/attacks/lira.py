"""LiRA: the likelihood ratio of the record's scaled logit under models that did and did not train on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from memberscope.attacks.interface import Attack, Floats, mean_over_queries, settled
from memberscope.signals.derive import scaled_logits
from memberscope.signals.references import moments
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

    def _variance(self, count: Floats, variance: Floats) -> Floats:
        """Variance of each record, ``(N, Q)``: its own, floored, or the one pooled over all records."""
        degrees = np.where(np.isnan(variance), 0.0, (count - 1)[:, None])
        total = degrees.sum(axis=0)
        shared = np.where(total > 0, np.nansum(variance * degrees, axis=0) / np.maximum(total, 1), np.nan)
        # Equal answers of all models (a constant model) leave no variance at all; any positive number will do.
        shared = np.where(shared > 0, shared, 1.0)
        if self.pooled:
            return np.broadcast_to(shared, variance.shape)
        return np.maximum(variance, self.variance_floor * shared)


@dataclass(frozen=True)
class _Online(_Lira):
    contrasts: ClassVar[bool] = True

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        phi, known = scaled_logits(signals)[target], moments(signals, target)
        var_in, var_out = self._variance(known.n_in, known.var_in), self._variance(known.n_out, known.var_out)
        log_in = -0.5 * ((phi - known.mean_in) ** 2 / var_in + np.log(var_in))
        log_out = -0.5 * ((phi - known.mean_out) ** 2 / var_out + np.log(var_out))
        return settled(mean_over_queries(log_in - log_out))


@dataclass(frozen=True)
class _Offline(_Lira):
    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        phi, known = scaled_logits(signals)[target], moments(signals, target)
        # The z-score itself: its normal CDF, as published, saturates at 1 for the records that matter.
        z = (phi - known.mean_out) / np.sqrt(self._variance(known.n_out, known.var_out))
        return settled(mean_over_queries(z))


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
