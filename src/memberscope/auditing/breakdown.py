"""The figures behind the headline: accuracies, curves, histograms, classes and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.large import in_threads, quantiles, release, threads
from memberscope.signals.derive import correct_row, let_go
from memberscope.statistics import cluster, roc
from memberscope.statistics.intervals import LEVEL, Estimate
from memberscope.statistics.measure import Measurement, accuracies, rate
from memberscope.statistics.verdict import bounds
from memberscope.types import Dataset, Scores, Signals
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
    for target in rows:
        let_go(signals, target)
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
    # Extreme scores would squeeze everything else into one bar; they are counted in the outermost bars.
    low, high = quantiles(scores.values, (0.002, 0.998))
    if not low < high:
        low = min(float(np.nanmin(row)) for row in scores.values) - 0.5
        high = max(float(np.nanmax(row)) for row in scores.values) + 0.5
    counts, sizes = np.zeros((2, HISTOGRAM_BINS)), np.zeros(2)
    for row, members in zip(scores.values, scores.members, strict=True):
        known = ~np.isnan(row)
        for side, where in enumerate((members & known, ~members & known)):
            part = np.clip(row[where], low, high)
            counts[side] += np.histogram(part, HISTOGRAM_BINS, (low, high))[0]
            sizes[side] += len(part)
        release(row)
    density = counts / np.maximum(sizes, 1)[:, None]
    return Histogram(
        attack=scores.attack,
        edges=[float(edge) for edge in np.linspace(low, high, HISTOGRAM_BINS + 1)],
        members=[float(value) for value in density[0]],
        non_members=[float(value) for value in density[1]],
    )


def class_rows(
    signals: Signals,
    measurement: Measurement,
    targets: Sequence[int],
    names: Sequence[str],
    level: float = LEVEL,
    choices: int = 1,
) -> list[ClassRow]:
    """Leakage by class, intervals corrected for the number of classes (Bonferroni).

    Args:
        signals: of the models.
        measurement: of the attack to show.
        targets: audited rows.
        names: of the classes.
        level: confidence of all rows together.
        choices: attacks from which this one was picked, which the bounds of gates allow for.
    """
    return _rows(signals, measurement, targets, _parts(signals, signals.labels, names), level, choices)


def group_rows(
    signals: Signals,
    measurement: Measurement,
    targets: Sequence[int],
    dataset: Dataset | None,
    level: float = LEVEL,
    choices: int = 1,
) -> dict[str, list[ClassRow]]:
    """Leakage by each of the data set's groups with 2 to 50 values, as :func:`class_rows`."""
    found: dict[str, list[ClassRow]] = {}
    for name, values in (dataset.groups if dataset else {}).items():
        kinds, index = np.unique(values, return_inverse=True)
        if 2 <= len(kinds) <= MOST_GROUPS:
            parts = _parts(signals, index, [str(kind) for kind in kinds], all_of=True)
            found[name] = _rows(signals, measurement, targets, parts, level, choices)
    return found


def _parts(
    signals: Signals, kind: NDArray[np.int64], names: Sequence[str], *, all_of: bool = False
) -> dict[str, NDArray[np.int64]]:
    """The audited records of each kind, in order; kinds without any are left out unless ``all_of``."""
    audited = np.flatnonzero(~signals.population)
    order = audited[np.argsort(kind[audited], kind="stable")]
    bounds = np.searchsorted(kind[order], np.arange(len(names) + 1))
    parts = {name: order[a:b] for name, a, b in zip(names, bounds[:-1], bounds[1:], strict=True)}
    return {name: part for name, part in parts.items() if all_of or len(part)}


def _rows(
    signals: Signals,
    measurement: Measurement,
    targets: Sequence[int],
    parts: Mapping[str, NDArray[np.int64]],
    level: float,
    choices: int,
) -> list[ClassRow]:
    level = 1 - (1 - level) / max(len(parts), 1)
    tallies = {name: _Tally(int(measurement.clusters.max()) + 1) for name in parts}
    scores = measurement.scores

    def work(position: int) -> list[tuple[Estimate, NDArray[np.int64], NDArray[np.int64]]]:
        values, members = scores.values[position], scores.members[position]
        correct = correct_row(signals, targets[position])[:, 0]
        found = []
        for part in parts.values():
            own, truth, right = values[part], members[part], correct[part]
            known = ~np.isnan(own)
            counts = [np.sum(what) for what in (truth, right & truth, ~truth, right & ~truth)]
            found.append(
                (
                    roc.auc_estimate(own[known & truth], own[known & ~truth]),
                    measurement.accused(own, truth, measurement.fold[part]),
                    np.array(counts),
                )
            )
        release(values)
        return found

    workers = threads(scores.values.size)
    for position, found in enumerate(in_threads(work, range(len(targets)), workers)):
        for tally, (area, accused, counts) in zip(tallies.values(), found, strict=True):
            tally.areas.append(area)
            tally.accused[measurement.clusters[position]] += accused
            tally.counts += counts
    return [_row(name, tally, measurement, level, choices) for name, tally in tallies.items()]


class _Tally:
    """What the targets say of one part of the records."""

    def __init__(self, clusters: int) -> None:
        self.areas: list[Estimate] = []
        self.accused = np.zeros((clusters, 4), np.int64)
        # Members, those classified correctly, and likewise non-members.
        self.counts = np.zeros(4, np.int64)


def _row(name: str, tally: _Tally, measurement: Measurement, level: float, choices: int) -> ClassRow:
    members, members_right, others, others_right = (int(count) for count in tally.counts)
    targets = len(tally.areas)
    measurable = measurement.operating_point is not None
    reason = "a false-alarm rate of 1 % cannot be measured here"
    tpr, fpr = (
        rate(tally.accused, column, measurement.inflation) if measurable else Estimate.missing(reason)
        for column in (0, 2)
    )
    auc = _part_auc(tally.areas, measurement)
    judged = {key: bounds(estimate, level, choices) for key, estimate in (("auc", auc), ("tpr@0.01", tpr))}
    return ClassRow(
        name=name,
        members=round(members / targets),
        non_members=round(others / targets),
        train_accuracy=members_right / members if members else None,
        test_accuracy=others_right / others if others else None,
        auc=auc.figure(level),
        tpr=tpr.figure(level),
        fpr=fpr.figure(level),
        bounds={key: found for key, found in judged.items() if found is not None},
    )


def _part_auc(singles: list[Estimate], measurement: Measurement) -> Estimate:
    """AUC within a part of the records: mean over targets, with the spread over clusters of targets."""
    known = [(single, c) for single, c in zip(singles, measurement.clusters, strict=True) if single.value is not None]
    if not known:
        return singles[0]
    value = float(np.mean([single.value for single, _ in known]))
    groups = sorted({c for _, c in known})
    if len(groups) == 1:
        return cluster.mean_bounds(value, [single for single, _ in known], "")
    means = np.array([np.mean([s.value for s, c in known if c == group]) for group in groups])
    deviation = float(means.std(ddof=1) * np.sqrt(measurement.inflation / len(means)))
    return cluster.clipped(value, cluster.t_interval(value, deviation, len(means), logit=False))
