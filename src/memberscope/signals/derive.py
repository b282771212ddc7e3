"""Scalars derived from model outputs, in float64, computed once and cached by content.

Every attack starts from the scaled logit φ = z_y − logsumexp_{k≠y} z_k (Carlini et al. 2022, eq. 3), since
log p_y = −softplus(−φ) and p_y = expit(φ): one array carries confidence, loss and logit without the
saturation of a float32 softmax.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import SignalsError
from memberscope.files import atomic, read_npy, sha256_arrays, sha256_json
from memberscope.large import IN_MEMORY, in_threads, release, threads, working_array
from memberscope.signals.distributions import (
    confidence,
    entropy,
    from_probabilities,
    modified_entropy,
    needs_scores,
    outputs_in_pieces,
    resolution,
)
from memberscope.signals.once import CHAIN, Scalars, scalars_row
from memberscope.types import Signals

Floats = NDArray[np.float64]

# Part of every cache key: raise it when a formula below changes.
VERSION = 3


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
    needs_scores(signals)
    if not 0 < temperature < np.inf:
        raise SignalsError("a temperature above 0", f"{temperature}", "Choose a positive temperature.")
    if ("phi", float(temperature)) in signals.cache:
        known: Floats = signals.cache["phi", float(temperature)][row]
        if records is None:
            return known
        chosen = known[records, :1]
        # Scattered reads have mapped most of it.
        release(known)
        return chosen
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
    for where, values, label in outputs_in_pieces(signals, row, records):
        index = np.broadcast_to(label[:, None], values.shape[1:])
        for temperature, result in phi.items():
            result[where] = from_probabilities(values.copy(), index, temperature, floor)


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
    needs_scores(signals)
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
    with ExitStack() as files:
        phi = {t: _phi_array(shape, path, signals, files) for t, path in paths.items()}
        _derive(signals, phi, rows)
    for t, path in paths.items():
        signals.cache["phi", t] = phi[t]
        if path is not None and not path.exists():
            _keep(path, phi[t])


def _derive(signals: Signals, phi: dict[float, Floats], rows: list[int]) -> None:
    """Fill φ of every model at each temperature, and cache what the threshold attacks need of ``rows``."""
    shape = (len(signals), *signals.outputs[0].shape[:2])
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
                extra["confidence"][place[row], into.faint] = confidence(signals, row)[into.faint]
                extra["modified"][place[row], into.faint] = modified_entropy(signals, row)[into.faint]
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


def _phi_array(shape: tuple[int, ...], path: Path | None, signals: Signals, files: ExitStack) -> Floats:
    """An array to fill: where it is large and will be kept, in the very file, which ``files`` completes."""
    size = int(np.prod(shape)) * 8
    if path is None or size <= IN_MEMORY:
        return working_array(shape, np.float64, signals.folder)
    file = files.enter_context(atomic(path))
    _write_header(file, shape)
    file.flush()
    return working_array(shape, np.float64, file=file)


def _keep(path: Path, values: Floats) -> None:
    """Write ``(M, N, Q)`` φ that lies in memory."""
    with atomic(path) as file:
        _write_header(file, values.shape)
        file.write(np.ascontiguousarray(values).data)


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})


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


def confidence_row(signals: Signals, row: int) -> Floats:
    """log of the highest class probability against all others, ``(N, Q)``: max p on a scale that never saturates."""
    known = _derived(signals, row, "confidence")
    return confidence(signals, row) if known is None else known


def entropy_row(signals: Signals, row: int) -> Floats:
    """Shannon entropy of the predicted distribution in nats, ``(N, Q)``."""
    known = _derived(signals, row, "entropy")
    return entropy(signals, row) if known is None else known


def modified_entropy_row(signals: Signals, row: int) -> Floats:
    """Modified entropy, ``(N, Q)``: −(1−p_y) log p_y − Σ_{k≠y} p_k log(1−p_k) (Song & Mittal 2021, eq. 7)."""
    known = _derived(signals, row, "modified")
    return modified_entropy(signals, row) if known is None else known
