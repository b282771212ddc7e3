"""The figures behind the headline: accuracies, curves, histograms, classes and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.signals.derive import correct_row
from memberscope.statistics import cluster, roc
from memberscope.statistics.intervals import LEVEL
from memberscope.statistics.measure import Measurement, accuracies, rate
from memberscope.types import Dataset, Figure, Scores, Signals
from memberscope.types.base import Histogram
from memberscope.types.findings import ClassRow, Curve

# Beside the strongest attack, the paper's global threshold and the floor tell how much references add.
SHOWN = ("loss", "gap")
HISTOGRAM_BINS = 48
MOST_GROUPS = 50


def accuracy_figures(signals: Signals, targets: Sequence[int], clusters: NDArray[np.int64]) -> dict[str, Any]:
    """``train_accuracy`` and ``test_accuracy`` over the targets, as figures."""
    rows = list(targets)
    members = signals.members[rows]
    correct = np.stack([correct_row(signals, target)[:, 0] for target in rows])
    train, test = accuracies(correct, members, ~members & ~signals.population, clusters)
    return {"train_accuracy": train.figure().model_dump(), "test_accuracy": test.figure().model_dump()}


def curves(measurements: Mapping[str, Measurement], strongest: str) -> list[Curve]:
    """ROC of the strongest attack and of the attacks to compare it with, over all targets."""
    names = dict.fromkeys([strongest, *(name for name in SHOWN if name in measurements)])
    return [_curve(measurements[name]) for name in names]


def _curve(measurement: Measurement) -> Curve:
    fpr, tpr = measurement.curve
    if measurement.binned is not None:
        errors = measurement.binned.band(fpr)
        count = len(measurement.binned.positives)
        bounds = [
            cluster.t_interval(float(y), float(error), count, logit=True)(LEVEL) if 0 < x < 1 else (y, y)
            for x, y, error in zip(fpr, tpr, errors, strict=True)
        ]
    else:
        bounds = measurement.band or []
    low, high = np.clip(np.array(bounds), 0, 1).T
    return Curve(
        attack=measurement.scores.attack,
        fpr=[float(value) for value in fpr],
        tpr=[float(value) for value in tpr],
        low=[float(value) for value in low],
        high=[float(value) for value in high],
    )


def histograms(scores: Mapping[str, Scores], strongest: str) -> list[Histogram]:
    """Score densities of the strongest attack and of the scaled logit."""
    names = dict.fromkeys([strongest, *(name for name in ("scaled_logit",) if name in scores)])
    return [_histogram(scores[name]) for name in names]


def _histogram(scores: Scores) -> Histogram:
    values = scores.values[~np.isnan(scores.values)]
    # Extreme scores would squeeze everything else into one bar; they are counted in the outermost bars.
    low, high = np.quantile(values, [0.002, 0.998])
    if not low < high:
        low, high = float(values.min()) - 0.5, float(values.max()) + 0.5
    edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
    density = []
    for where in (scores.members, ~scores.members):
        part = scores.values[where]
        part = np.clip(part[~np.isnan(part)], low, high)
        density.append(np.histogram(part, edges)[0] / max(len(part), 1))
    return Histogram(
        attack=scores.attack,
        edges=[float(edge) for edge in edges],
        members=[float(value) for value in density[0]],
        non_members=[float(value) for value in density[1]],
    )


def class_rows(
    signals: Signals, measurement: Measurement, targets: Sequence[int], names: Sequence[str]
) -> list[ClassRow]:
    """Leakage by class, intervals corrected for the number of classes (Bonferroni)."""
    present = [k for k in range(len(names)) if ((signals.labels == k) & ~signals.population).any()]
    return _rows(signals, measurement, targets, {names[k]: signals.labels == k for k in present})


def group_rows(
    signals: Signals, measurement: Measurement, targets: Sequence[int], dataset: Dataset | None
) -> dict[str, list[ClassRow]]:
    """Leakage by each of the data set's groups with 2 to 50 values."""
    found: dict[str, list[ClassRow]] = {}
    for name, values in (dataset.groups if dataset else {}).items():
        kinds = np.unique(values)
        if 2 <= len(kinds) <= MOST_GROUPS:
            found[name] = _rows(signals, measurement, targets, {str(kind): values == kind for kind in kinds})
    return found


def _rows(
    signals: Signals, measurement: Measurement, targets: Sequence[int], parts: Mapping[str, NDArray[np.bool_]]
) -> list[ClassRow]:
    level = 1 - (1 - LEVEL) / max(len(parts), 1)
    correct = np.stack([correct_row(signals, target)[:, 0] for target in targets])
    scores = measurement.scores
    return [
        _row(name, chosen & ~signals.population, scores, measurement, correct, level) for name, chosen in parts.items()
    ]


def _row(
    name: str,
    chosen: NDArray[np.bool_],
    scores: Scores,
    measurement: Measurement,
    correct: NDArray[np.bool_],
    level: float,
) -> ClassRow:
    truth = scores.members[:, chosen]
    right = correct[:, chosen]
    part = Scores(scores.attack, scores.values[:, chosen], truth, scores.targets)
    measurable = measurement.operating_point is not None
    counts = measurement.operating_counts(chosen)
    reason = "a false-alarm rate of 1 % cannot be measured here"
    return ClassRow(
        name=name,
        members=round(float(truth.sum(axis=1).mean())),
        non_members=round(float((~truth).sum(axis=1).mean())),
        train_accuracy=float(right[truth].mean()) if truth.any() else None,
        test_accuracy=float(right[~truth].mean()) if (~truth).any() else None,
        auc=_part_auc(part, measurement, level),
        tpr=rate(counts, 0, measurement.inflation).figure(level) if measurable else Figure.not_measurable(reason),
        fpr=rate(counts, 2, measurement.inflation).figure(level) if measurable else Figure.not_measurable(reason),
    )


def _part_auc(part: Scores, measurement: Measurement, level: float) -> Figure:
    """AUC within a part of the records: mean over targets, with the spread over clusters of targets."""
    singles = [roc.auc_estimate(*part.of(position)) for position in range(len(part.targets))]
    known = [(single, c) for single, c in zip(singles, measurement.clusters, strict=True) if single.value is not None]
    if not known:
        return singles[0].figure()
    value = float(np.mean([single.value for single, _ in known]))
    groups = sorted({c for _, c in known})
    if len(groups) == 1:
        return cluster.mean_bounds(value, [single for single, _ in known], "").figure(level)
    means = np.array([np.mean([s.value for s, c in known if c == group]) for group in groups])
    deviation = float(means.std(ddof=1) * np.sqrt(measurement.inflation / len(means)))
    low, high = cluster.t_interval(value, deviation, len(means), logit=False)(level)
    return Figure(value=value, low=max(low, 0.0), high=min(high, 1.0))
