"""Where the model looks: Grad-CAM maps over their images, or bars of a table's features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from memberscope.report.figures import signed_bar
from memberscope.report.format import number
from memberscope.report.heat import alone, overlay, scale
from memberscope.report.pictures import data_uri, pixelated, places, tones
from memberscope.report.views.attacks import Notes
from memberscope.types import Dataset, Findings
from memberscope.types.analyses import Attribution, AttributionMap

GROUPS = (
    ("vulnerable", "nearest", "Vulnerable, nearest to the middle of their class"),
    ("vulnerable", "farthest", "Vulnerable, farthest from it"),
    ("protected", "nearest", "Protected, nearest to the middle of their class"),
    ("protected", "farthest", "Protected, farthest from it"),
)
# Features listed a record; the rest is told as a number.
LISTED = 8


@dataclass(frozen=True)
class Bar:
    """One feature of one record."""

    feature: str
    value: str
    attribution: str
    svg: Markup


@dataclass(frozen=True)
class Explained:
    """One record: its image and the map over it (or the map alone), or the bars of its features."""

    map: AttributionMap
    image: str | None
    heat: str | None
    bars: list[Bar]
    more: int


@dataclass(frozen=True)
class AttributionView:
    """The section on where the model looks."""

    attribution: Attribution
    groups: list[tuple[str, list[Explained]]]
    images: bool
    overlaid: bool
    pixelated: bool
    scale: Markup
    notes: Notes


def view(findings: Findings, dataset: Dataset | None) -> AttributionView | None:
    """The maps of vulnerable and protected records; None where none was made."""
    attribution = findings.analyses.attribution if findings.analyses else None
    if attribution is None:
        return None
    explained = _explained(attribution, dataset)
    groups = [
        (title, [e for e in explained if (e.map.kind, e.map.place) == (kind, place)]) for kind, place, title in GROUPS
    ]
    return AttributionView(
        attribution=attribution,
        groups=[(title, group) for title, group in groups if group],
        images=any(e.heat for e in explained),
        overlaid=any(e.image for e in explained),
        pixelated=pixelated(dataset),
        scale=scale(),
        notes=Notes(),
    )


def _explained(attribution: Attribution, dataset: Dataset | None) -> list[Explained]:
    ids = [item.id for item in attribution.maps if item.map and item.map[0]]
    found = places(dataset, ids) if dataset is not None and dataset.kind == "image" else {}
    known = list(dict.fromkeys(ident for ident in ids if ident in found))
    images = {}
    if dataset is not None and known:
        drawn = tones(dataset, np.array([found[ident] for ident in known], np.int64))
        images = {ident: image for ident, image in zip(known, drawn, strict=True) if image is not None}
    # One scale for all records: a long bar means the same everywhere.
    end = max((abs(a) for item in attribution.maps for _, _, a in item.features), default=0.0)
    result = []
    for item in attribution.maps:
        image = images.get(item.id)
        heat = None
        if item.map and item.map[0]:
            heat = alone(item.map) if image is None else overlay(image, item.map)
        result.append(
            Explained(
                map=item,
                image=None if image is None else data_uri(image),
                heat=heat,
                bars=[
                    Bar(name, number(float(f"{value:.4g}")), number(attributed), signed_bar(attributed, end))
                    for name, value, attributed in item.features[:LISTED]
                ],
                more=max(0, len(item.features) - LISTED),
            )
        )
    return result
