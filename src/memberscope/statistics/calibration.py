"""Whether a model's confidence means what it says: expected calibration error with an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memberscope.statistics.cluster import t_interval
from memberscope.statistics.intervals import Estimate

Floats = NDArray[np.float64]

BINS = 15
REPEATS = 400


@dataclass(frozen=True, eq=False)
class Confidences:
    """What a model said of records that it was not trained on.

    Args:
        confidence: ``(N,)`` probability of the predicted class.
        correct: ``(N,)`` bool, whether that class was the label.
    """

    confidence: Floats
    correct: NDArray[np.bool_]

    @classmethod
    def of(cls, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Confidences:
        """From logits ``(N, K)``, K >= 2, and true classes ``(N,)``."""
        z = logits.astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        return cls(1 / np.exp(z).sum(axis=1), z.argmax(axis=1) == labels)


def calibration_error(confidence: Floats, correct: NDArray[np.bool_]) -> float:
    """Expected calibration error (Guo et al. 2017): mean of \\|accuracy − confidence\\| over 15 bins of equal width.

    A bin is open on the left; its weight is its share of the records. 0 is perfect, lower is better.

    >>> calibration_error(np.array([0.9, 0.9]), np.array([True, False])).__round__(3)
    0.4
    """
    return float(_error(_bins(confidence), correct - confidence))


def _bins(confidence: Floats) -> NDArray[np.int64]:
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def _error(bins: NDArray[np.int64], gaps: Floats) -> float:
    return float(np.abs(np.bincount(bins, gaps, BINS)).sum() / len(gaps))


def calibration_estimate(said: Confidences, rng: np.random.Generator) -> Estimate:
    """The calibration error of one model with an interval from the bootstrap over records.

    The error is never below 0 and so is high even where confidence is right; the bootstrap shows by how much, and its
    quantiles are mirrored at the value (Efron & Tibshirani 1993, basic bootstrap). Where a model that is right about
    its confidence would give as high a value by chance, the interval begins at 0.
    """
    count = len(said.confidence)
    if not count:
        return Estimate.missing("no records to count")
    bins, gaps = _bins(said.confidence), said.correct - said.confidence
    value = _error(bins, gaps)
    drawn = np.empty(REPEATS)
    chance = np.empty(REPEATS)
    for repeat in range(REPEATS):
        index = rng.integers(0, count, count)
        drawn[repeat] = _error(bins[index], gaps[index])
        chance[repeat] = _error(bins, (rng.random(count) < said.confidence) - said.confidence)

    def interval(level: float) -> tuple[float, float]:
        tail = (1 - level) / 2
        low, high = 2 * value - np.quantile(drawn, [1 - tail, tail])
        low = 0.0 if value <= np.quantile(chance, 1 - tail) else float(np.clip(low, 0.0, value))
        return low, float(np.clip(high, value, 1.0))

    return Estimate(value, interval)


def mean_over_targets(parts: list[Estimate]) -> Estimate:
    """Mean of the targets' errors; the interval holds both the mean of their own and their spread over targets.

    Targets share non-members, so that neither alone would do.
    """
    known = [part for part in parts if part.value is not None]
    if len(known) <= 1:
        return known[0] if known else Estimate.missing(parts[0].reason if parts else "no target")
    values = np.array([part.value for part in known], np.float64)
    value, deviation = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))

    def interval(level: float) -> tuple[float, float]:
        own = np.mean([part.interval(level) for part in known], axis=0)
        low, high = t_interval(value, deviation, len(values), logit=False)(level)
        return max(0.0, min(low, float(own[0]))), min(1.0, max(high, float(own[1])))

    return Estimate(value, interval)
