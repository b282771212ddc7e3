"""The whole audit: the contract of its findings, verdicts, which records it names, and that it repeats itself."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml

import memberscope as ms
from commands import command
from memberscope.attacks import ATTACKS
from memberscope.cli import main
from memberscope.data.membership import complementary_pairs
from memberscope.types import Findings, Signals

NAMES = [kind.name for kind in ATTACKS]


def world(
    *, leak: float = 1.5, planted: int | None = None, models: int = 10, records: int = 2400, seed: int = 0
) -> Signals:
    """Models that leak on every record, or only on the first ``planted`` ones, by ``leak`` standard deviations."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, records)
    members = complementary_pairs(models, records, seed)
    logits = rng.normal(size=(models, records, 5))
    strength = np.zeros(records)
    strength[: records if planted is None else planted] = leak
    logits[:, np.arange(records), labels] += 3 + rng.normal(0, 2, records) + strength * members
    ids = np.array([f"person-{i:05d}" for i in range(records)])
    return Signals(tuple(logits.astype(np.float32)), "logits", members, labels, ids)


def save(signals: Signals, path: Path) -> Path:
    np.savez(
        path,
        logits=np.stack(signals.outputs)[:, :, 0],
        members=signals.members,
        labels=signals.labels,
        ids=signals.ids,
    )
    return path


@pytest.fixture(scope="module")
def leaking() -> Findings:
    return ms.audit(world(), name="leaking")


def is_figure(value: Any) -> bool:
    if value["value"] is None:
        return set(value) == {"value", "reason"} and bool(value["reason"])
    return set(value) == {"value", "low", "high"} and value["low"] <= value["value"] <= value["high"]


def test_findings_keep_the_contract(leaking: Findings) -> None:
    found = json.loads(leaking.model_dump_json())
    jsonschema.validate(found, Findings.model_json_schema(mode="validation"))
    assert [r["name"] for r in found["attacks"] if r["target"] == "all"] == NAMES
    assert not found["not_run"]
    assert found["verdict"] == "no_gate"
    for result in found["attacks"]:
        assert set(result["tpr_at_fpr"]) == {"0.1", "0.01", "0.001"}
        assert all(map(is_figure, [result["auc"], result["advantage"], *result["tpr_at_fpr"].values()]))
        # Ten models in pairs: the target and its twin are left out.
        expected = 8 if next(kind for kind in ATTACKS if kind.name == result["name"]).minimum else 0
        assert result["references"] == expected
    targets = [r["target"] for r in found["attacks"] if r["name"] == "loss"]
    assert targets == ["all", *range(10)]
    per_target = next(r for r in found["attacks"] if r["name"] == "loss" and r["target"] == 3)
    assert per_target["tpr_at_fpr"]["0.001"]["value"] is None
    assert {check["code"] for check in found["checks"]} >= {"MS001", "MS005", "MS009", "MS010", "MS011", "MS014"}
    assert Findings.model_validate(found) == leaking


def test_figures_are_right(leaking: Findings) -> None:
    """φ shifts by 1.5 against a spread known from the noise; the loss attack and LiRA as computed by hand here."""
    from scipy.special import logsumexp
    from sklearn.metrics import roc_auc_score

    signals = world()
    z = np.stack(signals.outputs)[:, :, 0].astype(np.float64)
    log_p = np.take_along_axis(z, signals.labels[None, :, None], 2)[:, :, 0] - logsumexp(z, axis=2)
    by_hand = roc_auc_score(signals.members[4], log_p[4])
    ours = next(r for r in leaking.attacks if r.name == "loss" and r.target == 4)
    assert ours.auc.value == pytest.approx(by_hand, abs=1e-9)
    # A per-record threshold beats a global one where records differ more than members do from non-members.
    assert leaking.pooled("lira_online_pooled").auc.low > leaking.pooled("loss").auc.high  # type: ignore[operator]


def test_same_plan_and_seed_give_the_same_findings() -> None:
    first, second = (ms.audit(world(records=600), seed=5).model_dump(exclude={"run"}) for _ in range(2))
    assert first == second


def test_only_named_targets_are_audited_and_all_others_are_references() -> None:
    signals = world(records=600)
    found = ms.audit(signals, targets=[2, 7])
    assert {result.target for result in found.attacks} == {"all", 2, 7}
    assert found.populations["targets"] == 2 and found.pooled("bavaria").references == 8


@pytest.mark.parametrize(
    ("gate", "verdict"),
    [
        ({"metric": "auc", "limit": 0.55}, "fail"),
        ({"metric": "auc", "limit": 0.99}, "pass"),
        ({"metric": "auc", "limit": 0.5, "attack": "loss"}, "fail"),
        ({"metric": "tpr", "fpr": 0.01, "limit": 0.02}, "fail"),
        ({"metric": "advantage", "limit": 0.9}, "pass"),
    ],
)
def test_gates(gate: dict[str, Any], verdict: str, leaking: Findings) -> None:
    found = ms.audit(world(), gate=gate)
    assert found.verdict == verdict
    assert str(found.gates[0].sentence).lower().startswith(verdict)


