"""What an attacker can do: every attack with its intervals, those not run, and how far to trust an accusation."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from markupsafe import Markup

from memberscope.report import roc
from memberscope.report.figures import bar_limit, spread
from memberscope.report.format import SOURCES, UNAIDED, access_label, attack_title, short_title
from memberscope.report.views.common import limit_on, pooled_results, strongest_result, tpr
from memberscope.types import AttackResult, Dataset, Figure, Findings
from memberscope.types.findings import OperatingPoint

RATES = ("0.1", "0.01", "0.001")


@dataclass
class Notes:
    """Reasons why figures are missing, numbered in the order in which the table meets them."""

    reasons: list[str] = field(default_factory=list)

    def mark(self, figure: Figure) -> int:
        """The number of the figure's reason."""
        reason = figure.reason or "not measured"
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason) + 1


@dataclass(frozen=True)
class AttackRow:
    """One attack of the main table."""

    name: str
    title: str
    source: str
    strongest: bool
    access: str
    references: int
    tpr: dict[str, Figure]
    auc: Figure
    advantage: Figure
    operating_point: OperatingPoint | None


@dataclass(frozen=True)
class Reading:
    """A coloured curve and what it reaches."""

    title: str
    colour: str
    dash: str | None
    tpr: dict[str, Figure]
    auc: Figure


@dataclass(frozen=True)
class SpreadRow:
    """One attack over the single targets."""

    title: str
    targets: int
    low: float
    median: float
    high: float
    dots: Markup


@dataclass(frozen=True)
class AttacksView:
    """The section on attacks."""

    strongest: AttackRow | None
    rows: list[AttackRow]
    notes: Notes
    end: float
    measured: bool
    limit: float | None
    roc: Markup | None
    other_curves: int
    readings: list[Reading]
    not_run: list[tuple[str, list[str]]]
    spreads: list[SpreadRow]
    spread_end: float
    targets: list[AttackResult]


def view(findings: Findings, dataset: Dataset | None) -> AttacksView:
    """The attacks, the strongest first."""
    rows = [_row(result, findings) for result in pooled_results(findings)]
    limit = limit_on(findings, "tpr")
    highs = [row.tpr["0.01"].high for row in rows if row.tpr["0.01"].high is not None]
    curves = [curve for curve in findings.curves if len(curve.fpr) > 1]
    # Right or wrong is a single point, and the line through it would promise thresholds that do not exist.
    curves = [curve for curve in curves if curve.attack != "gap"] or curves
    lines = roc.choose(curves, [row.name for row in rows])
    drawn = {line.attack for line in lines}
    others = [curve for curve in curves if curve.attack not in drawn]
    by_name = {row.name: row for row in rows}
    spreads, spread_end = _spreads(findings, [row.name for row in rows])
    return AttacksView(
        strongest=next((row for row in rows if row.strongest), None),
        rows=rows,
        notes=Notes(),
        end=bar_limit(*highs, *([limit] if limit is not None else [])),
        measured=bool(highs),
        limit=limit,
        roc=roc.draw(lines, others) if lines else None,
        other_curves=len(others),
        readings=[
            Reading(
                short_title(line.attack), line.colour, line.dash, by_name[line.attack].tpr, by_name[line.attack].auc
            )
            for line in lines
            if line.attack in by_name
        ],
        not_run=_by_reason(findings),
        spreads=spreads,
        spread_end=spread_end,
        targets=[r for r in findings.attacks if r.name == findings.strongest and r.target != "all"] if spreads else [],
    )


def _row(result: AttackResult, findings: Findings) -> AttackRow:
    return AttackRow(
        name=result.name,
        title=attack_title(result.name),
        source=SOURCES.get(result.name, ""),
        # Where nothing could be measured, none is the strongest.
        strongest=result.name == findings.strongest and (result.auc.value is not None or tpr(result).value is not None),
        access=access_label(result.access),
        references=0 if result.name in UNAIDED else result.references,
        tpr={key: tpr(result, key) for key in RATES},
        auc=result.auc,
        advantage=result.advantage,
        operating_point=result.operating_point,
    )


def _by_reason(findings: Findings) -> list[tuple[str, list[str]]]:
    grouped: dict[str, list[str]] = {}
    for item in findings.not_run:
        grouped.setdefault(item.reason, []).append(attack_title(item.name))
    return list(grouped.items())


def _spreads(findings: Findings, names: Iterable[str]) -> tuple[list[SpreadRow], float]:
    """TPR at 1 % over the single targets of each attack, and the end of their common axis."""
    values: dict[str, list[float]] = {}
    for result in findings.attacks:
        value = tpr(result).value
        if result.target != "all" and value is not None:
            values.setdefault(result.name, []).append(value)
    several = {name: values[name] for name in names if len(values.get(name, [])) > 1}
    end = bar_limit(*(max(found) for found in several.values()))
    rows = [
        SpreadRow(attack_title(name), len(v), min(v), statistics.median(v), max(v), spread(v, end))
        for name, v in several.items()
    ]
    return rows, end


@dataclass(frozen=True)
class PrecisionView:
    """What accusations at the fixed threshold are worth, the strongest attack first."""

    title: str
    point: OperatingPoint
    rows: list[AttackRow]
    notes: Notes


def precision_view(findings: Findings, dataset: Dataset | None) -> PrecisionView | None:
    """Precision at several priors, None when no attack has an operating point."""
    rows = [row for row in (_row(r, findings) for r in pooled_results(findings)) if row.operating_point]
    strongest = strongest_result(findings)
    if not rows or strongest is None:
        return None
    first = next((row for row in rows if row.strongest), rows[0])
    if first.operating_point is None:
        return None
    return PrecisionView(first.title, first.operating_point, rows, Notes())
