"""Hyper-parameters chosen on reference models that play target, never on the target's own membership."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memberscope.attacks.interface import Floats, by_piece, settled
from memberscope.large import PIECE, pieces
from memberscope.signals.derive import log_probability, scaled_logits, scaled_logits_row
from memberscope.signals.moments import LOST, Means, means
from memberscope.signals.references import by_id, of_pair, partner, reference_rows
from memberscope.types import Signals

TEMPERATURES = (1.0, 2.0, 4.0)
OFFLINE_A = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

# Published defaults, used where no reference can play target.
DEFAULT_TEMPERATURE = 2.0
DEFAULT_A = 0.3

# Probabilities below are told apart by nobody; both sides of every ratio are clipped there.
TINY = float(np.finfo(np.float64).tiny)

# Of log(p_target/p̄): means of probabilities near 1 are right to about 1e-14.
DECIMALS = 12

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

    The players' references leave out the audited target and its twin, so nothing of it enters the choice. At
    most 2,000 records are used, and only these are brought to each temperature.

    Args:
        signals: the pool's outputs.
        target: the audited row.
        kind: ``"rmia_online"``, ``"rmia_offline"`` or ``"base"``: how p̄ is formed.
        temperature: fixed instead of chosen.
        a: fixed instead of chosen.
    """
    references = reference_rows(signals, target)
    # A target and its twin have the same references and so the same answer.
    key = ("tuned", references.tobytes(), kind, temperature, a)
    if key not in signals.cache:
        signals.cache[key] = _tune(signals, references, kind, temperature, a)
    result: Tuned = signals.cache[key]
    return result


def _tune(
    signals: Signals, references: NDArray[np.int64], kind: str, temperature: float | None, a: float | None
) -> Tuned:
    temperatures = TEMPERATURES if temperature is None else (temperature,)
    offline = kind == "rmia_offline"
    shares = (OFFLINE_A if a is None else (a,)) if offline else (DEFAULT_A,)
    fallback = Tuned(temperature or DEFAULT_TEMPERATURE, DEFAULT_A if a is None else a, float("nan"))
    if len(temperatures) * len(shares) == 1 or len(references) < 2:
        return fallback
    # The players are spread over the pool, the records over the ids: no random draw.
    players = references[np.linspace(0, len(references) - 1, min(_PLAYERS, len(references))).round().astype(int)]
    by_name = by_id(signals)[0]
    audited = by_name[~signals.population[by_name]]
    records = audited[np.linspace(0, len(audited) - 1, min(_RECORDS, len(audited))).round().astype(int)]
    trained = signals.members[:, records]
    total = np.zeros((len(temperatures), len(shares)))
    played = 0
    for player in np.unique(players):
        member, gone = trained[player], _gone(signals, references, int(player), records)
        used = trained.shape[0] - sum(fresh for _, fresh in gone)
        used_in = trained.sum(axis=0) - sum(trained[rows, _columns(rows)] & fresh for rows, fresh in gone)
        if (used - used_in).min() < 1 or member.all() or not member.any():
            continue
        played += 1
        for i, t in enumerate(temperatures):
            log_p, p, sums = _field(signals, t, records)
            known = _means(p, trained, sums, gone, used_in.astype(np.float64), (used - used_in).astype(np.float64))
            own = np.maximum(log_p[player], np.log(TINY))
            for j, share in enumerate(shares):
                expected = expected_probability(kind, known, share)[:, 0]
                total[i, j] += _auc(settled(own - np.log(np.maximum(expected, TINY)), DECIMALS), member)
    if not played:
        return fallback
    best = np.unravel_index(int(np.argmax(total)), total.shape)
    return Tuned(temperatures[best[0]], shares[best[1]], float(total[best]) / played)


def expected_probability(kind: str, known: Means, a: float) -> Floats:
    """p̄, the probability expected of a model of unknown membership, ``(N, Q)``; NaN where no model speaks.

    Args:
        kind: ``"rmia_online"`` ½(mean p_in + mean p_out), ``"rmia_offline"`` ½[(1 + a)·mean p_out + 1 − a],
            ``"base"`` the mean over all references.
        known: means of p over the references.
        a: for ``"rmia_offline"``.
    """
    if kind == "rmia_offline":
        return np.asarray(0.5 * ((1 + a) * known.mean_out + (1 - a)))
    # A record that is IN (or OUT) in no model, such as the population, has only the other mean.
    no_in, no_out = known.n_in < 1, known.n_out < 1
    mean_in = np.where(no_in[:, None], known.mean_out, known.mean_in) if no_in.any() else known.mean_in
    mean_out = np.where(no_out[:, None], known.mean_in, known.mean_out) if no_out.any() else known.mean_out
    if kind == "rmia_online":
        return np.asarray(0.5 * (mean_in + mean_out))
    n_in, n_out = known.n_in[:, None], known.n_out[:, None]
    return np.asarray((n_in * mean_in + n_out * mean_out) / np.maximum(n_in + n_out, 1))


