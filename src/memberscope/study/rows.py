"""One row of the table: its models audited, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memberscope.attacks import ATTACKS
from memberscope.auditing import Examination
from memberscope.defences import Defence
from memberscope.defences.overhead import NO_OVERHEAD
from memberscope.signals.derive import correct_row
from memberscope.signals.references import design, targets_among_references
from memberscope.statistics.calibration import Confidences, calibration_estimate, mean_over_targets
from memberscope.statistics.cluster import t_interval
from memberscope.statistics.intervals import LEVEL, Estimate
from memberscope.statistics.measure import FPRS, Measured, Measurement, accuracies, rate
from memberscope.study.differences import differences
from memberscope.study.prepare import Prepared
from memberscope.study.published import TABLES
from memberscope.types import AttackResult, Figure, Signals
from memberscope.types.study import Dp, StudyRow

THRESHOLD_ATTACK = "scaled_logit"
_KINDS = {kind.name: kind for kind in ATTACKS}


@dataclass(frozen=True, eq=False)
class Behind:
    """What is known of a row's models beside their signals.

    Args:
        seconds: ``(M,)`` of training, evaluation left out.
        epochs: ``(M,)`` trained.
        kept: ``(M,)`` epochs that early stopping kept; empty without.
        privacy: one statement a model of what DP-SGD did; empty without.
        shifted: ``(M, N)`` where a policy's centroid gave way; None without a policy.
        overhead: seconds a query that the policy adds.
        relative: the same over the model's own time.
    """

    seconds: Sequence[float]
    epochs: Sequence[int]
    kept: Sequence[int]
    privacy: Sequence[dict[str, object]]
    shifted: NDArray[np.bool_] | None = None
    overhead: Figure = NO_OVERHEAD
    relative: Figure = NO_OVERHEAD


def study_rows(
    defence: Defence, prepared: Prepared, signals: Signals, found: Examination, behind: Behind
) -> list[StudyRow]:
    """A row a seed and one of all targets, from the audit ``found`` of ``signals``."""
    targets = prepared.targets
    strongest = _Strongest.of(signals, found, targets, prepared.config.seed)
    clusters = Measurement(found.scores[THRESHOLD_ATTACK], design(signals).twin, prepared.config.seed).clusters
    correct = np.stack([correct_row(signals, target)[:, 0] for target in targets])
    members = signals.members[targets]
    calibration = [_calibration(signals, target, prepared.config.seed) for target in targets]

    def one(position: int | None) -> StudyRow:
        chosen = list(range(len(targets))) if position is None else [position]
        target = None if position is None else targets[position]
        groups = clusters if position is None else np.zeros(1, np.int64)
        train, test = accuracies(correct[chosen], members[chosen], ~members[chosen], groups)
        threshold, gap = (_result(found, name, target) for name in (THRESHOLD_ATTACK, "gap"))
        figures = {
            "train_accuracy": train.figure(),
            "test_accuracy": test.figure(),
            "threshold_auc": threshold.auc,
            "threshold_advantage": threshold.advantage,
        }
        name = prepared.config.published
        published = None if name is None else TABLES[name].of(defence.name)
        said = mean_over_targets(calibration) if position is None else calibration[position]
        epsilon, reason, dp = _privacy(behind, range(len(signals)) if target is None else [target])
        return StudyRow(
            method=defence.name,
            seed="all" if position is None else position,
            title=defence.title,
            family=defence.family,
            target=target,
            **figures,
            reference_attack=strongest.name,
            reference_tpr_at_fpr=strongest.tpr(position),
            reference_auc=strongest.auc(position),
            gap_auc=gap.auc,
            ece=said.figure(),
            train_seconds=_seconds(behind.seconds, target),
            overhead=behind.overhead,
            overhead_relative=behind.relative,
            shifted=_shifted(behind, signals, chosen, targets, groups),
            epochs=_mean(behind.epochs, target),
            kept_epoch=_mean(behind.kept, target),
            epsilon=epsilon,
            epsilon_reason=reason,
            dp=dp,
            published=published,
            differences=differences(defence.name, prepared, figures, published),
        )

    return [*(one(position) for position in range(prepared.config.seeds)), one(None)]


def _result(found: Examination, attack: str, target: int | None) -> AttackResult:
    wanted = "all" if target is None else target
    return next(result for result in found.findings.attacks if (result.name, result.target) == (attack, wanted))


@dataclass(frozen=True, eq=False)
class _Strongest:
    """The attack with reference models that finds most, with intervals corrected for having been picked."""

    name: str | None
    level: float
    measurement: Measurement | None
    reason: str = ""

    @classmethod
    def of(cls, signals: Signals, found: Examination, targets: Sequence[int], seed: int) -> _Strongest:
        """Pick by the lower bound of the TPR at 1 %, or of the AUC where no TPR can be measured."""
        names = [name for name in found.scores if name in _KINDS and _KINDS[name].minimum > 0]
        if not names:
            missing = [item for item in found.findings.not_run if item.name in _KINDS and _KINDS[item.name].minimum]
            return cls(None, LEVEL, None, f"no attack with reference models could run: {missing[0].reason}")
        pooled = {name: _result(found, name, None) for name in names}
        measurable = any(result.tpr_at_fpr["0.01"].value is not None for result in pooled.values())

        def strength(name: str) -> tuple[float, float]:
            rates, area = pooled[name].tpr_at_fpr["0.01"].low, pooled[name].auc.low
            area = -1.0 if area is None else area
            return ((-1.0 if rates is None else rates) if measurable else area), area

        best = max(names, key=strength)
        shared = targets_among_references(signals, targets) if _KINDS[best].contrasts else 0.0
        measurement = Measurement(found.scores[best], design(signals).twin, seed, shared)
        return cls(best, 1 - (1 - LEVEL) / len(names), measurement)

    def auc(self, position: int | None) -> Figure:
        """AUC on one target, on all when None."""
        measured = self._measured(position)
        return Figure.not_measurable(self.reason) if measured is None else measured.auc.figure(self.level)

    def tpr(self, position: int | None) -> dict[str, Figure]:
        """TPR at each false-positive rate, likewise."""
        measured = self._measured(position)
        missing = Figure.not_measurable(self.reason or "not measured")
        return {f"{fpr:g}": missing if measured is None else measured.tpr[fpr].figure(self.level) for fpr in FPRS}

    def _measured(self, position: int | None) -> Measured | None:
        if self.measurement is None:
            return None
        return self.measurement.pooled if position is None else self.measurement.targets[position]


def _calibration(signals: Signals, target: int, seed: int) -> Estimate:
    others = ~signals.members[target] & ~signals.population
    said = Confidences.of(np.asarray(signals.outputs[target])[others, 0], signals.labels[others])
    return calibration_estimate(said, np.random.default_rng([seed, 5, target]))


def _seconds(seconds: Sequence[float], target: int | None) -> Figure:
    """Of one model, a single measurement without an interval; of all models their mean with a t interval."""
    if target is not None:
        return Figure(value=seconds[target], low=seconds[target], high=seconds[target])
    values = np.array(seconds)
    value, deviation = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    low, high = t_interval(value, deviation, len(values), logit=False)(LEVEL)
    return Figure(value=value, low=max(low, 0.0), high=high)


def _mean(values: Sequence[int], target: int | None) -> float | None:
    if not values:
        return None
    return float(values[target]) if target is not None else float(np.mean(values))


def _shifted(
    behind: Behind,
    signals: Signals,
    chosen: Sequence[int],
    targets: Sequence[int],
    clusters: NDArray[np.int64],
) -> Figure | None:
    if behind.shifted is None:
        return None
    counts = np.zeros((int(clusters.max()) + 1, 2), np.int64)
    for cluster, position in zip(clusters, chosen, strict=True):
        row = behind.shifted[targets[position]]
        counts[cluster] += [int(row.sum()), len(row)]
    return rate(counts, 0).figure()


def _privacy(behind: Behind, rows: Sequence[int]) -> tuple[float | None, str | None, Dp | None]:
    """The largest ε of the models, or why there is none, and how they were trained."""
    if not behind.privacy:
        return None, "no noise was added in training", None
    said = [behind.privacy[row] for row in rows]
    first = said[0]
    dp = Dp.model_validate({key: first.get(key) for key in Dp.model_fields})
    missing = next((statement for statement in said if statement.get("epsilon") is None), None)
    if missing is not None:
        return None, str(missing.get("reason") or "no ε was computed"), dp
    return max(float(str(statement["epsilon"])) for statement in said), None, dp
