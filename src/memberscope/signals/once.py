"""All scalars of a model's logits in one pass: scaled logits at several temperatures and the threshold attacks'.

What :mod:`~memberscope.signals.derive` computes one by one, each from a pass of its own, is here taken from a single
exponential of every logit. With e_k = exp((z_k − top)/T) for the classes other than the label, top the highest of
them, φ_T = (z_y − top)/T − log Σ e_k; the exponentials at T/2 are the squares of those at T. Entropies follow from
p_y = expit(φ) and p_k = (1 − p_y) e_k / Σ e_k, whose logarithms are known without taking any. The sums over classes
are taken in C where there is a compiler (``kernels/scalars.c``), else with NumPy; what follows from them is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import c_double, c_int64
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.large import address, release
from memberscope.training.native import kernels
from memberscope.types import Signals

Floats = NDArray[np.float64]

# Numbers in float64 per piece: what a few arrays of them need stays in a core's second-level cache.
_PIECE = 1 << 16

# Records a piece of the compiled sums, which need one record's numbers at a time.
_ROWS = 1 << 14

# Logits of a pool below which compiling costs more than it brings.
_WORTH_COMPILING = 1 << 22

# Exponents below add nothing to a sum above 1, and numbers that underflow take many times as long.
_LEAST = -700.0

# Sums of exponentials below this have lost digits to that clipping.
_FAINT = 1e-250


@dataclass(frozen=True, eq=False)
class Scalars:
    """Of one model: ``(N, Q)`` each.

    Args:
        phi: scaled logits by temperature.
        confidence: log-odds of the highest class; ``entropy``; ``modified``, the modified entropy; None unless asked.
        correct: whether the predicted class is the label; None unless asked.
    """

    phi: dict[float, Floats]
    confidence: Floats | None = None
    entropy: Floats | None = None
    modified: Floats | None = None
    correct: NDArray[np.bool_] | None = None
    faint: list[int] = field(default_factory=list)


# Temperatures whose exponentials are all taken from those at the highest: a φ does not depend on what else is asked.
CHAIN = (4.0, 2.0, 1.0)


def scalars_row(
    signals: Signals,
    row: int,
    temperatures: Sequence[float],
    into: Scalars,
    records: NDArray[np.int64] | None = None,
) -> None:
    """Fill ``into`` from one model's logits.

    Args:
        signals: logits.
        row: the model.
        temperatures: T > 0: one, or some of :data:`CHAIN`, where 1 is needed for more than φ.
        into: arrays to fill; records whose other classes vanish beside the second highest are named in ``faint``,
            with their confidence and modified entropy left to :mod:`~memberscope.signals.derive`.
        records: only these and their first query.
    """
    source, labels = signals.outputs[row], signals.labels
    if records is not None:
        source, labels = source[records, :1], labels[records]
    n, q, k = source.shape
    chained = all(temperature in CHAIN for temperature in temperatures)
    scale = CHAIN if chained else tuple(temperatures)
    summed, step = compiled_sums(signals), max(1, _ROWS // q)
    if summed is None:
        summed, step = plain_sums, max(1, _PIECE // (q * k))
    for start in range(0, n, step):
        where = slice(start, start + step)
        part = source[where]
        label = np.repeat(labels[where], q)
        sums = summed(part.reshape(-1, k), label, scale, min(temperatures), more=into.entropy is not None)
        gap, shape = sums.gap * scale[0], part.shape[:2]
        for temperature in temperatures:
            phi = gap / temperature - np.log(sums.totals[scale.index(temperature)])
            into.phi[temperature][where] = phi.reshape(shape)
        if into.entropy is not None:
            _thresholds(sums, gap, label, where, shape, into)
        release(part)


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the classes other than the label, ``(n,)`` each, of e_k at several temperatures.

    Args:
        gap: how far the label's logit is above the highest of the others, divided by the highest temperature.
        totals: Σ e_k by temperature, as far down as was asked for.
        first: the highest of the others, of equal ones the lowest class; this and the rest None unless asked for.
        left: Σ e_k at temperature 1 without it.
        among: Σ e_k log e_k at temperature 1.
        rest: −Σ p_k log(1 − p_k) without it.
    """

    gap: Floats
    totals: list[Floats]
    first: NDArray[np.int64] | None = None
    left: Floats | None = None
    among: Floats | None = None
    rest: Floats | None = None


