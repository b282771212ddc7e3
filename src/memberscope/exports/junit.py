"""JUnit XML: every gate and every check is a test case, as CI systems show them."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree as ET

from memberscope.exports.interface import Exported, Run
from memberscope.files import atomic
from memberscope.types import CheckResult, GateResult

# Characters that XML 1.0 cannot hold at all; a record's or a class's name may.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(run: Run, out: str, options: Exported) -> str:
    """Write JUnit XML: a gate that failed is a failure, an inconclusive one an error; nothing undecided passes."""
    with atomic(Path(out)) as file:
        file.write(document(run))
    return out


def document(run: Run) -> bytes:
    """The XML document."""
    findings = run.findings
    root = ET.Element("testsuites", name=_clean(f"memberscope {findings.name}"))
    suites = {
        "memberscope.gates": [_gate(result, number) for number, result in enumerate(findings.gates, 1)],
        "memberscope.checks": [_check(result) for result in findings.checks],
    }
    for name, cases in suites.items():
        counts = {kind: sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error", "skipped")}
        suite = ET.SubElement(root, "testsuite", name=name, tests=str(len(cases)), time="0")
        suite.attrib |= {"failures": str(counts["failure"]), "errors": str(counts["error"])}
        suite.set("skipped", str(counts["skipped"]))
        if created := findings.run.get("created"):
            suite.set("timestamp", str(created)[:19])
        properties = ET.SubElement(suite, "properties")
        for key, value in (("verdict", findings.verdict), ("headline", findings.headline), ("digest", run.digest)):
            ET.SubElement(properties, "property", name=key, value=_clean(value))
        suite.extend(cases)
    for kind in ("tests", "failures", "errors", "skipped"):
        root.set(kind, str(sum(int(suite.get(kind, "0")) for suite in root)))
    ET.indent(root)
    buffer = io.BytesIO()
    ET.ElementTree(root).write(buffer, encoding="utf-8", xml_declaration=True)
    return buffer.getvalue() + b"\n"


def title(result: GateResult) -> str:
    """A gate in a few words, as :func:`memberscope.cli.show.parse_gate` reads limits."""
    gate = result.gate
    scope = f" by {gate.group}" if gate.group else ""
    limit = f"< {gate.limit:g}" if gate.limit is not None else f"at most {gate.worse_by:g} above {gate.baseline}"
    return f"{gate.figure}{scope} of {gate.attack} {limit}"


def _gate(result: GateResult, number: int) -> ET.Element:
    case = ET.Element("testcase", classname="memberscope.gates", name=_clean(f"{number}: {title(result)}"), time="0")
    if result.verdict != "pass":
        kind = "failure" if result.verdict == "fail" else "error"
        said = ET.SubElement(case, kind, type=result.verdict, message=_clean(result.sentence))
        said.text = _clean(result.sentence)
    return case


def _check(result: CheckResult) -> ET.Element:
    name = _clean(f"{result.code}: {result.title}")
    case = ET.Element("testcase", classname="memberscope.checks", name=name, time="0")
    message = _clean(" ".join(part for part in (result.message, result.action) if part))
    if result.level == "error":
        ET.SubElement(case, "failure", type="error", message=message).text = message
    elif result.level == "info":
        ET.SubElement(case, "skipped", message=message)
    elif result.level == "warning":
        ET.SubElement(case, "system-out").text = f"warning: {message}"
    return case


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
