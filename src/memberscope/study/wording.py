"""The study in sentences: what the undefended models give away, what helps, and at which price."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from memberscope.statistics.pareto import pareto_front
from memberscope.study.prepare import Prepared
from memberscope.text import percent, short_power
from memberscope.types import Figure
from memberscope.types.study import Front, StudyRow

# A defence that costs more test accuracy than this is no longer called cheap.
CHEAP = 0.02
REPORTED = "0.01"


def leakage(row: StudyRow, metric: Literal["reference_tpr", "threshold_auc"]) -> Figure:
    """The figure that the privacy–utility picture shows."""
    return row.threshold_auc if metric == "threshold_auc" else row.reference_tpr_at_fpr[REPORTED]


def fronts(rows: Sequence[StudyRow]) -> list[Front]:
    """For each metric the methods that no other beats in test accuracy and leakage, by their values."""
    found = []
    metrics: tuple[Literal["reference_tpr", "threshold_auc"], ...] = ("reference_tpr", "threshold_auc")
    for metric in metrics:
        known = [
            (row.method, (row.test_accuracy.value, leaked))
            for row in rows
            if (leaked := leakage(row, metric).value) is not None and row.test_accuracy.value is not None
        ]
        points = [(float(point[0] or 0.0), float(point[1])) for _, point in known]
        found.append(Front(metric=metric, methods=[known[place][0] for place in pareto_front(points)]))
    return found


def headline(rows: Sequence[StudyRow]) -> str:
    """What a defence gains here, in one sentence."""
    plain = next((row for row in rows if row.method == "original"), None)
    if plain is None:
        least = min(rows, key=lambda row: row.threshold_auc.value or 1.0)
        return (
            f"Of {len(rows)} defences {least.title} leaves a global threshold least: AUC "
            f"{_decimal(least.threshold_auc)}, at a test accuracy of {_share(least.test_accuracy)}."
        )
    found = plain.reference_tpr_at_fpr[REPORTED]
    measured = found.value is not None
    subject = (
        f"Without a defence {_share(found)} of the training records are found at one false alarm in a hundred"
        if measured
        else f"Without a defence a global threshold reaches an AUC of {_decimal(plain.threshold_auc)}"
    )
    best = _cheap(plain, rows, measured)
    if best is None:
        return f"{subject}; no defence here lowers that beyond its interval for at most 2 points of test accuracy."
    value = best.reference_tpr_at_fpr[REPORTED] if measured else best.threshold_auc
    shown = _share(value) if measured else _decimal(value)
    return (
        f"{subject}; {best.title} brings that to {shown}, at a test accuracy of {_share(best.test_accuracy)} "
        f"instead of {_share(plain.test_accuracy)}."
    )


def _cheap(plain: StudyRow, rows: Sequence[StudyRow], measured: bool) -> StudyRow | None:
    """The row that leaks least of those that are surely below ``plain`` and cost at most 2 points of test accuracy."""

    def figure(row: StudyRow) -> Figure:
        return row.reference_tpr_at_fpr[REPORTED] if measured else row.threshold_auc

    limit, accuracy = figure(plain).low, plain.test_accuracy.value
    if limit is None or accuracy is None:
        return None
    good = [
        row
        for row in rows
        if (high := figure(row).high) is not None
        and high < limit
        and row.test_accuracy.value is not None
        and row.test_accuracy.value >= accuracy - CHEAP
    ]
    return min(good, key=lambda row: figure(row).value or 0.0, default=None)


def summary(prepared: Prepared, rows: Sequence[StudyRow], found: Sequence[Front]) -> list[str]:
    """Plain sentences under the headline."""
    config = prepared.config
    references = config.models - (2 if config.folds == 2 else 1)
    said = [
        f"Each row is {config.models} models trained on {prepared.size:,} of {len(prepared.dataset):,} records; "
        f"each plays target in turn, against {references} references trained and defended alike, on the same "
        "memberships and seeds in every row."
    ]
    titles = {row.method: row.title for row in rows}
    for front in found:
        what = (
            "records found at 1 % false alarms" if front.metric == "reference_tpr" else "the AUC of a global threshold"
        )
        if front.methods:
            names = _listed([titles[name] for name in front.methods])
            said.append(f"No row beats these in both test accuracy and {what}: {names}.")
    plain = next((row for row in rows if row.method == "original"), None)
    if plain is not None and plain.threshold_auc.high is not None:
        worse = [
            row.title
            for row in rows
            if row.threshold_auc.low is not None and row.threshold_auc.low > plain.threshold_auc.high
        ]
        if worse:
            said.append(f"Surely worse than no defence under the paper's threshold attack: {_listed(worse)}.")
    said += [sentence for row in rows if (sentence := _reweighted(row, rows))]
    for row in rows:
        if row.epsilon is None or row.dp is None:
            continue
        said.append(f"{row.title} guarantees ε = {row.epsilon:.2f} at δ = {short_power(row.dp.delta)}.")
    return said


def _reweighted(row: StudyRow, rows: Sequence[StudyRow]) -> str:
    """How much of what reweighting hides from a threshold remains for others."""
    if row.family != "output":
        return ""
    before = next((other for other in rows if other.method == row.method.split("+")[0]), None)
    if before is None:
        return ""
    known = (row.reference_auc, before.reference_auc, row.threshold_auc, before.threshold_auc, row.gap_auc)
    if any(figure.value is None for figure in known):
        return ""
    return (
        f"On {before.title}, reweighting brings the threshold AUC from {_decimal(before.threshold_auc)} to "
        f"{_decimal(row.threshold_auc)} (accuracy alone gives {_decimal(row.gap_auc)}); the strongest attack with "
        f"reference models goes from {_decimal(before.reference_auc)} to {_decimal(row.reference_auc)}."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _share(figure: Figure) -> str:
    if figure.value is None or figure.low is None or figure.high is None:
        return "an unknown share"
    return f"{percent(figure.value)} ({percent(figure.low)} to {percent(figure.high)})"


def _decimal(figure: Figure) -> str:
    return "unknown" if figure.value is None else f"{figure.value:.3f}"
