"""The analyses' sections in every state: absent, without measurements, with hostile names."""

from __future__ import annotations

import re
from typing import TypeVar

import numpy as np
import pytest

from memberscope.report import format as fmt
from memberscope.report import render
from memberscope.types import Dataset, Figure, Findings, NotRun
from memberscope.types.analyses import Analyses
from memberscope.types.base import Model
from report.builder import ANIMALS, build, images
from report.made import made, rewritten
from report.page import part, plain, read

M = TypeVar("M", bound=Model)
KEYS = ("outliers", "embedding", "attribution", "trajectory")


@pytest.fixture(scope="module")
def findings() -> Findings:
    return build()


def but(model: M, **changes: object) -> M:
    """The same with some fields replaced, unchecked."""
    return model.model_copy(update=changes)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("trajectory", {"trajectory": None}),
        ("outliers", {"outliers": None, "vulnerability": None}),
        ("embedding", {"embeddings": []}),
        ("attribution", {"attribution": None}),
    ],
)
def test_a_section_vanishes_with_its_analysis_and_leaves_the_reason(
    findings: Findings, key: str, change: dict[str, object]
) -> None:
    reason = NotRun(name=key, reason=f"no {key} here, by <choice>")
    page = read(render(rewritten(findings, not_done=[reason], **change)))
    assert [k for k in KEYS if k in page.ids] == [k for k in KEYS if k != key]
    assert f"#{key}" not in page.values("href")
    assert f"{fmt.words(key)}: no {key} here, by <choice>" in page.text


def test_without_any_analysis_nothing_of_it_is_mentioned() -> None:
    page = read(render(build(analyses=None), dataset=images()))
    assert not [k for k in KEYS if k in page.ids]
    assert not [w for w in ("t-SNE", "Grad-CAM", "Not analysed", "lies nearest", "word-tsne") if w in page.text]
    assert "word-tsne" in read(render(build())).ids
    empty = read(render(build(analyses=Analyses())))
    assert not [k for k in KEYS if k in empty.ids] and "Not analysed" not in empty.text


def test_vulnerable_records_are_told_of_without_outlier_scores(findings: Findings) -> None:
    why = NotRun(name="outliers", reason="features were not kept")
    text = read(part(render(rewritten(findings, outliers=None, not_done=[why])), "outliers")).text
    assert "was not measured: features were not kept." in text
    assert "137 of 9871 records are vulnerable." in text and "Outlier scores" not in text


HOSTILE = '<script>alert("1")</script>&<img src=x onerror=alert(2)>\'"'


def test_names_ids_and_sentences_are_text_and_never_markup() -> None:
    ids = [f"{HOSTILE}{k}" for k in range(123)]
    findings = build(ids=ids, class_names=(HOSTILE, "b"))
    a = made(findings)
    assert a.outliers and a.trajectory and a.attribution and a.vulnerability
    findings = rewritten(
        findings,
        trajectory=but(a.trajectory, sentence=HOSTILE, attack=HOSTILE, reference_attack=HOSTILE),
        outliers=but(a.outliers, sentence=HOSTILE, scores=[but(s, title=HOSTILE) for s in a.outliers.scores]),
        attribution=but(
            a.attribution,
            layer=HOSTILE,
            maps=[but(m, map=[], features=[(HOSTILE, 1.0, 2.0)]) for m in a.attribution.maps],
        ),
        embeddings=[but(e, note=HOSTILE) for e in a.embeddings],
        vulnerability=but(a.vulnerability, definition=HOSTILE, triage=[], triage_reason=HOSTILE),
        not_done=[NotRun(name=HOSTILE, reason=HOSTILE)],
    )
    pictures = images(123)
    page = read(render(findings, dataset=Dataset(pictures.inputs, pictures.labels, np.array(ids), ANIMALS)))
    assert page.tags["script"] == 1 and not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert all(value.startswith("data:image/png;base64,") for value in page.values("src"))
    assert page.text.count(plain(HOSTILE)) > 200
    # Names that do not become ids of elements cannot break references between them.
    assert {link[1:] for link in page.values("href") if link.startswith("#")} <= set(page.ids)


def test_nothing_measurable_in_an_analysis_gives_its_reasons(findings: Findings) -> None:
    a, nothing = made(findings), Figure.not_measurable("every model trained on every record")
    assert a.outliers and a.trajectory and a.attribution and a.vulnerability
    lost = {"auroc": nothing, "spearman": nothing, "effect": nothing, "precision": {}}
    none = {"p_value": None, "adjusted_p_value": None}
    blind = {"auc": nothing, "advantage": nothing, "train_accuracy": nothing, "test_accuracy": nothing}
    bare = rewritten(
        findings,
        trajectory=but(a.trajectory, points=[but(a.trajectory.points[0], tpr_at_fpr={}, **blind)]),
        outliers=but(a.outliers, scores=[but(s, **lost, **none) for s in a.outliers.scores], top=[]),
        embeddings=[but(e, purity_vulnerable=nothing, x=[1.0] * 123, y=[2.0] * 123) for e in a.embeddings],
        attribution=but(
            a.attribution, maps=[], focus=[but(f, difference=nothing, **none) for f in a.attribution.focus]
        ),
        vulnerability=but(a.vulnerability, paper=[], triage=[]),
    )
    html = render(bare, dataset=images())
    page = read(html)
    assert not re.search(r'="[^"]*\b(nan|inf)\b', html, re.IGNORECASE)
    assert page.text.count("every model trained on every record") >= 12
    assert all(key in page.ids for key in KEYS)
