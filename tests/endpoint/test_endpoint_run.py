"""Whole attacks over HTTP: what is found is what the model behind the server does, within budgets and asked once."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endpoint_servers import MEMBERS
from endpoint_site import Site

from commands import command
from memberscope.doors.endpoint import attack_endpoint, estimate_endpoint
from memberscope.doors.endpoint_queries import copies
from memberscope.errors import ConfigError, MemberscopeError
from memberscope.run_folder import read_findings, report
from memberscope.targets.http.config import Robustness
from memberscope.targets.http.errors import EndpointError
from worlds import auc

# Route, what is said of it, and the access that must be found.
ACCESS: list[tuple[str, dict[str, Any], str, str]] = [
    ("predict", {"scores": "$.result.scores"}, "scores", "loss"),
    ("object", {"request": {"row": "$INPUT"}, "input": {"form": "object"}, "scores": "$.score"}, "scores", "loss"),
    ("v1/models/forest:predict", {"protocol": "predictions", "request": None, "scores": None}, "scores", "loss"),
    (
        "v2/models/forest/infer",
        {"protocol": "open_inference", "output": "predict_proba", "request": None, "scores": None},
        "scores",
        "loss",
    ),
    ("v2/models/forest/infer", {"protocol": "open_inference", "request": None, "scores": None}, "label", "gap"),
    ("label", {"scores": "$.class"}, "label", "gap"),
    ("rounded", {}, "rounded", "loss"),
    ("logits", {}, "logits", "loss"),
]


@pytest.mark.parametrize(("route", "changes", "access", "runs"), ACCESS, ids=lambda value: str(value)[:30])
def test_access_is_found_and_decides_the_attacks(
    site: Site, route: str, changes: dict[str, Any], access: str, runs: str
) -> None:
    findings = attack_endpoint(site.values(route, **changes), site.candidates(), out=site.out)
    assert findings.data["access"] == access
    names = {result.name for result in findings.attacks}
    assert runs in names and ("loss" in names) == (access != "label")
    assert "bavaria" in {missing.name for missing in findings.not_run}
    assert any(f"access level {access}" in sentence for sentence in findings.summary)
    # The run folder is an ordinary one.
    assert read_findings(site.out) == findings
    page = (site.out / "report.html").read_text()
    assert report(site.out).read_text().split("<body")[0] == page.split("<body")[0]
    rows = list(csv.DictReader((site.out / "records.csv").open()))
    assert len(rows) == 60 and sum(int(row["member"]) for row in rows) == 30


def test_top_k_by_name(site: Site) -> None:
    candidates = site.candidates(label=lambda y: ["malignant", "benign"][y])
    values = site.values("top", scores="$", classes=["malignant", "benign"])
    findings = attack_endpoint(values, candidates, out=site.out)
    assert findings.data["access"] == "top_k"
    # Of two classes the best one says everything: the same ranking as with both.
    whole = attack_endpoint(site.values("predict", scores="$.result.scores"), site.candidates(), out=site.out / "2")
    assert findings.pooled("loss").auc == whole.pooled("loss").auc


def test_figures_are_those_of_the_model_itself(site: Site) -> None:
    findings = attack_endpoint(site.values("predict", scores="$.result.scores"), site.candidates(), out=site.out)
    rows = np.r_[0:30, MEMBERS : MEMBERS + 30]
    p = site.world.probabilities(site.world.inputs[rows])[np.arange(60), site.world.labels[rows]]
    assert findings.pooled("loss").auc.value == pytest.approx(auc(p, rows < MEMBERS), abs=1e-12)
    right = (p > 0.5).astype(float)
    assert findings.pooled("gap").auc.value == pytest.approx(auc(right, rows < MEMBERS), abs=1e-12)
    assert findings.pooled("loss").auc.value > 0.6


def test_named_classes_and_words_as_labels(site: Site) -> None:
    words = ["malignant", "benign"]
    candidates = site.candidates(label=lambda y: words[y])
    values = site.values("named-label", scores=None, label="$.class", classes=words)
    findings = attack_endpoint(values, candidates, out=site.out)
    plain = attack_endpoint(site.values("label", scores="$.class"), site.candidates(), out=site.out / "plain")
    assert findings.pooled("gap").auc == plain.pooled("gap").auc
    assert findings.data["class_names"] == words


def test_get_with_the_record_in_the_address(site: Site) -> None:
    values = site.values("get?x=$INPUT", method="GET", request=None)
    findings = attack_endpoint(values, site.candidates(20), out=site.out)
    assert findings.populations["members"] == 10


def test_any_order_of_answers_gives_the_same(site: Site) -> None:
    one = site.values("shuffled", concurrency=1)
    many = site.values("shuffled", concurrency=16)
    first = attack_endpoint(one, site.candidates(), out=site.folder / "one")
    second = attack_endpoint(many, site.candidates(), out=site.folder / "many")
    assert first.model_copy(update={"run": {}}) == second.model_copy(update={"run": {}})
    assert (site.folder / "one/records.csv").read_bytes() == (site.folder / "many/records.csv").read_bytes()


def test_concurrency_is_bounded(site: Site) -> None:
    attack_endpoint(site.values("slow", concurrency=3), site.candidates(30), out=site.out)
    assert 2 <= site.server.most_at_once <= 3


def test_equal_records_are_asked_once(site: Site) -> None:
    rows = [*range(10), *range(MEMBERS, MEMBERS + 10)]
    path = site.world.table(site.folder / "twice.csv", rows)
    lines = path.read_text().splitlines()
    lines += [line.replace("patient-", "again-", 1) for line in lines[1:]]
    path.write_text("\n".join(lines) + "\n")
    findings = attack_endpoint(site.values("rounded"), path, out=site.out)
    assert site.server.asked["rounded"] == 20 and findings.populations["audit_records"] == 40


def test_nothing_is_asked_again(site: Site) -> None:
    values = site.values("rounded")
    first = attack_endpoint(values, site.candidates(), out=site.out)
    asked = site.server.asked["rounded"]
    # Another seed, another order: the answers are the same.
    second = attack_endpoint(values, site.candidates(), out=site.out)
    assert site.server.asked["rounded"] == asked == 60
    assert first.attacks == second.attacks
    attack_endpoint(values, site.candidates(80), out=site.out)
    assert site.server.asked["rounded"] == 80


@pytest.mark.parametrize("requests", [20, 45])
def test_budget_is_never_exceeded(site: Site, requests: int) -> None:
    values = site.values("flaky", budget={"requests": requests, "per_record": 2}, concurrency=8)
    findings = attack_endpoint(values, site.candidates(), out=site.out)
    assert site.server.asked["flaky"] == requests
    assert max(site.server.by_content["flaky"].values()) <= 2
    assert findings.cost["requests"] == requests
    assert findings.populations["audit_records"] == findings.cost["answers"] < requests
    assert any("have no answer" in sentence for sentence in findings.summary)
    # The budget is the run's, not the start's.
    attack_endpoint(values, site.candidates(), out=site.out)
    assert site.server.asked["flaky"] == requests


def test_failures_are_asked_again_and_counted(site: Site) -> None:
    findings = attack_endpoint(site.values("flaky"), site.candidates(), out=site.out)
    assert findings.populations["audit_records"] == 60
    assert findings.cost["failed"] > 10
    assert findings.cost["requests"] == site.server.asked["flaky"] == 60 + findings.cost["failed"]


def test_retry_after_is_honoured_in_seconds_and_as_a_date(site: Site) -> None:
    attack_endpoint(site.values("limited", concurrency=1, backoff=0.001), site.candidates(20), out=site.out)
    # One in seconds and one as a date that only means a second by the server's own clock.
    gaps = np.diff(site.server.times)
    assert len(site.server.times) >= 24 and (gaps >= 0.95).sum() >= 4


def test_requests_a_minute(site: Site) -> None:
    attack_endpoint(site.values("rounded", requests_per_minute=1200, concurrency=8), site.candidates(20), out=site.out)
    times = np.sort(site.server.times)
    assert len(times) == 20 and times[-1] - times[0] >= 19 * 0.05 - 0.02


def test_skip_codes_leave_records_out_for_good(site: Site) -> None:
    values = site.values("refuses-some", skip_codes=[422])
    rows = np.r_[0:30, MEMBERS : MEMBERS + 30]
    refused = int((site.world.inputs[rows, 0] > 20).sum())
    findings = attack_endpoint(values, site.candidates(), out=site.out)
    assert refused > 0 and findings.populations["audit_records"] == 60 - refused
    assert findings.cost["skipped"] == refused
    attack_endpoint(values, site.candidates(), out=site.out)
    assert site.server.asked["refuses-some"] == 60


def test_same_origin_redirects_count(site: Site) -> None:
    values = site.values("redirect", scores="$.result.scores", redirects="same_origin")
    findings = attack_endpoint(values, site.candidates(20), out=site.out)
    assert findings.cost["requests"] == 40 == site.server.asked["redirect"] + site.server.asked["predict"]


def test_dry_run_sends_and_writes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    described = site.describe("rounded", requests_per_minute=30, price_per_request=0.002)
    arguments = ["attack", str(described), "--candidates", str(site.candidates()), "--out", str(site.out), "--dry-run"]
    status, said, _ = command([*arguments, "--json"], capsys)
    cost = json.loads(said)
    assert status == 0 and cost["requests"] == 60 and cost["minutes"] == 2.0 and cost["money"] == pytest.approx(0.12)
    assert cost["at_most"] == 300 and not site.server.asked and not site.out.exists()
    status, said, _ = command(arguments, capsys)
    assert "60 requests" in said and "2.0 minutes" in said and "0.12 EUR, 0.60 EUR at most" in said


def test_dry_run_knows_what_is_answered_and_what_the_budget_leaves_out(site: Site) -> None:
    values = site.values("rounded", budget={"requests": 40, "per_record": 2})
    attack_endpoint(values, site.candidates(20), out=site.out)
    cost = estimate_endpoint(values, site.candidates(), out=site.out)
    assert (cost.answered, cost.asked, cost.requests) == (20, 20, 20)
    assert "leaves 20 questions out" in cost.sentence


def test_dry_run_needs_no_secret(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL_TOKEN")
    values = site.values("rounded", headers={"Authorization": "Bearer ${MODEL_TOKEN}"})
    assert estimate_endpoint(values, site.candidates(), out=site.out).requests == 60


def test_exit_statuses_and_clean_output(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    described, candidates = str(site.describe("rounded")), str(site.candidates(200))
    start = ["attack", described, "--candidates", candidates, "--out", str(site.out)]
    status, said, noise = command([*start, "--json", "--gate", "auc<0.5"], capsys)
    findings = json.loads(said)
    assert status == 1 and findings["verdict"] == "fail" and "the endpoint gives" in noise and "asking" in noise
    assert command([*start, "-q", "--gate", "auc<0.999"], capsys)[0] == 0
    assert command([*start, "-q", "--gate", "tpr@0.001<0.5"], capsys)[0] == 3
    status, said, noise = command([*start, "--gate", "nonsense"], capsys)
    assert status == 2 and said == "" and "do this" in noise
    status, said, noise = command([*start, "--attack", "lss"], capsys)
    assert status == 2 and "did you mean 'loss'" in noise
    assert site.server.asked["rounded"] == 200


def test_help_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = command(["attack", "--help"], capsys)
    assert status == 0 and "--dry-run" in said and "--population" in said and "Examples" in said


def test_ranking_without_membership_says_that_no_rate_can_be_stated(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates = str(site.candidates(member=False))
    described = str(site.describe("predict", scores="$.result.scores"))
    status, said, _ = command(["attack", described, "--candidates", candidates, "--out", str(site.out), "-q"], capsys)
    assert status == 0 and "No false-alarm rate can be stated" in " ".join(said.split())
    rows = list(csv.DictReader((site.out / "records.csv").open()))
    assert len(rows) == 60 and "member" not in rows[0] and all(row["p_value"] == "" for row in rows)
    known = np.array([int(row["id"].split("-")[1]) < MEMBERS for row in rows])
    # The forest is sure of what it was trained on.
    assert known[:20].mean() > 0.5
    findings = read_findings(site.out)
    assert findings.verdict == "no_gate" and all(result.auc.value is None for result in findings.attacks)
    assert report(site.out).exists()


def test_ranking_with_a_population_has_p_values(site: Site) -> None:
    values = site.values("predict", scores="$.result.scores")
    findings = attack_endpoint(values, site.candidates(member=False), population=site.population(), out=site.out)
    rows = {row["id"]: row for row in csv.DictReader((site.out / "records.csv").open())}
    assert set(rows) == {f"patient-{row}" for row in (*range(30), *range(MEMBERS, MEMBERS + 30))}
    # By hand: the share of the population, and of the record itself, that scores at least as high.
    p = np.array([float(row["p_value"]) for row in rows.values()])
    assert ((p * 61) - np.round(p * 61) < 1e-3).all() and p.min() >= 1 / 61 - 1e-6
    assert findings.populations["population"] == 60 and {check.code for check in findings.checks} >= {"MS001", "MS003"}


def test_p_values_of_non_members_are_calibrated(site: Site) -> None:
    """Candidates that are all outsiders: a p-value of at most u comes up with chance at most u."""
    outsiders = site.world.table(site.folder / "outsiders.csv", range(130, 290), member=False)
    population = site.world.table(site.folder / "population.csv", range(290, 410), member=False)
    values = site.values("predict", scores="$.result.scores", concurrency=8)
    attack_endpoint(values, outsiders, population=population, attacks=["scaled_logit"], out=site.out)
    p = np.array([float(row["p_value"]) for row in csv.DictReader((site.out / "records.csv").open())])
    for level in (0.1, 0.25, 0.5):
        # Three standard errors of both samples.
        slack = 3 * np.sqrt(level * (1 - level) * (1 / 160 + 1 / 120))
        assert (p <= level).mean() <= level + slack


def test_gate_needs_membership(site: Site) -> None:
    with pytest.raises(ConfigError, match="column 'member'"):
        attack_endpoint(site.values("rounded"), site.candidates(member=False), gate={"limit": 0.1}, out=site.out)
    assert not site.server.asked


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_other_kinds_of_file(site: Site, ending: str) -> None:
    rows = np.r_[0:20, MEMBERS : MEMBERS + 20]
    inputs, labels = site.world.inputs[rows], site.world.labels[rows]
    path, ids = site.folder / f"candidates.{ending}", np.array([f"patient-{row}" for row in rows])
    if ending == "npz":
        np.savez(path, inputs=inputs, labels=labels, ids=ids, member=rows < MEMBERS)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as parquet

        columns = {name: inputs[:, place] for place, name in enumerate(site.world.features)}
        parquet.write_table(
            pyarrow.table({"id": ids, "label": labels, "member": (rows < MEMBERS).astype(int), **columns}), path
        )
    findings = attack_endpoint(site.values("rounded"), path, out=site.out)
    plain = attack_endpoint(site.values("rounded"), site.candidates(40), out=site.out / "csv")
    assert findings.attacks == plain.attacks
    assert site.server.asked["rounded"] == 80 and len(site.server.by_content["rounded"]) == 40


def references(site: Site, count: int, *, outside: bool, name: str = "references.npz") -> Path:
    """Forests trained like the target on halves of the candidates, or on records that are no candidates."""
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(5)
    rows = np.r_[0:60, MEMBERS : MEMBERS + 60]
    members = np.zeros((count, 120), bool)
    outputs = []
    for model in range(count):
        if outside:
            trained = rng.permutation(np.arange(300, 569))[:MEMBERS]
        else:
            members[model] = rng.permutation(120) < 60
            trained = rows[members[model]]
        forest = RandomForestClassifier(15, random_state=model, n_jobs=1)
        forest.fit(site.world.inputs[trained], site.world.labels[trained])
        outputs.append(forest.predict_proba(site.world.inputs[rows]))
    ids = np.array([f"patient-{row}" for row in rows])
    order = rng.permutation(120)
    arrays = {"probabilities": np.array(outputs)[:, order], "ids": ids[order]}
    np.savez(site.folder / name, **arrays, **({} if outside else {"members": members[:, order]}))
    return site.folder / name


def test_references_that_know_the_candidates(site: Site) -> None:
    path = references(site, 8, outside=False)
    findings = attack_endpoint(site.values("rounded"), site.candidates(120), references=path, out=site.out)
    names = {result.name for result in findings.attacks}
    assert {"lira_online", "bavaria", "rmia_online", "attack_r"} <= names
    assert findings.populations["references"] == 8
    # Matched by id: with the records in another order they would be worthless.
    assert findings.pooled("bavaria").auc.value > 0.6


def test_references_on_stand_in_data_allow_offline_attacks(site: Site) -> None:
    path = references(site, 8, outside=True)
    findings = attack_endpoint(site.values("rounded"), site.candidates(120), references=path, out=site.out)
    names = {result.name for result in findings.attacks}
    assert {"lira_offline", "rmia_offline", "attack_r", "calibrated_loss"} <= names and "lira_online" not in names
    assert findings.pooled("calibrated_loss").auc.value > 0.55
    assert "stand-in data" in findings.threat_model["assumptions"]
    ranked = attack_endpoint(
        site.values("rounded"), site.candidates(120, member=False), references=path, out=site.out / "ranked"
    )
    assert "lira_offline" in {result.name for result in ranked.attacks}


def test_references_serve_labels_too(site: Site) -> None:
    path = references(site, 4, outside=False)
    findings = attack_endpoint(
        site.values("label", scores="$.class"), site.candidates(120), references=path, out=site.out
    )
    assert {result.name for result in findings.attacks} == {"gap"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ids": None}, "ids, one a record"),
        ({"ids": lambda ids: np.char.add("x", ids)}, "missing, for example"),
        ({"members": lambda m: m.astype(int)}, "members as booleans"),
        ({"probabilities": lambda p: p[..., :1]}, "columns of probabilities"),
        ({"probabilities": lambda p: p[0]}, "axes"),
        ({"probabilities": None, "probability": lambda _: np.ones(3)}, "did you mean 'probabilities'"),
    ],
)
def test_references_that_do_not_fit(site: Site, change: dict[str, Any], says: str) -> None:
    path = references(site, 2, outside=False)
    arrays = dict(np.load(path, allow_pickle=False))
    for name, what in change.items():
        arrays[name] = what(arrays.get(name)) if callable(what) else what
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(MemberscopeError, match=says):
        attack_endpoint(site.values("rounded"), site.candidates(120), references=path, out=site.out)


def test_robustness_asks_copies_within_the_budget_of_a_record(site: Site) -> None:
    values = site.values(
        "label",
        scores="$.class",
        robustness={"copies": 6, "noise": 0.3},
        budget={"requests": 2000, "per_record": 7},
    )
    candidates = site.candidates(60)
    findings = attack_endpoint(values, candidates, out=site.out)
    assert site.server.asked["label"] == 420 == findings.cost["requests"]
    assert {result.name for result in findings.attacks} == {"gap", "noise_robustness"}
    # By hand: the share of the record and its copies that the model itself puts into the record's class.
    rows = np.r_[0:30, MEMBERS : MEMBERS + 30]
    inputs = site.world.inputs[rows]
    how = Robustness(copies=6, noise=0.3)
    wanted = []
    for record, label in zip(inputs, site.world.labels[rows], strict=True):
        asked = [record, *copies(record, how, inputs.std(axis=0), 0)]
        wanted.append(np.mean(site.world.probabilities(asked).argmax(axis=1) == label))
    written = [float(row["noise_robustness"]) for row in csv.DictReader((site.out / "records.csv").open())]
    assert written == pytest.approx(wanted, abs=1e-5) and len(set(wanted)) > 3
    again = attack_endpoint(values, candidates, out=site.out)
    assert site.server.asked["label"] == 420 and again.attacks == findings.attacks


def test_a_robustness_that_the_budget_cuts_short(site: Site) -> None:
    values = site.values(
        "label",
        scores="$.class",
        robustness={"copies": 6, "noise": 0.3},
        budget={"requests": 150, "per_record": 7},
    )
    findings = attack_endpoint(values, site.candidates(60), out=site.out)
    assert site.server.asked["label"] == 150
    missing = {item.name: item.reason for item in findings.not_run}
    assert missing["noise_robustness"].startswith("the budget allowed copies of only 25")


def test_budget_that_is_used_up_before_any_answer(site: Site) -> None:
    with pytest.raises(EndpointError, match="answer"):
        attack_endpoint(site.values("down", budget={"requests": 3, "per_record": 3}), site.candidates(), out=site.out)
    assert site.server.asked["down"] == 3


def test_from_a_notebook(site: Site) -> None:
    """Where an event loop runs already."""
    import asyncio

    async def cell() -> int:
        findings = attack_endpoint(site.values("rounded"), site.candidates(20), out=site.out)
        return int(findings.cost["answers"])

    assert asyncio.run(cell()) == 20


def test_what_probes_cannot_know_is_found_in_the_end(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """A probe that the forest is sure of looks like a class alone."""
    rows = np.r_[0:20, MEMBERS : MEMBERS + 20]
    sure = site.world.probabilities(site.world.inputs[rows]).max(axis=1) == 1
    seed = next(s for s in range(99) if sure[np.random.default_rng([s, 20]).permutation(40)[0]])
    values = site.values("rounded", probes=1)
    findings = attack_endpoint(values, site.candidates(40), out=site.out, seed=seed, quiet=False)
    noise = capsys.readouterr().err
    assert "the endpoint gives the predicted class alone" in noise
    assert "by all its answers the endpoint gives probabilities of 2 classes rounded to 2 decimals" in noise
    assert findings.data["access"] == "rounded"
