"""Which records are vulnerable by which definition, and whether they are outliers of their class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memberscope.report.format import attack_title, rate, words
from memberscope.report.pictures import Look, looks, pixelated
from memberscope.report.views.attacks import Notes
from memberscope.types import Dataset, Figure, Findings
from memberscope.types.analyses import OutlierRow, Outliers, OutlierScore, Vulnerability

PICTURES, ROWS = 6, 3
SHARES = ("0.01", "0.03", "0.05")
VERDICTS = {"yes": "Yes", "partly": "Partly", "no": "No", "undecided": "Undecided"}
_LISTED = 3


@dataclass(frozen=True)
class ScoreRow:
    """One score from models without the record, with its AUROC from the target beside it."""

    score: OutlierScore
    target: Figure | None


@dataclass(frozen=True)
class Tile:
    """One vulnerable record, what it looks like, and its highest percentiles: (score, share that scores lower)."""

    row: OutlierRow
    look: Look
    highest: list[tuple[str, float]]


@dataclass(frozen=True)
class OutliersView:
    """The section on what the vulnerable records are."""

    outliers: Outliers | None
    missing: str
    verdict: str
    vulnerability: Vulnerability | None
    attack: str
    main: list[ScoreRow]
    target: list[OutlierScore]
    main_view: str
    columns: list[tuple[str, str]]
    tiles: list[tuple[str, list[Tile]]]
    kind: str
    pixelated: bool
    shares: list[tuple[str, str]]
    notes: Notes
    further: Notes


def view(findings: Findings, dataset: Dataset | None) -> OutliersView | None:
    """Vulnerable records and their outlier scores; None where neither was analysed."""
    analyses = findings.analyses
    if analyses is None or (analyses.outliers is None and analyses.vulnerability is None):
        return None
    outliers, vulnerability = analyses.outliers, analyses.vulnerability
    scores = outliers.scores if outliers else []
    unaided = [score for score in scores if score.view == "out"]
    own = [score for score in scores if score.view == "target"]
    by_name = {score.name: score.auroc for score in own}
    main = _ordered(unaided or own)
    titles = {score.name: score.title for score in scores}
    return OutliersView(
        outliers=outliers,
        missing="; ".join(item.reason for item in analyses.not_done if item.name.startswith("outlier")),
        verdict=VERDICTS[outliers.verdict] if outliers else "",
        vulnerability=vulnerability,
        attack=attack_title(vulnerability.attack) if vulnerability else "",
        main=[ScoreRow(score, by_name.get(score.name) if unaided else None) for score in main],
        target=_ordered(own) if unaided else [],
        main_view="out" if unaided else "target",
        columns=_columns(outliers, titles),
        tiles=_tiles(outliers, dataset, titles),
        kind=dataset.kind if dataset else "",
        pixelated=pixelated(dataset),
        shares=[(key, rate(float(key))) for key in SHARES],
        notes=Notes(),
        further=Notes(),
    )


def _ordered(scores: Sequence[OutlierScore]) -> list[OutlierScore]:
    """The most telling first; those that could not be measured last."""
    return sorted(scores, key=lambda score: -(score.auroc.value if score.auroc.value is not None else -1.0))


def _columns(outliers: Outliers | None, titles: dict[str, str]) -> list[tuple[str, str]]:
    """(name, title) of every score that a listed record has, in the order in which they come."""
    names = dict.fromkeys(name for row in (outliers.top if outliers else []) for name in row.percentiles)
    return [(name, titles.get(name) or words(name)) for name in names]


def _tiles(outliers: Outliers | None, dataset: Dataset | None, titles: dict[str, str]) -> list[tuple[str, list[Tile]]]:
    """Of the most exposed records, those that stand out most from all others and those that stand out least."""
    rows = [row for row in (outliers.top if outliers else []) if row.percentiles]
    rows.sort(key=lambda row: -sum(row.percentiles.values()) / len(row.percentiles))
    count = ROWS if dataset is not None and dataset.kind == "table" else PICTURES
    groups = {"Those that stand out most": rows}
    if len(rows) >= 2 * count:
        groups = {"Those that stand out most": rows[:count], "Those that stand out least": rows[-count:]}
    known = looks(dataset, [row.id for group in groups.values() for row in group[: 2 * count]])
    return [
        (title, [_tile(row, known.get(row.id, Look()), titles) for row in group[: 2 * count]])
        for title, group in groups.items()
        if group
    ]


def _tile(row: OutlierRow, look: Look, titles: dict[str, str]) -> Tile:
    ranked = sorted(row.percentiles.items(), key=lambda item: -item[1])[:_LISTED]
    return Tile(row, look, [(titles.get(name) or words(name), share) for name, share in ranked])
