"""Scalars derived from model outputs, in float64, computed once and cached by content.

Every attack starts from the scaled logit φ = z_y − logsumexp_{k≠y} z_k (Carlini et al. 2022, eq. 3), since
log p_y = −softplus(−φ) and p_y = expit(φ): one array carries confidence, loss and logit without the
saturation of a float32 softmax.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import SignalsError
from memberscope.files import atomic, read_npy, sha256_arrays, sha256_json
from memberscope.large import IN_MEMORY, in_threads, release, threads, working_array
from memberscope.signals.once import CHAIN, Scalars, scalars_row
from memberscope.types import Signals

Floats = NDArray[np.float64]

# Part of every cache key: raise it when a formula below changes.
VERSION = 3

# Numbers in float64 per piece: large enough that Python costs nothing, small enough to stay in cache.
_PIECE = 1 << 17

_Piece = tuple[slice, Floats, NDArray[np.int64]]


def _pieces(signals: Signals, row: int, records: NDArray[np.int64] | None = None) -> Iterator[_Piece]:
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


def scaled_logits_row(
    signals: Signals, row: int, temperature: float = 1.0, records: NDArray[np.int64] | None = None
) -> Floats:
    """φ of one model, ``(N, Q)``; probabilities are read as logits log p, clipped at their resolution.

    Args:
        signals: scores or logits.
        row: the model.
        temperature: T > 0, divides the logits.
        records: only these, in this order, and only their first query: ``(len(records), 1)``.
    """
    _needs_scores(signals)
    if not 0 < temperature < np.inf:
        raise SignalsError("a temperature above 0", f"{temperature}", "Choose a positive temperature.")
    if records is None and ("phi", float(temperature)) in signals.cache:
        known: Floats = signals.cache["phi", float(temperature)][row]
        return known
    result = np.empty(signals.outputs[row].shape[:2] if records is None else (len(records), 1))
    _fill_row(signals, row, {temperature: result}, records)
    release(signals.outputs[row])
    return result


def _fill_row(signals: Signals, row: int, phi: dict[float, Floats], records: NDArray[np.int64] | None = None) -> None:
    """Write one model's φ at each temperature into the arrays given."""
    if signals.kind == "logits":
        together = [temperature for temperature in phi if temperature in CHAIN]
        for temperatures in ([together] if together else []) + [[t] for t in phi if t not in together]:
            scalars_row(signals, row, temperatures, Scalars(phi), records)
        return
    floor = resolution(signals)
    for where, values, label in _pieces(signals, row, records):
        index = np.broadcast_to(label[:, None], values.shape[1:])
        for temperature, result in phi.items():
            result[where] = _from_probabilities(values.copy(), index, temperature, floor)


def _from_probabilities(p: Floats, index: NDArray[np.int64], temperature: float, floor: float) -> Floats:
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
    for where, p, label in _pieces(signals, row):
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


def scaled_logits(signals: Signals, temperature: float = 1.0) -> Floats:
    """φ of every model, ``(M, N, Q)`` float64, cached and, if the signals have a folder, kept on disk.

    In memory, or a memory map where it is large.
    """
    key = ("phi", float(temperature))
    if key not in signals.cache:
        with signals.cache.setdefault(("deriving",), threading.RLock()):
            prepare(signals, [float(temperature)])
    values: Floats = signals.cache[key]
    return values


def prepare(signals: Signals, temperatures: Sequence[float], targets: Sequence[int] = ()) -> None:
    """Derive all that is asked for in one pass over the outputs, in threads, and cache it.

    Args:
        signals: scores or logits.
        temperatures: at which φ of every model is wanted.
        targets: rows of which the highest class, entropies and correctness are wanted too (of logits; what other
            outputs say is derived when it is asked for).
    """
    _needs_scores(signals)
    shape = (len(signals), *signals.outputs[0].shape[:2])
    paths = {t: _kept(signals, t) for t in dict.fromkeys(temperatures) if ("phi", t) not in signals.cache}
    for t, path in list(paths.items()):
        if path is not None and path.exists():
            found = read_npy(path, mmap=np.prod(shape) * 8 > IN_MEMORY)
            signals.cache["phi", t] = found
            del paths[t]
    fused = signals.kind == "logits"
    rows = [row for row in targets if fused and row not in signals.cache.get(("rows",), {})]
    if not paths and not rows:
        return
    phi = {t: working_array(shape, np.float64, signals.folder) for t in paths}
    extra = {
        name: working_array((len(rows), *shape[1:]), np.bool_ if name == "correct" else np.float64, signals.folder)
        for name in ("confidence", "entropy", "modified", "correct")
    }
    place = {row: i for i, row in enumerate(rows)}

    def derive(row: int) -> None:
        own = {t: values[row] for t, values in phi.items()}
        if row in place:
            own.setdefault(1.0, np.empty(shape[1:]))
            into = Scalars(own, **{name: values[place[row]] for name, values in extra.items()})
            scalars_row(signals, row, [t for t in own if t in CHAIN], into)
            if into.faint:
                extra["confidence"][place[row], into.faint] = _confidence(signals, row)[into.faint]
                extra["modified"][place[row], into.faint] = _modified(signals, row)[into.faint]
            own = {t: values for t, values in own.items() if t not in CHAIN}
        if own:
            _fill_row(signals, row, own)
        for values in phi.values():
            release(values[row])
        if row in place:
            for values in extra.values():
                release(values[place[row]])

    if signals.kind == "probabilities":
        resolution(signals)
    wanted = range(len(signals)) if phi else rows
    for _ in in_threads(derive, wanted, threads(signals.outputs[0].size)):
        pass
    for t, path in paths.items():
        signals.cache["phi", t] = phi[t]
        if path is not None:
            _keep(path, phi[t])
    signals.cache.setdefault(("rows",), {}).update(
        {row: {name: values[i] for name, values in extra.items()} for row, i in place.items()}
    )


