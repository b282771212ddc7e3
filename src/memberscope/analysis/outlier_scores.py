"""How much of an outlier each record is in the eyes of one model: every score higher = more of an outlier.

A model's members are the reference set: "its class" is the members of the class in this model, and a record's
neighbours are its nearest members. For a record that the model was trained on, its own features are in its
centroid, as in Khalil et al. (arXiv 2511.16792); they shrink the Euclidean distances of a class of n members by
the one factor 1 − 1/n, so a comparison within the class does not see them. For a record that the model never saw
the question does not arise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.sparse import csr_array
from scipy.special import log_softmax, logsumexp

from memberscope.errors import MissingExtraError, SignalsError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Labels = NDArray[np.int64]

TITLES: dict[str, str] = {
    "feature_cosine": "Cosine distance to the centroid of its class, in features",
    "feature_euclidean": "Euclidean distance to the centroid of its class, in features",
    "feature_mahalanobis": "Mahalanobis distance to the centroid of its class, in features",
    "logit_cosine": "Cosine distance to the centroid of its class, in logits",
    "logit_euclidean": "Euclidean distance to the centroid of its class, in logits",
    "logit_mahalanobis": "Mahalanobis distance to the centroid of its class, in logits",
    "neighbour_disagreement": "Nearest neighbours with another label",
    "low_confidence": "Low confidence in its label",
    "low_margin": "Low margin of its label over the next class",
    "label_error": "Likely label error (cleanlab)",
    "loss_trace_iqr": "Spread of its loss while training (interquartile range)",
}

NEIGHBOURS = 10
# Records × members among whom neighbours are sought: about five seconds of one core at 512 features.
PAIRS = 200_000_000
LEAST_REFERENCES = 1_000
# A covariance without any shrinkage of its own gets this much, so that collinear features have an inverse.
LEAST_SHRINKAGE = 1e-6
_BLOCK = 4_096


@dataclass(frozen=True, eq=False)
class ModelView:
    """What one model of the pool says about all N records.

    Args:
        row: the model's row in the pool.
        features: ``(N, D)`` penultimate features, may be a memory map; None where only logits are known.
        logits: ``(N, K)``; one column is the score of class 1 of two.

    Raises:
        SignalsError: not two-dimensional, or of different lengths.
    """

    row: int
    features: NDArray[Any] | None
    logits: NDArray[Any]

    def __post_init__(self) -> None:
        shapes = [np.shape(part) for part in (self.logits, self.features) if part is not None]
        if any(len(shape) != 2 or 0 in shape for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
            raise SignalsError(
                "logits (N, K) and features (N, D) of the same records",
                f"shapes {' and '.join(map(str, shapes))} from model {self.row}",
                "Collect both in one pass over the records.",
            )

    @property
    def classes(self) -> int:
        """Number of classes K (2 for a single column)."""
        return max(2, int(self.logits.shape[1]))


def model_scores(view: ModelView, labels: Labels, members: Bools, *, seed: int = 0) -> dict[str, Floats]:
    """All outlier scores of one model, by name, ``(N,)`` float64 each, higher = more of an outlier.

    - ``feature_*``, ``logit_*``: cosine, Euclidean and Mahalanobis distance to the centroid of the record's
      class (:func:`centroid_distances`).
    - ``neighbour_disagreement``: share of the ten nearest members with another label.
    - ``low_confidence``: −φ, the scaled logit's negative, which never saturates.
    - ``low_margin``: 1 − (p_y − max_{k≠y} p_k), 0 to 2, summed so that a confident record keeps its digits.
    - ``label_error``: 1 − cleanlab's label quality (:func:`label_error`), 0 to 1.

    Args:
        view: features and logits; without features their scores are left out.
        labels: ``(N,)`` true classes.
        members: ``(N,)`` which records the model was trained on.
        seed: draws the members among whom neighbours are sought, where they are too many.

    Returns:
        NaN where a score is not defined: a class with fewer than two members in this model has no centroid, a
        zero vector no cosine; without spread there is no Mahalanobis distance and no neighbour.

    Raises:
        SignalsError: shapes disagree, a label beyond the logits' columns, values that are not finite.
        MissingExtraError: cleanlab is not installed.
    """
    _check(view, labels, members)
    scores: dict[str, Floats] = {}
    for prefix, points in (("feature", view.features), ("logit", view.logits)):
        if points is not None:
            for name, values in centroid_distances(points, labels, members, view.classes).items():
                scores[f"{prefix}_{name}"] = values
    if view.features is not None:
        rng = np.random.default_rng([seed, view.row])
        scores["neighbour_disagreement"] = neighbour_disagreement(view.features, labels, members, rng)
    scores |= _confidence(view.logits, labels)
    scores["label_error"] = label_error(view.logits, labels, members)
    return scores


def class_centroids(points: NDArray[Any], labels: Labels, members: Bools, classes: int) -> tuple[Floats, Labels]:
    """Mean of each class's members, ``(K, D)`` float64 (0 without members), and how many they are, ``(K,)``."""
    total = np.zeros((classes, points.shape[1]))
    for where, part in _blocks(points):
        inside = np.flatnonzero(members[where])
        chosen = labels[where][inside]
        membership = csr_array((np.ones(len(inside)), (chosen, inside)), shape=(classes, len(part)))
        total += membership @ part
    counts = np.bincount(labels[members], minlength=classes)
    return total / np.maximum(counts, 1)[:, None], counts


