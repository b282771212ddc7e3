"""The study's own arithmetic against slow oracles: fronts, calibration, designs, the paper's table."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memberscope.signals.references import design
from memberscope.statistics.calibration import (
    Confidences,
    calibration_error,
    calibration_estimate,
    mean_over_targets,
)
from memberscope.statistics.intervals import Estimate
from memberscope.statistics.pareto import pareto_front
from memberscope.study.design import fold_members, target_rows
from memberscope.study.published import TABLES
from memberscope.types import Signals

POINTS = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=12)


@settings(max_examples=300, deadline=None)
@given(POINTS)
def test_front_is_what_no_other_point_beats(points: list[tuple[float, float]]) -> None:
    expected = [
        place
        for place, (x, y) in enumerate(points)
        if not any(a >= x and b <= y and (a > x or b < y) for a, b in points)
    ]
    found = pareto_front(points)
    assert sorted(found) == expected
    assert [points[place][0] for place in found] == sorted(points[place][0] for place in found)


def slow_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """The definition, record by record: 15 bins (m/15, (m + 1)/15]."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for z, label in zip(logits, labels, strict=True):
        p = [math.exp(v - float(max(z))) for v in z.tolist()]
        p = [v / sum(p) for v in p]
        confidence = max(p)
        place = next(m for m in range(15) if confidence <= (m + 1) / 15 + 1e-15)
        bins.setdefault(place, []).append((confidence, p.index(confidence) == label))
    total = 0.0
    for inside in bins.values():
        accuracy = sum(right for _, right in inside) / len(inside)
        total += len(inside) / len(labels) * abs(accuracy - sum(c for c, _ in inside) / len(inside))
    return total


@pytest.mark.parametrize("classes", [2, 5, 100])
def test_calibration_error_is_the_definition(classes: int) -> None:
    rng = np.random.default_rng(classes)
    logits = (3 * rng.normal(size=(700, classes))).astype(np.float32)
    labels = rng.integers(0, classes, 700)
    said = Confidences.of(logits, labels)
    assert calibration_error(said.confidence, said.correct) == pytest.approx(slow_error(logits, labels), abs=1e-12)


def test_calibration_knows_the_ends() -> None:
    right = np.ones(50, np.bool_)
    assert calibration_error(np.ones(50), right) == 0 and calibration_error(np.ones(50), ~right) == 1
    assert calibration_estimate(Confidences(np.empty(0), np.empty(0, np.bool_)), np.random.default_rng(0)).value is None


@pytest.mark.parametrize(("shift", "truth"), [(0.0, 0.0), (0.06, 0.06), (0.2, 0.2)])
def test_calibration_intervals_cover(shift: float, truth: float) -> None:
    """Models that are right as often as they say, or too sure of themselves by ``shift``."""
    inside = 0
    for world in range(80):
        rng = np.random.default_rng([world, round(100 * shift)])
        confidence = rng.uniform(0.3, 0.98, 1200)
        correct = rng.random(1200) < confidence - shift
        found = calibration_estimate(Confidences(confidence, correct), rng).figure()
        assert found.low is not None and found.high is not None
        inside += found.low <= truth <= found.high
    assert inside / 80 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 80)


def test_mean_over_targets_holds_their_own_intervals_and_their_spread() -> None:
    def part(value: float, reach: float) -> Estimate:
        return Estimate(value, lambda level: (value - reach, value + reach))

    wide = mean_over_targets([part(0.1, 0.05), part(0.1, 0.05), part(0.1, 0.05)]).figure()
    assert wide.value == pytest.approx(0.1) and wide.low == pytest.approx(0.05) and wide.high == pytest.approx(0.15)
    apart = mean_over_targets([part(0.1, 0.0), part(0.2, 0.0), part(0.3, 0.0)]).figure()
    assert apart.high == pytest.approx(0.2 + 4.303 * 0.1 / math.sqrt(3), abs=1e-3) and apart.low == 0.0


