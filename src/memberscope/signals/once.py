"""All scalars of a model's logits in one pass: scaled logits at several temperatures and the threshold attacks'.

What :mod:`~memberscope.signals.derive` computes one by one, each from a pass of its own, is here taken from a single
exponential of every logit. With e_k = exp((z_k − top)/T) for the classes other than the label, top the highest of
them, φ_T = (z_y − top)/T − log Σ e_k; the exponentials at T/2 are the squares of those at T. Entropies follow from
p_y = expit(φ) and p_k = (1 − p_y) e_k / Σ e_k, whose logarithms are known without taking any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memberscope.large import release
from memberscope.types import Signals

Floats = NDArray[np.float64]

# Numbers in float64 per piece: what a few arrays of them need stays in a core's second-level cache.
_PIECE = 1 << 16

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
    step = max(1, _PIECE // (q * k))
    chained = all(temperature in CHAIN for temperature in temperatures)
    highest = CHAIN[0] if chained else temperatures[0]
    for start in range(0, n, step):
        where = slice(start, start + step)
        part = source[where]
        z = np.array(np.moveaxis(part, 2, 0), np.float64, order="C").reshape(k, -1)
        if k == 1:
            z = np.concatenate([np.zeros_like(z), z])
        label = np.repeat(labels[where], q)
        columns = np.arange(z.shape[1])
        own = z[label, columns]
        z[label, columns] = -np.inf
        top = z.max(axis=0)
        if highest != 1:
            own, top, scaled = own / highest, top / highest, np.divide(z, highest, out=z)
        else:
            scaled = z
        scaled -= top
        np.maximum(scaled, _LEAST / highest, out=scaled)
        gap = own - top
        e = np.exp(scaled)
        e[label, columns] = 0.0
        reached = highest
        shape = part.shape[:2]
        for temperature in sorted(temperatures, reverse=True):
            while reached > temperature:
                np.multiply(e, e, out=e)
                reached /= 2
                gap *= 2
            into.phi[temperature][where] = (gap - np.log(e.sum(axis=0))).reshape(shape)
        if into.entropy is not None:
            # Last comes temperature 1, whose exponentials are in e.
            _thresholds(scaled, e, gap, label, columns, highest, where, shape, into)
        release(part)


def _thresholds(
    scaled: Floats,
    e: Floats,
    gap: Floats,
    label: NDArray[np.int64],
    columns: NDArray[np.int64],
    highest: float,
    where: slice,
    shape: tuple[int, ...],
    into: Scalars,
) -> None:
    assert into.entropy is not None and into.confidence is not None
    assert into.modified is not None and into.correct is not None
    total = e.sum(axis=0)
    log_total = np.log(total)
    phi = gap - log_total
    first = e.argmax(axis=0)
    log_own, log_rest = _log_sigmoid(phi), _log_sigmoid(-phi)
    own, rest = np.exp(log_own), np.exp(log_rest)
    # The highest of the others against everything else.
    e[first, columns] = 0.0
    left = e.sum(axis=0)
    # Entropy between the label and the others, and among the others: every term has one sign, so nothing cancels.
    among = np.log1p(left) - highest * np.einsum("ij,ij->j", e, scaled) / total
    into.entropy[where] = (rest * among - own * log_own - rest * log_rest).reshape(shape)
    with np.errstate(divide="ignore"):
        odds = -np.logaddexp(np.log(left), gap)
    ahead = gap > 0
    into.confidence[where] = np.where(ahead, phi, odds).reshape(shape)
    into.correct[where] = (ahead | ((gap == 0) & (label < first))).reshape(shape)
    faint = np.flatnonzero((left < _FAINT) & (gap < np.log(_FAINT)))
    if len(faint):
        into.faint.extend((where.start + np.unique(faint // shape[1])).tolist())
    # −p log(1 − p) of every other class; 1 − p of the highest of them is known from its odds.
    e *= rest / total
    top = np.exp(_log_sigmoid(odds))
    among = e * np.log1p(-e)
    into.modified[where] = (-rest * log_own - top * _log_sigmoid(-odds) - among.sum(axis=0)).reshape(shape)


def _log_sigmoid(x: Floats) -> Floats:
    """log of 1/(1 + exp(−x)), to the last digit on both ends."""
    return np.asarray(np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x))))