def centroid_distances(points: NDArray[Any], labels: Labels, members: Bools, classes: int) -> dict[str, Floats]:
    """Distance of every record to the centroid of its class's members; NaN for a class with fewer than two members.

    ``(N,)`` by ``cosine`` (1 − cos, 0 to 2), ``euclidean`` and ``mahalanobis``. The last takes one covariance of the
    members around their classes' centroids, shrunk towards a multiple of the identity as far as Ledoit & Wolf (2004)
    find best: features that are dead, collinear or more than the members do no harm.
    """
    centroids, counts = class_centroids(points, labels, members, classes)
    known = counts[labels] >= 2
    factor = _within_class_factor(points, labels, members & known, centroids)
    lengths = np.linalg.norm(centroids, axis=1)
    result = {name: np.full(len(labels), np.nan) for name in ("cosine", "euclidean", "mahalanobis")}
    for where, part in _blocks(points):
        own = labels[where]
        product = np.linalg.norm(part, axis=1) * lengths[own]
        cosine = np.full(len(part), np.nan)
        np.divide(np.einsum("nd,nd->n", part, centroids[own]), product, out=cosine, where=product > 0)
        part -= centroids[own]
        result["cosine"][where] = np.clip(1 - cosine, 0, 2)
        result["euclidean"][where] = np.linalg.norm(part, axis=1)
        if factor is not None:
            white = solve_triangular(factor, part.T, lower=True, overwrite_b=True, check_finite=False)
            result["mahalanobis"][where] = np.linalg.norm(white, axis=0)
    for values in result.values():
        values[~known] = np.nan
    return result


def _within_class_factor(points: NDArray[Any], labels: Labels, chosen: Bools, centroids: Floats) -> Floats | None:
    """Cholesky factor (lower) of the shrunk covariance around the class centroids; None without any spread."""
    count, features = int(chosen.sum()), points.shape[1]
    scatter, fourth = np.zeros((features, features)), 0.0
    for where, part in _blocks(points):
        residual = (part - centroids[labels[where]])[chosen[where]]
        scatter += residual.T @ residual
        fourth += float((np.einsum("nd,nd->n", residual, residual) ** 2).sum())
    covariance = scatter / max(count, 1)
    scale = float(np.trace(covariance)) / features
    # Spread at the level of rounding is none: it would only magnify noise.
    if scale <= np.finfo(np.float32).eps ** 2 * float((centroids**2).mean()):
        return None
    square = float((covariance**2).sum())
    distance = square - features * scale**2
    noise = (fourth / count - square) / count
    shrinkage = max(min(noise, distance) / distance if distance > 0 else 0.0, LEAST_SHRINKAGE)
    covariance *= 1 - shrinkage
    covariance.flat[:: features + 1] += shrinkage * scale
    return np.asarray(cholesky(covariance, lower=True, overwrite_a=True, check_finite=False))


