"""Drawings of the analyses read back from their coordinates and pixels: what is drawn is where the numbers say."""

from __future__ import annotations

import base64
import io
import re
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from memberscope.report import figures, heat, lines, maps
from memberscope.report.svg import BLUE, GREEN
from memberscope.types import Figure
from memberscope.types.analyses import Embedding
from report.made import embedding, share

EPOCHS = [1, 2, 5, 10, 20, 50, 100]


def coordinates(data: str) -> np.ndarray:
    return np.array([[float(v) for v in point.split()] for point in re.split("[ML]", data.strip("Z"))[1:]])


def growth(values: list[Figure], epochs: list[int], **options: object) -> str:
    line = lines.Line("found", BLUE, None, values)
    settings = {"name": "growth", "title": "Growth", "unit": "share"} | options
    return str(lines.draw(epochs, [line], **settings))  # type: ignore[arg-type]


def labels(svg: str) -> dict[float, float]:
    """Marked shares and their heights."""
    found = re.findall(r'<text x="42" y="([\d.]+)" text-anchor="end"[^>]*>([\d.]+)', svg)
    return {float(value) / 100: float(y) - 4.5 for y, value in found}


@pytest.mark.parametrize("epochs", [EPOCHS, [10, 20, 30, 40, 50, 60, 70], [1, 2, 3, 4, 90, 95, 100]])
def test_lines_bands_and_intervals_stand_at_their_epoch_and_value(epochs: list[int]) -> None:
    values = [share(0.1 + 0.05 * k, 400) for k in range(7)]
    svg = growth(values, epochs)
    (data,) = re.findall(r'<path d="([^"]+)" fill="none" stroke="#005f9e" stroke-width="2"', svg)
    points, marks = coordinates(data), labels(svg)
    # Values are read back by the axis's own labels, not by the code that drew them.
    (low, y_low), (high, y_high) = min(marks.items()), max(marks.items())

    def value(y: np.ndarray) -> np.ndarray:
        return low + (high - low) * (y_low - y) / (y_low - y_high)

    assert value(points[:, 1]) == pytest.approx([v.value for v in values], abs=0.0008)
    numbers = re.findall(r'<text x="([\d.]+)" y="186" text-anchor="middle"[^>]*>(\d+)<', svg)
    assert {int(e) for _, e in numbers} <= set(epochs)
    assert [int(e) for _, e in numbers][:: len(numbers) - 1] == [epochs[0], epochs[-1]]
    for x, epoch in numbers:
        assert points[epochs.index(int(epoch)), 0] == float(x)
    measure = np.log if "logarithmic" in svg else np.asarray
    along = measure(np.array(epochs, float))
    assert np.corrcoef(points[:, 0], along)[0, 1] > 0.99999
    assert ("logarithmic" in svg) == (epochs[1] == 2)
    (band,) = re.findall(r'<path d="([^"]+)Z" fill="#005f9e"', svg)
    upper, lower = np.split(coordinates(band), 2)
    assert value(upper[:, 1]) == pytest.approx([v.high for v in values], abs=0.0008)
    assert value(lower[::-1, 1]) == pytest.approx([v.low for v in values], abs=0.0008)
    (bars,) = re.findall(r'<path d="([^"]+)" fill="none" stroke="#005f9e" stroke-opacity', svg)
    assert np.array_equal(coordinates(bars)[::2], lower[::-1]) and np.array_equal(coordinates(bars)[1::2], upper)


def test_epochs_that_could_not_be_measured_leave_a_gap() -> None:
    values = [share(0.2), Figure.not_measurable("none"), share(0.3), share(0.4)]
    svg = growth(values, [1, 2, 3, 4])
    runs = [coordinates(d) for d in re.findall(r'<path d="([^"]+)" fill="none" stroke="#005f9e" stroke-width', svg)]
    assert [len(run) for run in runs] == [1, 2] and svg.count("<circle") == 3
    nothing = growth([Figure.not_measurable("none")] * 4, [1, 2, 3, 4])
    assert "found: not measurable." in nothing and "<circle" not in nothing


