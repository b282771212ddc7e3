"""Scalars derived from model outputs, in float64, computed once and cached by content.

Every attack starts from the scaled logit φ = z_y − logsumexp_{k≠y} z_k (Carlini et al. 2022, eq. 3), since
log p_y = −softplus(−φ) and p_y = expit(φ): one array carries confidence, loss and logit without the
saturation of a float32 softmax.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, logsumexp

from memberscope.errors import SignalsError
from memberscope.files import read_npy, sha256_arrays, sha256_json, write_npy
from memberscope.types import Signals

Floats = NDArray[np.float64]

# Part of every cache key: raise it when a formula below changes.
VERSION = 1

_PIECE = 1 << 20


def outputs_row(signals: Signals, row: int) -> Floats:
    """Logits or probabilities of one model, ``(N, Q, K)`` float64; a single column becomes two."""
    values = np.asarray(signals.outputs[row], np.float64)
    if values.shape[2] > 1:
        return values
    other = 1 - values if signals.kind == "probabilities" else np.zeros_like(values)
    return np.concatenate([other, values], axis=2)


def scaled_logits_row(signals: Signals, row: int, temperature: float = 1.0) -> Floats:
    """φ of one model, ``(N, Q)``; probabilities are read as logits log p, clipped at their resolution.

    Args:
        signals: scores or logits.
        row: the model.
        temperature: T > 0, divides the logits.
    """
    _needs_scores(signals)
    if not temperature > 0:
        raise SignalsError("a temperature above 0", f"{temperature}", "Choose a positive temperature.")
    source = signals.outputs[row]
    n, q, k = source.shape
    result = np.empty((n, q))
    floor = resolution(signals) if signals.kind == "probabilities" else 0.0
    step = max(1, _PIECE // (q * k))
    for start in range(0, n, step):
        piece = np.array(source[start : start + step], np.float64)
        label = signals.labels[start : start + step]
        if signals.kind == "probabilities":
            result[start : start + step] = _from_probabilities(piece, label, temperature, floor)
        else:
            result[start : start + step] = _from_logits(piece, label, temperature)
    return result


def _from_logits(z: Floats, label: NDArray[np.int64], temperature: float) -> Floats:
    if z.shape[2] == 1:
        return np.where(label == 1, 1.0, -1.0)[:, None] * z[:, :, 0] / temperature
    z /= temperature
    index = label[:, None, None]
    own: Floats = np.take_along_axis(z, index, axis=2)[:, :, 0]
    np.put_along_axis(z, index, -np.inf, axis=2)
    top = z.max(axis=2)
    z -= top[:, :, None]
    np.exp(z, out=z)
    return np.asarray(own - top - np.log(z.sum(axis=2)))


def _from_probabilities(p: Floats, label: NDArray[np.int64], temperature: float, floor: float) -> Floats:
    if p.shape[2] == 1:
        p = np.concatenate([1 - p, p], axis=2)
    index = label[:, None, None]
    own = np.take_along_axis(p, index, axis=2)[:, :, 0]
    np.put_along_axis(p, index, 0.0, axis=2)
    if temperature == 1:
        # The sum of the others resolves 1 − p_y far beyond the spacing of floats near 1.
        return np.asarray(np.log(np.maximum(own, floor)) - np.log(np.maximum(p.sum(axis=2), floor)))
    with np.errstate(divide="ignore"):
        others = logsumexp(np.log(p) / temperature, axis=2)
    low = np.log(floor) / temperature
    return np.asarray(np.log(np.maximum(own, floor)) / temperature - np.maximum(others, low))


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
                own, others = _own_and_others(signals, row)
                for values in (own, others):
                    positive = values[values > 0]
                    smallest = min(smallest, float(positive.min()) if positive.size else 1.0)
            signals.cache[key] = max(smallest / 2, float(np.finfo(signals.outputs[0].dtype).tiny))
    return float(signals.cache[key])


def _own_and_others(signals: Signals, row: int) -> tuple[Floats, Floats]:
    p = outputs_row(signals, row)
    index = signals.labels[:, None, None]
    own: Floats = np.take_along_axis(p, index, axis=2)[:, :, 0]
    p = np.array(p)
    np.put_along_axis(p, index, 0.0, axis=2)
    return own, p.sum(axis=2)


def saturated_share(signals: Signals, row: int) -> float:
    """Share of a model's answers whose p_y is 0 or 1 as far as the given numbers tell; 0 for logits."""
    if signals.kind != "probabilities":
        return 0.0
    own, others = _own_and_others(signals, row)
    floor = resolution(signals)
    return float(np.mean((own <= floor) | (others <= floor)))


