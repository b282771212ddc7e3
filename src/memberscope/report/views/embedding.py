"""Where the vulnerable records lie among the others: t-SNE maps, whole and class by class."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from memberscope.report.format import grouped, percent, percent_range
from memberscope.report.maps import COLOURS, Map, colour
from memberscope.types import Dataset, Figure, Findings
from memberscope.types.analyses import Embedding

WORDS = {"features": "Penultimate features", "logits": "Logits"}
# Beyond these, maps of single classes are for the classes with most vulnerable records.
SINGLE = 30


@dataclass(frozen=True)
class Single:
    """One class in front of the others."""

    name: str
    shown: int
    vulnerable: int
    svg: Markup


@dataclass(frozen=True)
class Drawn:
    """One map with what is said beneath it."""

    embedding: Embedding
    title: str
    svg: Markup
    shown: int
    vulnerable: int
    members: int
    singles: list[Single]
    left_out: int


@dataclass(frozen=True)
class ClassKey:
    """A class of the legend and of the selector."""

    label: int
    name: str
    colour: str
    shown: int
    vulnerable: int


@dataclass(frozen=True)
class EmbeddingView:
    """The section with the maps."""

    maps: list[Drawn]
    classes: list[ClassKey]
    coloured: bool


def view(findings: Findings, dataset: Dataset | None) -> EmbeddingView | None:
    """The maps; None where none was made."""
    embeddings = [e for e in (findings.analyses.embeddings if findings.analyses else []) if e.ids]
    if not embeddings:
        return None
    names = _names(findings, dataset, max(max(e.label) for e in embeddings) + 1)
    maps = [Map(embedding, f"map-{place}", names) for place, embedding in enumerate(embeddings)]
    labels = sorted({label for e in embeddings for label in e.label})
    counts = {label: max(drawn.counts(label) for drawn in maps) for label in labels}
    return EmbeddingView(
        maps=[_drawn(drawn) for drawn in maps],
        classes=[ClassKey(label, names[label], colour(label, len(names)), *counts[label]) for label in labels],
        coloured=len(names) <= len(COLOURS),
    )


def _names(findings: Findings, dataset: Dataset | None, least: int) -> list[str]:
    """Class names, at least ``least`` of them."""
    given = findings.data.get("class_names") or (dataset.class_names if dataset else ())
    names = [str(name) for name in given]
    return names + [str(label) for label in range(len(names), least)]


def _drawn(drawn: Map) -> Drawn:
    e = drawn.embedding
    shown, vulnerable = len(e.ids), sum(e.vulnerable)
    title = WORDS[e.of]
    described = (
        f"{grouped(shown)} records of {len(drawn.labels)} classes, {grouped(vulnerable)} vulnerable ones ringed. "
        f"Of a vulnerable record's ten nearest records {_said(e.purity_vulnerable)} are of its class; "
        f"of the others' {_said(e.purity_others)}."
    )
    labels = sorted(drawn.labels, key=lambda label: -drawn.counts(label)[1])[:SINGLE]
    return Drawn(
        e,
        title,
        drawn.whole(f"t-SNE map of the {title.lower()} of model {e.target}", described),
        shown,
        vulnerable,
        sum(e.member),
        [_single(drawn, label, title) for label in sorted(labels)] if len(drawn.labels) > 1 else [],
        len(drawn.labels) - len(labels),
    )


def _single(drawn: Map, label: int, title: str) -> Single:
    name = drawn.names[label]
    shown, vulnerable = drawn.counts(label)
    words = f"{title}: class {name}, {grouped(shown)} records, {grouped(vulnerable)} vulnerable"
    return Single(name, shown, vulnerable, drawn.single(label, words))


def _said(figure: Figure) -> str:
    if figure.value is None or figure.low is None or figure.high is None:
        return f"(not measurable: {figure.reason})"
    return f"{percent(figure.value)} ({percent_range(figure.low, figure.high)})"