@pytest.mark.parametrize(
    ("values", "zero", "ends"),
    [
        ([0.52, 0.631], False, (0.5, 0.65)),
        ([0.012, 0.118], True, (0.0, 0.15)),
        ([0.35, 0.9999], False, (0.2, 1.0)),
        ([1.0, 1.0], False, (0.98, 1.0)),
        ([0.5, 0.5001], False, (0.5, 0.52)),
        ([0.0, 0.0], True, (0.0, 0.001)),
    ],
)
def test_axes_hold_everything_between_round_numbers(values: list[float], zero: bool, ends: tuple[float, float]) -> None:
    points = [Figure(value=v, low=v, high=v) for v in values]
    marks = labels(growth(points, [1, 2], zero=zero))
    assert (min(marks), max(marks)) == pytest.approx(ends) and 2 <= len(marks) <= 6
    heights = [marks[key] for key in sorted(marks)]
    assert heights[0] == lines.BOTTOM and heights[-1] == pytest.approx(lines.TOP, abs=0.1)


def test_chance_is_drawn_at_its_height_and_a_single_epoch_in_the_middle() -> None:
    line = lines.Line("a", GREEN, None, [Figure(value=0.6, low=0.55, high=0.65)])
    svg = str(lines.draw([7], [line], name="n", title="t", unit="score", chance=0.5))
    assert f'<path d="M{lines.LEFT:.0f} {lines.BOTTOM:.0f}L' in svg.split('stroke-dasharray="2 3"')[0]
    assert re.findall(r'<circle cx="([\d.]+)"', svg) == ["185"]
    assert ".600 (.550" in svg and "at 7" in svg


def test_small_histograms_share_the_axis_and_reach_their_own_peak() -> None:
    from memberscope.types.base import Histogram

    data = Histogram(attack="x", edges=[-4, 0, 4], members=[0.1, 0.4], non_members=[0.2, 0.3])
    svg = str(figures.small_histogram(data, name="h", title="Scores"))
    members = coordinates(re.findall(r'<path d="([^"]+)" fill="#005f9e"', svg)[0])
    others = coordinates(re.findall(r'<path d="([^"]+)" fill="none" stroke="#b04a00"', svg)[0])
    tall = figures.SMALL.floor - figures.SMALL.top
    assert (figures.SMALL.floor - members[[1, 3], 1]) / tall == pytest.approx([0.25, 1.0], abs=1e-3)
    assert (figures.SMALL.floor - others[[1, 3], 1]) / tall == pytest.approx([0.5, 0.75], abs=1e-3)
    assert re.findall(r">(−?\d+)</text>", svg) == ["−4", "4"]


def scattered(n: int, classes: int, seed: int = 0) -> Embedding:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    base = embedding([f"r{i}" for i in range(n)], labels.tolist(), "features")
    x, y = rng.normal(3, 40, n), rng.normal(-7, 10, n)
    return base.model_copy(update={"x": x.tolist(), "y": y.tolist(), "vulnerable": (rng.random(n) < 0.05).tolist()})


def drawn(e: Embedding, names: list[str]) -> tuple[str, dict[int, np.ndarray]]:
    """The map, and the places of the dots by class."""
    svg = str(maps.Map(e, "m", names).whole("Map", "Described"))
    paths = re.findall(r'<path d="((?:M[\d. ]+h0)+)" id="m-dots-(\d+)"', svg)
    return svg, {int(k): np.array([p.split() for p in re.findall(r"M([\d. ]+)h0", d)], float) for d, k in paths}


def test_every_record_lies_where_the_map_puts_it_in_the_colour_of_its_class() -> None:
    e = scattered(400, 10)
    svg, dots = drawn(e, [f"c{k}" for k in range(10)])
    label, true = np.array(e.label), np.column_stack([e.x, e.y])
    factor = (maps.SIZE - 2 * maps.MARGIN) / np.ptp(true[:, 0])
    assert np.ptp(true[:, 0]) > np.ptp(true[:, 1])
    for k in range(10):
        got = (dots[k] - maps.SIZE / 2) / factor * (1, -1)
        middle = (true.max(axis=0) + true.min(axis=0)) / 2
        assert got + middle == pytest.approx(true[label == k], abs=0.06 / factor)
        assert f'id="m-dots-{k}" style="stroke:var(--dot,{maps.COLOURS[k]})"' in svg
    every = np.concatenate(list(dots.values()))
    assert every.min() >= maps.MARGIN and every.max() <= maps.SIZE - maps.MARGIN


def test_rings_stand_around_the_vulnerable_records_alone_and_are_larger_than_dots() -> None:
    e = scattered(300, 4)
    svg, dots = drawn(e, list("abcd"))
    for k in range(4):
        group = re.findall(rf'<g id="m-rings-{k}">(.*?)</g>', svg)[0]
        starts = re.findall(r"M([\d.]+) ([\d.]+)a", re.findall(r'd="([^"]+)" stroke="#d0101c"', group)[0])
        centres = np.array(starts, float) + np.array([maps.RADIUS, 0])
        marked = np.array(e.vulnerable)[np.array(e.label) == k]
        assert centres == pytest.approx(dots[k][marked], abs=0.11)
    width = float(re.findall(r'id="m-points" fill="none" stroke-width="([\d.]+)"', svg)[0])
    assert width < 1.4 * maps.RADIUS


