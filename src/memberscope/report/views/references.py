"""What more reference models would find, and how the gates were judged while the pool grew."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from memberscope.report.format import short_title
from memberscope.report.lines import Line, draw
from memberscope.report.svg import GREEN
from memberscope.report.views.attacks import Notes
from memberscope.types import Dataset, Findings
from memberscope.types.findings import Look, ReferenceAdvice


@dataclass(frozen=True)
class ReferencesView:
    """The section on the number of references."""

    advice: ReferenceAdvice | None
    attack: str
    svg: Markup | None
    looks: list[Look]
    notes: Notes


def view(findings: Findings, dataset: Dataset | None) -> ReferencesView | None:
    """The growth curve and the looks; None where neither was measured."""
    advice = findings.references
    if advice is None and not findings.looks:
        return None
    svg = None
    if advice is not None:
        exposed = advice.metric == "tpr"
        svg = draw(
            [point.references for point in advice.points],
            [Line(short_title(advice.attack), GREEN, None, [point.value for point in advice.points])],
            name="references-growth",
            title="What the attack finds against the number of reference models",
            unit="share" if exposed else "score",
            chance=0.01 if exposed else 0.5,
            zero=exposed,
            axis="reference models",
        )
    return ReferencesView(advice, short_title(advice.attack) if advice else "", svg, findings.looks, Notes())
