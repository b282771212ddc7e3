"""Which records are exposed, with their own ids, drawn or listed with their values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memberscope.report.format import attack_title
from memberscope.report.pictures import Values, thumbnails, unusual_values
from memberscope.types import Dataset, Findings
from memberscope.types.findings import RecordRow, Records

CARDS, SMALL = 12, 48


@dataclass(frozen=True)
class RecordCard:
    """One record with its picture (a data URI) or its most telling values."""

    row: RecordRow
    image: str | None
    values: Values | None


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
    places = _places(dataset, [row.id for row in rows])
    cards = [RecordCard(row, None, None) for row in rows]
    known = [(i, places[row.id]) for i, row in enumerate(rows) if row.id in places]
    indices = np.array([place for _, place in known], np.int64)
    if dataset.kind == "image":
        for (i, _), image in zip(known, thumbnails(dataset, indices), strict=True):
            cards[i] = RecordCard(rows[i], image, None)
    else:
        for (i, _), values in zip(known, unusual_values(dataset, indices), strict=True):
            cards[i] = RecordCard(rows[i], None, values)
    pixelated = dataset.kind == "image" and max(dataset.inputs.shape[2:]) <= 64
    return RecordsView(
        records, title, dataset.kind, pixelated, cards[:CARDS], cards[CARDS:], len(rows) - len(known), several
    )


def _places(dataset: Dataset, ids: list[str]) -> dict[str, int]:
    """Where the records with these ids are; by identity, never by position in the findings."""
    found = np.flatnonzero(np.isin(dataset.ids, np.array(ids, np.str_))) if ids else np.empty(0, np.int64)
    return {str(dataset.ids[index]): int(index) for index in found}
