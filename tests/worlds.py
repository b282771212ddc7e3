"""Worlds with known answers: what leaks, and by how much, is decided here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from scipy.stats import norm

from memberscope.types import Signals

Design = Literal["pairs", "bernoulli", "balanced"]
Kind = Literal["logits", "probabilities"]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Leak:
    """Signals in which some records leak: ``planted (N,)`` says which, ``phi (M, N, Q)`` is their scaled logit."""

    signals: Signals
    planted: Bools
    phi: Floats


def membership(models: int, records: int, rng: np.random.Generator, design: Design = "pairs") -> Bools:
    """``(M, N)`` membership.

    ``pairs``: row 2i + 1 is the complement of row 2i (an odd last row is drawn by coins); ``bernoulli``: coins;
    ``balanced``: each record in exactly ⌊M/2⌋ models, no row the complement of another.
    """
    members = rng.random((models, records)) < 0.5
    if design == "pairs":
        members[1::2] = ~members[0 : models - 1 : 2]
    elif design == "balanced":
        members = rng.random((models, records)).argsort(axis=0).argsort(axis=0) < models // 2
    # An empty or full row is no model that can be audited.
    for row in members:
        if row.all() or not row.any():
            raise ValueError("too few records for this draw")
    return members


def outputs_with(phi: Floats, labels: NDArray[np.int64], classes: int, rng: np.random.Generator) -> Floats:
    """Logits ``(M, N, Q, K)`` whose scaled logit is ``phi (M, N, Q)``; one column for ``classes`` = 1."""
    if classes == 1:
        return np.where(labels == 1, 1.0, -1.0)[None, :, None, None] * phi[..., None]
    logits = rng.normal(0, 1.5, (*phi.shape, classes))
    index = np.broadcast_to(labels[None, :, None, None], (*phi.shape, 1))
    np.put_along_axis(logits, index, -np.inf, axis=3)
    np.put_along_axis(logits, index, (phi + logsumexp(logits, axis=3))[..., None], axis=3)
    return logits


def signals_of(
    phi: Floats,
    members: Bools,
    classes: int,
    rng: np.random.Generator,
    *,
    kind: Kind = "logits",
    digits: int | None = None,
    dtype: Any = np.float64,
    population: int = 0,
) -> Signals:
    """Signals with scaled logits ``phi``; the last ``population`` records are taken out of every model."""
    n = phi.shape[1]
    labels = rng.integers(0, max(2, classes), n)
    outputs = outputs_with(phi, labels, classes, rng)
    if kind == "probabilities":
        outputs = 1 / (1 + np.exp(-outputs)) if classes == 1 else softmax(outputs, axis=3)
        outputs = outputs if digits is None else np.round(outputs, digits)
    chosen = np.zeros(n, np.bool_)
    chosen[n - population :] = population > 0
    return Signals(
        tuple(outputs.astype(dtype)), kind, members & ~chosen, labels, np.array([f"r{i:05d}" for i in range(n)]), chosen
    )


def difficulty(models: int, records: int, queries: int, rng: np.random.Generator, shift: float = 1.0) -> Floats:
    """φ ``(M, N, Q)`` without any leak: hard and easy records, better and worse models, heavy tails."""
    record = 2.0 + 2.0 * rng.standard_t(5, (1, records, 1))
    model = shift * rng.normal(size=(models, 1, 1))
    return record + model + rng.standard_t(5, (models, records, 1)) + 0.5 * rng.normal(size=(models, records, queries))


def null_world(
    models: int,
    records: int,
    classes: int,
    rng: np.random.Generator,
    design: Design = "pairs",
    queries: int = 1,
    *,
    shift: float = 1.0,
    **options: Any,
) -> Signals:
    """Outputs that do not depend on membership at all."""
    phi = difficulty(models, records, queries, rng, shift)
    return signals_of(phi, membership(models, records, rng, design), classes, rng, **options)


def leak_world(
    models: int,
    records: int,
    classes: int,
    rng: np.random.Generator,
    strength: float,
    share: float = 0.3,
    design: Design = "pairs",
    queries: int = 1,
    *,
    shift: float = 0.3,
    **options: Any,
) -> Leak:
    """A known ``share`` of records whose φ rises by ``strength`` in the models that trained on them."""
    members = membership(models, records, rng, design)
    planted = np.zeros(records, np.bool_)
    planted[rng.permutation(records)[: round(share * records)]] = True
    phi = difficulty(models, records, queries, rng, shift)
    phi += strength * (members & planted)[:, :, None]
    return Leak(signals_of(phi, members, classes, rng, **options), planted, phi)


def gaussian_world(
    models: int, records: int, strength: float, rng: np.random.Generator, *, spread: float = 0.0
) -> Signals:
    """φ = μ_record + strength·IN + N(0, 1) in every model, in pairs; μ ~ N(0, spread²), and no tails."""
    members = membership(models, records, rng, "pairs")
    phi = spread * rng.normal(size=(1, records, 1)) + strength * members[:, :, None]
    return signals_of(phi + rng.normal(size=(models, records, 1)), members, 1, rng)


def gaussian_auc(strength: float, references: float = np.inf) -> float:
    """AUC of φ less the mean of ``references`` OUT models in ``gaussian_world``: Φ(d/√(2(1 + 1/n)))."""
    return float(norm.cdf(strength / np.sqrt(2 * (1 + 1 / references))))


def gaussian_tpr(strength: float, fpr: float, references: float = np.inf) -> float:
    """Its true-positive rate at ``fpr``."""
    return float(norm.sf(norm.isf(fpr) - strength / np.sqrt(1 + 1 / references)))


def auc(score: Floats, member: Bools) -> float:
    """Area under the ROC curve over the scored records, ties one half, by counting every pair."""
    inside, outside = score[member & ~np.isnan(score)], score[~member & ~np.isnan(score)]
    wins = (inside[:, None] > outside).sum() + 0.5 * (inside[:, None] == outside).sum()
    return float(wins / (len(inside) * len(outside)))


def auc_error(inside: int, outside: int) -> float:
    """Standard deviation of the AUC of scores without ties that tell nothing."""
    return float(np.sqrt((inside + outside + 1) / (12 * inside * outside)))
