"""Grad-CAM maps as pictures: drawn over the image that they explain, or alone where the image is not at hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from memberscope.report.pictures import data_uri
from memberscope.report.svg import element

# Matplotlib's inferno at tenths (van der Walt & Smith 2015): its lightness rises evenly, so that it reads in grey too.
ANCHORS = (
    "#000004", "#160b39", "#420a68", "#6a176e", "#932667", "#bc3754", "#dd513a", "#f37819", "#fca50a", "#f6d746",
    "#fcffa4",
)  # fmt: skip
# The longer edge of an overlay: enough for a smooth map, light enough for dozens of them.
EDGE = 96
STRENGTH = 0.55


def colours(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours of values in [0, 1], shape ``(…, 3)``, 0 to 255; dark is 0, light yellow 1."""
    table = np.array([[int(anchor[k : k + 2], 16) for k in (1, 3, 5)] for anchor in ANCHORS], np.float64)
    at = np.linspace(0, 1, len(table))
    clipped = np.clip(values, 0, 1)
    return np.stack([np.interp(clipped, at, table[:, channel]) for channel in range(3)], axis=-1)


def scale() -> Markup:
    """Rectangles of a colour scale from 0 to 1, in a box of 100 by 8."""
    steps = 25
    bytes_ = _bytes(colours((np.arange(steps) + 0.5) / steps))
    return Markup("").join(
        # A little wider than its share, so that no seam shows between two.
        element("rect", x=100 * k / steps, y=0, width=100 / steps + 0.4, height=8, fill=f"#{row.tobytes().hex()}")
        for k, row in enumerate(bytes_)
    )


def overlay(image: NDArray[np.uint8], rows: Sequence[Sequence[float]]) -> str:
    """A data URI of ``image`` ``(H, W, 1 or 3)`` enlarged, with the map of ``rows`` (0 to 1) over it."""
    from PIL import Image

    height, width = image.shape[:2]
    size = _size(width, height)
    picture = Image.fromarray(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image)
    # Small images keep their squares; large ones are reduced smoothly.
    method = Image.Resampling.NEAREST if size[0] > width else Image.Resampling.LANCZOS
    ground = np.asarray(picture.resize(size, method), np.float64)
    return data_uri(_bytes(ground * (1 - STRENGTH) + colours(_enlarged(rows, size)) * STRENGTH))


def alone(rows: Sequence[Sequence[float]]) -> str:
    """A data URI of the map by itself."""
    size = _size(len(rows[0]), len(rows))
    return data_uri(_bytes(colours(_enlarged(rows, size))))


def _size(width: int, height: int) -> tuple[int, int]:
    """A whole multiple of a small image up to about ``EDGE``, a large one reduced to it."""
    longer = max(width, height)
    factor = max(1, EDGE // longer) if longer <= EDGE else EDGE / longer
    return max(1, round(width * factor)), max(1, round(height * factor))


def _enlarged(rows: Sequence[Sequence[float]], size: tuple[int, int]) -> NDArray[np.float64]:
    from PIL import Image

    values = np.clip(np.array(rows, np.float32), 0, 1)
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR), np.float64)


def _bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(values, 0, 255).round().astype(np.uint8)