def plain_sums(
    logits: NDArray[np.floating[Any]], label: NDArray[np.int64], scale: Sequence[float], lowest: float, *, more: bool
) -> Sums:
    """Sums of ``(n, K)`` logits with NumPy.

    Args:
        logits: of so few records that what is computed on the way stays in cache; K = 1 is class 1 of two.
        label: ``(n,)``.
        scale: temperatures, each half of the one before.
        lowest: the last of them that is needed.
        more: whether more than gap and totals is wanted (of temperature 1).
    """
    z = np.array(logits.T, np.float64, order="C")
    if len(z) == 1:
        z = np.concatenate([np.zeros_like(z), z])
    columns, highest = np.arange(z.shape[1]), scale[0]
    own = z[label, columns]
    z[label, columns] = -np.inf
    top = z.max(axis=0)
    if highest != 1:
        own, top, scaled = own / highest, top / highest, np.divide(z, highest, out=z)
    else:
        scaled = z
    scaled -= top
    np.maximum(scaled, _LEAST / highest, out=scaled)
    e = np.exp(scaled)
    e[label, columns] = 0.0
    totals = [e.sum(axis=0)]
    for temperature in scale[1:]:
        if temperature < lowest:
            break
        np.multiply(e, e, out=e)
        totals.append(e.sum(axis=0))
    if not more:
        return Sums(own - top, totals)
    among = highest * np.einsum("ij,ij->j", e, scaled)
    first = e.argmax(axis=0)
    e[first, columns] = 0.0
    left = e.sum(axis=0)
    with np.errstate(over="ignore"):
        e *= 1 / (totals[-1] + np.exp((own - top) * highest))
    return Sums(own - top, totals, first, left, among, -(e * np.log1p(-e)).sum(axis=0))


def compiled_sums(signals: Signals) -> Callable[..., Sums] | None:
    """:func:`plain_sums` in C, of contiguous logits; None for outputs so few or of such a kind that NumPy sums them.

    Which of the two sums is decided by the signals alone, so that a φ does not depend on what else is asked.
    """
    outputs = signals.outputs
    if len(outputs) * outputs[0].size < _WORTH_COMPILING or outputs[0].shape[2] < 2:
        return None
    name = {np.dtype(np.float32): "sums_float", np.dtype(np.float64): "sums_double"}.get(outputs[0].dtype)
    library = kernels("scalars").library
    if name is None or library is None or any(row.dtype != outputs[0].dtype for row in outputs):
        return None
    function = library[name]

    def sums(
        logits: NDArray[np.floating[Any]],
        label: NDArray[np.int64],
        scale: Sequence[float],
        lowest: float,
        *,
        more: bool,
    ) -> Sums:
        logits, label = np.ascontiguousarray(logits), np.ascontiguousarray(label, np.int64)
        n, k = logits.shape
        gap, left, dot, rest = np.empty((4, n))
        totals, first, scratch = np.empty((len(scale), n)), np.empty(n, np.int64), np.empty(k + 15)
        function(
            address(logits), c_int64(n), c_int64(k), address(label), c_double(scale[0]), len(scale) > 1, more,
            address(gap), address(totals), address(first), address(left), address(dot), address(rest), address(scratch),
        )  # fmt: skip
        return Sums(gap, list(totals), first, left, scale[0] * dot, rest) if more else Sums(gap, list(totals))

    return sums


def _thresholds(
    sums: Sums, gap: Floats, label: NDArray[np.int64], where: slice, shape: tuple[int, ...], into: Scalars
) -> None:
    assert into.entropy is not None and into.confidence is not None
    assert into.modified is not None and into.correct is not None
    assert sums.left is not None and sums.among is not None and sums.rest is not None and sums.first is not None
    total = sums.totals[-1]
    phi = gap - np.log(total)
    log_own, log_rest = _log_sigmoid(phi), _log_sigmoid(-phi)
    own, rest = np.exp(log_own), np.exp(log_rest)
    # Entropy between the label and the others, and among the others: every term has one sign, so nothing cancels.
    among = np.log1p(sums.left) - sums.among / total
    into.entropy[where] = (rest * among - own * log_own - rest * log_rest).reshape(shape)
    # The highest of the others against everything else.
    with np.errstate(divide="ignore"):
        odds = -np.logaddexp(np.log(sums.left), gap)
    ahead = gap > 0
    into.confidence[where] = np.where(ahead, phi, odds).reshape(shape)
    into.correct[where] = (ahead | ((gap == 0) & (label < sums.first))).reshape(shape)
    faint = np.flatnonzero((sums.left < _FAINT) & (gap < np.log(_FAINT)))
    if len(faint):
        into.faint.extend((where.start + np.unique(faint // shape[1])).tolist())
    # −p log(1 − p) of every other class; 1 − p of the highest of them is known from its odds.
    top = np.exp(_log_sigmoid(odds))
    into.modified[where] = (sums.rest - rest * log_own - top * _log_sigmoid(-odds)).reshape(shape)


def _log_sigmoid(x: Floats) -> Floats:
    """log of 1/(1 + exp(−x)), to the last digit on both ends."""
    return np.asarray(np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x))))
