"""The report in Chromium: opened from a file without a network, used by keyboard, on a telephone, on paper, read."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from memberscope.report import write_report
from memberscope.types import Dataset, Findings
from report.builder import build, images, table

pytestmark = pytest.mark.browser
CHROMIUM = Path("/usr/bin/chromium")

HARD = [f"<b>&{'very-long-id-' * 40}", "ключ/ÄÖ 漢字"]
CASES: dict[str, tuple[Findings, Dataset | None]] = {
    "fail": (build(), images()),
    "table": (build(kind="table", gate=False, class_names=tuple("abc"), targets=64), table()),
    "many": (
        build(
            class_names=tuple(f"cluster {k}" for k in range(40)),
            exposed=160,
            ids=[f"train/{i:05d}" for i in range(160)],
        ),
        images(),
    ),
    "wide": (
        build(
            ids=[*HARD, *(f"r{i}" for i in range(121))],
            class_names=("c" * 200, "naïve <i>"),
            name="n" * 300,
            headline="h" * 300,
            data_name="d" * 300,
            limits=["l" * 300],
        ),
        None,
    ),
    "bare": (
        build(
            attacks=[], strongest="", gate=False, curves=[], histograms=[], classes=[], groups={}, records=None,
            checks=[], data={}, model={}, populations={}, threat_model={}, cost={}, run={}, limits=[], not_run=[],
            analyses=None,
        ),
        None,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    for name, (findings, data) in CASES.items():
        write_report(folder / f"{name}.html", findings, dataset=data)
    return folder


def open_page(chromium: Any, path: Path, width: int = 1280, **options: Any) -> tuple[Any, list[str]]:
    """A page opened from its file with the network off, and everything that went wrong in it."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
    page.goto(path.as_uri())
    return page, wrong


@pytest.mark.parametrize("name", CASES)
def test_opens_offline_without_errors_and_fits_every_width(chromium: Any, folder: Path, name: str) -> None:
    page, wrong = open_page(chromium, folder / f"{name}.html")
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    for width in (1280, 800, 390, 320):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert wrong == []
    page.context.close()


def column(page: Any, place: int) -> list[str]:
    return list(
        page.evaluate(
            "(k) => Array.from(document.querySelectorAll('table.records tbody tr'),"
            " (row) => row.cells[k].dataset.v ?? row.cells[k].textContent)",
            place,
        )
    )


