"""Reports of every state: hostile names, nothing measured, nothing run, many of everything; always one whole file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from memberscope.errors import PoolError
from memberscope.report import format as fmt
from memberscope.report import render, write_report
from memberscope.report.sections import SECTIONS
from memberscope.types import AttackResult, Figure, Findings, NotRun
from report.builder import ANIMALS, TOO_FEW, build, class_row, curve, images, record, share, table
from report.page import Page, figure_texts, plain, read


@pytest.fixture(scope="module")
def findings() -> Findings:
    return build()


@pytest.fixture(scope="module")
def page(findings: Findings) -> Page:
    return read(render(findings, dataset=images()))


HOSTILE = '<script>alert("1")</script>&<img src=x onerror=alert(2)>\'"'


def test_names_and_ids_are_text_and_never_markup() -> None:
    long = "x" * 5000
    findings = build(
        exposed=40,
        ids=[HOSTILE, long, "ключ/ÄÖ 漢字", *(f"r{i}" for i in range(40))],
        class_names=(HOSTILE, "naïve ünïcode ☃"),
        name=HOSTILE,
        data_name=HOSTILE,
        headline=HOSTILE,
        summary=[HOSTILE],
        groups={HOSTILE: [class_row(HOSTILE, 0.1)]},
        limits=[HOSTILE],
        threat_model={HOSTILE: HOSTILE},
        run={HOSTILE: HOSTILE, "seed": HOSTILE, "created": HOSTILE, "versions": {HOSTILE: HOSTILE}},
        not_run=[NotRun(name=HOSTILE, reason=HOSTILE)],
    )
    data = images(3)
    hostile_data = type(data)(data.inputs, data.labels, np.array([HOSTILE, long, "other"]), ANIMALS)
    html = render(findings, dataset=hostile_data)
    page = read(html)
    assert page.tags["script"] == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert all(value.startswith("data:image/png;base64,") for value in page.values("src"))
    assert page.text.count(plain(HOSTILE)) >= 10
    assert long in page.text and "ключ/ÄÖ 漢字" in page.text and "naïve ünïcode ☃" in page.text


def test_nothing_is_fetched_and_every_anchor_leads_somewhere(page: Page, findings: Findings) -> None:
    html = render(findings, dataset=images())
    assert not [v for v in page.values("src") if not v.startswith("data:")]
    links = page.values("href")
    assert all(link == "data:," or link.startswith("#") for link in links)
    assert {link[1:] for link in links if link.startswith("#")} <= set(page.ids)
    labelled = " ".join(page.values("aria-labelledby")).split()
    assert set(labelled) <= set(page.ids)
    assert [name for name, count in page.ids.items() if count > 1] == []
    assert not re.search(r"url\(|@import|https?:(?!//www\.w3\.org/2000/svg)", html)
    assert any("default-src 'none'" in value for value in page.values("content"))
    assert all("alt" in dict(attributes(html, "img", k)) for k in range(page.tags["img"]))


def attributes(html: str, tag: str, place: int) -> list[tuple[str, str]]:
    """Attributes of the ``place``-th element of a kind."""
    found = re.findall(rf"<{tag} [^>]*>", html)[place]
    return re.findall(r'([\w-]+)="([^"]*)"', found)


def test_the_policy_admits_the_scripts_own_hash_only(findings: Findings) -> None:
    import base64
    import hashlib

    html = render(findings)
    script = html[html.index("<script>") + 8 : html.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert any(f"script-src 'sha256-{digest}'" in value for value in read(html).values("content"))


def unmeasured(result: AttackResult) -> AttackResult:
    nothing = Figure.not_measurable("no non-members were given")
    return result.model_copy(
        update={
            "auc": nothing,
            "advantage": nothing,
            "tpr_at_fpr": dict.fromkeys(result.tpr_at_fpr, nothing),
            "operating_point": None,
        }
    )


def test_a_page_where_nothing_was_measurable_gives_the_reasons() -> None:
    base = build(targets=2, exposed=0)
    findings = build(
        gate=False,
        attacks=[unmeasured(result) for result in base.attacks],
        curves=[],
        histograms=[],
        classes=[row.model_copy(update={"tpr": Figure.not_measurable("one record")}) for row in base.classes],
        records=None,
    )
    page = read(render(findings))
    assert page.text.count("no non-members were given") >= 20
    assert "Nothing that the attacks found is measurable" in page.text and "strongest</span>" not in render(findings)
    assert "not measurable: one record" in page.text
    assert "No record can be named" in page.text
    first = page.text[: page.text.index("What an attacker can do")]
    assert first.count("not measurable") >= 2


def test_a_page_of_an_audit_that_ran_no_attack_says_so() -> None:
    findings = build(
        attacks=[], strongest="", gate=False, curves=[], histograms=[], classes=[], groups={}, records=None, checks=[],
        data={}, model={}, populations={}, threat_model={}, cost={}, run={}, limits=[], analyses=None,
        not_run=[NotRun(name="gap", reason="no labels were given")],
    )  # fmt: skip
    page = read(render(findings))
    assert "No attack could run" in page.text
    assert "no labels were given" in page.text
    assert "no attack could run" in page.text[: page.text.index("What an attacker can do")]
    for absent in ("classes", "precision", "scores", "threat", "populations", "checks", "cost"):
        assert absent not in page.ids
    for present in ("attacks", "records", "gates", "limits", "provenance", "glossary"):
        assert page.ids[present] == 1


def test_attacks_that_use_no_references_claim_none_and_their_single_point_is_no_curve() -> None:
    base = build(targets=1)
    gap = base.pooled("gap").model_copy(update={"references": 30})
    attacks = [gap if r is base.pooled("gap") else r for r in base.attacks]
    html = render(build(attacks=attacks, curves=[*base.curves, curve("gap", 0.3)]))
    row = html[html.index('<th scope="row">Gap (accuracy alone)') :]
    assert "no references" in row[: row.index("</tr>")]
    assert "Gap" not in html[html.index('class="roc"') : html.index("What the drawn attacks find")]


def test_the_clearest_record_is_told_where_none_is_named_by_all() -> None:
    base = build()
    assert base.records is not None
    rows = [row.model_copy(update={"support_in": 1 + (k == 3)}) for k, row in enumerate(base.records.top)]
    page = read(render(build(records=base.records.model_copy(update={"top": rows, "always": 0}))))
    assert "the clearest by 2 of 6 models trained on it" in page.text


def test_page_one_shows_the_interval_that_the_gate_decided_by() -> None:
    base = build(verdict="inconclusive", strength=0.42)
    wide = Figure(value=base.gates[0].figure.value, low=0.0412, high=0.0688)
    page = read(
        render(build(verdict="inconclusive", strength=0.42, gates=[base.gates[0].model_copy(update={"figure": wide})]))
    )
    first = page.text[: page.text.index("What an attacker can do")]
    assert "4.1 – 6.9 %, limit 5 %" in first
    assert "4 to 7 of 100 training records found" in first


def test_an_error_of_the_checks_is_told_on_page_one() -> None:
    check = build().checks[1].model_copy(update={"level": "error"})
    html = render(build(checks=[check]))
    first = html[: html.index("<nav")]
    assert "The checks on the audit itself gave 1 error." in first
    assert '<aside class="caveats error"' in first and 'class="shape"' in first[first.index("<aside") :]


def test_nothing_exposed_is_not_told_as_nothing_leaks() -> None:
    page = read(render(build(verdict="pass", strength=0.01, exposed=0, targets=1), dataset=images()))
    assert "No training record stands out" in page.text
    assert "Records that leak less than this audit can see may remain" in page.text
    assert page.tags["img"] == 0


def test_a_single_target_without_a_pooled_row_is_shown() -> None:
    base = build(targets=1)
    findings = build(attacks=[result for result in base.attacks if result.target == 0])
    page = read(render(findings))
    result = next(r for r in findings.attacks if r.name == "bavaria")
    assert all(text in page.text for text in figure_texts(result.auc, "score"))
    assert "targets by itself" not in page.text


@pytest.mark.parametrize("count", [2, 26, 1000])
def test_every_class_is_in_the_page_the_worst_in_the_open(count: int) -> None:
    findings = build(class_names=tuple(f"class-{k}" for k in range(count)), exposed=5, targets=64)
    html = render(findings)
    page = read(html)
    order = [int(k) for k in re.findall(r'<th scope="row">class-(\d+)', html)]
    rates = {row.name: row.tpr.value or 0.0 for row in findings.classes}
    assert sorted(order) == list(range(count))
    ordered = [rates[f"class-{k}"] for k in order]
    assert ordered == sorted(ordered, reverse=True)
    assert (f"The other {count - 20}" in page.text.replace("\u202f", "")) == (count > 25)
    assert "Each of the 64 targets by itself" in page.text


def test_ten_thousand_records_stay_below_ten_megabytes() -> None:
    data = images(60_000 // 20)
    rows = [record(i % 90, 8, f"train/{i:05d}", 3, "cat") for i in range(10_000)]
    base = build(targets=64)
    assert base.records is not None
    findings = build(targets=64, records=base.records.model_copy(update={"top": rows, "flagged": 10_000}))
    size = len(render(findings, dataset=data).encode())
    assert 1_000_000 < size < 10_000_000
    plain_page = render(base.model_copy(update={"analyses": None}), dataset=data)
    assert len(plain_page.encode()) < 500_000
    assert len(render(base, dataset=data).encode()) < len(plain_page.encode()) + 250_000


def test_the_same_findings_give_the_same_page_and_a_file_is_written_whole(tmp_path: Path) -> None:
    findings, data = build(), images()
    html = render(findings, dataset=data)
    assert html == render(findings, dataset=data)
    write_report(tmp_path / "run" / "report.html", findings, dataset=data)
    assert (tmp_path / "run" / "report.html").read_text(encoding="utf-8") == html
    (tmp_path / "file").write_text("")
    with pytest.raises(PoolError, match="file"):
        write_report(tmp_path / "file" / "report.html", findings)


def test_findings_read_back_from_json_give_the_same_page() -> None:
    findings = build()
    assert render(Findings.model_validate_json(findings.model_dump_json())) == render(findings)


def test_every_section_has_its_template_and_its_place() -> None:
    import memberscope.report

    folder = Path(memberscope.report.__file__).parent / "templates" / "sections"
    assert {path.stem for path in folder.glob("*.html")} == {section.key for section in SECTIONS}
    html = render(build(), dataset=table())
    places = [html.index(f'<section id="{section.key}"') for section in SECTIONS]
    assert places == sorted(places)
    nav = html[html.index("<nav") : html.index("</nav>")]
    assert re.findall(r'href="#(\w+)"', nav) == [section.key for section in SECTIONS]


def test_strongest_comes_first_then_by_what_is_found_at_one_percent() -> None:
    findings = build(strongest="loss")
    html = render(findings)
    body = html[html.index('class="stack attacks"') :]
    titles = re.findall(r'<th scope="row">([^<]+?)(?: <span class="tag">|<span)', body[: body.index("</table>")])
    others = [r for r in findings.attacks if r.target == "all" and r.name not in ("loss", "gap")]
    others.sort(key=lambda r: -(r.tpr_at_fpr["0.01"].low or 0))
    assert titles == [fmt.attack_title(name) for name in ("loss", *(r.name for r in others), "gap")]


def test_missing_reasons_are_numbered_notes(page: Page) -> None:
    assert f"Not measurable: {TOO_FEW}" in page.text
    assert page.ids["attacks-note-1"] == 1
    assert "#attacks-note-1" in page.values("href")


def test_records_that_the_data_do_not_hold_are_told() -> None:
    findings = build(ids=[f"elsewhere-{i}" for i in range(123)], analyses=None)
    page = read(render(findings, dataset=images()))
    assert "60 of them are not in the data set given to the report" in page.text
    assert page.tags["img"] == 0 and "elsewhere-122" in page.text


def test_overlapping_classes_are_not_ranked_beyond_their_intervals() -> None:
    close = [class_row("a", 0.12), class_row("b", 0.11)]
    apart = [class_row("a", 0.5), class_row("b", 0.05)]
    words = "this audit does not tell them apart"
    assert words in read(render(build(classes=close, groups={}))).text
    assert words not in read(render(build(classes=apart, groups={}))).text


@pytest.mark.parametrize(("value", "phrase"), [(0.3, "times what guessing would"), (0.0102, "the interval holds that")])
def test_the_lead_sentence_says_how_far_beyond_chance(value: float, phrase: str) -> None:
    base = build(targets=1)
    rates = {**base.pooled("bavaria").tpr_at_fpr, "0.01": share(value)}
    attacks = [r.model_copy(update={"tpr_at_fpr": rates}) if r.name == "bavaria" else r for r in base.attacks]
    assert phrase in read(render(build(attacks=attacks))).text