def test_gate_on_the_measured_value_is_inconclusive(leaking: Findings) -> None:
    value = leaking.pooled("loss").auc.value
    found = ms.audit(world(), gate={"metric": "auc", "limit": round(value or 0, 4), "attack": "loss"})
    assert found.verdict == "inconclusive"


def test_gate_that_cannot_be_measured_is_inconclusive() -> None:
    found = ms.audit(world(records=100, models=4), targets=[0], gate={"metric": "tpr", "fpr": 0.001, "limit": 0.5})
    assert found.verdict == "inconclusive" and "non-members" in found.gates[0].sentence


def test_planted_records_are_named_and_others_are_not() -> None:
    """40 of 4,000 records leak: the audit names them by their ids, and hardly anyone else."""
    found = ms.audit(world(planted=40, leak=12.0, models=16, records=4000, seed=3)).records
    assert found is not None
    planted = {f"person-{i:05d}" for i in range(40)}
    sure = [row for row in found.top if row.support_in >= 0.5 * row.targets_in]
    assert len(sure) >= 30
    assert {row.id for row in sure} <= planted
    assert {row.id for row in found.top[:30]} <= planted
    assert found.always == sum(row.support_in == row.targets_in for row in found.top) > 0
    assert all(row.targets_in == 8 and row.targets_out == 8 for row in found.top)


@pytest.mark.slow
def test_pooled_intervals_cover_where_targets_are_each_others_references() -> None:
    """Null pools in which every row is a target: attacks that contrast IN with OUT share a term for each pair."""
    names = ["lira_online_pooled", "bavaria", "loss"]
    inside = []
    for seed in range(80):
        found = ms.audit(world(leak=0.0, models=12, records=800, seed=seed), attacks=names, seed=seed)
        inside.append([(f := found.pooled(name).auc).low <= 0.5 <= f.high for name in names])  # type: ignore[operator]
    assert (np.mean(inside, axis=0) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 80)).all(), np.mean(inside, axis=0)


def test_nothing_leaks_nothing_is_named() -> None:
    found = ms.audit(world(leak=0.0, models=12, records=3000, seed=9), gate={"metric": "tpr", "limit": 0.05})
    assert found.verdict == "pass"
    assert found.records is not None and found.records.flagged == 0
    assert "No attack" in found.headline


def test_population_calibrates_and_is_never_scored() -> None:
    signals = world(records=2000)
    population = np.zeros(2000, bool)
    population[1500:] = True
    members = signals.members & ~population
    held = Signals(signals.outputs, "logits", members, signals.labels, signals.ids, population)
    found = ms.audit(held)
    assert found.populations["population"] == 500 and found.populations["audit_records"] == 1500
    assert found.pooled("loss").records_scored == 15_000
    assert found.records is not None
    assert not {row.id for row in found.records.top} & {f"person-{i:05d}" for i in range(1500, 2000)}


