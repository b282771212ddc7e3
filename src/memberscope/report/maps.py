"""A t-SNE map: one path of round dots a class, the vulnerable records ringed in red, light in bytes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from functools import cached_property

from markupsafe import Markup

from memberscope.report.svg import BLUE, INK, Point, element, figure
from memberscope.types.analyses import Embedding

SIZE, MARGIN = 460.0, 14.0
# Told apart with every common kind of colour blindness (a test simulates them), and none of them is the ring's red.
COLOURS = (
    "#332288", "#e69f00", "#44aa99", "#3f7fe0", "#aa4499", "#117733", "#f2a7c8", "#1b2430", "#ddcc77", "#b7a6ef",
)  # fmt: skip
PLAIN, RING = "#9aa4b1", "#d0101c"
RADIUS = 5.2
_CHARACTER, _LINE = 8.6, 14.0
# A class whose records lie within this is named above them, not on them.
_COMPACT = 110.0
# Below this many records dots are drawn larger.
_FEW = 600


def colour(label: int, classes: int) -> str:
    """The class's colour, or one grey for all where there are more classes than colours."""
    return COLOURS[label] if classes <= len(COLOURS) else PLAIN


class Map:
    """One embedding in pixels.

    Args:
        embedding: the map as it stands in the findings.
        key: begins the ids of its parts; unique in the page.
        names: class names in the order of their labels.
    """

    def __init__(self, embedding: Embedding, key: str, names: Sequence[str]) -> None:
        self.embedding, self.key, self.names = embedding, key, names
        self.labels = sorted(set(embedding.label))

    @cached_property
    def points(self) -> list[Point]:
        """Where each record lies; both axes share one scale, since t-SNE's directions mean nothing."""
        xs, ys = self.embedding.x, self.embedding.y
        if not xs:
            return []
        middle_x, middle_y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
        span = max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0
        factor = (SIZE - 2 * MARGIN) / span
        return [
            (SIZE / 2 + (x - middle_x) * factor, SIZE / 2 - (y - middle_y) * factor)
            for x, y in zip(xs, ys, strict=True)
        ]

    def counts(self, label: int) -> tuple[int, int]:
        """Records of a class, and how many of them are vulnerable."""
        marks = [v for k, v in zip(self.embedding.label, self.embedding.vulnerable, strict=True) if k == label]
        return len(marks), sum(marks)

    def whole(self, title: str, description: str) -> Markup:
        """The map of all classes; its parts are drawn again, by reference, in the maps of single classes."""
        width = 4.2 if len(self.points) > _FEW else 6.0
        dots = element(
            "g",
            [self._dots(label) for label in self.labels],
            id=f"{self.key}-points",
            fill="none",
            stroke_width=width,
            stroke_linecap="round",
        )
        rings = element("g", [self._rings(label) for label in self.labels], class_="rings", fill="none")
        named = len(self.names) <= len(COLOURS)
        shapes = [_ground(), dots, rings, *(self._names() if named else [])]
        return figure(SIZE, SIZE, shapes, name=self.key, title=title, description=description, class_="map")

    def single(self, label: int, title: str) -> Markup:
        """One class in front of all others in light grey."""
        width = 5.4 if len(self.points) > _FEW else 8.0
        chosen = COLOURS[label] if len(self.names) <= len(COLOURS) else BLUE
        shapes = [
            _ground(),
            element("use", href=f"#{self.key}-points", style="--dot:#dde2e8"),
            element(
                "use",
                href=f"#{self.key}-dots-{label}",
                style=f"--dot:{chosen}",
                fill="none",
                stroke_width=width,
                stroke_linecap="round",
            ),
        ]
        if self.counts(label)[1]:
            shapes.append(element("use", href=f"#{self.key}-rings-{label}", fill="none"))
        return figure(SIZE, SIZE, shapes, name=f"{self.key}-class-{label}", title=title, class_="map")

    def _of(self, label: int, *, vulnerable: bool = False) -> list[Point]:
        e = self.embedding
        return [
            point
            for point, k, marked in zip(self.points, e.label, e.vulnerable, strict=True)
            if k == label and (marked or not vulnerable)
        ]

    def _dots(self, label: int) -> Markup:
        dots = element(
            "path",
            d="".join(f"M{_near(x)} {_near(y)}h0" for x, y in self._of(label)),
            id=f"{self.key}-dots-{label}",
            style=f"stroke:var(--dot,{colour(label, len(self.names))})",
        )
        # The script fades the group; the path itself stays as it is for the maps of single classes.
        return element("g", [dots], data_class=label)

    def _rings(self, label: int) -> Markup:
        """Bigger than the dots, red in white: seen without colour, and on any ground."""
        places = self._of(label, vulnerable=True)
        if not places:
            return Markup("")
        r = _near(RADIUS)
        around = f"a{r} {r} 0 1 0 {_near(2 * RADIUS)} 0a{r} {r} 0 1 0 -{_near(2 * RADIUS)} 0"
        data = "".join(f"M{_near(x - RADIUS)} {_near(y)}{around}" for x, y in places)
        rings = [
            element("path", d=data, stroke="#fff", stroke_width=3.6, stroke_opacity=".85"),
            element("path", d=data, stroke=RING, stroke_width=1.7),
        ]
        return element("g", [element("g", rings, id=f"{self.key}-rings-{label}")], data_class=label)

    def _names(self) -> list[Markup]:
        """Each class's name at the middle of its records, above them where they lie close together."""
        placed: list[tuple[float, float, float]] = []
        shapes = []
        for label in self.labels:
            own = self._of(label)
            words = self.names[label] if len(self.names[label]) <= 14 else self.names[label][:13] + "…"
            half = _CHARACTER * len(words) / 2
            left, x, right = _spread(p[0] for p in own)
            top, y, bottom = _spread(p[1] for p in own)
            if max(right - left, bottom - top) < _COMPACT:
                y = top - _LINE
            x = min(max(x, half + 2), SIZE - half - 2)
            y = min(max(y, _LINE), SIZE - _LINE)
            y = next((row for row in _rows(y) if not _taken(x, row, half, placed)), y)
            placed.append((x, y, half))
            shapes.append(
                element("text", words, x=x, y=y + 4, text_anchor="middle", fill=INK, class_="label", data_class=label)
            )
        return shapes


def _spread(values: Iterable[float]) -> tuple[float, float, float]:
    """The bounds of the middle nine tenths, and the median between them."""
    ordered = sorted(values)
    cut = len(ordered) // 20
    return ordered[cut], statistics.median(ordered), ordered[-1 - cut]


def _rows(middle: float) -> Iterable[float]:
    for step in range(12):
        for y in (middle - step * _LINE, middle + step * _LINE):
            if _LINE / 2 <= y <= SIZE - _LINE / 2:
                yield y


def _taken(x: float, y: float, half: float, placed: Sequence[tuple[float, float, float]]) -> bool:
    return any(abs(y - b) < _LINE and abs(x - a) < half + c for a, b, c in placed)


def _ground() -> Markup:
    return element("rect", x=0, y=0, width=SIZE, height=SIZE, rx=4, fill="#f7f8fa")


def _near(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
