"""README, CONTRIBUTING and docs tell the truth: their code runs, their tables match the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from memberscope.attacks import ATTACKS
from memberscope.checks import CODES
from memberscope.config import AuditConfig
from memberscope.types import Findings

ROOT = Path(__file__).parents[1]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text().replace("\n   ", "\n"), re.DOTALL)


@pytest.mark.parametrize("number", range(3))
def test_readme_examples_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"<!-- run -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(found) == 3
    scope: dict[str, object] = {}
    exec(compile(found[number], f"README block {number}", "exec"), scope)
    findings = scope["findings"]
    assert isinstance(findings, Findings)
    if number == 0:
        assert (tmp_path / "runs/first/report.html").exists() and (tmp_path / "runs/first/records.csv").exists()
        assert findings.populations["targets"] == 6
    elif number == 1:
        assert findings.gates[0].gate.limit == 0.05
        assert {result.target for result in findings.attacks} == {0, "all"}
    else:
        assert findings.populations["models"] == 9 and findings.pooled("lira_hierarchical").references == 8


def test_contributed_attack_runs() -> None:
    """The attack that CONTRIBUTING shows works as it stands there, given to an audit by value."""
    import types

    import memberscope as ms

    source = blocks(ROOT / "CONTRIBUTING.md", "python")[0]
    module = types.ModuleType("contributed")
    sys.modules["contributed"] = module
    exec(compile(source, "CONTRIBUTING", "exec"), module.__dict__)
    rng = np.random.default_rng(0)
    members = rng.random((5, 400)) < 0.5
    labels = rng.integers(0, 3, 400)
    logits = rng.normal(size=(5, 400, 3))
    logits[:, np.arange(400), labels] += 3 * rng.normal(size=400) + 2 * members
    findings = ms.audit(ms.Signals(tuple(logits), "logits", members, labels), attacks=[module.MeanDifference()])
    auc = findings.pooled("mean_difference").auc
    assert auc.low is not None and auc.low > 0.7


def test_attack_table_is_complete() -> None:
    text = (ROOT / "docs/attacks.md").read_text()
    for kind in ATTACKS:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{kind.name}` |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        needs = str(kind.minimum) if not kind.minimum else f"{kind.minimum} / {kind.recommended}"
        assert cells[2] == kind.needs() and cells[3] == needs and cells[4] == kind.source


def test_check_table_is_complete() -> None:
    text = (ROOT / "docs/checks.md").read_text()
    for code, known in CODES.items():
        assert f"| {code} | {known.title} | {known.meaning} | {known.action} |" in text


def test_documented_configuration_is_valid_and_keys_are_complete() -> None:
    path = ROOT / "docs/configuration.md"
    config = AuditConfig.parse(yaml.safe_load(blocks(path, "yaml")[0]))
    assert config.gate[0].limit == 0.9
    for key in AuditConfig.model_fields:
        assert f"`{key}`" in path.read_text(), key


@pytest.mark.parametrize(
    # A description of an endpoint is no configuration of an audit; tests/endpoint reads it.
    "path",
    [path for path in sorted((ROOT / "examples").glob("*.yaml")) if path.name != "endpoint.yaml"],
    ids=lambda path: path.name,
)
def test_examples_are_valid(path: Path) -> None:
    assert AuditConfig.read(path).pool.models >= 2


def test_findings_schema_is_the_published_one() -> None:
    """Regenerate with: python -c "import json; from memberscope.types import Findings; print(json.dumps(...))"."""
    published = json.loads((ROOT / "docs/findings.schema.json").read_text())
    assert published == Findings.model_json_schema()


def test_local_links_lead_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            if not link.startswith("http"):
                assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_audit_stays_a_function_whatever_is_imported() -> None:
    import memberscope as ms
    import memberscope.auditing
    import memberscope.run

    assert callable(ms.audit) and ms.audit is memberscope.run.audit
    assert callable(memberscope.auditing.examine)


@pytest.mark.parametrize("name", ["saved_outputs", "own_table"])
def test_example_scripts_run(name: str, tmp_path: Path) -> None:
    script = ROOT / "examples" / f"{name}.py"
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    if name == "saved_outputs":
        assert done.stdout.startswith("fail - The model gives away about 1 in ")
        named = done.stdout.split("most exposed: ")[1].strip().split(", ")
        assert all(int(record.removeprefix("patient-")) < 100 for record in named)
    else:
        assert (tmp_path / "runs/wine/report.html").exists() and "MS004 ok" in done.stdout