def neighbour_disagreement(features: NDArray[Any], labels: Labels, members: Bools, rng: np.random.Generator) -> Floats:
    """Share of each record's ten nearest members (Euclidean; never itself) with another label, ``(N,)``, 0 to 1.

    In blocked float32 products. Where records × members pass :data:`PAIRS`, neighbours are sought among a random
    sample of the members, at least :data:`LEAST_REFERENCES`.
    """
    references = np.flatnonzero(members)
    most = max(LEAST_REFERENCES, PAIRS // len(labels))
    if len(references) > most:
        references = np.sort(rng.choice(references, most, replace=False))
    result = np.full(len(labels), np.nan)
    if len(references) < 2:
        return result
    # Distances come from a difference of squares: centred first, so that a common offset costs no digits.
    base = np.asarray(features[references], np.float32)
    centre = base.mean(axis=0, dtype=np.float64).astype(np.float32)
    base = base - centre
    squares = np.einsum("nd,nd->n", base, base)
    if not squares.any():
        return result
    place = np.full(len(labels), -1)
    place[references] = np.arange(len(references))
    k = min(NEIGHBOURS, len(references) - 1)
    step = max(16, (1 << 20) // len(references))
    for start in range(0, len(labels), step):
        where = slice(start, min(start + step, len(labels)))
        gaps = squares - 2 * ((np.asarray(features[where], np.float32) - centre) @ base.T)
        own = place[where]
        gaps[np.flatnonzero(own >= 0), own[own >= 0]] = np.inf
        nearest = references[np.argpartition(gaps, k - 1, axis=1)[:, :k]]
        result[where] = (labels[nearest] != labels[where, None]).mean(axis=1)
    return result


def _confidence(logits: NDArray[Any], labels: Labels) -> dict[str, Floats]:
    confidence, margin = np.empty(len(labels)), np.empty(len(labels))
    for where, part in _blocks(logits):
        part = _two_columns(part)
        index = labels[where, None]
        log_p = log_softmax(part, axis=1)
        own = np.take_along_axis(part, index, axis=1)[:, 0]
        for values in (part, log_p):
            np.put_along_axis(values, index, -np.inf, axis=1)
        confidence[where] = logsumexp(part, axis=1) - own
        others = np.exp(log_p)
        margin[where] = others.sum(axis=1) + others.max(axis=1)
    return {"low_confidence": confidence, "low_margin": margin}


def label_error(logits: NDArray[Any], labels: Labels, members: Bools) -> Floats:
    """1 − cleanlab's ``normalized_margin`` label quality, ``(N,)``, 0 to 1: higher = more likely a label error.

    Probabilities are first set against each class's mean self-confidence (``adjust_pred_probs``, Northcutt et al.
    2021), taken over non-members for non-members and over members for members, since a model is surer of what it
    was trained on. Where one of the sides lacks a class there is no such mean, and both stay unadjusted.

    Raises:
        MissingExtraError: cleanlab is not installed.
    """
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise MissingExtraError.of("cleanlab", "analysis", "the label-error score") from error
    result = np.full(len(labels), np.nan)
    classes = max(2, logits.shape[1])
    sides = [side for side in (members, ~members) if side.any()]
    adjust = all(len(np.unique(labels[side])) == classes for side in sides)
    for side in sides:
        p = np.exp(log_softmax(_two_columns(np.asarray(logits[side], np.float64)), axis=1))
        quality = get_label_quality_scores(
            labels[side], np.minimum(p, 1.0), method="normalized_margin", adjust_pred_probs=adjust
        )
        result[side] = 1 - quality
    return result


def nearest_centroids(view: ModelView, labels: Labels, members: Bools, records: Labels) -> Floats:
    """Cosine of the given records with every class's centroid, ``(len(records), K)``; in features if the view has
    them, else in logits. −inf for classes with fewer than two members, and for zero vectors."""
    points = view.logits if view.features is None else view.features
    centroids, counts = class_centroids(points, labels, members, view.classes)
    part = np.asarray(points[records], np.float64)
    product = np.linalg.norm(part, axis=1)[:, None] * np.linalg.norm(centroids, axis=1)
    cosine = np.full(product.shape, -np.inf)
    np.divide(part @ centroids.T, product, out=cosine, where=(product > 0) & (counts >= 2))
    return cosine


def _blocks(points: NDArray[Any]) -> Iterator[tuple[slice, Floats]]:
    """Copies in float64, a block of rows at a time: a memory map is never held whole."""
    for start in range(0, len(points), _BLOCK):
        where = slice(start, min(start + _BLOCK, len(points)))
        yield where, np.array(points[where], np.float64)


def _two_columns(logits: Floats) -> Floats:
    return np.hstack([np.zeros_like(logits), logits]) if logits.shape[1] == 1 else logits


def _check(view: ModelView, labels: Labels, members: Bools) -> None:
    n = len(view.logits)
    if labels.shape != (n,) or members.shape != (n,) or members.dtype != np.bool_:
        raise SignalsError(
            f"labels ({n},) and members ({n},) as booleans for the {n} records of the view",
            f"labels {labels.shape}, members {members.shape} of type {members.dtype}",
            "Pass labels and membership of the same records, in the same order.",
        )
    if labels.min() < 0 or labels.max() >= view.classes:
        raise SignalsError(
            f"labels from 0 to {view.classes - 1}, one for each column of the logits",
            f"labels from {labels.min()} to {labels.max()}",
            "Check that labels start at 0 and that no class is missing from the logits.",
        )
    for name, points in (("logits", view.logits), ("features", view.features)):
        if points is not None and not all(np.isfinite(part).all() for _, part in _blocks(points)):
            raise SignalsError(
                f"finite {name}",
                f"NaN or infinity from model {view.row}",
                "A diverged model cannot be analysed: retrain it or leave its row out.",
            )
