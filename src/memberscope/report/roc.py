"""The ROC figure: both axes logarithmic, the strongest attack's 95 % band, labels beside their curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from memberscope.report.format import THIN, percent, percent_range, rate, short_title
from memberscope.report.svg import ALARM, BLUE, GREEN, GRID, INK, MUTED, ORANGE, Point, element, figure, path
from memberscope.types.findings import Curve

WIDTH, HEIGHT = 460.0, 400.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 448.0, 10.0, 346.0
# Told apart by colour, by dash and by a label of their own.
STYLES = ((BLUE, None), (GREEN, "2 2.5"), (ORANGE, "7 3"))
_REPORTING_FPR = 0.01
_CHARACTER = 6.9
_OFFSETS = (-9, -18, -30, -45, 18, 27, 39, 54)
_CLEAN = 1000.0


@dataclass(frozen=True)
class Line:
    """A curve as drawn: its colour and dash, and what it reaches at some false-alarm rates."""

    attack: str
    colour: str
    dash: str | None
    curve: Curve

    def at(self, fpr: float) -> float:
        """The true-positive rate at a false-positive rate."""
        return float(np.interp(fpr, self.curve.fpr, self.curve.tpr))


def choose(curves: Sequence[Curve], order: Sequence[str]) -> list[Line]:
    """At most three curves to draw in colour: the strongest, then the best of other families of attacks.

    Args:
        curves: all that there are.
        order: attack names, strongest first.
    """
    known = {curve.attack: curve for curve in curves}
    names = [name for name in order if name in known] + [name for name in known if name not in order]
    families: dict[str, str] = {}
    for name in names:
        families.setdefault(name.split("_")[0], name)
    chosen = list(families.values())[: len(STYLES)]
    # The simplest score attack is what readers of older reports compare with.
    if "loss" in known and "loss" not in chosen and len(chosen) == len(STYLES):
        chosen[-1] = "loss"
    return [Line(name, colour, dash, known[name]) for name, (colour, dash) in zip(chosen, STYLES, strict=False)]


def draw(lines: Sequence[Line], others: Sequence[Curve] = ()) -> Markup:
    """The figure: ``lines`` in colour and named, ``others`` thin and grey."""
    floor = _floor([line.curve for line in lines])
    scale = _Scale(floor)
    strongest = lines[0]
    shapes = [*_axes(scale), *_reporting_marker(scale)]
    shapes.append(element("path", d=path([scale(floor, floor), scale(1, 1)]), stroke=MUTED, stroke_dasharray="3 4"))
    band = [
        *scale.points(strongest.curve, strongest.curve.high),
        *scale.points(strongest.curve, strongest.curve.low)[::-1],
    ]
    shapes.append(element("path", d=path(band, closed=True), fill=BLUE, fill_opacity=".16"))
    for curve in others:
        shapes.append(
            element("path", d=path(scale.points(curve, curve.tpr)), fill="none", stroke="#a9b2bf", stroke_width=0.8)
        )
    drawn = {line.attack: scale.points(line.curve, line.curve.tpr) for line in lines}
    for line in reversed(lines):
        shapes.append(
            element(
                "path",
                d=path(drawn[line.attack]),
                fill="none",
                stroke=line.colour,
                stroke_width=2.4 if line is strongest else 1.8,
                stroke_dasharray=line.dash,
                stroke_linejoin="round",
            )
        )
    grey = [scale.points(curve, curve.tpr) for curve in others]
    shapes += _labels(lines, [*drawn.values(), [scale(floor, floor), scale(1, 1)], *grey], scale)
    reached = "; ".join(f"{short_title(line.attack)} {percent(line.at(_REPORTING_FPR))}" for line in lines)
    low, high = (
        float(np.interp(_REPORTING_FPR, strongest.curve.fpr, b)) for b in (strongest.curve.low, strongest.curve.high)
    )
    return figure(
        WIDTH,
        HEIGHT,
        shapes,
        name="roc",
        title="Share of training records found, against the share of false alarms",
        description=(
            f"Both axes are logarithmic. At one false alarm in a hundred: {reached}. "
            f"95 % band of the strongest there: {percent_range(low, high)}. Chance would find 1 %."
        ),
        class_="roc",
    )


class _Scale:
    """From rates to pixels, logarithmic between ``floor`` and 1 on both axes."""

    def __init__(self, floor: float) -> None:
        self.floor = floor

    def __call__(self, fpr: float, tpr: float) -> Point:
        span = -math.log10(self.floor)
        x = LEFT + (RIGHT - LEFT) * (1 + math.log10(max(fpr, self.floor)) / span)
        y = BOTTOM - (BOTTOM - TOP) * (1 + math.log10(max(tpr, self.floor)) / span)
        return x, y

    def points(self, curve: Curve, rates: Sequence[float]) -> list[Point]:
        """A curve in pixels, thinned to what can be seen."""
        grid = np.geomspace(self.floor, 1, 200)
        return [self(float(f), float(t)) for f, t in zip(grid, np.interp(grid, curve.fpr, rates), strict=True)]


def _floor(curves: Sequence[Curve]) -> float:
    """The least rate shown: 0.1 %, or 0.01 % where ten non-members and more stand behind it."""
    smallest = min((f for curve in curves for f in curve.fpr if f > 0), default=1.0)
    return 0.0001 if smallest <= 0.00001 else 0.001


def _axes(scale: _Scale) -> list[Markup]:
    shapes = [element("rect", x=LEFT, y=TOP, width=RIGHT - LEFT, height=BOTTOM - TOP, fill="#f7f8fa")]
    for exponent in range(round(math.log10(scale.floor)), 1):
        share = 10.0**exponent
        x, y = scale(share, share)
        shapes += [
            element("path", d=path([(x, TOP), (x, BOTTOM)]), stroke=GRID),
            element("path", d=path([(LEFT, y), (RIGHT, y)]), stroke=GRID),
            element("text", rate(share), x=min(x, RIGHT - 10), y=BOTTOM + 19, text_anchor="middle", fill=MUTED),
            element("text", rate(share), x=LEFT - 7, y=y + 4.5, text_anchor="end", fill=MUTED),
        ]
    middle = (TOP + BOTTOM) / 2
    centre = {"text_anchor": "middle", "fill": INK}
    shapes.append(element("text", "false alarms among non-members", x=(LEFT + RIGHT) / 2, y=BOTTOM + 42, **centre))
    turned = f"rotate(-90 12 {middle:.0f})"
    shapes.append(element("text", "training records found", x=12, y=middle, transform=turned, **centre))
    return shapes


def _reporting_marker(scale: _Scale) -> list[Markup]:
    x, _ = scale(_REPORTING_FPR, 1)
    return [element("path", d=path([(x, TOP), (x, BOTTOM)]), stroke=ALARM, stroke_width=1.2, stroke_dasharray="2 3")]


def _labels(lines: Sequence[Line], paths: Sequence[Sequence[Point]], scale: _Scale) -> list[Markup]:
    """Each name beside its curve where it covers nothing; else, with a sample of the line, in the empty corner."""
    sampled = [_dense(points) for points in paths]
    names = [(short_title(line.attack), line.colour) for line in lines] + [("chance", MUTED)]
    names[0] = (f"{names[0][0]}, 95{THIN}% band", names[0][1])
    placed: list[tuple[float, float, float, float]] = []
    shapes, homeless = [], []
    for own, (words, colour) in enumerate(names):
        width = _CHARACTER * len(words)
        costs = [(_cost(spot, width, own, sampled, placed, scale), spot) for spot in _spots(width, sampled[own])]
        cost, (x, y) = min(costs)
        if cost >= _CLEAN:
            homeless.append(own)
            continue
        placed.append((x, y - 11, x + width, y + 4))
        shapes.append(element("text", words, x=x, y=y, fill=colour, class_="label"))
    for row, own in enumerate(reversed(homeless)):
        words, colour = names[own]
        y = BOTTOM - 12 - 18 * row
        dash = lines[own].dash if own < len(lines) else "3 4"
        shapes.append(element("text", words, x=RIGHT - 42, y=y, text_anchor="end", fill=colour, class_="label"))
        sample = path([(RIGHT - 36, y - 4), (RIGHT - 8, y - 4)])
        shapes.append(element("path", d=sample, stroke=colour, stroke_width=2, stroke_dasharray=dash))
    return shapes


def _dense(points: Sequence[Point]) -> NDArray[np.float64]:
    xs, ys = zip(*points, strict=True)
    grid = np.arange(LEFT, RIGHT, 2.0)
    return np.column_stack([grid, np.interp(grid, xs, ys)])


def _spots(width: float, curve: NDArray[np.float64]) -> list[Point]:
    xs = np.arange(LEFT + 8, RIGHT - width - 4, 9.0)
    return [(float(x), float(np.interp(x + width / 2, *curve.T)) + dy) for x in xs for dy in _OFFSETS]


def _cost(
    spot: Point,
    width: float,
    own: int,
    curves: Sequence[NDArray[np.float64]],
    placed: Sequence[tuple[float, float, float, float]],
    scale: _Scale,
) -> float:
    """How bad a place for a text is: below ``_CLEAN`` it covers nothing and is nearest to its own curve."""
    x, y = spot
    x0, y0, x1, y1 = x - 3, y - 13, x + width + 3, y + 6
    taken = any(x0 < a1 and a0 < x1 and y0 < b1 and b0 < y1 for a0, b0, a1, b1 in placed)
    # The corner is kept free for the names that find no place.
    if taken or y0 < TOP or y1 > BOTTOM - 60:
        return 2 * _CLEAN
    distances, middles = [], []
    for curve in curves:
        inside = curve[(curve[:, 0] >= x0) & (curve[:, 0] <= x1)]
        if len(inside) == 0 or ((inside[:, 1] > y0) & (inside[:, 1] < y1)).any():
            return 2 * _CLEAN
        distances.append(float(np.abs(inside[:, 1] - (y - 4)).min()))
        middles.append(float(np.interp(x + width / 2, *curve.T)))
    lower, upper = sorted((middles[own], y - 4))
    between = any(lower < middle < upper for index, middle in enumerate(middles) if index != own)
    if between or min(distances) < distances[own]:
        return 2 * _CLEAN
    crosses_marker = x0 < scale(_REPORTING_FPR, 1)[0] < x1
    return distances[own] + 30 * crosses_marker
