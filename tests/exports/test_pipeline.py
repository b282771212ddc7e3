"""A pipeline in a repository of its own: what a CI job sees of each verdict."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import junitparser
import numpy as np
import pytest
import yaml

import audits
from commands import command

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((Path(__file__).parent / "sarif-schema-2.1.0.json").read_text())


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with the saved outputs of a leaking and a clean model, and the clean one's run as baseline."""
    root = tmp_path_factory.mktemp("repository")
    (root / "privacy").mkdir()
    audits.save(root / "privacy/leaky.npz", audits.signals(1.5, seed=1))
    audits.save(root / "privacy/clean.npz", audits.signals(0.0))
    for arguments in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *arguments], cwd=root, check=True)
    return root


def pipeline(root: Path, name: str, gate: Any, signals: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    values = {
        "signals": f"{signals}.npz",
        "attacks": list(audits.ATTACKS),
        "analyses": "none",
        "gate": gate,
        "exports": [{"format": "junit", "out": f"{name}.xml"}, {"format": "sarif", "out": f"{name}.sarif"}],
        "out": f"runs/{name}",
    }
    path = root / "privacy" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    status, _, err = command(["audit", str(path.relative_to(root)), "--quiet"], capsys)
    return status, err


@pytest.mark.parametrize(
    ("name", "signals", "gate", "status"),
    [
        ("pass", "clean", {"metric": "auc", "limit": 0.6}, 0),
        ("fail", "leaky", {"metric": "auc", "limit": 0.6}, 1),
        ("inconclusive", "leaky", {"metric": "tpr", "fpr": 0.001, "limit": 0.5}, 3),
        ("regression", "leaky", {"metric": "auc", "baseline": "runs/baseline", "worse_by": 0.05}, 1),
        ("no-regression", "clean", {"metric": "auc", "baseline": "runs/baseline", "worse_by": 0.1}, 0),
        ("no-baseline", "clean", {"metric": "auc", "baseline": "runs/nowhere", "worse_by": 0.1}, 2),
    ],
)
def test_exit_status_junit_and_sarif_of_each_verdict(
    name: str,
    signals: str,
    gate: dict[str, Any],
    status: int,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(repository)
    if not Path("runs/baseline").exists():
        assert pipeline(repository, "baseline", [], "clean", capsys)[0] == 0
    found, err = pipeline(repository, name, gate, signals, capsys)
    assert found == status, err
    if status == 2:
        assert "runs/nowhere" in err and not Path(f"{name}.xml").exists()
        return
    suites = {suite.name: suite for suite in junitparser.JUnitXml.fromfile(f"{name}.xml")}
    gates = suites["memberscope.gates"]
    assert (gates.tests, gates.failures, gates.errors) == (1, int(status == 1), int(status == 3))
    log = json.loads(Path(f"{name}.sarif").read_text())
    jsonschema.validate(log, SCHEMA)
    results = [result for result in log["runs"][0]["results"] if result["ruleId"].startswith("gate-")]
    assert [result["level"] for result in results] == {0: [], 1: ["error"], 3: ["warning"]}[status]
    for result in results:
        place = result["locations"][0]["physicalLocation"]
        # The consumer opens the file of the repository at that line.
        line = Path(place["artifactLocation"]["uri"]).read_text().splitlines()[place["region"]["startLine"] - 1]
        assert "metric:" in line
        assert result["ruleId"] == ("gate-regression" if "baseline" in gate else "gate-limit")
    assert command(["verify", f"runs/{name}"], capsys)[0] == 0
    assert command(["gate", f"runs/{name}"], capsys)[0] == status


def test_saved_predictions_have_gates_baselines_and_exports_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("privacy").mkdir()
    for name, leak in (("clean", 0.0), ("leaky", 3.0)):
        found = audits.signals(leak, models=2, seed=4)
        scores = np.asarray(found.outputs[0])[:, 0]
        parts = [found.ids, found.labels, found.members[0].astype(int), *scores.T]
        header = "id,label,member," + ",".join(str(k) for k in range(audits.CLASSES))
        lines = [header, *(",".join(map(str, row)) for row in zip(*parts, strict=True))]
        Path(f"privacy/{name}.csv").write_text("\n".join(lines) + "\n")
        out = f"privacy/{name}"
        assert command(["audit", "--predictions", f"privacy/{name}.csv", "--out", out, "--quiet"], capsys)[0] == 0
    gate = {"metric": "auc", "baseline": "clean", "worse_by": 0.05}
    values = {"predictions": "leaky.csv", "analyses": "none", "gate": gate, "exports": "sarif", "out": "runs/x"}
    Path("privacy/audit.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    status, _, err = command(["audit", "privacy/audit.yaml", "--quiet"], capsys)
    assert status == 1, err
    log = json.loads(Path("runs/x/exports/memberscope.sarif").read_text())
    jsonschema.validate(log, SCHEMA)
    place = log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    line = Path(place["artifactLocation"]["uri"]).read_text().splitlines()[place["region"]["startLine"] - 1]
    assert "metric: auc" in line
    assert command(["verify", "runs/x"], capsys)[0] == 0
    arguments = ["audit", "--predictions", "privacy/leaky.csv", "--baseline", "privacy/clean", "--quiet", "--json"]
    status, out, _ = command([*arguments, "--gate", "auc<+0.05"], capsys)
    assert (status, json.loads(out)["gates"][0]["gate"]["baseline"]) == (1, "privacy/clean")
    assert command([*arguments[:3], "--baseline", "nowhere", "--quiet"], capsys)[0] == 2


def test_workflow_calls_only_commands_and_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    workflow = yaml.safe_load((ROOT / "examples/github-workflow.yml").read_text())
    steps = workflow["jobs"]["audit"]["steps"]
    lines = "\n".join(step.get("run", "") for step in steps).replace("\\\n", " ").splitlines()
    calls = [line.split() for line in lines if line.strip().startswith("memberscope ")]
    assert len(calls) >= 2
    for call in calls:
        status, out, _ = command([call[1], "--help"], capsys)
        assert status == 0
        for option in (part for part in call if part.startswith("--")):
            assert option in out
