"""Leakage by class and by subgroup, the worst first."""

from __future__ import annotations

from dataclasses import dataclass

from memberscope.report.figures import bar_limit
from memberscope.report.format import words
from memberscope.report.views.attacks import Notes
from memberscope.types import Dataset, Findings
from memberscope.types.findings import ClassRow

SHOWN = 20


@dataclass(frozen=True)
class ClassTable:
    """One table: its rows in order of harm, the first of them in the open; ``key`` begins the anchors of its notes."""

    key: str
    title: str
    shown: list[ClassRow]
    rest: list[ClassRow]
    measured: list[ClassRow]
    end: float
    notes: Notes


@dataclass(frozen=True)
class ClassesView:
    """The table of classes and one a subgroup."""

    tables: list[ClassTable]


def view(findings: Findings, dataset: Dataset | None) -> ClassesView | None:
    """Tables of classes and groups, None when there is neither."""
    named = [("Class", findings.classes), *((words(name), rows) for name, rows in findings.groups.items())]
    tables = [_table(f"by-{place}", title, rows) for place, (title, rows) in enumerate(named) if rows]
    return ClassesView(tables) if tables else None


def _table(key: str, title: str, rows: list[ClassRow]) -> ClassTable:
    ordered = sorted(rows, key=_harm)
    highs = [row.tpr.high for row in rows if row.tpr.high is not None]
    # A handful more than fit are shown too: folding three rows away helps nobody.
    cut = SHOWN if len(rows) > SHOWN + 5 else len(rows)
    return ClassTable(
        key, title, ordered[:cut], ordered[cut:], [row for row in ordered if row.tpr.value is not None],
        bar_limit(*highs), Notes(),
    )  # fmt: skip


def _harm(row: ClassRow) -> tuple[float, float, float]:
    tpr, auc = row.tpr, row.auc
    return (
        -(tpr.value if tpr.value is not None else -1.0),
        -(tpr.low if tpr.low is not None else -1.0),
        -(auc.value if auc.value is not None else -1.0),
    )
