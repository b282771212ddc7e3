"""Small figures: interval bars, spreads over targets, score histograms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from memberscope.report.format import attack_title, number, percent, percent_range
from memberscope.report.svg import BLUE, INK, MUTED, ORANGE, Point, element, figure, path
from memberscope.types import Figure
from memberscope.types.base import Histogram

BAR_WIDTH, BAR_HEIGHT = 200.0, 16.0
_STEPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


def bar_limit(*largest: float) -> float:
    """The end of a bars' axis that holds all of ``largest``."""
    return next((step for step in _STEPS if step >= max(largest, default=1.0)), 1.0)


def interval_bar(value: Figure, end: float, *, mark: float | None = None, chance: float | None = None) -> Markup:
    """A figure as a tick in its interval, on an axis from 0 to ``end``; ``mark`` draws a limit, ``chance`` a thin line.

    The picture repeats the number beside it, so that it is hidden from screen readers.
    """
    if value.value is None or value.low is None or value.high is None:
        return Markup("")
    middle = BAR_HEIGHT / 2

    def x(share: float) -> float:
        return BAR_WIDTH * min(max(share / end, 0.0), 1.0)

    low, high = x(value.low), x(value.high)
    shapes = [
        element("rect", x=0, y=middle - 4, width=BAR_WIDTH, height=8, rx=4, class_="track"),
        element(
            "rect", x=min(low, BAR_WIDTH - 3), y=middle - 4, width=max(high - low, 3), height=8, rx=3, class_="range"
        ),
        element(
            "rect",
            x=min(max(x(value.value) - 1.3, 0), BAR_WIDTH - 2.6),
            y=1,
            width=2.6,
            height=BAR_HEIGHT - 2,
            class_="tick",
        ),
    ]
    if mark is not None and mark <= end:
        shapes.append(element("path", d=path([(x(mark), 0), (x(mark), BAR_HEIGHT)]), class_="limit"))
    if chance is not None:
        shapes.insert(1, element("path", d=path([(x(chance), 0), (x(chance), BAR_HEIGHT)]), class_="chance"))
    return element(
        "svg",
        shapes,
        viewBox=f"0 0 {BAR_WIDTH:.0f} {BAR_HEIGHT:.0f}",
        preserveAspectRatio="none",
        aria_hidden="true",
        class_="bar",
    )


