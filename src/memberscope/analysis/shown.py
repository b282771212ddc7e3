"""Which records are looked at: the nearest to and farthest from their class, and pairs matched on class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memberscope.analysis.outlier_scores import class_centroids

Bools = NDArray[np.bool_]
Labels = NDArray[np.int64]

Kind = Literal["vulnerable", "protected"]
Place = Literal["nearest", "farthest"]

# Of one class, while there are classes enough.
PER_CLASS = 2


class Shown(NamedTuple):
    """A record to be shown: its row, why, and its distance to the centroid of its class (cosine, 0 to 2)."""

    record: int
    kind: Kind
    place: Place
    distance: float


def extremes(
    features: NDArray[Any], labels: Labels, members: Bools, vulnerable: Bools, protected: Bools, count: int
) -> list[Shown]:
    """Vulnerable and protected members nearest to and farthest from the centroid of their class.

    Centroids are means of the members' features; a class with a single member has none, and its record is not shown.
    At most two of a class stand in one place while there are classes enough. The nearest are taken from the nearer
    half of the vulnerable, the farthest from the other, so that no record is both; protected ones are of the classes
    that the vulnerable ones are of, as far as those have any, halved within each class.

    Args:
        features: ``(N, D)`` of the target.
        labels: ``(N,)`` classes.
        members: ``(N,)`` bool, of the target.
        vulnerable: ``(N,)`` bool, members.
        protected: ``(N,)`` bool, other members.
        count: of each kind and place; fewer where records are short.
    """
    centroids, sizes = class_centroids(features, labels, members, int(labels.max()) + 1)

    def ordered(where: Bools) -> tuple[Labels, NDArray[np.float64]]:
        records = np.flatnonzero(where & (sizes[labels] >= 2))
        distance = _cosine_distance(np.asarray(features[records], np.float64), centroids[labels[records]])
        order = np.argsort(distance, kind="stable")
        return records[order], distance[order]

    found: list[Shown] = []
    records, distance = ordered(vulnerable)
    half = (len(records) + 1) // 2
    quotas: dict[Place, Counter[int]] = {}
    for place, positions in _both_ends(np.arange(len(records)) < half):
        chosen = _spread(labels[records[positions]], count)
        found += [
            Shown(int(records[i]), "vulnerable", place, float(distance[i])) for i in (positions[j] for j in chosen)
        ]
        quotas[place] = Counter(int(labels[records[positions[j]]]) for j in chosen)
    records, distance = ordered(protected)
    for place, positions in _both_ends(_nearer_half(labels[records])):
        own = labels[records[positions]]
        chosen = _matched(own, quotas[place])
        missing = quotas[place].total() - len(chosen)
        if missing:
            others = [j for j in range(len(positions)) if j not in set(chosen)]
            chosen = sorted([*chosen, *(others[j] for j in _spread(own[others], missing))])
        found += [
            Shown(int(records[i]), "protected", place, float(distance[i])) for i in (positions[j] for j in chosen)
        ]
    return found


def matched_pairs(
    labels: Labels, vulnerable: Bools, protected: Bools, most: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Pairs ``(n, 2)`` of a vulnerable and a protected record of one class, drawn at random, no record twice.

    A class gives as many pairs as the rarer kind has records there; of more than ``most`` pairs so many are drawn.
    """
    pairs = [np.empty((0, 2), np.int64)]
    for label in np.unique(labels[vulnerable]):
        cases, controls = (
            rng.permutation(np.flatnonzero(kind & (labels == label))) for kind in (vulnerable, protected)
        )
        n = min(len(cases), len(controls))
        pairs.append(np.column_stack([cases[:n], controls[:n]]))
    together = np.concatenate(pairs)
    return together[np.sort(rng.permutation(len(together))[:most])]


def _cosine_distance(points: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 − cos of each pair of rows, 0 to 2; 1 where a vector is zero."""
    lengths = np.linalg.norm(points, axis=1) * np.linalg.norm(centres, axis=1)
    products = np.einsum("nd,nd->n", points, centres)
    cosine = np.divide(products, lengths, out=np.zeros(len(points)), where=lengths > 0)
    return np.asarray(np.clip(1 - cosine, 0, 2))


def _both_ends(nearer: Bools) -> list[tuple[Place, NDArray[np.int64]]]:
    """Positions in the order in which each place takes them: from the near end, from the far end."""
    return [("nearest", np.flatnonzero(nearer)), ("farthest", np.flatnonzero(~nearer)[::-1])]


def _nearer_half(labels: Labels) -> Bools:
    """Whether each record is in the nearer half of its class; records are in the order of their distance."""
    nearer = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        nearer[where[: (len(where) + 1) // 2]] = True
    return nearer


def _spread(labels: Labels, count: int) -> list[int]:
    """Positions of the first ``count`` records with at most :data:`PER_CLASS` of a class, or as few as may be."""
    count = min(count, len(labels))
    cap = PER_CLASS
    while True:
        chosen = _matched(labels, dict.fromkeys(map(int, labels), cap))[:count]
        if len(chosen) == count:
            return chosen
        cap += 1


def _matched(labels: Sequence[int] | Labels, quota: Mapping[int, int]) -> list[int]:
    """Positions of the first records of each class, as many as its quota."""
    left = dict(quota)
    chosen = []
    for position, label in enumerate(map(int, labels)):
        if left.get(label, 0) > 0:
            left[label] -= 1
            chosen.append(position)
    return chosen
