"""Near-duplicates across the member border: records far nearer to each other than records like them are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.types import Dataset

NEIGHBOURS = 10
DIMENSIONS = 64
# Sum over j = 5 … 9 of E[log(r10 / rj)] in one dimension, for uniform density: Σ_{i=5}^{9} (i − 4)/i.
SPREAD = sum((i - 4) / i for i in range(5, NEIGHBOURS))


@dataclass(frozen=True)
class NearDuplicates:
    """What :func:`near_duplicates` found.

    Args:
        count: records on the queried side with a near-duplicate on the other.
        examined: records on the queried side that were looked at.
        closest: the smallest ratio of nearest to tenth-nearest distance.
        typical: the median of that ratio.
        pairs: positions (queried record, its near-duplicate) in the data set, nearest first.
    """

    count: int
    examined: int
    closest: float
    typical: float
    pairs: tuple[tuple[int, int], ...]


def near_duplicates(
    data: Dataset, queried: NDArray[np.int64], others: NDArray[np.int64], rng: np.random.Generator
) -> NearDuplicates:
    """Look for records of ``queried`` with a near-duplicate among ``others``.

    Each record's nearest distance is divided by its tenth-nearest, which adapts to how crowded its
    surroundings are. A record is flagged when its ratio lies so far below the bulk's that, the bulk's lower
    tail continued, not one in a hundred such data sets would hold a single one. If so many records have a
    near-duplicate that they are the bulk, the ratio is held instead against what a smooth density of the
    dimension seen between the fifth and tenth neighbours implies.

    Distances: Euclidean, on 0/1 tables as they are (the root of Hamming), on other tables per standard
    deviation, on images after subtracting the mean and scaling to length 1, so that brightness and contrast
    do not count. Candidates are found in 64 random projections and measured in full. Shifted or mirrored
    images are not found.

    Args:
        data: the records.
        queried: positions on one side.
        others: positions on the other side, at least 11.
        rng: draws the projections.

    Returns:
        Count and pairs; on CIFAR-10's 60,000 images every pair it names is visibly the same photograph.
    """
    from sklearn.neighbors import NearestNeighbors

    points = _points(data, np.concatenate([queried, others]))
    few = _projected(points, rng)
    split = len(queried)
    found = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(few[split:])
    candidates = found.kneighbors(few[:split], return_distance=False)
    distances = np.empty((split, NEIGHBOURS))
    for start in range(0, split, 512):
        part = slice(start, min(start + 512, split))
        gap = points[part, None, :] - points[split + candidates[part]]
        distances[part] = np.sqrt(np.einsum("qkf,qkf->qk", gap, gap))
    order = np.argsort(distances, axis=1, kind="stable")
    distances = np.maximum(np.take_along_axis(distances, order, axis=1), 1e-9)
    ratio = distances[:, 0] / distances[:, -1]
    flagged = np.flatnonzero(ratio < _threshold(ratio))
    if not len(flagged):
        usual = _usual(distances)
        crowd = np.flatnonzero(ratio < usual)
        flagged = crowd if len(crowd) > 0.05 * split else flagged
    flagged = flagged[np.argsort(ratio[flagged], kind="stable")]
    nearest = others[candidates[np.arange(split), order[:, 0]]]
    pairs = tuple((int(queried[i]), int(nearest[i])) for i in flagged)
    return NearDuplicates(len(flagged), split, float(ratio.min()), float(np.median(ratio)), pairs)


def _threshold(ratio: NDArray[np.float64]) -> float:
    """The ratio below which the bulk's lower tail, continued as a power, holds 0.01 records."""
    low, middle = np.quantile(ratio, [0.1, 0.5])
    if not 0 < low < middle:
        return 0.0
    exponent = np.log(5) / np.log(middle / low)
    return float(min(low * (0.1 / len(ratio)) ** (1 / exponent), 0.35))


def _usual(distances: NDArray[np.float64]) -> float:
    """The ratio that 1 % of records fall below in a smooth density of the data's local dimension."""
    spread = float(np.log(distances[:, -1:] / distances[:, 4:-1]).sum(axis=1).mean())
    if spread <= 0:
        return 0.0
    return float((1 - 0.99 ** (1 / (NEIGHBOURS - 1))) ** (spread / SPREAD))


def _points(data: Dataset, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    points = data.inputs[rows].reshape(len(rows), -1).astype(np.float32)
    if data.kind == "image":
        points -= points.mean(axis=1, keepdims=True)
        points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-6)
    elif not bool(((points == 0) | (points == 1)).all()):
        points -= points.mean(axis=0)
        points /= np.where((deviation := points.std(axis=0)) > 0, deviation, 1)
    return points


def _projected(points: NDArray[np.float32], rng: np.random.Generator) -> NDArray[Any]:
    features = points.shape[1]
    if features <= DIMENSIONS:
        return points
    return points @ (rng.standard_normal((features, DIMENSIONS), np.float32) / np.float32(DIMENSIONS**0.5))
