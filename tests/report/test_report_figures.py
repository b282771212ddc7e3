"""Figures read back from their coordinates: curves where they belong, labels that cover nothing."""

from __future__ import annotations

import math
import re
from html import unescape
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import norm

from memberscope.report import figures, roc
from memberscope.types import Figure
from memberscope.types.base import Histogram
from report.builder import POWER, curve, histogram, tpr_of

NAMES = ("bavaria", "lira_online_pooled", "rmia_online", "calibrated_loss", "loss", "attack_p")


def drawn(strength: float, names: tuple[str, ...] = NAMES) -> str:
    curves = [curve(name, POWER[name] * strength) for name in names]
    lines = roc.choose(curves, names)
    chosen = {line.attack for line in lines}
    return str(roc.draw(lines, [c for c in curves if c.attack not in chosen]))


def coordinates(data: str) -> np.ndarray:
    return np.array([[float(v) for v in point.split()] for point in re.split("[ML]", data.strip("Z"))[1:]])


def test_the_strongest_curve_is_drawn_at_its_rates() -> None:
    svg = drawn(1.0)
    (data,) = re.findall(r'<path d="([^"]+)" fill="none" stroke="#005f9e" stroke-width="2.4"', svg)
    points = coordinates(data)
    fpr = 10 ** (-3 + 3 * (points[:, 0] - roc.LEFT) / (roc.RIGHT - roc.LEFT))
    tpr = 10 ** (-3 + 3 * (roc.BOTTOM - points[:, 1]) / (roc.BOTTOM - roc.TOP))
    wanted = [max(tpr_of(POWER["bavaria"], f), 0.001) for f in fpr[:-1]]
    assert np.allclose(np.log10(tpr[:-1]), np.log10(wanted), atol=0.02)


def test_the_band_holds_its_curve_and_the_marker_stands_at_one_percent() -> None:
    svg = drawn(1.0)
    (band,) = re.findall(r'<path d="([^"]+)Z" fill="#005f9e"', svg)
    points = coordinates(band)
    upper, lower = points[: len(points) // 2], points[len(points) // 2 :][::-1]
    assert (upper[:, 1] <= lower[:, 1]).all()
    marker = float(re.findall(r'<path d="M([\d.]+) [^"]+" stroke="#a4262c"', svg)[0])
    assert marker == pytest.approx(roc.LEFT + (roc.RIGHT - roc.LEFT) / 3, abs=0.1)


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.3, 0.6, 0.8, 1.0, 1.5, 2.5, 4.0])
@pytest.mark.parametrize("names", [NAMES, ("loss",), ("gap", "loss"), ("lira_online", "rmia_online", "gap")])
def test_labels_cover_neither_each_other_nor_a_curve(strength: float, names: tuple[str, ...]) -> None:
    svg = drawn(strength, names)
    labels = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"([^>]*)class="label">([^<]+)', svg)
    assert len(labels) == min(3, len({name.split("_")[0] for name in names})) + 1
    boxes = []
    for x, y, rest, words in labels:
        width = 6.6 * len(words)
        left = float(x) - width if "end" in rest else float(x)
        boxes.append((left, float(y) - 10, left + width, float(y) + 3, "end" in rest))
    for one, other in combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    lines = [
        coordinates(d)
        for d in re.findall(r'<path d="([^"]+)" fill="none" stroke="#[0-9a-f]{6}" stroke-width="[12]', svg)
    ]
    for left, top, right, bottom, _ in boxes:
        assert left >= roc.LEFT and right <= roc.RIGHT and top + 3 >= roc.TOP and bottom <= roc.BOTTOM
        for points in lines:
            xs = np.linspace(left, right, 50)
            ys = np.interp(xs, points[:, 0], points[:, 1])
            inside = (ys > top) & (ys < bottom) & (ys < roc.BOTTOM - 1)
            assert not inside.any()


