"""Worlds with a known answer, written as people save predictions."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

N, K = 240, 4


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def world(models: int, records: int = N, classes: int = K, strength: float = 3.0, seed: int = 0) -> dict[str, Any]:
    """Logits of models that remember their members with ``strength``, and what is true of them."""
    rng = np.random.default_rng(seed)
    members = np.zeros((models, records), bool)
    for row in range(0, models, 2):
        members[row] = rng.permutation(records) < records // 2
        members[row + 1 : row + 2] = ~members[row]
    labels = rng.integers(0, classes, records)
    logits = rng.normal(size=(models, records, classes))
    logits[:, np.arange(records), labels] += 1 + rng.normal(size=records) + strength * members
    return {
        "logits": logits,
        "probabilities": softmax(logits),
        "members": members,
        "labels": labels,
        "ids": np.array([f"r{k:05d}" for k in range(records)]),
    }


def write_wide(
    path: Path,
    made: dict[str, Any],
    row: int = 0,
    *,
    what: str = "probabilities",
    header: Sequence[str] | None = None,
    order: np.ndarray | None = None,
    delimiter: str = ",",
    encoding: str = "utf-8",
    decimal: str = ".",
    digits: int | None = None,
) -> Path:
    """One model's scores, a column a class; class k is named k."""
    records = len(made["labels"])
    with path.open("w", newline="", encoding=encoding) as file:
        table = csv.writer(file, delimiter=delimiter)
        table.writerow(header or ["id", "label", "member", *range(made[what].shape[2])])
        for k in np.arange(records) if order is None else order:
            scores = [repr(float(v)) if digits is None else f"{v:.{digits}f}" for v in made[what][row, k]]
            scores = [text.replace(".", decimal) for text in scores]
            table.writerow([made["ids"][k], made["labels"][k], int(made["members"][row, k]), *scores])
    return path


def write_long(path: Path, made: dict[str, Any], row: int = 0, *, top: int | None = None, seed: int = 0) -> Path:
    """One line a record and class, in random order; with ``top`` only the highest of a record."""
    p = made["probabilities"][row]
    pairs = []
    for k in range(len(p)):
        best = np.argsort(-p[k])[: top or p.shape[1]]
        pairs += [(k, int(c)) for c in best]
    pairs = [pairs[i] for i in np.random.default_rng(seed).permutation(len(pairs))]
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "label", "member", "class", "value"])
        for k, c in pairs:
            table.writerow([made["ids"][k], made["labels"][k], int(made["members"][row, k]), c, repr(float(p[k, c]))])
    return path