def test_three_thousand_records_stay_light_and_single_classes_lighter() -> None:
    whole = maps.Map(scattered(3000, 10), "m", [f"class {k}" for k in range(10)])
    assert len(str(whole.whole("t", "d"))) < 75_000
    single = str(whole.single(3, "Class 3"))
    assert len(single) < 900
    ids = set(re.findall(r' id="([^"]+)"', str(whole.whole("t", "d"))))
    assert set(re.findall(r'href="#([^"]+)"', single)) <= ids


def test_names_of_classes_cover_neither_each_other_nor_the_edge() -> None:
    e = scattered(500, 10)
    svg, _ = drawn(e, [f"a long class name {k}" for k in range(9)] + ["x"])
    names = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="middle"[^>]*>([^<]+)', svg)
    assert len(names) == 10 and "a long class …" in svg
    boxes = [(float(x) - 4.3 * len(w), float(y) - 12, float(x) + 4.3 * len(w), float(y) + 2) for x, y, w in names]
    assert np.min(boxes) >= 0 and np.max(boxes) <= maps.SIZE
    for one, other in combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear sRGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = to_xyz @ np.clip(rgb, 0, 1) / (0.95047, 1, 1.08883)
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira & Fernandes 2009, severity 1.
SIGHT = {
    "common": np.eye(3),
    "protan": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "deutan": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "tritan": np.array([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
}


@pytest.mark.parametrize("sight", SIGHT)
def test_class_colours_differ_for_every_kind_of_sight(sight: str) -> None:
    seen = [lab(SIGHT[sight] @ linear(colour)) for colour in maps.COLOURS]
    assert len(seen) == 10
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) > 15


def test_heat_colours_grow_evenly_lighter() -> None:
    steps = heat.colours(np.linspace(0, 1, 51)) / 255
    light = np.array([lab(np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4))[0] for s in steps])
    rise = np.diff(light)
    assert light[0] < 2 and light[-1] > 97 and rise.min() > 0
    assert rise.max() / rise.mean() < 1.6
    assert heat.colours(np.array([-3.0, 7.0])).tolist() == heat.colours(np.array([0.0, 1.0])).tolist()


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))).astype(float)


@pytest.mark.parametrize(("size", "shown"), [((8, 8), (96, 96)), ((32, 16), (96, 48)), ((200, 300), (64, 96))])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_overlay_is_image_and_map_in_fixed_parts(
    size: tuple[int, int], shown: tuple[int, int], channels: int
) -> None:
    image = np.full((*size, channels), 200, np.uint8)
    for value in (0.0, 0.5, 1.0):
        got = pixels(heat.overlay(image, [[value] * 4] * 3))
        wanted = 200 * (1 - heat.STRENGTH) + heat.STRENGTH * heat.colours(np.array(value))
        assert got.shape == (*shown, 3) and np.abs(got - wanted).max() <= 1


def test_the_top_left_of_a_map_is_the_top_left_of_its_picture_and_blends_evenly() -> None:
    got = pixels(heat.alone([[1.0, 0.0], [0.0, 0.0]])).sum(axis=2)
    assert got[0, 0] == got.max() and got[-1, -1] == got.min() == got[0, -1]
    # Half-way between the two cells' middles stands half of the value.
    middle = pixels(heat.alone([[1.0, 0.0]]))[0]
    assert middle[len(middle) // 2] == pytest.approx(heat.colours(np.array(0.5)), abs=6)


def test_bars_of_attributions_and_of_chance_stand_where_they_should() -> None:
    right, left = str(figures.signed_bar(1.5, 2.0)), str(figures.signed_bar(-0.5, 2.0))
    assert 'x="100" y="3" width="75"' in right and 'class="for"' in right
    assert 'x="75" y="3" width="25"' in left and 'class="against"' in left
    assert 'width="0"' in str(figures.signed_bar(0.0, 0.0))
    bar = str(figures.interval_bar(Figure(value=0.7, low=0.6, high=0.85), 1.0, chance=0.5))
    assert 'd="M100 0L100 16" class="chance"' in bar
    assert re.findall(r'<rect x="([\d.]+)" y="4" width="([\d.]+)" height="8" rx="3"', bar) == [("120", "50")]
