"""Privacy against utility: one mark a defence, with its intervals, its name and the front that no other beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from memberscope.report.format import decimal, rate
from memberscope.report.svg import BLUE, GREEN, GRID, INK, MUTED, ORANGE, Point, element, figure, path
from memberscope.types import Figure

WIDTH, HEIGHT = 900.0, 440.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 890.0, 12.0, 388.0
# Of a bold name of 12 pixels; a little more than it takes.
_CHARACTER, _LINE = 7.5, 15.0
# Families are told apart by shape and colour; what the front holds is filled.
_LOOKS = {
    "none": ("diamond", INK),
    "training": ("circle", BLUE),
    "private training": ("square", GREEN),
    "output": ("triangle", ORANGE),
}
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)
_CORNERS: dict[str, list[Point]] = {
    "diamond": [(0, -6), (6, 0), (0, 6), (-6, 0)],
    "square": [(-4.4, -4.4), (4.4, -4.4), (4.4, 4.4), (-4.4, 4.4)],
    "triangle": [(0, -5.8), (5.4, 4.2), (-5.4, 4.2)],
}
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """One row of a study.

    Args:
        label: its name in the picture.
        family: decides shape and colour.
        x: test accuracy, to the right is better.
        y: leakage, lower is better.
        front: whether no other mark is better in both.
    """

    label: str
    family: str
    x: Figure
    y: Figure
    front: bool


def scatter(marks: Sequence[Mark], *, name: str, kind: Literal["share", "area"]) -> Markup:
    """The figure; marks without one of their two values are left out.

    Args:
        marks: the rows.
        name: unique in the page.
        kind: ``"share"`` of training records found at 1 % false alarms, or ``"area"`` under the ROC curve.
    """
    shown = [mark for mark in marks if mark.x.value is not None and mark.y.value is not None]
    scale = _Scale.of(shown, kind)
    shapes = [*_axes(scale, kind), *_chance(scale)]
    shapes += _front([mark for mark in shown if mark.front], scale)
    for mark in shown:
        shapes += _bars(mark, scale)
    shapes += [_symbol(mark, scale(*_value(mark))) for mark in shown]
    shapes += _labels(shown, scale)
    what = "share of training records found at 1 % false alarms" if kind == "share" else "AUC of a global threshold"
    best = ", ".join(mark.label for mark in shown if mark.front)
    return figure(
        WIDTH,
        HEIGHT,
        shapes,
        name=name,
        title=f"Test accuracy against the {what}, one mark a defence",
        description=f"To the right and below is better. No defence beats these in both: {best}.",
        class_="tradeoff",
    )


def legend() -> Markup:
    """What the shapes mean, as one line of marks and words."""
    words = {"none": "no defence", "training": "training", "private training": "private training", "output": "output"}
    items = []
    for family, (shape, colour) in _LOOKS.items():
        mark = element("svg", [_shape(shape, 8, 8, colour, True)], viewBox="0 0 16 16", aria_hidden="true")
        items.append(element("span", [mark, Markup(" {}").format(words[family])]))
    return element("p", items, class_="legend")


def _value(mark: Mark) -> Point:
    assert mark.x.value is not None and mark.y.value is not None
    return mark.x.value, mark.y.value


@dataclass(frozen=True)
class _Scale:
    """From figures to pixels: accuracy linear, leakage linear or, where it spans much, logarithmic."""

    x0: float
    x1: float
    y0: float
    y1: float
    logarithmic: bool
    chance: float

    @classmethod
    def of(cls, marks: Sequence[Mark], kind: str) -> _Scale:
        chance = 0.01 if kind == "share" else 0.5
        xs = [bound for mark in marks for bound in (mark.x.low, mark.x.value, mark.x.high) if bound is not None]
        ys = [chance, *(bound for mark in marks for bound in (mark.y.low, mark.y.high) if bound is not None)]
        x0, x1 = (min(xs), max(xs)) if xs else (0.0, 1.0)
        # Names of the most accurate rows, where rows crowd, find room on their right.
        x0, x1 = max(x0 - max(0.03 * (x1 - x0), 0.01), 0.0), min(x1 + max(0.13 * (x1 - x0), 0.02), 1.12)
        logarithmic = kind == "share" and max(ys) >= 0.08
        if logarithmic:
            low, high = max(min(ys), 0.002), max(ys)
            return cls(x0, x1, low / 1.15, high * 1.2, True, chance)
        room = max(0.08 * (max(ys) - min(ys)), 0.004)
        return cls(x0, x1, max(min(ys) - room, 0), max(ys) + room, False, chance)

    def __call__(self, x: float, y: float) -> Point:
        across = (min(max(x, self.x0), self.x1) - self.x0) / (self.x1 - self.x0)
        y = min(max(y, self.y0), self.y1)
        if self.logarithmic:
            up = math.log(y / self.y0) / math.log(self.y1 / self.y0)
        else:
            up = (y - self.y0) / (self.y1 - self.y0)
        return LEFT + (RIGHT - LEFT) * across, BOTTOM - (BOTTOM - TOP) * up

    def ticks(self) -> tuple[list[float], list[float]]:
        """Where numbers stand on either axis."""
        if self.logarithmic:
            ys = [base * 10.0**power for power in range(-3, 1) for base in (1, 2, 5)]
            return _even(self.x0, self.x1), [y for y in ys if self.y0 <= y <= min(self.y1, 1)]
        return _even(self.x0, self.x1), _even(self.y0, self.y1)


def _even(low: float, high: float) -> list[float]:
    step = next((step for step in _STEPS if (high - low) / step <= 7), 0.25)
    first = math.ceil(low / step - 1e-9)
    return [round(step * number, 6) for number in range(first, math.floor(min(high, 1.0) / step + 1e-9) + 1)]


def _axes(scale: _Scale, kind: str) -> list[Markup]:
    shapes = [element("rect", x=LEFT, y=TOP, width=RIGHT - LEFT, height=BOTTOM - TOP, fill="#f7f8fa")]
    xs, ys = scale.ticks()
    for value in xs:
        x, _ = scale(value, scale.y0)
        shapes.append(element("path", d=path([(x, TOP), (x, BOTTOM)]), stroke=GRID))
        shapes.append(element("text", rate(value), x=x, y=BOTTOM + 18, text_anchor="middle", fill=MUTED))
    for value in ys:
        _, y = scale(scale.x0, value)
        shapes.append(element("path", d=path([(LEFT, y), (RIGHT, y)]), stroke=GRID))
        label = rate(value) if kind == "share" else decimal(value).rstrip("0") if value < 1 else "1"
        shapes.append(element("text", label, x=LEFT - 6, y=y + 4.5, text_anchor="end", fill=MUTED))
    middle = (TOP + BOTTOM) / 2
    centre = {"text_anchor": "middle", "fill": INK}
    shapes.append(element("text", "test accuracy →", x=(LEFT + RIGHT) / 2, y=BOTTOM + 40, **centre))
    what = "← found at 1 % false alarms" if kind == "share" else "← AUC of a global threshold"
    turned = f"rotate(-90 12 {middle:.0f})"
    shapes.append(element("text", what, x=12, y=middle, transform=turned, **centre))
    return shapes


def _chance(scale: _Scale) -> list[Markup]:
    _, y = scale(scale.x0, scale.chance)
    line = element("path", d=path([(LEFT, y), (RIGHT, y)]), stroke=MUTED, stroke_dasharray="2 3")
    return [line, element("text", "chance", x=RIGHT - 6, y=y - 5, text_anchor="end", fill=MUTED, class_="label")]


def _front(marks: Sequence[Mark], scale: _Scale) -> list[Markup]:
    """The staircase over the front: what lies above and to the left of it is beaten."""
    values = sorted(_value(mark) for mark in marks)
    if not values:
        return []
    corners: list[Point] = [(scale.x0, values[0][1])]
    for (x, y), following in zip(values, [*values[1:], None], strict=True):
        corners.append((x, y))
        corners.append((x, following[1] if following else scale.y1))
    points = [scale(x, y) for x, y in corners]
    return [
        element(
            "path", d=path(points), fill="none", stroke=GREEN, stroke_width=1.4, stroke_dasharray="6 4", opacity=".8"
        )
    ]


def _bars(mark: Mark, scale: _Scale) -> list[Markup]:
    (x, y), shapes = _value(mark), []
    colour = _LOOKS[mark.family][1]
    for ends in (
        [(mark.x.low, y), (mark.x.high, y)],
        [(x, mark.y.low), (x, mark.y.high)],
    ):
        line = [scale(float(a), float(b)) for a, b in ends if a is not None and b is not None]
        shapes.append(element("path", d=path(line), stroke=colour, stroke_width=1.2, opacity=".45"))
    return shapes


def _symbol(mark: Mark, at: Point) -> Markup:
    shape, colour = _LOOKS[mark.family]
    return _shape(shape, *at, colour, mark.front)


def _shape(shape: str, x: float, y: float, colour: str, filled: bool) -> Markup:
    look: dict[str, Any] = {"fill": colour if filled else "#fff", "stroke": colour, "stroke_width": 1.8}
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=4.6, **look)
    return element("path", d=path([(x + dx, y + dy) for dx, dy in _CORNERS[shape]], closed=True), **look)


def _labels(marks: Sequence[Mark], scale: _Scale) -> list[Markup]:
    """A name beside each mark, where it covers least; a thin line leads to a name that stands apart."""
    spots = [scale(*_value(mark)) for mark in marks]
    symbols = [(x - 7, y - 7, x + 7, y + 7) for x, y in spots]
    _, chance = scale(scale.x0, scale.chance)
    symbols.append((RIGHT - 6 - _CHARACTER * 6, chance - 16, RIGHT - 4, chance - 2))
    lines = [_extent(mark, scale) for mark in marks]
    chosen: list[Box | None] = [None] * len(marks)
    # The most crowded choose first; later rounds let each look again at where the others went.
    order = sorted(range(len(marks)), key=lambda i: sum(math.dist(spots[i], spot) for spot in spots))
    for _ in range(4):
        before = list(chosen)
        for own in order:
            others = [box for place, box in enumerate(chosen) if box is not None and place != own]
            candidates = _candidates(spots[own], _CHARACTER * len(marks[own].label))
            strangers = [spot for place, spot in enumerate(spots) if place != own]
            chosen[own] = min(candidates, key=lambda box: _cost(box, spots[own], strangers, others, symbols, lines))
        if chosen == before:
            break
    shapes = []
    for mark, spot, box in zip(marks, spots, chosen, strict=True):
        assert box is not None
        near, colour = _nearest(spot, box), _LOOKS[mark.family][1]
        if math.dist(near, spot) > 15:
            shapes.append(element("path", d=path([spot, near]), stroke=colour, stroke_width=0.9, opacity=".7"))
        shapes.append(element("text", mark.label, x=box[0] + 1, y=box[3] - 4, fill=colour, class_="label"))
    return shapes


def _extent(mark: Mark, scale: _Scale) -> list[Box]:
    (x, y), bars = _value(mark), []
    if mark.x.low is not None and mark.x.high is not None:
        bars.append((*scale(mark.x.low, y), *scale(mark.x.high, y)))
    if mark.y.low is not None and mark.y.high is not None:
        bars.append((*scale(x, mark.y.high), *scale(x, mark.y.low)))
    return bars


def _candidates(spot: Point, width: float) -> list[Box]:
    x, y = spot
    found = []
    for reach in (9.0, 16.0, 26.0, 38.0, 52.0, 68.0, 86.0):
        for turn in range(16):
            angle = 2 * math.pi * turn / 16
            cx, cy = x + reach * math.cos(angle), y + reach * math.sin(angle)
            left = cx if math.cos(angle) > 0.3 else cx - width if math.cos(angle) < -0.3 else cx - width / 2
            found.append((left, cy - _LINE / 2, left + width, cy + _LINE / 2))
    return found


def _cost(
    box: Box,
    spot: Point,
    strangers: Sequence[Point],
    others: Sequence[Box],
    symbols: Sequence[Box],
    lines: Sequence[Sequence[Box]],
) -> float:
    """How bad a place for a name is: names over names are worst, then over marks, then far from its own."""
    x0, y0, x1, y1 = box
    if x0 < LEFT + 2 or x1 > RIGHT - 1 or y0 < TOP + 1 or y1 > BOTTOM - 1:
        return 1e6
    near = _nearest(spot, box)
    cost = math.dist(near, spot)
    # A name that stands nearer to another mark would be read as that one's.
    cost += sum(25.0 for other in strangers if math.dist(_nearest(other, box), other) < math.dist(near, spot) + 3)
    cost += sum(400.0 + _shared(box, other) for other in others if _shared(box, other) > 0)
    cost += sum(200.0 for symbol in symbols if _shared(box, symbol) > 0)
    cost += sum(12.0 for bars in lines for bar in bars if _shared(box, (*bar[:2], bar[2] + 1, bar[3] + 1)) > 0)
    # A leader that runs through another name or mark would point at the wrong one.
    if math.dist(near, spot) > 15:
        for share in (0.3, 0.5, 0.7, 0.9):
            x, y = spot[0] + share * (near[0] - spot[0]), spot[1] + share * (near[1] - spot[1])
            own = abs(x - spot[0]) < 7 and abs(y - spot[1]) < 7
            point = (x - 2, y - 2, x + 2, y + 2)
            cost += 0.0 if own else sum(40.0 for other in (*others, *symbols) if _shared(point, other) > 0)
    return cost


def _nearest(spot: Point, box: Box) -> Point:
    """The point of ``box`` that is nearest to ``spot``."""
    return min(max(spot[0], box[0]), box[2]), min(max(spot[1], box[1]), box[3])


def _shared(a: Box, b: Box) -> float:
    """Area that two boxes share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0