def test_the_table_sorts_filters_and_saves_by_keyboard(chromium: Any, folder: Path) -> None:
    page, wrong = open_page(chromium, folder / "fail.html", accept_downloads=True)
    records = CASES["fail"][0].records
    assert records is not None
    wanted = [row.score for row in records.top]
    button = page.locator("table.records th button", has_text="score")
    button.focus()
    page.keyboard.press("Enter")
    assert [float(v) for v in column(page, 6)] == sorted(wanted)
    assert page.locator("table.records th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Space")
    assert [float(v) for v in column(page, 6)] == sorted(wanted, reverse=True)
    page.locator("table.records th button", has_text="class").press("Enter")
    assert column(page, 1) == sorted(row.label_name for row in records.top)
    assert page.locator("table.records th[aria-sort]").count() == 1

    page.get_by_label("Find by id or class").fill("SHIP")
    ships = [row for row in records.top if row.label_name == "ship"]
    assert page.locator("table.records tbody tr:visible").count() == len(ships) > 0
    assert page.locator("output").inner_text() == f"{len(ships)} of {len(records.top)} records"
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").press("Enter")
    saved = list(csv.reader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
    assert saved[0][:2] == ["record", "class"]
    assert sorted(row[0] for row in saved[1:]) == sorted(row.id for row in ships)
    assert wrong == []
    page.context.close()


def test_long_hostile_ids_are_shown_as_text_and_found(chromium: Any, folder: Path) -> None:
    page, wrong = open_page(chromium, folder / "wide.html")
    page.get_by_label("Find by id or class").fill("漢字")
    shown = page.locator("table.records tbody tr:visible")
    assert shown.count() == 1 and HARD[1] in shown.inner_text()
    assert column(page, 0)[0] == HARD[0]
    assert page.locator("table.records b").count() == 0 and wrong == []
    page.context.close()


def test_everything_essential_is_there_without_javascript(chromium: Any, folder: Path) -> None:
    page, _ = open_page(chromium, folder / "fail.html", java_script_enabled=False)
    assert page.locator("table.records tbody tr").count() == 123
    assert page.locator("svg.roc").is_visible() and page.locator(".stamp").inner_text().endswith("FAIL")
    assert page.locator(".tools").count() == 0 and not page.locator(".chooser").is_visible()
    assert page.locator("svg.map").first.is_visible() and page.locator("ul.legend li").count() == 11
    page.locator("summary", has_text="The next 48 pictures").click()
    assert page.locator(".tiles.small img").first.is_visible()
    page.context.close()


def test_the_keyboard_reaches_the_result_first_and_every_fold(chromium: Any, folder: Path) -> None:
    page, _ = open_page(chromium, folder / "fail.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the result"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.get_attribute("open") is not None
    page.context.close()


SHOWN = """(map) => Array.from(document.querySelectorAll(`[data-maps] svg[aria-labelledby^=${map}-title] [data-class]`))
  .filter((part) => getComputedStyle(part).opacity !== "0")
  .map((part) => [part.dataset.class, part.closest(".rings") ? "ring" : part.tagName === "text" ? "name" :
    getComputedStyle(part.querySelector("path")).stroke])"""


@pytest.mark.parametrize("name", ["fail", "many"])
def test_one_class_of_the_maps_is_chosen_by_keyboard(chromium: Any, folder: Path, name: str) -> None:
    page, wrong = open_page(chromium, folder / f"{name}.html")
    before = page.evaluate(SHOWN, "map-0")
    select = page.get_by_label("Show one class")
    select.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    wanted = select.input_value()
    assert wanted == "1" and "vulnerable" in select.locator("option:checked").inner_text()
    after = page.evaluate(SHOWN, "map-1")
    # All dots remain, the others in one light grey; of rings and names only the chosen class's.
    dots = {k: colour for k, colour in after if colour.startswith("rgb")}
    assert len(dots) == len({k for k, _ in before}) and {c for k, c in dots.items() if k != wanted} == {
        "rgb(221, 226, 232)"
    }
    assert dots[wanted] == ("rgb(230, 159, 0)" if name == "fail" else "rgb(0, 95, 158)")
    assert {k for k, colour in after if not colour.startswith("rgb")} <= {wanted}
    page.locator("summary", has_text="Class by class: logits").click()
    assert page.locator("ul.singles svg:visible").count() == (10 if name == "fail" else 30)
    select.select_option("")
    assert sorted(page.evaluate(SHOWN, "map-0")) == sorted(before) and wrong == []
    page.context.close()


CONTRAST = """() => {
  const parse = (c) => { const v = c.match(/[\\d.]+/g).map(Number); return { rgb: v.slice(0, 3), a: v[3] ?? 1 }; };
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
  const back = (el) => { for (let e = el; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c.a > .99) return c.rgb; } return [255, 255, 255]; };
  document.querySelectorAll('details').forEach((d) => { d.open = true; });
  const found = [];
  const walk = document.createTreeWalker(document.querySelector('.page'), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const el = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !el.getClientRects().length || el.closest('title, desc')) continue;
    const svg = el.closest('svg'), style = getComputedStyle(el);
    const a = light(parse(svg ? style.fill : style.color).rgb), b = light(svg ? [247, 248, 250] : back(el));
    found.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05), walk.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.parametrize("name", ["fail", "table", "bare"])
def test_every_text_stands_out_from_its_ground(chromium: Any, folder: Path, name: str) -> None:
    page, _ = open_page(chromium, folder / f"{name}.html")
    found = page.evaluate(CONTRAST)
    assert len(found) > 50
    assert [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5] == []
    page.context.close()


@pytest.mark.parametrize("verdict", ["pass", "inconclusive"])
def test_the_other_verdicts_stand_out_too(chromium: Any, tmp_path: Path, verdict: str) -> None:
    write_report(tmp_path / "report.html", build(verdict=verdict, targets=1))
    page, _ = open_page(chromium, tmp_path / "report.html")
    assert min(ratio for ratio, _ in page.evaluate(CONTRAST)) >= 4.5
    page.context.close()


def test_headings_images_and_tables_are_named_for_those_who_listen(chromium: Any, folder: Path) -> None:
    page, _ = open_page(chromium, folder / "fail.html")
    levels = page.evaluate("Array.from(document.querySelectorAll('h1,h2,h3'), (h) => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.evaluate("document.querySelectorAll('img:not([alt]), table:not(:has(caption))').length") == 0
    unnamed = "svg:not([aria-hidden=true]):not([aria-labelledby])"
    assert page.evaluate(f"document.querySelectorAll('{unnamed}').length") == 0
    snapshot = page.locator("main").aria_snapshot()
    assert "Share of training records found" in snapshot and "Verdict: FAIL" in snapshot
    page.context.close()


def test_prints_on_paper_without_cutting_anything_off(chromium: Any, folder: Path) -> None:
    page, wrong = open_page(chromium, folder / "fail.html", 688)
    page.emulate_media(media="print")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 688
    assert page.locator("table.records tbody tr:visible").count() == 50
    assert not page.locator(".tools").is_visible()
    pages = len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4", print_background=True)))
    assert 5 <= pages <= 20 and wrong == []
    page.context.close()
