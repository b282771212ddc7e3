"""What changed between two audits: figures with intervals of their differences, attacks, rows and records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field

from memberscope.auditing.figures import bounds_of, figure_of, pooled, row_bounds, row_figure, unlike
from memberscope.statistics.difference import difference
from memberscope.types import Figure, Findings
from memberscope.types.base import Model
from memberscope.types.findings import Bounds, ClassRow

FIGURES = ("auc", "advantage", "tpr@0.1", "tpr@0.01", "tpr@0.001")
Direction = Literal["worse", "better", "unchanged", "unknown"]


class Change(Model):
    """One figure in both audits, and the difference new − old with its interval.

    ``direction``: ``worse`` or ``better`` where the interval that is corrected for the number of attacks (or rows)
    lies on one side of 0, ``unchanged`` where it holds 0, ``unknown`` where one of the two was not measured.
    """

    name: str
    figure: str
    old: Figure
    new: Figure
    difference: Figure
    direction: Direction


class RecordChanges(Model):
    """Records that can be named in one audit and not in the other, by id; counts say of all, lists of the first ones.

    Each audit names records at its own false-discovery rate: one that a single audit names need not have changed.
    """

    both: int
    newly: int
    no_longer: int
    newly_named: list[str]
    no_longer_named: list[str]


class Comparison(Model):
    """Two audits side by side."""

    old: str
    new: str
    old_verdict: str
    new_verdict: str
    notes: list[str] = Field(description="what differs beside the models")
    attacks: list[Change]
    rows: dict[str, list[Change]] = Field(description="by class and by each group that both audits measured")
    records: RecordChanges | None

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        worse, better = (
            sorted({one.name for one in self.attacks if one.direction == way}) for way in ("worse", "better")
        )
        rows = [(group, one) for group, found in self.rows.items() for one in found if one.direction == "worse"]
        parts = []
        if worse:
            parts.append(f"more is found than before by {', '.join(worse)}")
        if better:
            parts.append(f"less by {', '.join(better)}")
        if rows:
            parts.append("more in " + ", ".join(sorted({f"{group} {one.name}" for group, one in rows})))
        if not parts:
            return "No figure differs by more than chance between the two audits explains."
        text = "; ".join(parts)
        return f"{text[0].upper()}{text[1:]}."


# Ids that are listed of each kind.
MOST_LISTED = 200


def compare(new: Findings, old: Findings, named: tuple[Iterable[str], Iterable[str]] | None = None) -> Comparison:
    """Compare two audits, taken for independent.

    Args:
        new: the later audit.
        old: the earlier one.
        named: ids of the records named by each, new and old; None if that is not known.
    """
    now, before = pooled(new), pooled(old)
    attacks = [
        _change(
            name,
            figure,
            (figure_of(now[name], figure), bounds_of(new, now[name], figure)),
            (figure_of(before[name], figure), bounds_of(old, before[name], figure)),
        )
        for name in now
        if name in before
        for figure in FIGURES
    ]
    rows = {"class": (new.classes, old.classes)} | {
        group: (found, old.groups[group]) for group, found in new.groups.items() if group in old.groups
    }
    return Comparison(
        old=old.name,
        new=new.name,
        old_verdict=old.verdict,
        new_verdict=new.verdict,
        notes=unlike(new, old),
        attacks=attacks,
        rows={group: _rows(new, old, *both) for group, both in rows.items()},
        records=None if named is None else _records(*(dict.fromkeys(ids) for ids in named)),
    )


def _rows(new: Findings, old: Findings, rows: list[ClassRow], others: list[ClassRow]) -> list[Change]:
    known = {row.name: row for row in others}
    return [
        _change(
            row.name,
            figure,
            (row_figure(row, figure), row_bounds(new, row, figure, len(rows))),
            (row_figure(known[row.name], figure), row_bounds(old, known[row.name], figure, len(others))),
        )
        for row in rows
        if row.name in known
        for figure in ("auc", "tpr@0.01")
    ]


def _change(name: str, figure: str, new: tuple[Figure, Bounds | None], old: tuple[Figure, Bounds | None]) -> Change:
    (now, bounds), (before, earlier) = new, old
    if now.value is None or before.value is None or bounds is None or earlier is None:
        reason = now.reason or before.reason or "not measured"
        missing = Figure.not_measurable(reason)
        return Change(name=name, figure=figure, old=before, new=now, difference=missing, direction="unknown")
    value, low, high = difference((now.value, bounds.low, bounds.high), (before.value, earlier.low, earlier.high))
    _, least, most = difference(
        (now.value, bounds.corrected_low, bounds.corrected_high),
        (before.value, earlier.corrected_low, earlier.corrected_high),
    )
    direction: Direction = "worse" if least > 0 else "better" if most < 0 else "unchanged"
    shown = Figure(value=value, low=min(low, value), high=max(high, value))
    return Change(name=name, figure=figure, old=before, new=now, difference=shown, direction=direction)


def _records(new: Mapping[str, None], old: Mapping[str, None]) -> RecordChanges:
    newly = [one for one in new if one not in old]
    gone = [one for one in old if one not in new]
    return RecordChanges(
        both=len(new) - len(newly),
        newly=len(newly),
        no_longer=len(gone),
        newly_named=newly[:MOST_LISTED],
        no_longer_named=gone[:MOST_LISTED],
    )
