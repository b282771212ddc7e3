"""A model's outputs class by class: pieces of them, what probabilities can resolve, and whole distributions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import SignalsError
from memberscope.types import Signals

Floats = NDArray[np.float64]

# Numbers in float64 per piece: large enough that Python costs nothing, small enough to stay in cache.
_PIECE = 1 << 17

_Piece = tuple[slice, Floats, NDArray[np.int64]]


def outputs_in_pieces(signals: Signals, row: int, records: NDArray[np.int64] | None = None) -> Iterator[_Piece]:
    """One model's outputs in pieces: where, ``(K, n, Q)`` float64 with K at least 2, and the labels ``(n,)``.

    Classes come first so that sums and maxima over them run along whole vectors. With ``records`` only
    these and their first query.
    """
    source, labels = signals.outputs[row], signals.labels
    if records is not None:
        source, labels = source[records, :1], labels[records]
    n, q, k = source.shape
    step = max(1, _PIECE // (q * k))
    for start in range(0, n, step):
        where = slice(start, start + step)
        values = np.array(np.moveaxis(source[where], 2, 0), np.float64, order="C")
        if k == 1 and signals.kind == "probabilities":
            # Nothing between 1 and the number below it can be told from 1: 1 − p is at least half that gap.
            gap = 0.0 if signals.digits is not None else float(np.finfo(source.dtype).epsneg) / 2
            values = np.concatenate([np.maximum(1 - values, gap), values])
        elif k == 1:
            values = np.concatenate([np.zeros_like(values), values])
        yield where, values, labels[where]


def _split(values: Floats, index: NDArray[np.int64], fill: float) -> Floats:
    """Take the class at ``index`` ``(n, Q)`` out of ``values`` ``(K, n, Q)``, leaving ``fill`` in its place."""
    flat = values.reshape(-1)
    place = index.reshape(-1) * index.size + np.arange(index.size)
    own: Floats = flat[place]
    flat[place] = fill
    return own.reshape(index.shape)


def _log_sum(z: Floats) -> Floats:
    """logsumexp over the first axis; overwrites ``z``, where a class may be −inf."""
    top = z.max(axis=0)
    z -= top
    # exp(−700) adds nothing to a sum above 1, and numbers that underflow take many times as long.
    np.maximum(z, -700.0, out=z)
    np.exp(z, out=z)
    return np.asarray(top + np.log(z.sum(axis=0)))


def from_probabilities(p: Floats, index: NDArray[np.int64], temperature: float, floor: float) -> Floats:
    """φ of probabilities ``(K, n, Q)``, which are overwritten, of the labels ``index (n, Q)``."""
    own = np.maximum(_split(p, index, 0.0), floor)
    if temperature == 1:
        # The sum of the others resolves 1 − p_y far beyond the spacing of floats near 1.
        return np.asarray(np.log(own) - np.log(np.maximum(p.sum(axis=0), floor)))
    # Others that are all 0 count as one class at the resolution.
    p[0][p.sum(axis=0) < floor] = floor
    with np.errstate(divide="ignore"):
        z = np.log(p) / temperature
    return np.asarray(np.log(own) / temperature - _log_sum(z))


def resolution(signals: Signals) -> float:
    """Smallest probability that the given numbers can tell from 0: what p_y and 1 − p_y are clipped at.

    Half of the last decimal for rounded probabilities, else half of the smallest positive p_y or 1 − p_y
    among all outputs (never below the type's smallest normal number).
    """
    key = ("resolution",)
    if key not in signals.cache:
        if signals.digits is not None:
            signals.cache[key] = 0.5 * 10.0**-signals.digits
        else:
            smallest = 1.0
            for row in range(len(signals)):
                for _, own, others in _own_and_others(signals, row):
                    for values in (own, others):
                        positive = values[values > 0]
                        smallest = min(smallest, float(positive.min()) if positive.size else 1.0)
            signals.cache[key] = max(smallest / 2, float(np.finfo(signals.outputs[0].dtype).tiny))
    return float(signals.cache[key])


def _own_and_others(signals: Signals, row: int) -> Iterator[tuple[slice, Floats, Floats]]:
    """p_y and 1 − p_y (as the sum of the others) of one model, ``(n, Q)`` a piece."""
    for where, p, label in outputs_in_pieces(signals, row):
        own = _split(p, np.broadcast_to(label[:, None], p.shape[1:]), 0.0)
        yield where, own, p.sum(axis=0)


def saturated_share(signals: Signals, row: int) -> float:
    """Share of a model's answers whose p_y is 0 or 1 as far as the given numbers tell; 0 for logits."""
    if signals.kind != "probabilities":
        return 0.0
    source = signals.outputs[row]
    floor = resolution(signals)
    if source.shape[2] == 1:
        return float(np.mean((source <= floor) | (source >= 1 - floor)))
    count = sum(int(((own <= floor) | (others <= floor)).sum()) for _, own, others in _own_and_others(signals, row))
    return count / float(source.shape[0] * source.shape[1])


@dataclass(frozen=True, eq=False)
class _Distribution:
    """p, log p and log(1 − p) of every class ``(K, n, Q)``, none of which loses the smallest of them."""

    where: slice
    label: NDArray[np.int64]
    top: NDArray[np.int64]
    p: Floats
    log_p: Floats
    log_rest: Floats

    def of(self, values: Floats, index: NDArray[np.int64]) -> Floats:
        """The entries ``(n, Q)`` of the classes at ``index``."""
        return np.asarray(np.take_along_axis(values, index[None], axis=0)[0])


def _distributions(signals: Signals, row: int) -> Iterator[_Distribution]:
    needs_scores(signals)
    floor = resolution(signals) if signals.kind == "probabilities" else 0.0
    for where, values, label in outputs_in_pieces(signals, row):
        index = np.array(np.broadcast_to(label[:, None], values.shape[1:]))
        top = values.argmax(axis=0)
        if signals.kind == "probabilities":
            others = values.copy()
            _split(others, top, 0.0)
            # 1 − p as the sum of the others, as in φ; only at the highest class would the difference lose digits.
            rest = values.sum(axis=0) - values
            np.put_along_axis(rest, top[None], others.sum(axis=0)[None], axis=0)
            log_p, log_rest = (np.log(np.where(part > 0, part, floor)) for part in (values, rest))
            yield _Distribution(where, index, top, values, log_p, log_rest)
            continue
        others = values.copy()
        own = _split(others, top, -np.inf)
        odds = own - _log_sum(others)
        log_top = -np.logaddexp(0.0, -odds)
        log_p = values - own + log_top
        p = np.exp(log_p)
        np.put_along_axis(p, top[None], 0.0, axis=0)
        log_rest = np.log1p(-p)
        np.put_along_axis(log_rest, top[None], -np.logaddexp(0.0, odds)[None], axis=0)
        np.put_along_axis(p, top[None], np.exp(log_top)[None], axis=0)
        yield _Distribution(where, index, top, p, log_p, log_rest)


def confidence(signals: Signals, row: int) -> Floats:
    """log of the highest class probability against all others, ``(N, Q)``."""
    result = np.empty(signals.outputs[row].shape[:2])
    for d in _distributions(signals, row):
        result[d.where] = d.of(d.log_p, d.top) - d.of(d.log_rest, d.top)
    return result


def entropy(signals: Signals, row: int) -> Floats:
    """Shannon entropy in nats, ``(N, Q)``."""
    result = np.empty(signals.outputs[row].shape[:2])
    for d in _distributions(signals, row):
        result[d.where] = -(d.p * d.log_p).sum(axis=0)
    return result


def modified_entropy(signals: Signals, row: int) -> Floats:
    """Modified entropy, ``(N, Q)``."""
    result = np.empty(signals.outputs[row].shape[:2])
    for d in _distributions(signals, row):
        own = -np.exp(d.of(d.log_rest, d.label)) * d.of(d.log_p, d.label)
        others = d.p * d.log_rest
        np.put_along_axis(others, d.label[None], 0.0, axis=0)
        result[d.where] = own - others.sum(axis=0)
    return result


def needs_scores(signals: Signals) -> None:
    """Raise SignalsError where there are predicted labels only."""
    if signals.kind == "labels":
        raise SignalsError("scores or logits", "predicted labels only", "Use an attack that needs labels only.")
