"""What stands in the report: every figure with its interval, every reason, and nothing that a name could smuggle in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from memberscope.errors import PoolError
from memberscope.report import format as fmt
from memberscope.report import render, write_report
from memberscope.report.sections import SECTIONS
from memberscope.types import AttackResult, Figure, Findings, NotRun
from report.builder import ANIMALS, TOO_FEW, build, class_row, images, record, share, table
from report.page import Page, plain, read

WORDS = {"fail": "FAIL", "pass": "PASS", "inconclusive": "INCONCLUSIVE", "no_gate": "NO GATE SET"}


@pytest.fixture(scope="module")
def findings() -> Findings:
    return build()


@pytest.fixture(scope="module")
def page(findings: Findings) -> Page:
    return read(render(findings, dataset=images()))


def figure_texts(figure: Figure, kind: str) -> Iterator[str]:
    """How a figure reads: its value and its interval, or its reason."""
    if figure.value is None or figure.low is None or figure.high is None:
        yield str(figure.reason)
    elif kind == "share":
        yield plain(fmt.percent(figure.value))
        yield plain(fmt.percent_range(figure.low, figure.high))
    else:
        yield plain(fmt.decimal(figure.value))
        yield plain(fmt.decimal_range(figure.low, figure.high))


def test_every_figure_of_every_attack_stands_in_the_page(findings: Findings, page: Page) -> None:
    pooled = [result for result in findings.attacks if result.target == "all"]
    assert len(pooled) == 17
    for result in pooled:
        assert fmt.attack_title(result.name) in page.text
        assert fmt.SOURCES[result.name] in page.text
        wanted = [
            *(text for figure in result.tpr_at_fpr.values() for text in figure_texts(figure, "share")),
            *figure_texts(result.auc, "score"),
            *figure_texts(result.advantage, "score"),
        ]
        if point := result.operating_point:
            for figure in (
                point.tpr,
                point.fpr,
                point.precision,
                point.balanced_accuracy,
                *point.ppv_at_prior.values(),
            ):
                wanted += figure_texts(figure, "share")
        for text in wanted:
            assert text in page.text, (result.name, text)


def test_classes_groups_gates_checks_and_reasons_stand_in_the_page(findings: Findings, page: Page) -> None:
    for row in [*findings.classes, *findings.groups["split"]]:
        for text in (row.name, *figure_texts(row.tpr, "share"), *figure_texts(row.fpr, "share")):
            assert text in page.text
        for text in (*figure_texts(row.auc, "score"), f"{row.members} in, {row.non_members} out"):
            assert text in page.text
        assert row.train_accuracy is not None and plain(fmt.percent(row.train_accuracy)) in page.text
        assert row.test_accuracy is not None and plain(fmt.percent(row.test_accuracy)) in page.text
    for gate in findings.gates:
        assert gate.sentence in page.text
        assert all(text in page.text for text in figure_texts(gate.figure, "share"))
        assert "limit 5 %" in page.text
    for check in findings.checks:
        assert all(text in page.text for text in (check.code, check.title, check.message, check.action))
    for item in findings.not_run:
        assert item.reason in page.text and fmt.attack_title(item.name) in page.text
    for text in (findings.headline, *findings.summary, *findings.limits, *findings.threat_model.values()):
        assert text in page.text
    assert "not a determination of anonymity" in page.text


def test_records_keep_their_ids_evidence_and_share(findings: Findings, page: Page) -> None:
    assert findings.records is not None
    for row in findings.records.top:
        line = (
            f"{row.id}{row.label_name}{row.support_in} of {row.targets_in}{row.support_out} of {row.targets_out}"
            f"{fmt.p_value(row.p_value)}{fmt.p_value(row.adjusted_p_value)}{fmt.number(row.score)}"
        )
        assert plain(line) in page.text
    assert all(text in page.text for text in figure_texts(findings.records.share, "share"))
    assert "false discoveries ≤ 5 %" in page.text
    assert "30 named by every model trained on them" in page.text


def test_page_one_holds_the_four_figures_and_the_way_they_were_made(findings: Findings, page: Page) -> None:
    first = page.text[: page.text.index("What an attacker can do")]
    best, gap = findings.pooled("bavaria"), findings.pooled("gap")
    for text in (
        *figure_texts(best.tpr_at_fpr["0.01"], "share"),
        *figure_texts(best.auc, "score"),
        *figure_texts(gap.auc, "score"),
        "99.2 % of training records, 77.4 % of others: overfitted",
        "limit 5 %",
        "cifar10",
        "5000 training records against 5000 other records",
        "12 reference models",
        "seed 7",
        "memberscope 0.1.0",
        "run ab12cd34ab12",
        "2026-01-02 03:04 UTC",
        "2 warnings",
        "1 thing could not be checked",
        "3 attacks were not run",
    ):
        assert text in first, text


def test_provenance_cost_and_targets_are_told(findings: Findings, page: Page) -> None:
    for text in ("ab12cd34" * 8, "77aa" * 16, "9f2c" * 16, "130 000", "412", "learning rate 0.1", "numpy 2.1.0", "1.0"):
        assert text in page.text
    for result in findings.attacks:
        if result.name == "bavaria" and result.target != "all":
            assert all(text in page.text for text in figure_texts(result.auc, "score"))


@pytest.mark.parametrize("verdict", WORDS)
def test_the_verdict_is_told_in_words_and_by_a_shape_of_its_own(verdict: str) -> None:
    findings = build(
        verdict="fail" if verdict == "no_gate" else verdict, gate=verdict != "no_gate", exposed=0, targets=1
    )
    html = render(findings)
    stamp = html[html.index('<p class="stamp">') : html.index('<h2 id="headline">')]
    assert plain(read(stamp.split("</p>")[0] + "</p>").text) == f"Verdict: {WORDS[verdict]}"
    assert f'<section class="verdict {verdict}"' in html
    assert html.count(f"<title>{WORDS[verdict]} ·") == 1
    others = [other for other in WORDS if other != verdict]
    shapes = {
        re.findall(r'class="shape"[^>]*', render(build(verdict=other, exposed=0, targets=1)))[0]
        for other in others
        if other != "no_gate"
    }
    assert re.findall(r'class="shape"[^>]*', stamp)[0] not in shapes


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
        data={}, model={}, populations={}, threat_model={}, cost={}, run={}, limits=[],
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
    assert len(render(base, dataset=data).encode()) < 500_000


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
    findings = build(ids=[f"elsewhere-{i}" for i in range(123)])
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
