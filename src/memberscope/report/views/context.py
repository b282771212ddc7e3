"""Everything around the figures: threat model, populations, checks, gates, cost, limits, provenance, glossary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memberscope.report.format import as_figure, percent, percent_range, text, words
from memberscope.signals.checks import OVERFITTED
from memberscope.types import CheckResult, Dataset, Findings, GateResult

# A nested mapping stays nested; leaves are text ready to print.
Pairs = list[tuple[str, "str | Pairs"]]

_THREAT = {
    "release": "What is released",
    "access": "What the attacker sees",
    "knowledge": "What the attacker knows",
    "assumptions": "What is assumed",
}
_POPULATIONS = {
    "audit_records": ("Records audited", "each was in the training data of some models and not of others"),
    "members": ("Training records (members)", "what the audited model was trained on, for each target"),
    "non_members": (
        "Other records (non-members)",
        "from the same source, not trained on; false alarms are counted on them",
    ),
    "population": ("Population", "further records that the attacker may use to calibrate; never scored"),
    "models": ("Models", "in the pool, with known training records"),
    "targets": ("Targets", "models that were attacked in turn"),
    "queries": ("Questions a record", "how often the attacker asks the model about each record"),
    "references": (
        "Reference models",
        "trained like the target on other random halves; what a well-prepared attacker has",
    ),
}
ANONYMITY = "This is not a determination of anonymity."
_LEVELS = ("error", "warning", "info", "ok")


@dataclass(frozen=True)
class ChecksView:
    """Checks by level: what needs attention in the open, what is in order folded away."""

    attention: list[CheckResult]
    in_order: list[CheckResult]


def threat_view(findings: Findings, dataset: Dataset | None) -> Pairs | None:
    """The threat model's parts, in the usual order."""
    known = [key for key in _THREAT if findings.threat_model.get(key)]
    others = [key for key in findings.threat_model if key not in _THREAT]
    return [(_THREAT.get(key, words(key)), findings.threat_model[key]) for key in known + others] or None


def populations_view(findings: Findings, dataset: Dataset | None) -> list[tuple[str, str, str]] | None:
    """(what, how many, what it means) of each population."""
    found = findings.populations
    keys = [key for key in _POPULATIONS if key in found] + [key for key in found if key not in _POPULATIONS]
    rows = [(*_label(key), text(found[key])) for key in keys if not isinstance(found[key], Mapping)]
    return [(label, count, meaning) for label, meaning, count in rows] or None


def _label(key: str) -> tuple[str, str]:
    return _POPULATIONS.get(key, (words(key), ""))


def checks_view(findings: Findings, dataset: Dataset | None) -> ChecksView | None:
    """The checks, the gravest first."""
    if not findings.checks:
        return None
    ordered = sorted(findings.checks, key=lambda check: (_LEVELS.index(check.level), check.code))
    return ChecksView([c for c in ordered if c.level != "ok"], [c for c in ordered if c.level == "ok"])


def gates_view(findings: Findings, dataset: Dataset | None) -> list[GateResult]:
    """The gates; an empty list still says that no limit was set."""
    return findings.gates


def cost_view(findings: Findings, dataset: Dataset | None) -> Pairs | None:
    """What was spent, and the seconds of each step where the run kept them."""
    parts = pairs(findings.cost)
    seconds = findings.run.get("seconds")
    if isinstance(seconds, Mapping):
        parts.append(("Seconds by step", pairs(seconds)))
    elif isinstance(seconds, int | float):
        parts.append(("Seconds", text(seconds)))
    return parts or None


def limits_view(findings: Findings, dataset: Dataset | None) -> list[str]:
    """What always holds, said once, then the findings' own limits."""
    return [ANONYMITY, *(limit for limit in findings.limits if not limit.startswith(ANONYMITY.rstrip(".")))]


def provenance_view(findings: Findings, dataset: Dataset | None) -> Pairs:
    """Data, model and run: what someone needs to repeat the audit."""
    data = {key: value for key, value in findings.data.items() if key != "class_names"}
    run = {key: value for key, value in findings.run.items() if key != "seconds"}
    if isinstance(where := run.get("configuration"), Mapping):
        # The lines of its gates are for exports.
        run["configuration"] = where.get("path", "")
    parts: Pairs = [("Data", pairs(data)), ("Model", pairs(findings.model)), ("Run", pairs(run))]
    parts.append(("Findings schema", findings.schema_version))
    return [(label, value) for label, value in parts if value]


def glossary_view(findings: Findings, dataset: Dataset | None) -> dict[str, int | bool]:
    """The glossary stands in its template and is always shown; only thresholds are filled in.

    Words of the analyses are explained only where there are analyses.
    """
    return {"overfitted_points": round(100 * OVERFITTED), "analyses": findings.analyses is not None}


def pairs(mapping: Mapping[str, Any]) -> Pairs:
    """A free-form mapping as labels and texts; figures get their interval, mappings stay nested.

    A mapping of short values, such as a recipe, becomes one line.
    """
    result: Pairs = []
    for key, value in mapping.items():
        label = words(str(key))
        if isinstance(value, Mapping) and not ("value" in value and as_figure(value)):
            inner = pairs(value)
            short = all(isinstance(part, str) and len(part) <= 24 for _, part in inner)
            if short and inner:
                result.append((label, ", ".join(f"{name.lower()} {part}" for name, part in inner)))
            elif inner:
                result.append((label, inner))
            continue
        figure = as_figure(value) if isinstance(value, Mapping) or hasattr(value, "low") else None
        if figure is None:
            result.append((label, text(value)))
        elif figure.value is None or figure.low is None or figure.high is None:
            result.append((label, figure.reason or "not measured"))
        else:
            result.append((label, f"{percent(figure.value)} ({percent_range(figure.low, figure.high)})"))
    return result
