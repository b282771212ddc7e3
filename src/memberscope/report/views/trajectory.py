"""How leakage grew while the models were trained: the paper's first figure, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from memberscope.report.figures import overlap, small_histogram
from memberscope.report.format import short_title
from memberscope.report.lines import Line, Unit, draw
from memberscope.report.svg import BLUE, GREEN, ORANGE
from memberscope.report.views.attacks import Notes
from memberscope.report.views.common import NOT_GIVEN
from memberscope.types import Dataset, Figure, Findings
from memberscope.types.analyses import Trajectory, TrajectoryPoint

# More histograms than these tell no more: the table has every epoch.
DRAWN = 8


@dataclass(frozen=True)
class Panel:
    """One set of lines with its legend."""

    title: str
    lines: list[Line]
    chance: str
    svg: Markup


@dataclass(frozen=True)
class Moment:
    """The scores after one epoch."""

    epoch: int
    overlap: float
    svg: Markup


@dataclass(frozen=True)
class TrajectoryView:
    """The section on training time."""

    trajectory: Trajectory
    attack: str
    reference: str
    panels: list[Panel]
    moments: list[Moment]
    notes: Notes
    further: Notes


def view(findings: Findings, dataset: Dataset | None) -> TrajectoryView | None:
    """Lines and histograms over the kept epochs; None where the training was not followed."""
    trajectory = findings.analyses.trajectory if findings.analyses else None
    if trajectory is None or not trajectory.points:
        return None
    attack = short_title(trajectory.attack)
    reference = short_title(trajectory.reference_attack) if trajectory.reference_attack else ""
    points = trajectory.points
    return TrajectoryView(
        trajectory=trajectory,
        attack=attack,
        reference=reference if any(point.reference_auc for point in points) else "",
        panels=_panels(points, attack, reference),
        moments=[_moment(point) for point in _spaced(points)],
        notes=Notes(),
        further=Notes(),
    )


def _panels(points: Sequence[TrajectoryPoint], attack: str, reference: str) -> list[Panel]:
    threshold = [
        _line(points, attack, BLUE, None, lambda p: p.auc),
        _line(points, attack, BLUE, None, lambda p: p.tpr_at_fpr.get("0.01")),
    ]
    aided = [
        _line(points, reference, GREEN, "6 3", lambda p: p.reference_auc),
        _line(points, reference, GREEN, "6 3", lambda p: (p.reference_tpr_at_fpr or {}).get("0.01")),
    ]
    shown = any(point.reference_auc for point in points)
    accuracy = [
        _line(points, "training records", BLUE, None, lambda p: p.train_accuracy),
        _line(points, "other records", ORANGE, "6 3", lambda p: p.test_accuracy),
    ]
    return [
        _panel(points, "Accuracy", accuracy, "share", None),
        _panel(points, "AUC", [threshold[0], *([aided[0]] if shown else [])], "score", 0.5),
        _panel(
            points, "Exposed at 1\u202f% false alarms", [threshold[1], *([aided[1]] if shown else [])], "share", 0.01
        ),
    ]


def _panel(points: Sequence[TrajectoryPoint], title: str, lines: list[Line], unit: Unit, chance: float | None) -> Panel:
    epochs = [point.epoch for point in points]
    name = f"growth-{title.split()[0].lower()}"
    svg = draw(
        epochs, lines, name=name, title=f"{title} against the epoch", unit=unit, chance=chance, zero=chance == 0.01
    )
    return Panel(title, lines, "" if chance is None else "guessing", svg)


def _line(
    points: Sequence[TrajectoryPoint],
    title: str,
    colour: str,
    dash: str | None,
    read: Callable[[TrajectoryPoint], Figure | None],
) -> Line:
    return Line(title, colour, dash, [read(point) or NOT_GIVEN for point in points])


def _moment(point: TrajectoryPoint) -> Moment:
    return Moment(
        point.epoch,
        overlap(point.histogram),
        small_histogram(
            point.histogram,
            name=f"growth-histogram-{point.epoch}",
            title=f"Scores of members and non-members after epoch {point.epoch}",
        ),
    )


def _spaced(points: Sequence[TrajectoryPoint]) -> list[TrajectoryPoint]:
    """At most ``DRAWN`` points with histograms, evenly chosen, the first and the last among them."""
    drawable = [point for point in points if len(point.histogram.edges) > 1]
    if len(drawable) <= DRAWN:
        return drawable
    return [drawable[round(k * (len(drawable) - 1) / (DRAWN - 1))] for k in range(DRAWN)]
