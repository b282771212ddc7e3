"""Saved outputs of reference models on the same candidates, seen as the endpoint shows its own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from memberscope.attacks import Attack
from memberscope.data.arrays import load_arrays
from memberscope.errors import DataError, SignalsError, nearest
from memberscope.targets.http.detect import Given, Seen, fill_hidden, only_best

Floats = NDArray[np.float64]

_KINDS = ("logits", "probabilities", "predicted_labels")
_KNOWN = (*_KINDS, "members", "ids", "labels")

# Smallest probability whose logarithm serves as a logit.
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class References:
    """Reference models' outputs in the order of the records.

    Args:
        outputs: one array a model, of the target's kind.
        members: ``(R, N)``, which of the records each was trained on.
        outside: none was trained on any of them.
    """

    outputs: tuple[NDArray[Any], ...]
    members: NDArray[np.bool_]
    outside: bool


def read_references(path: Path, ids: NDArray[np.str_], given: Given, seen: Seen) -> References:
    """Reference models from an NPZ, matched by id.

    The file holds one of ``logits``, ``probabilities`` ``(R, N, K)`` or ``predicted_labels (R, N)``; ``ids (N,)``; and
    ``members (R, N)``, left out where the references were trained on none of the records (stand-in data).

    Args:
        path: of the file.
        ids: ``(N,)`` of the records that were answered.
        given: the target's outputs.
        seen: how the endpoint shows its own: references are rounded and cut likewise.

    Raises:
        DataError: missing or damaged file, arrays missing or of other shapes, an id that is not there.
        SignalsError: labels for a target that gives scores.
    """
    arrays = load_arrays(path)
    kinds = [name for name in _KINDS if name in arrays]
    strange = [name for name in arrays if name not in _KNOWN]
    if strange or len(kinds) != 1:
        raise DataError(
            f"one of {', '.join(_KINDS)}, with ids and members, in {path}",
            f"{strange[0]!r}{nearest(strange[0], _KNOWN)}" if strange else " and ".join(kinds) or "none of them",
            "Save the reference models' outputs under these names.",
        )
    outputs = arrays[kinds[0]]
    axes = 2 if kinds[0] == "predicted_labels" else 3
    if outputs.ndim != axes or not outputs.size or outputs.dtype.kind not in ("iu" if axes == 2 else "f"):
        raise DataError(
            f"{kinds[0]} of {axes} axes (models, records{', classes' if axes == 3 else ''}) in {path}",
            f"shape {outputs.shape}, type {outputs.dtype}",
            "Save one row a reference model.",
        )
    if "ids" not in arrays or arrays["ids"].shape != outputs.shape[1:2]:
        raise DataError(
            f"ids, one a record, in {path}",
            f"shape {arrays['ids'].shape}" if "ids" in arrays else "none",
            "Save the candidates' ids: outputs are matched by them.",
        )
    members = arrays.get("members", np.zeros(outputs.shape[:2], np.bool_))
    if members.shape != outputs.shape[:2] or members.dtype != np.bool_:
        raise DataError(
            f"members as booleans of shape {outputs.shape[:2]} in {path}",
            f"type {members.dtype}, shape {members.shape}",
            "Convert it.",
        )
    order = _order(arrays["ids"].astype(np.str_), ids, path)
    outputs, members = outputs[:, order], members[:, order]
    outside = not members.any()
    if not outside and (~members.any(axis=1)).any():
        row = int(np.argmin(members.any(axis=1)))
        raise DataError(
            f"records that every reference was trained on, or that none was, in {path}",
            f"reference {row} without any, others with some",
            "Save references on stand-in data alone, or leave that row out.",
        )
    return References(_as_seen(outputs, kinds[0], given, seen, path), members, outside)


def without_members(attack: Attack) -> Attack:
    """The attack; one that contrasts models that trained on a record with others says that there are none."""
    if not attack.contrasts:
        return attack
    reason = "needs reference models trained on the records, and these were trained on stand-in data alone"
    kind = type(type(attack).__name__, (type(attack),), {"lacks": lambda self, signals, target: reason})
    same: Attack = kind(**{each.name: getattr(attack, each.name) for each in fields(attack)})
    return same


def _order(known: NDArray[np.str_], ids: NDArray[np.str_], path: Path) -> NDArray[np.int64]:
    by_id = np.argsort(known, kind="stable")
    place = np.minimum(np.searchsorted(known[by_id], ids), len(known) - 1)
    order = by_id[place]
    missing = np.flatnonzero(known[order] != ids)
    if len(missing) or len(np.unique(known)) < len(known):
        raise DataError(
            f"every record once in {path}",
            f"{len(missing):,} missing, for example {str(ids[missing[0]])!r}" if len(missing) else "an id twice",
            "Ask the references about the very records that the endpoint is asked about, the population included.",
        )
    return np.asarray(order, np.int64)


def _as_seen(
    outputs: NDArray[Any], name: str, given: Given, seen: Seen, path: Path
) -> tuple[NDArray[np.float64] | NDArray[np.int64], ...]:
    if given.kind == "labels":
        labels = outputs if name == "predicted_labels" else outputs.argmax(axis=2)
        return tuple(np.asarray(row, np.int64) for row in labels)
    if name == "predicted_labels":
        raise SignalsError(
            f"the scores of reference models in {path}: the endpoint gives scores", "predicted classes", "Save scores."
        )
    width = int(given.outputs.shape[1])
    if outputs.shape[2] == 2 and width == 1 and name == "probabilities":
        outputs = outputs[:, :, 1:]
    if outputs.shape[2] != width:
        raise DataError(
            f"{width} columns of {name} in {path}, as the endpoint gives", f"{outputs.shape[2]}", "Save every class."
        )
    values = np.asarray(outputs, np.float64)
    if given.kind == "logits":
        return tuple(values if name == "logits" else np.log(np.maximum(values, _TINY)))
    if name == "logits":
        # A single logit is that of class 1 of two.
        values = 1 / (1 + np.exp(-values)) if width == 1 else softmax(values, axis=2)
    if seen.level == "top_k" and seen.shown:
        cut = _rounded(only_best(values, seen.shown), seen.digits)
        return tuple(fill_hidden(row, seen.shown) for row in cut)
    return tuple(_rounded(values, seen.digits))


def _rounded(values: Floats, digits: int | None) -> Floats:
    return values if digits is None else np.round(values, digits)
