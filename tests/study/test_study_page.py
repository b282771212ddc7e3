"""The study's page: whole, safe, every figure in it, and a picture in which no name hides another."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from memberscope.report import format as fmt
from memberscope.report.scatter import BOTTOM, LEFT, RIGHT, TOP, Mark, scatter
from memberscope.report.study import render_study
from memberscope.study.wording import fronts, headline
from memberscope.types import Figure
from memberscope.types.study import StudyResult
from report.page import Page, figure_texts, plain, read
from study.studies import SHAPES, near, result, row


@pytest.fixture(scope="module")
def whole() -> StudyResult:
    return result()


@pytest.fixture(scope="module")
def page(whole: StudyResult) -> Page:
    return read(render_study(whole))


def test_every_figure_of_every_row_is_there(whole: StudyResult, page: Page) -> None:
    shares = ("train_accuracy", "test_accuracy", "threshold_advantage", "ece")
    for line in whole.rows:
        for kind, names in (("share", shares), ("score", ("threshold_auc", "reference_auc", "gap_auc"))):
            for name in names:
                for text in figure_texts(getattr(line, name), kind):
                    assert text in page.text, (line.method, name)
        for text in figure_texts(line.reference_tpr_at_fpr["0.01"], "share"):
            assert text in page.text
        assert line.title in page.text and line.method.replace("+", "+\u200b") in page.text
    # A reason is said once, under the table, and marked where it applies.
    assert page.text.count("needs 10,000 non-members") == 1
    assert "ε = 4.27" in page.text and "no ε: no noise was added in training" in page.text
    assert "41 µs" in plain(page.text) and "kept 21.4" in page.text


def test_published_figures_stand_as_published(whole: StudyResult, page: Page) -> None:
    for line in whole.rows:
        if line.seed == "all" and line.published is not None:
            for value in (line.published.train_accuracy, line.published.threshold_auc):
                assert f"published {100 * value:.2f}" in page.text
    assert "published 50.36, within" in page.text and "The paper's table has no such row: Augmentation" in page.text
    alone = read(render_study(result([row("mixup")], published=None, fronts=[])))
    assert "Beside the paper" not in alone.text


def test_page_asks_nothing_of_anyone_and_leads_to_every_row(page: Page) -> None:
    policy = next(value for tag, name, value in page.attributes if (tag, name) == ("meta", "content"))
    assert policy.startswith("default-src 'none'") and "script" not in policy
    assert not page.values("src") and page.tags["script"] == 0
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert all(value.startswith(("#", "rows/")) for value in links)
    assert {f"rows/{name.replace('+', '%2B')}.html" for name in SHAPES} <= set(links)
    anchors = {value[1:] for value in links if value.startswith("#")}
    assert anchors <= set(page.ids) and max(page.ids.values()) == 1


def test_names_are_text_and_never_markup() -> None:
    evil = "<script>alert(1)</script>"
    page = read(render_study(result([row("original")], name=evil, notes=[evil], headline=evil)))
    assert page.tags["script"] == 0 and page.text.count(evil) >= 3


def test_smoke_is_not_mistaken_for_a_result() -> None:
    assert "their figures mean nothing" in read(render_study(result([row("original")], scale="smoke"))).text
    assert "their figures mean nothing" not in read(render_study(result([row("original")]))).text


def test_page_of_what_could_not_be_measured() -> None:
    gone = Figure.not_measurable("needs 1,000 non-members for a false-alarm rate of 1 %, has 40")
    rates = {"0.1": gone, "0.01": gone, "0.001": gone}
    rows = [row(name, reference_tpr_at_fpr=rates, reference_auc=gone, reference_attack=None) for name in SHAPES]
    page = read(render_study(result(rows)))
    assert f"Not drawn: {', '.join(line.title for line in rows)}" in page.text


def boxes(picture: str) -> list[tuple[str, float, float, float, float]]:
    """Names in the picture with the room that bold text of 12 pixels takes."""
    found = []
    for attributes, words in re.findall(r"<text ([^>]*)>([^<]*)</text>", picture):
        known = dict(re.findall(r'([\w-]+)="([^"]*)"', attributes))
        if known.get("class") == "label" and words != "chance":
            x, y = float(known["x"]), float(known["y"])
            found.append((words, x, y - 10, x + 7.2 * len(words), y + 3))
    return found


@pytest.mark.parametrize("kind", ["share", "area"])
def test_names_in_the_picture_do_not_hide_each_other(kind: Any) -> None:
    marks = []
    for line in (row(name) for name in SHAPES):
        y = line.reference_tpr_at_fpr["0.01"] if kind == "share" else line.threshold_auc
        marks.append(Mark(line.title, line.family, line.test_accuracy, y, False))
    placed = boxes(scatter(marks, name="x", kind=kind))
    assert [words for words, *_ in placed] == [mark.label for mark in marks]
    for (one, a0, b0, a1, b1), (other, c0, d0, c1, d1) in combinations(placed, 2):
        assert min(a1, c1) <= max(a0, c0) or min(b1, d1) <= max(b0, d0), (one, other)
    assert all(x0 >= LEFT and x1 <= RIGHT and y0 >= TOP and y1 <= BOTTOM for _, x0, y0, x1, y1 in placed)


def test_marks_stand_where_their_figures_are() -> None:
    """Further right is more accurate, further down leaks less, on either scale."""
    marks = [
        Mark("a", "none", near(0.5, 0.01), near(0.02, 0.001), True),
        Mark("b", "output", near(0.6, 0.01), near(0.2, 0.01), True),
        Mark("c", "training", near(0.7, 0.01), near(0.4, 0.01), True),
        Mark("gone", "training", near(0.7, 0.01), Figure.not_measurable("?"), False),
    ]
    for marked in (marks, marks[:1] + marks[3:]):
        picture = scatter(marked, name="x", kind="share")
        assert "gone" not in picture
    picture = scatter(marks, name="x", kind="share")
    diamond = [float(v) for v in re.findall(r'<path d="M([\d.]+) ([\d.]+)L[^"]*Z"', picture)[0]]
    circle = [float(v) for v in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', picture)[0]]
    assert diamond[0] < circle[0] and diamond[1] > circle[1]


def test_fronts_and_headline_follow_the_figures() -> None:
    rows = [row(name) for name in SHAPES]
    found = {front.metric: front.methods for front in fronts(rows)}
    for metric, methods in found.items():
        values = {
            line.method: (
                line.test_accuracy.value,
                (line.threshold_auc if metric == "threshold_auc" else line.reference_tpr_at_fpr["0.01"]).value,
            )
            for line in rows
        }
        for name, (x, y) in values.items():
            beaten = any(a >= x and b <= y and (a, b) != (x, y) for a, b in values.values())  # type: ignore[operator]
            assert (name in methods) == (not beaten)
    # RegDrop 0.5 costs one point, DP-SGD thirty: the cheap one is named.
    assert "RegDrop 0.5 brings that to" in headline(rows) and fmt.percent(0.12).replace("\u202f", "\u00a0")
    assert "no defence here lowers that" in headline([row("original"), row("label_smoothing"), row("dp_sgd")])
    assert headline([row("mixup"), row("l2_1e-3")]).startswith("Of 2 defences L2 1e-3")


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_the_window(width: int, whole: StudyResult, tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path("/usr/bin/chromium").exists():
        pytest.skip("no Chromium")
    path = tmp_path / "index.html"
    path.write_text(render_study(whole))
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        shown, wrong = browser.new_page(viewport={"width": width, "height": 900}), []
        shown.on("console", lambda message: wrong.append(message.text))
        shown.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
        shown.goto(path.as_uri())
        shown.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert not wrong
        browser.close()
