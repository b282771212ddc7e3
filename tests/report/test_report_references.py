"""The section on reference models: every number of the advice and of the looks, and nothing where neither is."""

from __future__ import annotations

import pytest

from memberscope.report import render
from memberscope.types import Figure
from memberscope.types.findings import ReferencePoint
from report.builder import build, references
from report.page import figure_texts, part, plain, read


def test_every_point_and_every_look_is_shown_with_its_interval() -> None:
    findings = build()
    assert findings.references is not None
    text = plain(read(part(render(findings), "references")).text)
    assert findings.references.sentence in text
    for point in findings.references.points:
        for shown in figure_texts(point.value, "share"):
            assert shown in text
    for look in findings.looks:
        assert f"{look.models} {look.references}" in text
    assert "98.75 %" in text or "98.8 %" in text
    assert "Looked enough." in text and "On." not in text
    assert "by reference models" in text


def test_an_auc_is_drawn_as_a_score() -> None:
    points = [
        ReferencePoint(references=n, value=Figure(value=value, low=value - 0.01, high=value + 0.02))
        for n, value in ((2, 0.55), (8, 0.61))
    ]
    advice = references().model_copy(update={"metric": "auc", "points": points})
    text = plain(read(part(render(build(references=advice)), "references")).text)
    assert ".550" in text and ".600 – .630" in text
    assert "false alarms" not in text


@pytest.mark.parametrize(("advice", "looks"), [(False, True), (True, False)])
def test_either_stands_alone(advice: bool, looks: bool) -> None:
    changes = ({} if advice else {"references": None}) | ({} if looks else {"looks": []})
    text = read(part(render(build(**changes)), "references")).text
    assert ("attacked once more" in text) is advice
    assert ("Judged while the pool grew" in text) is looks


def test_without_both_there_is_no_section() -> None:
    assert '<section id="references"' not in render(build(references=None, looks=[]))
