"""What changed over the epochs, or with another whole number: lines with their bands, histograms side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from memberscope.report.format import decimal, decimal_range, percent, percent_range, rate
from memberscope.report.svg import GRID, INK, MUTED, Point, element, figure, path
from memberscope.types import Figure

WIDTH, HEIGHT = 330.0, 214.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 322.0, 8.0, 168.0
# Labels of epochs stand at least this far apart.
_APART = 24.0
_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_INTERVALS = 4

Unit = Literal["share", "score"]


@dataclass(frozen=True)
class Line:
    """One figure over the epochs: a gap stands where it could not be measured."""

    title: str
    colour: str
    dash: str | None
    values: Sequence[Figure]


class Scale:
    """From epochs and values to pixels.

    Args:
        epochs: rising; evenly spread over the axis, or by their logarithm where most would crowd at its beginning.
        low: least value that the axis must hold, 0 to 1.
        high: largest such value.
    """

    def __init__(self, epochs: Sequence[int], low: float, high: float) -> None:
        self.first, self.last = epochs[0], epochs[-1]
        early = self.first + (self.last - self.first) / 5
        self.logarithmic = self.first > 0 and sum(epoch <= early for epoch in epochs) > len(epochs) / 2 > 1
        # Steps finer than a fiftieth of the values would make hills of trifles.
        steps = [step for step in _STEPS if step >= high / 50]
        self.step = next((s for s in steps if _ceil(high / s) - _floor(low / s) <= _INTERVALS), _STEPS[-1])
        self.low = max(_floor(low / self.step) * self.step, 0.0)
        self.high = min(max(_ceil(high / self.step) * self.step, self.low + self.step), 1.0)
        self.low = min(self.low, self.high - self.step)

    def x(self, epoch: float) -> float:
        """Where an epoch stands."""
        if self.last == self.first:
            return (LEFT + RIGHT) / 2
        first, last, at = float(self.first), float(self.last), float(epoch)
        if self.logarithmic:
            first, last, at = math.log(first), math.log(last), math.log(at)
        return LEFT + 6 + (RIGHT - LEFT - 12) * (at - first) / (last - first)

    def y(self, value: float) -> float:
        """How high a value stands."""
        return BOTTOM - (BOTTOM - TOP) * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """The marked values."""
        return [self.low + k * self.step for k in range(round((self.high - self.low) / self.step) + 1)]


def draw(
    epochs: Sequence[int],
    lines: Sequence[Line],
    *,
    name: str,
    title: str,
    unit: Unit,
    chance: float | None = None,
    zero: bool = False,
    axis: str = "epoch",
) -> Markup:
    """Lines against the epoch (or another whole number), each in its 95 % band.

    Args:
        epochs: rising, one a value of every line.
        lines: what to draw.
        name: unique in the page.
        title: what the figure shows.
        unit: ``"share"`` prints percentages, ``"score"`` decimals.
        chance: what guessing would reach, drawn as a thin dotted line.
        zero: whether the axis begins at nothing, as it must where heights are compared with each other.
        axis: what ``epochs`` are.
    """
    ends = [bound for line in lines for v in line.values for bound in (v.low, v.high) if bound is not None]
    ends += ([chance] if chance is not None else []) + ([0.0] if zero else [])
    scale = Scale(epochs, min(ends, default=0.0), max(ends, default=1.0))
    shapes = _axes(epochs, scale, unit, axis)
    if chance is not None:
        across = path([(LEFT, scale.y(chance)), (RIGHT, scale.y(chance))])
        shapes.append(element("path", d=across, stroke=MUTED, stroke_dasharray="2 3"))
    for line in lines:
        for run in _runs(epochs, line.values):
            band = [(scale.x(e), scale.y(high)) for e, _, _, high in run]
            band += [(scale.x(e), scale.y(low)) for e, _, low, _ in reversed(run)]
            shapes.append(element("path", d=path(band, closed=True), fill=line.colour, fill_opacity=".16"))
    for line in lines:
        for run in _runs(epochs, line.values):
            points = [(scale.x(e), scale.y(value)) for e, value, _, _ in run]
            shapes += _line(line, points, [(scale.y(low), scale.y(high)) for _, _, low, high in run])
    return figure(
        WIDTH,
        HEIGHT,
        shapes,
        name=name,
        title=title,
        description=" ".join(_told(epochs, line, unit, axis) for line in lines),
        class_="lines",
    )


def _line(line: Line, points: list[Point], bounds: list[tuple[float, float]]) -> list[Markup]:
    """The line, its points, and a thin upright interval at each."""
    bars = "".join(path([(x, low), (x, high)]) for (x, _), (low, high) in zip(points, bounds, strict=True))
    return [
        element("path", d=bars, fill="none", stroke=line.colour, stroke_opacity=".6"),
        element(
            "path",
            d=path(points),
            fill="none",
            stroke=line.colour,
            stroke_width=2,
            stroke_dasharray=line.dash,
            stroke_linejoin="round",
        ),
        *(element("circle", cx=x, cy=y, r=2.6, fill=line.colour) for x, y in points),
    ]


def _runs(epochs: Sequence[int], values: Sequence[Figure]) -> list[list[tuple[int, float, float, float]]]:
    """Stretches of measured values: (epoch, value, low, high)."""
    runs: list[list[tuple[int, float, float, float]]] = [[]]
    for epoch, v in zip(epochs, values, strict=True):
        if v.value is None or v.low is None or v.high is None:
            runs.append([])
        else:
            runs[-1].append((epoch, v.value, v.low, v.high))
    return [run for run in runs if run]


def _axes(epochs: Sequence[int], scale: Scale, unit: Unit, axis: str) -> list[Markup]:
    shapes = [element("rect", x=LEFT, y=TOP, width=RIGHT - LEFT, height=BOTTOM - TOP, fill="#f7f8fa")]
    for value in scale.ticks():
        y = scale.y(value)
        label = rate(value) if unit == "share" else decimal(value)
        shapes.append(element("path", d=path([(LEFT, y), (RIGHT, y)]), stroke=GRID))
        shapes.append(element("text", label, x=LEFT - 6, y=y + 4.5, text_anchor="end", fill=MUTED))
    for epoch in _labelled(epochs, scale):
        x = scale.x(epoch)
        shapes.append(element("text", str(epoch), x=x, y=BOTTOM + 18, text_anchor="middle", fill=MUTED))
    title = f"{axis} (logarithmic)" if scale.logarithmic else axis
    shapes.append(element("text", title, x=(LEFT + RIGHT) / 2, y=BOTTOM + 38, text_anchor="middle", fill=INK))
    return shapes


def _labelled(epochs: Sequence[int], scale: Scale) -> list[int]:
    """Epochs whose numbers have room, the first and the last among them."""
    shown = [epochs[0]]
    for epoch in epochs[1:-1]:
        x = scale.x(epoch)
        if x - scale.x(shown[-1]) >= _APART and scale.x(epochs[-1]) - x >= _APART:
            shown.append(epoch)
    return shown + ([epochs[-1]] if len(epochs) > 1 else [])


def _told(epochs: Sequence[int], line: Line, unit: Unit, axis: str) -> str:
    runs = [point for run in _runs(epochs, line.values) for point in run]
    if not runs:
        return f"{line.title}: not measurable."
    parts = []
    for epoch, value, low, high in dict.fromkeys((runs[0], runs[-1])):
        share = f"{percent(value)} ({percent_range(low, high)})"
        parts.append(f"{share if unit == 'share' else f'{decimal(value)} ({decimal_range(low, high)})'} at {epoch}")
    return f"{line.title}, by {axis}: {', '.join(parts)}."


def _floor(value: float) -> int:
    """Rounded down, but 0.3 / 0.1 counts as 3."""
    return math.floor(round(value, 9))


def _ceil(value: float) -> int:
    return math.ceil(round(value, 9))