@pytest.mark.parametrize(("models", "records", "folds"), [(6, 31, 2), (12, 100, 4), (15, 97, 5)])
def test_designs_leave_every_record_out_equally_often(models: int, records: int, folds: int) -> None:
    members = fold_members(models, records, folds, 3)
    assert (members.sum(axis=0) == models - models // folds).all()
    sizes = members.sum(axis=1)
    assert sizes.max() - sizes.min() <= 1 and sizes.max() == math.ceil(records * (folds - 1) / folds)
    assert (fold_members(models, records, folds, 3) == members).all()
    assert (fold_members(models, records, folds, 4) != members).any()
    # No target is another's twin, and each has the references that the others have.
    signals = Signals(np.zeros((models, records, 2)), "logits", members, np.arange(records) % 2)
    targets = target_rows(3, folds, models)[:3]
    assert not set(design(signals).twin[targets]) & set(targets)


# METHODS §7 as it stands there.
METHODS = """
| original | 97.76 | 87.54 | 1201 | 57.27 | 13.86 |
| early stopping | 96.88 | 89.58 | 200 | 55.07 | 10.40 |
| L2 5e-4 / 1e-3 / 5e-3 | 94.91 / 92.63 / 77.76 | 89.34 / 88.37 / 76.16 | 1209 / 1205 / 1207 | 53.25 / 52.22 / 50.92 | 7.26 / 4.87 / 1.73 |
| RegDrop (5e-4, .25) / (5e-4, .5) | 90.02 / 86.52 | 87.14 / 84.45 | 1489 / 1320 | 51.87 / 51.44 | 3.70 / 2.46 |
| label smoothing (.03) | 99.15 | 88.52 | 1699 | 59.43 | 16.43 |
| DP-SGD ε 2.38 (σ 1, C 1, batch 256, SGD .001) | 61.71 | 61.21 | 3507 | 50.36 | 0.70 |

| original | 99.97 | 87.91 | 3558 | 60.27 | 22.07 |
| early stopping | 99.97 | 87.93 | 2024 | 60.21 | 21.96 |
| L2 5e-4 / 1e-3 / 5e-3 | 99.99 / 99.95 / 60.35 | 91.46 / 89.61 / 59.71 | 3573 / 3564 / 3574 | 57.11 / 58.07 / 50.06 | 19.13 / 20.52 / 0.82 |
| RegDrop (5e-4, .25) / (5e-4, .5) | 99.85 / 91.97 | 91.78 / 84.89 | 3616 / 3610 | 56.00 / 53.61 | 15.44 / 7.52 |
| label smoothing (.1 documented, .01 in the script) | 99.99 | 86.47 | 3539 | 67.33 | 37.04 |
| DP-SGD "ε 4.95" (σ .5, C 1, batch 64) | 59.51 | 59.55 | 7738 | 50.00 | 0.53 |
| original + reweighting | 99.97 | 87.91 | +0.462 | 60.27 → 55.94 | 22.07 → 11.89 |
| RegDrop (5e-4, .25) + reweighting | 99.85 | 91.78 | +0.467 | 56.00 → 53.76 | 15.44 → 7.73 |
"""  # noqa: E501
ROWS = [
    ["original"], ["early_stopping"], ["l2_5e-4", "l2_1e-3", "l2_5e-3"], ["regdrop_25", "regdrop_50"],
    ["label_smoothing"], ["dp_sgd"], ["original+reweighting"], ["regdrop_25+reweighting"],
]  # fmt: skip


@pytest.mark.parametrize(("number", "name"), [(0, "purchase100"), (1, "cifar10")])
def test_published_figures_are_the_papers(number: int, name: str) -> None:
    lines = [line for line in METHODS.strip().split("\n\n")[number].splitlines() if line]
    seen = set()
    for methods, line in zip(ROWS, lines, strict=False):
        cells = [cell.strip() for cell in line.strip("|").split("|")][1:]
        for place, method in enumerate(methods):
            values = [re.split(r" / ", cell)[place].split(" → ")[-1] for cell in cells]
            found = TABLES[name].of(method)
            assert found is not None
            train, test, seconds, auc, advantage = values
            shown = (found.train_accuracy, found.test_accuracy, found.threshold_auc, found.threshold_advantage)
            assert [f"{100 * value:.2f}" for value in shown] == [train, test, auc, advantage]
            assert found.train_seconds == (None if seconds.startswith("+") else float(seconds))
            seen.add(method)
    assert seen == set(TABLES[name].cells)
    assert TABLES[name].of("mixup") is None
