"""The few SVG elements that the report's figures are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup, escape

# Okabe & Ito 2008, darkened where needed for a contrast of 4.5 against white, so that they serve as text too.
BLUE, ORANGE, GREEN = "#005f9e", "#b04a00", "#00735a"
INK, MUTED, GRID, ALARM = "#1b2430", "#566173", "#dfe4ea", "#a4262c"

Point = tuple[float, float]


def element(name: str, content: str | Markup | Iterable[Markup] = "", **attributes: Any) -> Markup:
    """One element; attribute names take ``_`` for ``-``, values are escaped, and so is plain text.

    >>> element("text", "a < b", x=1.2345, text_anchor="end")
    Markup('<text x="1.2" text-anchor="end">a &lt; b</text>')
    """
    parts = [
        f' {key.rstrip("_").replace("_", "-")}="{escape(_coordinate(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    inner = escape(content) if isinstance(content, str) else Markup("").join(content)
    return Markup("<{}{}>{}</{}>").format(name, Markup("".join(parts)), inner, name)


def figure(
    width: float,
    height: float,
    shapes: Iterable[Markup],
    *,
    name: str,
    title: str,
    description: str = "",
    class_: str = "",
) -> Markup:
    """A whole picture with its title and description for those who do not see it; ``name`` is unique in the page."""
    described = element("desc", description, id=f"{name}-desc") if description else Markup("")
    return element(
        "svg",
        [element("title", title, id=f"{name}-title"), described, *shapes],
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_coordinate(width)} {_coordinate(height)}",
        role="img",
        aria_labelledby=f"{name}-title" + (f" {name}-desc" if description else ""),
        class_=class_ or None,
    )


def path(points: Sequence[Point], *, closed: bool = False) -> str:
    """Path data through ``points``, coordinates to a tenth of a pixel."""
    steps = [f"{_coordinate(x)} {_coordinate(y)}" for x, y in points]
    return "M" + "L".join(steps) + ("Z" if closed else "")


def _coordinate(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    rounded = f"{value:.1f}"
    return rounded[:-2] if rounded.endswith(".0") else rounded
