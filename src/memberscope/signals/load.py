"""Signals from one .npz file, whoever wrote it."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import SignalsError, nearest
from memberscope.types import Signals

Kind = Literal["logits", "probabilities", "labels"]
_OUTPUTS: dict[str, Kind] = {
    "logits": "logits",
    "probabilities": "probabilities",
    "predicted_labels": "labels",
}
_KNOWN = {*_OUTPUTS, "members", "labels", "ids", "population", "class_names"}


def load_signals(path: str | Path) -> Signals:
    """Read an audit's input from ``path``; nothing is ever unpickled.

    The file holds one of ``logits`` or ``probabilities`` ``(M, N, K)`` or ``(M, N, Q, K)`` float, or
    ``predicted_labels`` ``(M, N)`` or ``(M, N, Q)`` int; ``members (M, N)`` bool; ``labels (N,)`` int; and
    optionally ``ids (N,)``, ``population (N,)`` bool (records that no model was trained on, used to calibrate)
    and ``class_names (K,)``.

    Raises:
        SignalsError: the file is missing, damaged, holds objects, lacks an array, or the arrays disagree.
    """
    path = Path(path)
    arrays = _read(path)
    unknown = sorted(set(arrays) - _KNOWN)
    if unknown:
        raise SignalsError(
            f"arrays among {', '.join(sorted(_KNOWN))} in {path}",
            f"{unknown[0]!r}{nearest(unknown[0], _KNOWN)}",
            "Rename or remove it.",
        )
    given = [name for name in _OUTPUTS if name in arrays]
    if len(given) != 1:
        raise SignalsError(
            f"one of {', '.join(_OUTPUTS)} in {path}",
            " and ".join(given) or f"only {', '.join(sorted(arrays)) or 'no array'}",
            "Save exactly one kind of output; logits tell most.",
        )
    for name in ("members", "labels"):
        if name not in arrays:
            raise SignalsError(f"an array {name!r} in {path}", f"only {', '.join(sorted(arrays))}", f"Save {name} too.")
    outputs = arrays[given[0]]
    least, most = (2, 3) if given[0] == "predicted_labels" else (3, 4)
    if not least <= outputs.ndim <= most:
        raise SignalsError(
            f"{given[0]} with {least} or {most} axes (models, records[, queries]{', classes' if most == 4 else ''})",
            f"shape {outputs.shape}",
            "Add the missing axis: a single model needs a first axis of length 1.",
        )
    return Signals(
        outputs=tuple(outputs),
        kind=_OUTPUTS[given[0]],
        members=arrays["members"],
        labels=arrays["labels"],
        ids=arrays.get("ids", np.empty(0, np.str_)),
        population=arrays.get("population", np.empty(0, np.bool_)),
        class_names=tuple(str(name) for name in arrays.get("class_names", ())),
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    fix = "Write it with numpy.savez(path, logits=…, members=…, labels=…)."
    if not path.is_file():
        raise SignalsError(f"a file {path}", "no such file" if not path.exists() else "a folder", "Check the path.")
    if path.stat().st_size == 0:
        raise SignalsError(f"an .npz file at {path}", "an empty file", fix)
    with path.open("rb") as file:
        start = file.read(6)
    if not start.startswith(b"PK"):
        # Whatever it is, asking NumPy could only end in an offer to unpickle it.
        raise SignalsError(
            f"an .npz file at {path}", "a single array (.npy)" if start == b"\x93NUMPY" else "another kind of file", fix
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (
        OSError,
        ValueError,
        EOFError,
        RuntimeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
        KeyError,
    ) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "pickle" in said.lower() or "object array" in said.lower():
            said = "pickled Python objects, which are never loaded because they can run code"
            fix = "Save plain numbers and strings: arrays of one type, not of objects."
        raise SignalsError(f"a whole .npz file of numbers and strings at {path}", said, fix) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise SignalsError(f"arrays alone in {path}", f"{name!r}, which is none", fix)
    return arrays