def dots(low: int, high: int, *, alarm: bool = False) -> Markup:
    """A hundred dots, ``low`` of them filled and those up to ``high`` half filled; the caption says the same."""
    shapes = []
    for index in range(100):
        kind = ("alarm" if alarm else "sure") if index < low else "perhaps" if index < high else "other"
        shapes.append(element("circle", cx=4 + 8 * (index % 10), cy=4 + 8 * (index // 10), r=3, class_=kind))
    return element("svg", shapes, viewBox="0 0 80 80", aria_hidden="true", class_="dots")


def signed_bar(value: float, end: float) -> Markup:
    """A bar from the middle to the right (positive) or to the left, ``end`` from the middle to either side.

    The picture repeats the number beside it, so that it is hidden from screen readers.
    """
    middle = BAR_WIDTH / 2
    length = middle * min(abs(value) / end, 1.0) if end > 0 else 0.0
    start = middle if value >= 0 else middle - length
    shapes = [
        element("rect", x=start, y=3, width=length, height=10, class_="for" if value >= 0 else "against"),
        element("path", d=path([(middle, 0), (middle, BAR_HEIGHT)]), class_="zero"),
    ]
    return element(
        "svg",
        shapes,
        viewBox=f"0 0 {BAR_WIDTH:.0f} {BAR_HEIGHT:.0f}",
        preserveAspectRatio="none",
        aria_hidden="true",
        class_="bar signed",
    )


def spread(values: Sequence[float], end: float) -> Markup:
    """One dot a target on an axis from 0 to ``end``; hidden from screen readers like the bars."""
    shapes = [element("rect", x=0, y=BAR_HEIGHT / 2 - 0.5, width=BAR_WIDTH, height=1, class_="line")]
    for value in values:
        at = 3 + (BAR_WIDTH - 6) * min(max(value / end, 0.0), 1.0)
        shapes.append(element("circle", cx=at, cy=BAR_HEIGHT / 2, r=3, fill=BLUE, fill_opacity=".45"))
    return element("svg", shapes, viewBox=f"0 0 {BAR_WIDTH:.0f} {BAR_HEIGHT:.0f}", aria_hidden="true", class_="spread")


@dataclass(frozen=True)
class Box:
    """Where a histogram stands: its sides, the height of its peak and its floor, in pixels."""

    left: float
    right: float
    top: float
    floor: float


_WIDTH, _HEIGHT, _FLOOR = 460.0, 210.0, 168.0
_BOX = Box(8.0, 452.0, 30.0, _FLOOR)
SMALL_WIDTH, SMALL_HEIGHT = 220.0, 104.0
SMALL = Box(2.0, 218.0, 4.0, 84.0)


def outline(data: Histogram, densities: Sequence[float], box: Box) -> list[Point]:
    """The steps of one histogram; the higher of the two reaches the top of the box."""
    peak = max([*data.members, *data.non_members, 1e-12])
    start, stop = data.edges[0], data.edges[-1]

    def at(score: float, density: float) -> Point:
        across = (score - start) / (stop - start) if stop > start else 0.5
        return box.left + (box.right - box.left) * across, box.floor - (box.floor - box.top) * density / peak

    steps = [at(start, 0)]
    for index, density in enumerate(densities):
        steps += [at(data.edges[index], density), at(data.edges[index + 1], density)]
    return [*steps, at(stop, 0)]


def _both(data: Histogram, box: Box, *, dash: str | None = "5 2") -> list[Markup]:
    """Members filled in blue, non-members as an orange outline, and the floor."""
    return [
        element(
            "path",
            d=path(outline(data, data.members, box)),
            fill=BLUE,
            fill_opacity=".2",
            stroke=BLUE,
            stroke_width=1.3,
        ),
        element(
            "path",
            d=path(outline(data, data.non_members, box)),
            fill="none",
            stroke=ORANGE,
            stroke_width=1.8,
            stroke_dasharray=dash,
        ),
        element("path", d=path([(box.left, box.floor), (box.right, box.floor)]), stroke=MUTED),
    ]


def histogram(data: Histogram) -> Markup:
    """Members filled in blue, non-members as an orange outline, over the attack's score."""
    start, stop = data.edges[0], data.edges[-1]
    shapes = _both(data, _BOX)
    for index in range(5):
        score = start + (stop - start) * index / 4
        x = _BOX.left + (_BOX.right - _BOX.left) * (index / 4 if stop > start else 0.5)
        anchor = "start" if index == 0 else "end" if index == 4 else "middle"
        label = number(float(f"{score:.2g}"))
        shapes.append(element("text", label, x=x, y=_FLOOR + 18, text_anchor=anchor, fill=MUTED))
    shapes.append(
        element(
            "text",
            "attack score (more → likelier a member)",
            x=_WIDTH / 2,
            y=_FLOOR + 38,
            text_anchor="middle",
            fill=INK,
        )
    )
    shapes += _names(data)
    return figure(
        _WIDTH,
        _HEIGHT,
        shapes,
        name=f"histogram-{data.attack}",
        title=f"Scores of {attack_title(data.attack)} for members and non-members",
        description=_centres(data),
        class_="histogram",
    )


def small_histogram(data: Histogram, *, name: str, title: str) -> Markup:
    """The same for a row of small pictures: only the ends of the axis are numbered."""
    ends = ((data.edges[0], SMALL.left, "start"), (data.edges[-1], SMALL.right, "end"))
    # Dashes would break the short steps of a small picture into crumbs.
    shapes = _both(data, SMALL, dash=None)
    for score, x, anchor in ends:
        label = number(float(f"{score:.2g}"))
        shapes.append(element("text", label, x=x, y=SMALL.floor + 16, text_anchor=anchor, fill=MUTED))
    return figure(SMALL_WIDTH, SMALL_HEIGHT, shapes, name=name, title=title, description=_centres(data), class_="small")


def _centres(data: Histogram) -> str:
    return (
        f"Members' scores centre on {number(_mean(data, data.members))}, non-members' on "
        f"{number(_mean(data, data.non_members))}; the two overlap by {percent(overlap(data))}."
    )


def overlap(data: Histogram) -> float:
    """Shared area of the two densities, 1 when they are the same."""
    widths = [b - a for a, b in zip(data.edges, data.edges[1:], strict=False)]
    areas = [sum(d * w for d, w in zip(part, widths, strict=True)) for part in (data.members, data.non_members)]
    if min(areas) <= 0:
        return 0.0
    pairs = zip(data.members, data.non_members, widths, strict=True)
    return min(1.0, sum(min(m / areas[0], n / areas[1]) * w for m, n, w in pairs))


def _mean(data: Histogram, densities: Sequence[float]) -> float:
    cells = list(zip(data.edges, data.edges[1:], densities, strict=False))
    mass = sum((b - a) * d for a, b, d in cells)
    return sum((b - a) * d * (a + b) / 2 for a, b, d in cells) / mass if mass else 0.0


def _names(data: Histogram) -> list[Markup]:
    """Both names in the head-room, each on the side where its scores lie."""
    members_right = _mean(data, data.members) >= _mean(data, data.non_members)
    left, right = (("non-members", ORANGE), ("members", BLUE))[:: 1 if members_right else -1]
    return [
        element("text", left[0], x=_BOX.left, y=18, fill=left[1], class_="label"),
        element("text", right[0], x=_BOX.right, y=18, text_anchor="end", fill=right[1], class_="label"),
    ]


def interval_text(value: Figure) -> str:
    """A share's interval, or the reason why there is none."""
    if value.low is None or value.high is None:
        return value.reason or "not measured"
    return percent_range(value.low, value.high)
