"""Hyper-parameters chosen on reference models that play target, never on the target's own membership."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from scipy.stats import rankdata

from memberscope.attacks.interface import Floats
from memberscope.signals.derive import scaled_logits
from memberscope.signals.references import reference_rows, usable
from memberscope.types import Signals

TEMPERATURES = (1.0, 2.0, 4.0)
OFFLINE_A = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

# Published defaults, used where no reference can play target.
DEFAULT_TEMPERATURE = 2.0
DEFAULT_A = 0.3

# Enough to tell temperatures apart (standard error of an AUC about .006), little enough to cost nothing.
_PLAYERS = 4
_RECORDS = 2_000


@dataclass(frozen=True)
class Tuned:
    """What was chosen, and the mean AUC over the references that played target (NaN without any)."""

    temperature: float
    a: float
    auc: float


def tune(
    signals: Signals, target: int, kind: str, *, temperature: float | None = None, a: float | None = None
) -> Tuned:
    """Temperature (and offline a) with the highest mean AUC of log(p_target/p̄) over references playing target.

    The players' references leave out the audited target, so nothing of it enters the choice.

    Args:
        signals: the pool's outputs.
        target: the audited row.
        kind: ``"rmia_online"``, ``"rmia_offline"`` or ``"base"``: how p̄ is formed.
        temperature: fixed instead of chosen.
        a: fixed instead of chosen.
    """
    key = ("tuned", target, kind, temperature, a)
    if key not in signals.cache:
        signals.cache[key] = _tune(signals, target, kind, temperature, a)
    result: Tuned = signals.cache[key]
    return result


def _tune(signals: Signals, target: int, kind: str, temperature: float | None, a: float | None) -> Tuned:
    temperatures = TEMPERATURES if temperature is None else (temperature,)
    offline = kind == "rmia_offline"
    shares = (OFFLINE_A if a is None else (a,)) if offline else (DEFAULT_A,)
    fallback = Tuned(temperature or DEFAULT_TEMPERATURE, DEFAULT_A if a is None else a, float("nan"))
    references = reference_rows(signals, target)
    if len(temperatures) * len(shares) == 1 or len(references) < 2:
        return fallback
    # The players are spread over the pool, the records over the data: no random draw, no dependence on order.
    players = references[np.linspace(0, len(references) - 1, min(_PLAYERS, len(references))).round().astype(int)]
    audited = np.flatnonzero(~signals.population)
    records = audited[np.linspace(0, len(audited) - 1, min(_RECORDS, len(audited))).round().astype(int)]
    total = np.zeros((len(temperatures), len(shares)))
    played = 0
    for player in np.unique(players):
        allowed = usable(signals, int(player))[:, records]
        allowed[target] = False
        member = signals.members[player][records]
        trained = signals.members[:, records]
        if not (allowed & ~trained).any(axis=0).all() or member.all() or not member.any():
            continue
        played += 1
        for i, t in enumerate(temperatures):
            phi = scaled_logits(signals, t)[:, records, 0]
            p = expit(phi)
            own = -np.logaddexp(0.0, -phi[player])
            mean_out, mean_in = _mean(p, allowed & ~trained), _mean(p, allowed & trained)
            for j, share in enumerate(shares):
                if kind == "rmia_online":
                    expected = np.where(np.isnan(mean_in), mean_out, 0.5 * (mean_in + mean_out))
                elif offline:
                    expected = 0.5 * ((1 + share) * mean_out + 1 - share)
                else:
                    expected = _mean(p, allowed)
                total[i, j] += _auc(own - np.log(np.maximum(expected, np.finfo(np.float64).tiny)), member)
    if not played:
        return fallback
    best = np.unravel_index(int(np.argmax(total)), total.shape)
    return Tuned(temperatures[best[0]], shares[best[1]], float(total[best]) / played)


def _mean(values: Floats, where: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Floats:
    count = where.sum(axis=0)
    return np.where(count > 0, np.where(where, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _auc(score: Floats, member: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> float:
    ranks = rankdata(score)
    positives, negatives = int(member.sum()), int((~member).sum())
    return float((ranks[member].sum() - positives * (positives + 1) / 2) / (positives * negatives))