def test_three_families_are_drawn_and_the_plain_loss_is_among_them() -> None:
    curves = [curve(name, POWER[name]) for name in ("bavaria", "base", "rmia_online", "rmia_offline", "loss")]
    lines = roc.choose(curves, ["bavaria", "rmia_online", "rmia_offline", "base", "loss"])
    assert [line.attack for line in lines] == ["bavaria", "rmia_online", "loss"]
    assert len({line.colour for line in lines}) == len({line.dash for line in lines}) == 3


def test_pictures_have_names_for_those_who_do_not_see_them() -> None:
    svg = drawn(1.0)
    assert 'role="img"' in svg and 'aria-labelledby="roc-title roc-desc"' in svg
    assert "<title" in svg and "BaVarIA" in re.findall(r"<desc[^>]*>([^<]+)", svg)[0]


def test_an_interval_bar_stands_where_its_figure_says() -> None:
    svg = str(figures.interval_bar(Figure(value=0.123, low=0.111, high=0.136), 0.2, mark=0.05))
    ((x, width),) = re.findall(r'<rect x="([\d.]+)" y="4" width="([\d.]+)" height="8" rx="3"', svg)
    assert float(x) == pytest.approx(111, abs=0.1) and float(width) == pytest.approx(25, abs=0.1)
    assert 'd="M50 0L50 16"' in svg
    (tick,) = re.findall(r'<rect x="([\d.]+)" y="1"', svg)
    assert float(tick) + 1.3 == pytest.approx(123, abs=0.1)
    assert figures.interval_bar(Figure.not_measurable("no"), 0.2) == ""


@pytest.mark.parametrize(("largest", "end"), [((0.003,), 0.005), ((0.12, 0.05), 0.2), ((0.93,), 1.0), ((), 1.0)])
def test_bars_end_at_a_round_share_that_holds_them(largest: tuple[float, ...], end: float) -> None:
    assert figures.bar_limit(*largest) == end


@pytest.mark.parametrize("distance", [0.0, 0.5, 1.0, 2.0])
def test_overlap_of_two_normals_is_the_known_one(distance: float) -> None:
    edges = np.linspace(-8, 10, 400)
    middles = (edges[1:] + edges[:-1]) / 2
    data = Histogram(
        attack="x",
        edges=edges.tolist(),
        members=norm.pdf(middles, distance).tolist(),
        non_members=norm.pdf(middles).tolist(),
    )
    assert figures.overlap(data) == pytest.approx(2 * norm.cdf(-distance / 2), abs=1e-3)


def test_a_histogram_draws_heights_in_proportion() -> None:
    data = Histogram(attack="x", edges=[0, 1, 2], members=[0.25, 0.75], non_members=[1.0, 0.0])
    outline = re.findall(r'<path d="([^"]+)" fill="#005f9e"', str(figures.histogram(data)))[0]
    heights = 168 - coordinates(outline)[:, 1]
    assert heights[1] / 138 == pytest.approx(0.25, abs=1e-3) and heights[3] / 138 == pytest.approx(0.75, abs=1e-3)
    empty = Histogram(attack="x", edges=[0, 0], members=[0.0], non_members=[0.0])
    assert "NaN" not in str(figures.histogram(empty)) and figures.overlap(empty) == 0


def test_histograms_tell_overlap_and_means() -> None:
    text = unescape(re.findall(r"<desc[^>]*>([^<]+)", str(figures.histogram(histogram("bavaria", 1.2))))[0])
    numbers = [float(v.replace("−", "-")) for v in re.findall(r"−?\d+\.\d+|−?\d+", text)]
    assert numbers[0] == pytest.approx(1.2, abs=0.02) and math.isclose(numbers[1], 0, abs_tol=0.02)


def test_a_hundred_dots_show_the_interval() -> None:
    svg = str(figures.dots(12, 14))
    assert (svg.count('class="sure"'), svg.count('class="perhaps"'), svg.count('class="other"')) == (12, 2, 86)
