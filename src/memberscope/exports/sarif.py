"""SARIF 2.1.0: what failed or could not be decided, each at its line of the committed configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from memberscope import __version__
from memberscope.checks import CODES
from memberscope.exports.interface import Exported, Run
from memberscope.exports.source import line_of, locate
from memberscope.files import sha256_json, write_json
from memberscope.types import CheckResult, GateResult

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_DOCS = "https://github.com/memberscope/memberscope/tree/main/docs"
# Ids never change their meaning: alerts are followed from one upload to the next by them.
GATES = {
    "limit": ("gate-limit", "A limit on what attacks find", "The model gives away more than the limit allows."),
    "group": (
        "gate-group",
        "A limit on what attacks find in each class or group",
        "In one class or group the model gives away more than the limit allows.",
    ),
    "regression": (
        "gate-regression",
        "A limit on how much worse than a baseline the model may be",
        "The model gives away more than the baseline, by more than is allowed.",
    ),
}


def write(run: Run, out: str, options: Exported) -> str:
    """Write SARIF: gates that failed (error) or are inconclusive (warning), and checks that found something.

    Gates that passed and checks in order have no result: a consumer then closes the alert of the run before.
    """
    write_json(Path(out), document(run, options.config))
    return out


def document(run: Run, config: str | None = None) -> dict[str, Any]:
    """The SARIF log.

    Args:
        run: to export.
        config: the file that results point at; the one that the audit was run from when None.
    """
    findings = run.findings
    where = locate(Path(config)) if config else findings.run.get("configuration") or _own(run)
    results = [_gate(result, where) for result in findings.gates if result.verdict != "pass"]
    results += [_check(check, where) for check in findings.checks if check.level in ("error", "warning")]
    rules = _rules()
    index = {rule["id"]: number for number, rule in enumerate(rules)}
    for result in results:
        if result["ruleId"] in index:
            result["ruleIndex"] = index[result["ruleId"]]
    failed = any(check.level == "error" for check in findings.checks)
    invocation: dict[str, Any] = {"executionSuccessful": not failed}
    if created := findings.run.get("created"):
        invocation["endTimeUtc"] = str(created).replace("+00:00", "Z")
    properties = {"verdict": findings.verdict, "headline": findings.headline, "digest": run.digest}
    tool = {"name": "memberscope", "informationUri": _DOCS, "semanticVersion": __version__, "rules": rules}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": tool},
                "automationDetails": {"id": f"memberscope/{findings.name}/"},
                "columnKind": "unicodeCodePoints",
                "originalUriBaseIds": {"%SRCROOT%": {"description": {"text": "The root of the repository."}}},
                "invocations": [invocation],
                "results": results,
                "properties": properties,
            }
        ],
    }


def _own(run: Run) -> dict[str, Any]:
    """The configuration that the run folder keeps, where the audit was not run from a file."""
    path = None if run.folder is None else run.folder / "config.yaml"
    return locate(path) if path is not None and path.exists() else {"path": "config.yaml"}


def _rules() -> list[dict[str, Any]]:
    gates = [
        {
            "id": name,
            "name": "".join(part.title() for part in name.split("-")),
            "shortDescription": {"text": title},
            "fullDescription": {"text": meaning},
            "helpUri": f"{_DOCS}/ci.md",
            "defaultConfiguration": {"level": "error"},
        }
        for name, title, meaning in GATES.values()
    ]
    checks = [
        {
            "id": code,
            "shortDescription": {"text": known.title},
            "fullDescription": {"text": known.meaning},
            "help": {"text": known.action},
            "helpUri": f"{_DOCS}/checks.md",
            "defaultConfiguration": {"level": "warning"},
        }
        for code, known in CODES.items()
    ]
    return gates + checks


def _gate(result: GateResult, where: dict[str, Any]) -> dict[str, Any]:
    rule = GATES[result.gate.kind][0]
    level = "error" if result.verdict == "fail" else "warning"
    identity = sha256_json({"rule": rule, "gate": result.gate.model_dump(exclude_none=True)})
    found = _result(rule, level, result.sentence, where, line_of(where, result.gate), identity)
    return found | {"properties": {"verdict": result.verdict, "figure": result.figure.model_dump()}}


def _check(check: CheckResult, where: dict[str, Any]) -> dict[str, Any]:
    text = " ".join(part for part in (check.message, check.action) if part)
    level = "error" if check.level == "error" else "warning"
    return _result(check.code, level, text, where, line_of(where, None), sha256_json({"rule": check.code}))


def _result(rule: str, level: str, text: str, where: dict[str, Any], line: int, identity: str) -> dict[str, Any]:
    place = {"uri": quote(str(where["path"])), "uriBaseId": "%SRCROOT%"}
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": text},
        "locations": [{"physicalLocation": {"artifactLocation": place, "region": {"startLine": line}}}],
        "partialFingerprints": {"memberscope/v1": identity},
    }
