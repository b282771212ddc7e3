"""A textfile for Prometheus (node_exporter's textfile collector): the figures of the last audit as gauges."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from memberscope.exports.interface import Exported, Run
from memberscope.files import write_text
from memberscope.types import Figure, Findings

STATUS = {"pass": 0, "no_gate": 0, "fail": 1, "inconclusive": 3}
Sample = tuple[dict[str, str], float]


def write(run: Run, out: str, options: Exported) -> str:
    """Write the metrics, whole or not at all, so that a collector never reads half of them."""
    write_text(Path(out), document(run))
    return out


def document(run: Run) -> str:
    """The metrics in the text exposition format; values that could not be measured are left out."""
    findings = run.findings
    audit = {"audit": findings.name}
    info = audit | {
        "verdict": findings.verdict,
        "strongest": findings.strongest,
        "version": str(findings.run.get("memberscope", "")),
        "digest": run.digest,
    }
    attacks = [result for result in findings.attacks if result.target == "all"]
    status = [
        (
            audit | {"gate": str(number), "figure": result.gate.figure, "attack": result.gate.attack},
            _status(result.verdict),
        )
        for number, result in enumerate(findings.gates, 1)
    ]
    parts = [
        _metric("memberscope_audit_info", "What the audit was and how it ended; always 1.", [(info, 1.0)]),
        _metric(
            "memberscope_audit_status",
            "Exit status of the audit: 0 pass or no gate, 1 a gate failed, 3 inconclusive.",
            [(audit, _status(findings.verdict))],
        ),
        _metric("memberscope_gate_status", "Likewise of each gate.", status),
        _figures(
            "memberscope_attack_auc",
            "Area under the attack's ROC curve over all targets.",
            ((audit | {"attack": result.name}, result.auc) for result in attacks),
        ),
        _figures(
            "memberscope_attack_tpr_ratio",
            "Share of the members that the attack finds at a false-positive rate.",
            (
                (audit | {"attack": result.name, "fpr": fpr}, figure)
                for result in attacks
                for fpr, figure in result.tpr_at_fpr.items()
            ),
        ),
        _metric(
            "memberscope_check_findings",
            "Checks of the audit by level.",
            [
                (audit | {"level": level}, float(sum(check.level == level for check in findings.checks)))
                for level in ("error", "warning", "info", "ok")
            ],
        ),
    ]
    if findings.records is not None:
        flagged = [(audit, float(findings.records.flagged))]
        parts.append(
            _metric("memberscope_exposed_records", "Members named with confidence, mean over targets.", flagged)
        )
    if (when := _timestamp(findings)) is not None:
        help_text = "When the audit ended, in seconds since 1970."
        parts.append(_metric("memberscope_audit_timestamp_seconds", help_text, [(audit, when)]))
    return "".join(parts)


def _figures(name: str, about: str, figures: Iterable[tuple[dict[str, str], Figure]]) -> str:
    """A figure and the bounds of its 95 % interval, as three metrics."""
    known = [(labels, figure) for labels, figure in figures if figure.value is not None]
    stem, unit = (name.removesuffix("_ratio"), "_ratio") if name.endswith("_ratio") else (name, "")
    return (
        _metric(name, about, [(labels, float(figure.value or 0.0)) for labels, figure in known])
        + _metric(
            f"{stem}_lower{unit}",
            f"{about} Lower bound of the 95 % interval.",
            [(labels, float(figure.low or 0.0)) for labels, figure in known],
        )
        + _metric(
            f"{stem}_upper{unit}",
            f"{about} Upper bound of the 95 % interval.",
            [(labels, float(figure.high or 0.0)) for labels, figure in known],
        )
    )


def _metric(name: str, about: str, samples: Iterable[Sample]) -> str:
    lines = [f"{name}{{{_labels(labels)}}} {value!r}" for labels, value in samples]
    if not lines:
        return ""
    return "\n".join([f"# HELP {name} {about}", f"# TYPE {name} gauge", *lines]) + "\n"


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items())


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _status(verdict: str) -> float:
    return float(STATUS[verdict])


def _timestamp(findings: Findings) -> float | None:
    try:
        return datetime.fromisoformat(str(findings.run.get("created"))).timestamp()
    except ValueError:
        return None