def _kept(signals: Signals, temperature: float) -> Path | None:
    """Where φ lies on disk if the signals have a folder."""
    if signals.folder is None:
        return None
    content = signals.fingerprint or sha256_arrays(*signals.outputs)
    name = sha256_json([VERSION, content, sha256_arrays(signals.labels), signals.kind, temperature])
    return signals.folder / "derived" / f"phi-{name[:24]}.npy"


def _keep(path: Path, values: Floats) -> None:
    """Write ``(M, N, Q)`` φ row by row: it may be larger than memory."""
    with atomic(path) as file:
        np.lib.format.write_array_header_1_0(
            file,
            {"descr": "<f8", "fortran_order": False, "shape": values.shape},
        )
        for row in values:
            file.write(row.data)
            release(row)


def let_go(signals: Signals, row: int) -> None:
    """Give back the memory of what has been derived of a row and lies on disk; it is read again when needed."""
    for key, values in list(signals.cache.items()):
        if key[0] == "phi":
            release(values[row])
    for values in signals.cache.get(("rows",), {}).get(row, {}).values():
        release(values)


def _derived(signals: Signals, row: int, name: str) -> NDArray[Any] | None:
    """What :func:`prepare` has derived of a row, None if it has not."""
    known: NDArray[Any] | None = signals.cache.get(("rows",), {}).get(row, {}).get(name)
    return known


def log_probability(phi: Floats) -> Floats:
    """log p_y = −softplus(−φ), elementwise, to the last digit on both ends."""
    return np.asarray(np.minimum(phi, 0.0) - np.log1p(np.exp(-np.abs(phi))))


def loss(phi: Floats) -> Floats:
    """Cross-entropy −log p_y, elementwise."""
    return -log_probability(phi)


def probability(phi: Floats) -> Floats:
    """p_y = 1/(1 + exp(−φ)), elementwise."""
    return np.exp(log_probability(phi))


def correct_row(signals: Signals, row: int) -> NDArray[np.bool_]:
    """Whether one model's predicted class is the label, ``(N, Q)``; a tie counts for the lower class."""
    if signals.kind == "labels":
        return np.asarray(signals.outputs[row] == signals.labels[:, None])
    if (known := _derived(signals, row, "correct")) is not None:
        return known
    source = signals.outputs[row]
    if source.shape[2] == 1:
        threshold = 0.5 if signals.kind == "probabilities" else 0.0
        return np.asarray((source[:, :, 0] > threshold) == (signals.labels == 1)[:, None])
    return np.asarray(source.argmax(axis=2) == signals.labels[:, None])


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
    _needs_scores(signals)
    floor = resolution(signals) if signals.kind == "probabilities" else 0.0
    for where, values, label in _pieces(signals, row):
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


def confidence_row(signals: Signals, row: int) -> Floats:
    """log of the highest class probability against all others, ``(N, Q)``: max p on a scale that never saturates."""
    known = _derived(signals, row, "confidence")
    return _confidence(signals, row) if known is None else known


def _confidence(signals: Signals, row: int) -> Floats:
    result = np.empty(signals.outputs[row].shape[:2])
    for d in _distributions(signals, row):
        result[d.where] = d.of(d.log_p, d.top) - d.of(d.log_rest, d.top)
    return result


def entropy_row(signals: Signals, row: int) -> Floats:
    """Shannon entropy of the predicted distribution in nats, ``(N, Q)``."""
    if (known := _derived(signals, row, "entropy")) is not None:
        return known
    result = np.empty(signals.outputs[row].shape[:2])
    for d in _distributions(signals, row):
        result[d.where] = -(d.p * d.log_p).sum(axis=0)
    return result


def modified_entropy_row(signals: Signals, row: int) -> Floats:
    """Modified entropy, ``(N, Q)``: −(1−p_y) log p_y − Σ_{k≠y} p_k log(1−p_k) (Song & Mittal 2021, eq. 7)."""
    known = _derived(signals, row, "modified")
    return _modified(signals, row) if known is None else known


def _modified(signals: Signals, row: int) -> Floats:
    result = np.empty(signals.outputs[row].shape[:2])
    for d in _distributions(signals, row):
        own = -np.exp(d.of(d.log_rest, d.label)) * d.of(d.log_p, d.label)
        others = d.p * d.log_rest
        np.put_along_axis(others, d.label[None], 0.0, axis=0)
        result[d.where] = own - others.sum(axis=0)
    return result


def _needs_scores(signals: Signals) -> None:
    if signals.kind == "labels":
        raise SignalsError("scores or logits", "predicted labels only", "Use an attack that needs labels only.")