def test_run_folder(tmp_path: Path) -> None:
    signals = world(records=600)
    found = ms.audit(signals, targets=[1], out=tmp_path / "run", name="folder")
    assert ms.read_findings(tmp_path / "run") == found
    with (tmp_path / "run" / "records.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == signals.ids.tolist()
    assert [row["member"] == "1" for row in rows] == signals.members[1].tolist()
    assert [int(row["label"]) for row in rows] == signals.labels.tolist()
    scores = np.load(tmp_path / "run" / "scores" / "bavaria.npy")[0]
    np.testing.assert_allclose([float(row["bavaria"]) for row in rows], scores, rtol=1e-5)
    p = np.array([float(row["p_value"]) for row in rows])
    # A p-value of a non-member is uniform: its mean is one half.
    assert abs(p[~signals.members[1]].mean() - 0.5) < 0.01
    flagged = np.array([row["flagged"] == "1" for row in rows])
    np.testing.assert_array_equal(flagged, np.array([float(row["adjusted_p_value"]) for row in rows]) <= 0.05)
    before = (tmp_path / "run" / "report.html").read_text()
    (tmp_path / "run" / "report.html").unlink()
    assert main_status(["report", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "report.html").read_text() == before


def main_status(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return int(left.value.code or 0)


@pytest.mark.parametrize(
    ("gate", "status"),
    [(None, 0), ("auc<0.99", 0), ("auc<0.55", 1), ("tpr@0.001<0.5", 3)],
    ids=["none", "pass", "fail", "?"],
)
def test_exit_status_and_clean_output(
    gate: str | None, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(world(records=600), tmp_path / "signals.npz")
    arguments = ["audit", "--signals", str(path), "--target", "0", "--json"] + (["--gate", gate] if gate else [])
    got, out, _ = command(arguments, capsys)
    assert got == status
    found = Findings.model_validate_json(out)
    assert found.name == "signals" and found.populations["targets"] == 1


@pytest.mark.parametrize("given", [["--target", "1", "4"], ["--target", "1", "--target", "4"]])
def test_several_targets(given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(world(records=600), tmp_path / "signals.npz")
    status, out, _ = command(["audit", "--signals", str(path), *given, "--attack", "loss", "--json"], capsys)
    assert status == 0
    assert [result["target"] for result in json.loads(out)["attacks"]] == ["all", 1, 4]


def test_command_writes_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(world(records=600), tmp_path / "signals.npz")
    status, out, _ = command(["audit", "--signals", str(path), "--out", str(tmp_path / "run"), "-q"], capsys)
    assert status == 0 and f"Report: {tmp_path / 'run' / 'report.html'}" in out.replace("\n", "")
    assert {item.name for item in (tmp_path / "run").iterdir()} >= {
        "config.yaml",
        "findings.json",
        "manifest.json",
        "records.csv",
        "report.html",
        "scores",
    }


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = command(["attacks", "--json"], capsys)
    assert status == 0 and [row["name"] for row in json.loads(out)] == NAMES
    status, out, _ = command(["data", "list", "--json"], capsys)
    assert status == 0 and {"digits", "purchases", "cifar10", "location30"} <= {row["name"] for row in json.loads(out)}
    status, out, _ = command(["data", "info", "digits", "--json"], capsys)
    assert status == 0 and json.loads(out)["name"] == "digits"
    status, out, _ = command(["--version"], capsys)
    assert status == 0 and ms.__version__ in out


CONFIG: dict[str, Any] = {
    "data": "digits",
    "recipe": {"model": {"name": "fcn", "widths": [32]}, "epochs": 4},
    "pool": {"models": 8},
    "seed": 3,
    "engine": "serial",
}


def test_configuration_from_data_to_report(tmp_path: Path) -> None:
    """From records to report, with the split checked and the ids kept; the other engine gives the same findings."""
    first = ms.audit(CONFIG | {"out": str(tmp_path / "a")})
    second = ms.audit(CONFIG | {"out": str(tmp_path / "b"), "engine": "processes", "workers": 2})
    assert first.model_dump(exclude={"run"}) == second.model_dump(exclude={"run"})
    assert {check.code: check.level for check in first.checks}["MS004"] == "ok"
    assert first.data["fingerprint"] == ms.load("digits").fingerprint
    config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert config["recipe"]["batch_size"] == 64 and config["pool"]["design"] == "pairs"
    assert (tmp_path / "a" / "report.html").read_text() != ""


@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_findings(tmp_path: Path) -> None:
    """SIGKILL at random instants, then a resume: no finished model is trained again, findings are identical."""
    whole = ms.audit(CONFIG | {"out": str(tmp_path / "whole")})
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(CONFIG | {"out": str(tmp_path / "killed"), "name": "audit"}))
    draw = random.Random(4)
    run = [sys.executable, "-m", "memberscope", "audit", str(path), "-q"]
    finished: dict[str, int] = {}
    for _ in range(5):
        child = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(draw.uniform(1.0, 4.0))
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for model in (tmp_path / "killed" / "pool").glob("*.safetensors"):
            assert finished.setdefault(model.name, model.stat().st_mtime_ns) == model.stat().st_mtime_ns
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name, written in finished.items():
        assert (tmp_path / "killed" / "pool" / name).stat().st_mtime_ns == written
    resumed = ms.read_findings(tmp_path / "killed")
    assert resumed.model_dump(exclude={"run"}) == whole.model_copy(update={"name": "audit"}).model_dump(exclude={"run"})


def shared() -> Path:
    """The folder of real data beside the checkout, or wherever the environment says."""
    return Path(os.environ.get("MEMBERSCOPE_SHARED", Path(__file__).parents[2] / "shared" / "data"))


@pytest.mark.realdata
@pytest.mark.slow
def test_location30_in_small(tmp_path: Path) -> None:
    """The order of attacks that the literature reports on overfitted nets, beyond intervals."""
    archive = shared() / "dataset_location.tgz"
    if not archive.exists():
        pytest.skip(f"real data not here: {archive}")
    found = ms.audit(
        {
            "data": {"name": "location30", "path": str(archive)},
            "recipe": {"model": {"name": "fcn", "widths": [64]}, "epochs": 25, "learning_rate": 0.002},
            "pool": {"models": 8},
            "out": str(tmp_path / "run"),
            "engine": "serial",
        }
    )
    assert found.data["records"] == 5010 and found.data["classes"] == 30
    loss, online = found.pooled("loss"), found.pooled("bavaria")
    assert loss.auc.low > 0.7 and loss.tpr_at_fpr["0.01"].high < 0.04  # type: ignore[operator]
    assert online.auc.low > loss.auc.high  # type: ignore[operator]
    assert online.tpr_at_fpr["0.01"].low > 3 * loss.tpr_at_fpr["0.01"].high  # type: ignore[operator]