def scaled_logits(signals: Signals, temperature: float = 1.0) -> Floats:
    """φ of every model, ``(M, N, Q)`` float64, cached in memory and, if the signals have a folder, on disk."""
    key = ("phi", float(temperature))
    if key not in signals.cache:
        signals.cache[key] = _load_or_compute(signals, float(temperature))
    values: Floats = signals.cache[key]
    return values


def _load_or_compute(signals: Signals, temperature: float) -> Floats:
    path = None
    if signals.folder is not None:
        content = signals.fingerprint or sha256_arrays(*signals.outputs)
        name = sha256_json([VERSION, content, sha256_arrays(signals.labels), signals.kind, temperature])
        path = signals.folder / "derived" / f"phi-{name[:24]}.npy"
        if path.exists():
            return read_npy(path)
    values = np.stack([scaled_logits_row(signals, row, temperature) for row in range(len(signals))])
    if path is not None:
        write_npy(path, values)
    return values


def loss(phi: Floats) -> Floats:
    """Cross-entropy −log p_y = softplus(−φ), elementwise."""
    return np.logaddexp(0.0, -phi)


def correct_row(signals: Signals, row: int) -> NDArray[np.bool_]:
    """Whether one model's predicted class is the label, ``(N, Q)``; a tie counts for the lower class."""
    if signals.kind == "labels":
        return np.asarray(signals.outputs[row] == signals.labels[:, None])
    source = signals.outputs[row]
    if source.shape[2] == 1:
        threshold = 0.5 if signals.kind == "probabilities" else 0.0
        return np.asarray((source[:, :, 0] > threshold) == (signals.labels == 1)[:, None])
    return np.asarray(source.argmax(axis=2) == signals.labels[:, None])


def log_probabilities_row(signals: Signals, row: int) -> Floats:
    """log p of one model over all classes, ``(N, Q, K)``."""
    _needs_scores(signals)
    values = outputs_row(signals, row)
    if signals.kind == "probabilities":
        return np.log(np.maximum(values, resolution(signals)))
    return np.asarray(values - logsumexp(values, axis=2, keepdims=True))


def confidence_row(signals: Signals, row: int) -> Floats:
    """log of the highest class probability against all others, ``(N, Q)``: max p on a scale that never saturates."""
    log_p = log_probabilities_row(signals, row)
    top = log_p.argmax(axis=2)[:, :, None]
    own: Floats = np.take_along_axis(log_p, top, axis=2)[:, :, 0]
    np.put_along_axis(log_p, top, -np.inf, axis=2)
    return np.asarray(own - logsumexp(log_p, axis=2))


def entropy_row(signals: Signals, row: int) -> Floats:
    """Shannon entropy of the predicted distribution in nats, ``(N, Q)``."""
    return np.asarray(entr(np.exp(log_probabilities_row(signals, row))).sum(axis=2))


def modified_entropy_row(signals: Signals, row: int) -> Floats:
    """Modified entropy, ``(N, Q)``: −(1−p_y) log p_y − Σ_{k≠y} p_k log(1−p_k) (Song & Mittal 2021, eq. 7)."""
    log_p = log_probabilities_row(signals, row)
    p = np.exp(log_p)
    index = signals.labels[:, None, None]
    own_log = np.take_along_axis(log_p, index, axis=2)[:, :, 0]
    phi = scaled_logits_row(signals, row)
    # 1 − p_k from the other classes' sum would cost K² work; log1p is exact unless p_k is 1, which the
    # clip at the spacing of float64 keeps finite (such a record is misclassified with certainty).
    others = -p * np.log1p(-np.minimum(p, 1 - np.finfo(np.float64).eps))
    np.put_along_axis(others, index, 0.0, axis=2)
    return np.asarray(np.exp(-np.logaddexp(0.0, phi)) * -own_log + others.sum(axis=2))


def _needs_scores(signals: Signals) -> None:
    if signals.kind == "labels":
        raise SignalsError("scores or logits", "predicted labels only", "Use an attack that needs labels only.")
