"""What stands in the report: every figure with its interval, and every reason why there is none."""

from __future__ import annotations

import re

import pytest

from memberscope.report import format as fmt
from memberscope.report import render
from memberscope.types import Findings
from report.builder import build, images
from report.page import Page, figure_texts, plain, read

WORDS = {"fail": "FAIL", "pass": "PASS", "inconclusive": "INCONCLUSIVE", "no_gate": "NO GATE SET"}


@pytest.fixture(scope="module")
def findings() -> Findings:
    return build()


@pytest.fixture(scope="module")
def page(findings: Findings) -> Page:
    return read(render(findings, dataset=images()))


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
    assert "30 different records are named by every model trained on them" in page.text


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
        "the attacker sees scores",
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
