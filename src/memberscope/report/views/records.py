"""Which records are exposed, with their own ids, drawn or listed with their values."""

from __future__ import annotations

from dataclasses import dataclass

from memberscope.report.format import attack_title
from memberscope.report.pictures import Look, looks, pixelated
from memberscope.types import Dataset, Findings
from memberscope.types.findings import RecordRow, Records

CARDS, SMALL = 12, 48


@dataclass(frozen=True)
class RecordCard:
    """One record, what it looks like, and the class that it lies nearest to where that was analysed."""

    row: RecordRow
    look: Look
    nearest: str


@dataclass(frozen=True)
class RecordsView:
    """The section on records; ``records`` is None when none could be judged one by one."""

    records: Records | None
    title: str
    kind: str
    pixelated: bool
    cards: list[RecordCard]
    small: list[RecordCard]
    unknown: int
    several: bool


def view(findings: Findings, dataset: Dataset | None) -> RecordsView:
    """The exposed records in the order of the findings, most exposed first."""
    records = findings.records
    if records is None:
        return RecordsView(None, "", "", False, [], [], 0, False)
    title = attack_title(records.attack)
    several = any(row.targets_in + row.targets_out > 1 for row in records.top)
    if dataset is None:
        return RecordsView(records, title, "", False, [], [], 0, several)
    rows = records.top[: CARDS + SMALL] if dataset.kind == "image" else records.top[:CARDS]
    found = looks(dataset, [row.id for row in rows])
    outliers = findings.analyses.outliers if findings.analyses else None
    nearest = {row.id: row.nearest_class for row in outliers.top} if outliers else {}
    cards = [RecordCard(row, found.get(row.id, Look()), nearest.get(row.id, "")) for row in rows]
    unknown = sum(row.id not in found for row in rows)
    return RecordsView(records, title, dataset.kind, pixelated(dataset), cards[:CARDS], cards[CARDS:], unknown, several)
