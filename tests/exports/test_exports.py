"""Every export is read back by a consumer of its format."""

from __future__ import annotations

import csv
import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import jsonschema
import junitparser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import audits
import memberscope as ms
from commands import command
from memberscope.checks import CODES
from memberscope.errors import ConfigError, MissingExtraError, PoolError
from memberscope.exports import FORMATS, Exported, Run, junit, model_card, prometheus, sarif
from memberscope.run_folder import digest_of, export_run, verify
from memberscope.types import Findings

CONFIG = """# what is audited
signals: saved.npz
analyses: none
attacks: [loss, gap, rmia_online]
gate:
  - {metric: auc, limit: 0.6}
  - metric: auc
    limit: 0.99
  - {metric: tpr, fpr: 0.001, limit: 0.5}
"""
SCHEMA = json.loads((Path(__file__).parent / "sarif-schema-2.1.0.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a gate that fails, one that passes and one that is inconclusive."""
    base = tmp_path_factory.mktemp("exports")
    audits.save(base / "saved.npz", audits.signals(1.5, seed=1))
    (base / "leak audit.yaml").write_text(CONFIG)
    ms.audit(base / "leak audit.yaml", out=base / "run")
    return base / "run"


@pytest.fixture(scope="module")
def findings(folder: Path) -> Findings:
    return ms.read_findings(folder)


def nasty(findings: Findings) -> Findings:
    """Names that break a format that does not escape them."""
    name = 'a"b\\c\n<d>&|e \x00\x1b --> é 表'
    gates = [result.model_copy(update={"sentence": f"{result.sentence} {name}"}) for result in findings.gates]
    return findings.model_copy(update={"name": name, "gates": gates, "headline": name})


def test_junit_is_read_by_junitparser(folder: Path, findings: Findings, tmp_path: Path) -> None:
    for found in (findings, nasty(findings)):
        path = tmp_path / "junit.xml"
        path.write_bytes(junit.document(Run(found, folder)))
        read = junitparser.JUnitXml.fromfile(str(path))
        suites = {suite.name: suite for suite in read}
        gates = suites["memberscope.gates"]
        assert (gates.tests, gates.failures, gates.errors) == (3, 1, 1)
        kinds = [[type(result).__name__ for result in case.result] for case in gates]
        assert kinds == [["Failure"], [], ["Error"]]
        assert "AUC" in next(iter(gates)).result[0].message
        checks = suites["memberscope.checks"]
        assert checks.tests == len(found.checks)
        assert checks.failures == sum(check.level == "error" for check in found.checks)
        assert (read.tests, read.failures, read.errors) == (3 + len(found.checks), 1 + checks.failures, 1)


def validate(log: dict[str, Any]) -> list[dict[str, Any]]:
    jsonschema.Draft7Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(log)
    return list(log["runs"][0]["results"])


def test_the_schema_refuses_what_is_no_sarif(folder: Path, findings: Findings) -> None:
    log = sarif.document(Run(findings, folder))
    del log["runs"][0]["results"][0]["message"]
    with pytest.raises(jsonschema.ValidationError):
        validate(log)


def test_sarif_fits_the_published_schema_and_points_at_the_configuration(folder: Path, findings: Findings) -> None:
    log = sarif.document(Run(findings, folder))
    results = validate(log)
    validate(sarif.document(Run(nasty(findings), folder)))
    places = [result["locations"][0]["physicalLocation"] for result in results]
    assert {place["artifactLocation"]["uri"] for place in places} == {"leak%20audit.yaml"}
    found = [
        (result["ruleId"], result["level"], place["region"]["startLine"])
        for result, place in zip(results, places, strict=True)
    ]
    assert found[:2] == [("gate-limit", "error", 6), ("gate-limit", "warning", 9)]
    checks = {check.code: check.level for check in findings.checks if check.level in ("warning", "error")}
    assert found[2:] == [(code, level, 2) for code, level in checks.items()] and checks
    rules = log["runs"][0]["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["gate-limit", "gate-group", "gate-regression", *CODES]
    for result in results:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    fingerprints = [result["partialFingerprints"]["memberscope/v1"] for result in results]
    assert len(set(fingerprints)) == len(fingerprints)
    assert fingerprints == [r["partialFingerprints"]["memberscope/v1"] for r in validate(sarif.document(Run(findings)))]


def test_sarif_of_a_run_without_a_file_points_at_its_own_configuration(tmp_path: Path) -> None:
    found = audits.run(tmp_path / "run", 1.5, gate={"metric": "auc", "limit": 0.6}, seed=1)
    place = validate(sarif.document(Run(found, tmp_path / "run")))[0]["locations"][0]["physicalLocation"]
    line = int(place["region"]["startLine"])
    assert place["artifactLocation"]["uri"].endswith("config.yaml")
    assert "metric: auc" in (tmp_path / "run/config.yaml").read_text().splitlines()[line - 1]
    other = tmp_path / "other.yaml"
    other.write_text("x: 1\n\ngate: {metric: auc, limit: 0.6}\n")
    log = sarif.document(Run(found, tmp_path / "run"), str(other))
    assert validate(log)[0]["locations"][0]["physicalLocation"]["region"]["startLine"] == 3


def test_sarif_is_read_by_sarif_tools(folder: Path, findings: Findings, tmp_path: Path) -> None:
    loader = pytest.importorskip("sarif.loader", reason="sarif-tools is not installed")
    path = tmp_path / "leak.sarif"
    export_run(folder, findings, [Exported(format="sarif", out=str(path))])
    read = loader.load_sarif_file(str(path))
    records = read.get_records()
    assert read.get_result_count() == len(records) >= 3
    assert (records[0]["Code"], records[0]["Severity"], records[0]["Line"]) == ("gate-limit", "error", 6)


def test_prometheus_reads_the_textfile(folder: Path, findings: Findings) -> None:
    for found in (findings, nasty(findings)):
        families = {family.name: family for family in text_string_to_metric_families(prometheus.document(Run(found)))}
        status = families["memberscope_audit_status"].samples[0]
        assert (status.value, status.labels["audit"]) == (1.0, found.name)
        assert [sample.value for sample in families["memberscope_gate_status"].samples] == [1.0, 0.0, 3.0]
        for family in families.values():
            assert family.type == "gauge" and family.documentation
        loss = found.pooled("loss").auc
        values = {
            end: next(s.value for s in families[f"memberscope_attack_auc{end}"].samples if s.labels["attack"] == "loss")
            for end in ("", "_lower", "_upper")
        }
        assert list(values.values()) == [loss.value, loss.low, loss.high]
        measured = sum(f.value is not None for r in found.attacks if r.target == "all" for f in r.tpr_at_fpr.values())
        assert len(families["memberscope_attack_tpr_ratio"].samples) == measured


def test_csv_and_parquet_hold_the_same_records(folder: Path, findings: Findings, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    places = {name: str(tmp_path / f"records.{name}") for name in ("csv", "parquet")}
    export_run(folder, findings, [Exported(format=name, out=place) for name, place in places.items()])  # type: ignore[arg-type]
    with Path(places["csv"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = parquet.read_table(places["parquet"])
    types = {name: str(kind) for name, kind in zip(table.schema.names, table.schema.types, strict=True)}
    assert types["id"] == "string" and types["member"] == types["flagged"] == "bool" and types["loss"] == "double"
    read = table.to_pylist()
    assert len(read) == len(rows) == 8 * 1500
    for row, other in zip(rows[::997], read[::997], strict=True):
        assert row["id"] == other["id"] and (row["member"] == "1") is other["member"]
        assert float(row["loss"]) == other["loss"]


CARD = """---
license: apache-2.0   # ours
tags: [vision]
---

# A model

Text with trailing space \n\n## Use
"""


def front(card: str) -> Any:
    return yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize("card", ["", CARD, "# Only text\n"], ids=["new", "whole", "text"])
def test_model_card_is_updated_in_place(card: str, folder: Path, findings: Findings) -> None:
    once = model_card.updated(card, Run(findings, folder))
    assert model_card.updated(once, Run(findings, folder)) == once
    values = front(once)
    assert values["memberscope"]["verdict"] == "fail"
    assert values["memberscope"]["figures"]["auc"][0] == round(findings.pooled(findings.strongest).auc.value or 0, 4)
    assert values["model-index"][0]["results"][0]["metrics"][0]["type"] == "membership-inference-auc"
    if card == CARD:
        assert once.startswith("---\nlicense: apache-2.0   # ours\ntags: [vision]\n# memberscope:begin")
        assert values["tags"] == ["vision"] and card.split("---\n")[2].rstrip("\n") in once
    for gate in findings.gates:
        assert gate.sentence in once
    # What the owner writes around it stays; what stands inside is renewed.
    passed = findings.model_copy(update={"verdict": "pass", "gates": findings.gates[1:2]})
    again = model_card.updated(f"{once}\n## After\n", Run(passed, folder))
    assert again.endswith("\n## After\n") and front(again)["memberscope"]["verdict"] == "pass"
    assert findings.gates[0].sentence not in again and again.count(model_card.BEGIN) == 1
    odd = model_card.updated(card, Run(nasty(findings), folder))
    assert model_card.updated(odd, Run(nasty(findings), folder)) == odd and front(odd)["model-index"][0]["name"]


def test_model_card_leaves_the_owners_results_alone(folder: Path, findings: Findings) -> None:
    card = "---\nmodel-index: [{name: mine, results: []}]\n---\ntext\n"
    once = model_card.updated(card, Run(findings, folder))
    assert front(once)["model-index"] == [{"name": "mine", "results": []}]


@pytest.mark.parametrize(
    ("card", "said"),
    [
        (f"{model_card.BEGIN}\nno end", "one '<!-- memberscope:begin"),
        (f"{model_card.END}\n{model_card.BEGIN}\n", "one '<!-- memberscope:begin"),
        ("---\nlicense: x\n", "metadata that end with ---"),
        ("---\na: [\n---\n", "metadata in YAML"),
        ("---\n- a\n---\n", "metadata as keys and values"),
    ],
)
def test_broken_model_cards_are_left_alone(
    card: str, said: str, folder: Path, findings: Findings, tmp_path: Path
) -> None:
    path = tmp_path / "README.md"
    path.write_text(card)
    with pytest.raises(ConfigError, match="expected .*" + said.replace("(", r"\(")):
        export_run(folder, findings, [Exported(format="model-card", out=str(path))])
    assert path.read_text() == card


def test_model_card_is_read_by_the_hub(folder: Path, findings: Findings) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    card = hub.ModelCard(model_card.updated(CARD, Run(findings, folder)))
    assert card.data.license == "apache-2.0"
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results["membership-inference-auc"] == round(findings.pooled(findings.strongest).auc.value or 0, 4)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A tracking server on loopback with an SQLite store."""
    if any(importlib.util.find_spec(name) is None for name in ("mlflow", "flask")):
        pytest.skip("MLflow's tracking server is not installed (pip install mlflow)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination",
        f"{tmp_path}/artifacts",
    ]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            *arguments,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, "the server ended"
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
                    if answer.status == 200:
                        break
            except (URLError, OSError):
                time.sleep(0.25)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def test_mlflow_reads_back_what_was_logged_to_its_server(
    server: str, folder: Path, findings: Findings, tmp_path: Path
) -> None:
    from mlflow.tracking import MlflowClient

    said = export_run(folder, findings, [Exported(format="mlflow", out=server, experiment="privacy")])[0]
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("privacy")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1 and runs[0].info.run_id in said and runs[0].info.status == "FINISHED"
    auc = findings.pooled("loss").auc
    logged = runs[0].data.metrics
    assert [logged[f"loss/auc{end}"] for end in ("", "_low", "_high")] == [auc.value, auc.low, auc.high]
    assert logged["gate_1"] == findings.gates[0].figure.value and "gap/tpr_at_0.01" not in logged
    assert runs[0].data.params["pool.models"] == "16" and runs[0].data.params["signals"].endswith("saved.npz")
    assert runs[0].data.tags["memberscope.verdict"] == "fail"
    assert runs[0].data.tags["memberscope.digest"] == digest_of(folder)
    names = {file.path for file in client.list_artifacts(runs[0].info.run_id)}
    assert names == {"findings.json", "report.html", "config.yaml", "manifest.json"}
    path = client.download_artifacts(runs[0].info.run_id, "findings.json", str(tmp_path))
    assert ms.read_findings(path) == findings
    # A second export is a second run of the same experiment.
    export_run(folder, findings, [Exported(format="mlflow", out=server, experiment="privacy")])
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_mlflow_that_is_missing_or_unreachable_says_so(
    folder: Path, findings: Findings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("mlflow") is None:
        with pytest.raises(MissingExtraError, match=r"memberscope\[mlflow\]"):
            export_run(folder, findings, [Exported(format="mlflow", out="x.db")])
        return
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    status, out, err = command(["export", str(folder), "--format", "mlflow", "--out", "http://127.0.0.1:9"], capsys)
    assert (status, out) == (2, "") and "http://127.0.0.1:9" in err and "Traceback" not in err


def test_addresses_never_hold_a_password(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    address = "http://me:hunter2@127.0.0.1:5000"
    status, out, err = command(["export", str(folder), "--format", "mlflow", "--out", address], capsys)
    assert status == 2 and "MLFLOW_TRACKING_PASSWORD" in err and "hunter2" not in out + err
    with pytest.raises(ConfigError) as raised:
        ms.audit({"signals": "x.npz", "exports": [{"format": "mlflow", "out": address}]})
    assert "hunter2" not in str(raised.value)


def test_export_command_writes_several_and_seals_what_lies_in_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    audits.run(Path("run"), 1.5, gate={"metric": "auc", "limit": 0.6}, seed=1, models=4, records=400)
    before = digest_of(Path("run"))
    outs = ["--format", "junit", "--out", "junit.xml", "--format", "sarif", "--out", "ci/leak.sarif"]
    status, out, err = command(["export", "run", *outs, "--json"], capsys)
    assert (status, err, json.loads(out)) == (0, "", {"junit": "junit.xml", "sarif": "ci/leak.sarif"})
    assert digest_of(Path("run")) == before and before in Path("junit.xml").read_text()
    status, out, err = command(["export", "run", "--format", "model-card", "--format", "prometheus"], capsys)
    after = digest_of(Path("run"))
    assert status == 0 and after != before and f"Digest: {after}" in err and verify(Path("run")).ok
    for name in ("exports/README.md", "exports/memberscope.prom", "report.html"):
        assert after in (Path("run") / name).read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "junt"], "did you mean 'junit'"),
        (["--format", "junit", "--out", "a", "--out", "b"], "one --out for each --format"),
        (["--format", "junit", "--out", "{folder}/findings.json/x"], "findings.json"),
        (["--format", "sarif", "--config", "nowhere.yaml", "--out", "{tmp}/x"], "nowhere.yaml"),
    ],
)
def test_export_command_refuses_without_a_traceback(
    arguments: list[str], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [part.format(folder=folder, tmp=tmp_path) for part in arguments]
    status, out, err = command(["export", str(folder), *arguments], capsys)
    assert (status, out) == (2, "") and said in err and "internal error" not in err


def test_records_need_the_folder(findings: Findings) -> None:
    for name in ("csv", "parquet"):
        if name == "parquet":
            pytest.importorskip("pyarrow")
        with pytest.raises(PoolError, match=r"records\.csv"):
            FORMATS[name].write(Run(findings), "out", Exported(format=name))  # type: ignore[arg-type]
