"""Page one: verdict, the result in sentences, four figures, what to know before relying on them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from memberscope.report.figures import dots
from memberscope.report.format import (
    UNAIDED,
    access_label,
    as_figure,
    attack_title,
    decimal,
    decimal_range,
    grouped,
    one_in,
    percent,
    percent_range,
    rate,
    short_title,
    text,
)
from memberscope.report.views.common import exposed, limit_on, pooled_results, strongest_result
from memberscope.signals.checks import OVERFITTED
from memberscope.types import AttackResult, Figure, Findings

VERDICTS = {
    "fail": "FAIL",
    "pass": "PASS",
    "inconclusive": "INCONCLUSIVE",
    "no_gate": "NO GATE SET",
}


@dataclass(frozen=True)
class Card:
    """One figure of page one: what it is, its value, its interval and its limit in words."""

    label: str
    term: str
    value: str
    details: tuple[str, ...]
    measured: bool = True


@dataclass(frozen=True)
class Overview:
    """Everything above the first section."""

    verdict: str
    word: str
    meta: list[str]
    cards: list[Card]
    dots: list[tuple[Markup, str]]
    caveats: list[str]
    flawed: bool


def view(findings: Findings) -> Overview:
    """Page one of ``findings``."""
    return Overview(
        verdict=findings.verdict,
        word=VERDICTS[findings.verdict],
        meta=_meta(findings),
        cards=[_exposed(findings), _auc(findings), _gap(findings), _named(findings)],
        dots=_dots(findings),
        caveats=_caveats(findings),
        flawed=any(check.level == "error" for check in findings.checks),
    )


def _meta(findings: Findings) -> list[str]:
    populations, run = findings.populations, findings.run
    parts: list[str] = []
    if name := findings.data.get("name"):
        parts.append(f"data: {name}")
    counts = [
        f"{text(populations[key])} {label}"
        for key, label in (("members", "training records"), ("non_members", "other records"))
        if isinstance(populations.get(key), int | float)
    ]
    parts += [" against ".join(counts)] if counts else []
    if access := findings.data.get("access"):
        parts.append(f"the attacker sees {access_label(str(access))}")
    references = populations.get("references")
    if isinstance(references, int):
        parts.append("1 reference model" if references == 1 else f"{references or 'no'} reference models")
    if (seed := run.get("seed")) is not None:
        parts.append(f"seed {seed}")
    version = run.get("version") or run.get("memberscope")
    versions = run.get("versions")
    if not version and isinstance(versions, dict):
        version = versions.get("memberscope")
    if version:
        parts.append(f"memberscope {version}")
    if digest := _run_hash(run):
        parts.append(f"run {digest[:12]}")
    if created := run.get("created"):
        parts.append(_minute(str(created)))
    return parts


def _minute(created: str) -> str:
    """An ISO time to the minute, in UTC; anything else as it is."""
    try:
        time = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if time.tzinfo else f"{time:%Y-%m-%d %H:%M}"


def _run_hash(run: dict[str, Any]) -> str:
    hashes = run.get("hashes")
    own = hashes.get("run") or hashes.get("plan") if isinstance(hashes, dict) else None
    return str(run.get("hash") or run.get("plan") or own or "")


def _exposed(findings: Findings) -> Card:
    found, limit = exposed(findings), limit_on(findings, "tpr")
    label, term = f"Training records exposed at {rate(0.01)} false alarms", "exposed"
    limits = (f"limit {rate(limit)}",) if limit is not None else ("no limit set",)
    if found.value is None or found.low is None or found.high is None:
        return _unmeasured(label, term, found, limits if limit is not None else ())
    chance = "not told apart from chance" if found.low <= 0.01 <= found.high else f"chance finds {rate(0.01)}"
    share = one_in(found.value)
    return Card(
        label, term, percent(found.value),
        (f"{percent_range(found.low, found.high)}, {limits[0]}", f"{share}; {chance}"),
    )  # fmt: skip


def _auc(findings: Findings) -> Card:
    result, limit = strongest_result(findings), limit_on(findings, "auc")
    label, term = "AUC of the strongest attack", "auc"
    figure = result.auc if result else Figure.not_measurable("no attack could run")
    if figure.value is None or figure.low is None or figure.high is None or result is None:
        return _unmeasured(label, term, figure)
    against = f"limit {decimal(limit)}, chance .5" if limit is not None else "chance .5"
    return Card(
        label,
        term,
        decimal(figure.value),
        (
            f"{decimal_range(figure.low, figure.high)} ({against})",
            f"{short_title(result.name)}, which needs {_needs(result)}",
        ),
    )


def _needs(result: AttackResult) -> str:
    count = 0 if result.name in UNAIDED else result.references
    return access_label(result.access) + (f" and {grouped(count)} reference model{'s' * (count > 1)}" if count else "")


def _gap(findings: Findings) -> Card:
    result = next((r for r in pooled_results(findings) if r.name == "gap"), None)
    label, term = "AUC from accuracy alone (gap attack)", "gap-attack"
    figure = result.auc if result else Figure.not_measurable("the gap attack did not run")
    train, test = (as_figure(findings.model.get(f"{part}_accuracy")) for part in ("train", "test"))
    details: list[str] = []
    if train and test and train.value is not None and test.value is not None:
        remark = "overfitted" if train.value - test.value > OVERFITTED else "not overfitted"
        details.append(
            f"right on {percent(train.value)} of training records, {percent(test.value)} of others: {remark}"
        )
    if figure.value is None or figure.low is None or figure.high is None:
        return _unmeasured(label, term, figure, tuple(details))
    return Card(label, term, decimal(figure.value), (decimal_range(figure.low, figure.high), *details))


def _named(findings: Findings) -> Card:
    records = findings.records
    if records is None:
        return _unmeasured(
            "Records named one by one", "named", Figure.not_measurable("needs reference models, or records with ids")
        )
    label = f"Records named, false discoveries ≤ {rate(records.q)}"
    share = records.share
    members = f"of {grouped(records.members)} training records"
    if share.value is not None and share.low is not None and share.high is not None:
        members += f" ({percent(share.value)}; {percent_range(share.low, share.high)})"
    clearest = max(records.top, key=lambda row: row.support_in / max(row.targets_in, 1), default=None)
    details = [members]
    if records.always:
        details.append(f"{grouped(records.always)} different records are named by every model trained on them")
    elif clearest is not None and clearest.targets_in > 1:
        details.append(f"the clearest by {clearest.support_in} of {clearest.targets_in} models trained on it")
    return Card(label, "named", grouped(records.flagged), tuple(details))


def _dots(findings: Findings) -> list[tuple[Markup, str]]:
    """A hundred training records and a hundred others, those that the attacker points at filled in."""
    found = exposed(findings)
    if found.low is None or found.high is None:
        return []
    low, high = round(100 * found.low), round(100 * found.high)
    many = str(low) if low == high else f"{low} to {high}"
    return [
        (dots(low, high), f"{many} of 100 training records found"),
        (dots(1, 1, alarm=True), "1 of 100 others wrongly accused"),
    ]


def _unmeasured(label: str, term: str, figure: Figure, details: tuple[str, ...] = ()) -> Card:
    return Card(label, term, "not measurable", (figure.reason or "not measured", *details), measured=False)


def _caveats(findings: Findings) -> list[str]:
    """What a reader must know before relying on page one, each a sentence with the place that says more."""
    counts = {level: sum(check.level == level for check in findings.checks) for level in ("error", "warning", "info")}
    sentences = []
    if counts["error"] or counts["warning"]:
        parts = [
            f"{counts[level]} {word}{'s' * (counts[level] > 1)}"
            for level, word in (("error", "error"), ("warning", "warning"))
            if counts[level]
        ]
        sentences.append(f"The checks on the audit itself gave {' and '.join(parts)}.")
    elif findings.checks:
        sentences.append("The checks on the audit itself found nothing wrong.")
    if counts["info"]:
        sentences.append(f"{counts['info']} thing{'s' * (counts['info'] > 1)} could not be checked.")
    if findings.not_run:
        names = ", ".join(attack_title(item.name) for item in findings.not_run[:3])
        more = f" and {len(findings.not_run) - 3} more" if len(findings.not_run) > 3 else ""
        many = len(findings.not_run)
        sentences.append(f"{many} attack{'s were' if many > 1 else ' was'} not run: {names}{more}.")
    return sentences