def log_ratio(signals: Signals, target: int, kind: str, temperature: float, a: float) -> Floats:
    """log(p_target/p̄) of every record, ``(N,)``, mean over queries; ``kind`` and ``a`` as in p̄."""

    def make() -> Floats:
        known = means(signals, target, "p", temperature)
        result = np.empty_like(known.mean_out)
        for at in pieces(len(result), max(1, PIECE // result.shape[1])):
            part = Means(known.n_in[at], known.mean_in[at], known.n_out[at], known.mean_out[at])
            result[at] = np.log(np.maximum(expected_probability(kind, part, a), TINY))
        return result

    phi = scaled_logits(signals, temperature)[target]
    expected = of_pair(signals, target, ("log expected", kind, temperature, a), make)
    least = np.log(TINY)
    return settled(by_piece(signals, lambda at: np.maximum(log_probability(phi[at]), least) - expected[at]), DECIMALS)


_Gone = list[tuple[NDArray[np.int64], NDArray[np.bool_]]]


def _gone(signals: Signals, references: NDArray[np.int64], player: int, records: NDArray[np.int64]) -> _Gone:
    """Rows ``(n,)`` that may not speak when ``player`` is target, and where each was not named before."""
    rows = [np.full(len(records), player)]
    left_out = _partner(signals, player, records)
    if left_out is not None:
        rows.append(left_out)
    rows += [np.full(len(records), row) for row in np.setdiff1d(np.arange(len(signals)), references)]
    fresh = [np.logical_and.reduce([row != other for other in rows[:i]], initial=True) for i, row in enumerate(rows)]
    return [(row, np.broadcast_to(new, row.shape)) for row, new in zip(rows, fresh, strict=True)]


def _partner(signals: Signals, player: int, records: NDArray[np.int64]) -> NDArray[np.int64] | None:
    key = ("tuning partner", player)
    if key not in signals.cache:
        rows = partner(signals, player)
        signals.cache[key] = None if rows is None else rows[records]
    result: NDArray[np.int64] | None = signals.cache[key]
    return result


_Field = tuple[Floats, Floats, tuple[Floats, Floats]]


def _field(signals: Signals, temperature: float, records: NDArray[np.int64]) -> _Field:
    """log p and p ``(M, n)`` of the first query at one temperature, and the sums of p over IN and OUT models."""
    key = ("tuning", temperature)
    if key not in signals.cache:
        log_p = np.empty((len(signals), len(records)))
        for row, result in enumerate(log_p):
            result[:] = log_probability(scaled_logits_row(signals, row, temperature, records)[:, 0])
        p, trained = np.exp(log_p), signals.members[:, records]
        signals.cache[key] = log_p, p, ((p * trained).sum(axis=0), (p * ~trained).sum(axis=0))
    result_: _Field = signals.cache[key]
    return result_


def _means(
    p: Floats, trained: NDArray[np.bool_], sums: tuple[Floats, Floats], gone: _Gone, n_in: Floats, n_out: Floats
) -> Means:
    sides = []
    for total, count, is_in in zip(sums, (n_in, n_out), (True, False), strict=True):
        taken = np.zeros_like(total)
        for rows, fresh in gone:
            taken += p[rows, _columns(rows)] * (fresh & (trained[rows, _columns(rows)] == is_in))
        rest = total - taken
        lost = np.flatnonzero((rest < LOST * taken) & (count > 0))
        if len(lost):
            speaks = trained[:, lost] == is_in
            for rows, _ in gone:
                speaks[rows[lost], np.arange(len(lost))] = False
            rest[lost] = (p[:, lost] * speaks).sum(axis=0)
        mean = np.where(count > 0, rest / np.maximum(count, 1), np.nan)
        sides += [count, mean[:, None]]
    return Means(*sides)


def _columns(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.arange(len(rows))


def _auc(score: Floats, member: NDArray[np.bool_]) -> float:
    """Area under the ROC curve, ties counting one half."""
    inside, outside = np.sort(score[member]), np.sort(score[~member])
    below = np.searchsorted(outside, inside, "left").sum() + np.searchsorted(outside, inside, "right").sum()
    return float(below) / (2 * len(inside) * len(outside))
