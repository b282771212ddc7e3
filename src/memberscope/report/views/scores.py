"""Histograms of the attacks' scores."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from memberscope.report.figures import histogram, overlap
from memberscope.report.format import attack_title
from memberscope.report.views.common import pooled_results
from memberscope.types import Dataset, Findings

SHOWN = 2


@dataclass(frozen=True)
class Picture:
    """One histogram with its attack."""

    title: str
    overlap: float
    svg: Markup


@dataclass(frozen=True)
class ScoresView:
    """Histograms in the open, and further ones."""

    shown: list[Picture]
    rest: list[Picture]


def view(findings: Findings, dataset: Dataset | None) -> ScoresView | None:
    """The histograms, the strongest attack's first; None when there is none."""
    rank = {result.name: index for index, result in enumerate(pooled_results(findings))}
    drawable = [data for data in findings.histograms if len(data.edges) > 1]
    ordered = sorted(drawable, key=lambda data: rank.get(data.attack, len(rank)))
    # Beside the strongest attack stands the plain loss, whose picture shows what the others gain.
    ordered.sort(key=lambda data: (rank.get(data.attack, 1) != 0, data.attack != "loss"))
    pictures = [Picture(attack_title(data.attack), overlap(data), histogram(data)) for data in ordered]
    return ScoresView(pictures[:SHOWN], pictures[SHOWN:]) if pictures else None
