"""Gates by limit, by group and against a baseline: their verdicts, their corrections, and that they can be repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import audits
import memberscope as ms
from commands import command
from memberscope.auditing import Examination, Plan, examine
from memberscope.auditing.figures import pooled
from memberscope.auditing.gates import judge_gates, rejudge
from memberscope.auditing.looks import why_go_on
from memberscope.cli.show import gates_of, parse_gate
from memberscope.errors import ConfigError, MemberscopeError
from memberscope.statistics.difference import carried, difference
from memberscope.statistics.intervals import clopper_pearson
from memberscope.statistics.verdict import judge
from memberscope.types import Figure, Findings, Gate

LEAKING = audits.signals(1.5, seed=1)
PLAN = Plan(attacks=list(audits.ATTACKS), advise=False)


@pytest.fixture(scope="module")
def leaking() -> Examination:
    return examine(LEAKING, PLAN)


@pytest.fixture(scope="module")
def clean() -> Findings:
    return examine(audits.signals(0.0), PLAN).findings


@pytest.fixture(scope="module")
def one_class() -> Findings:
    """Only class 2 leaks."""
    return examine(audits.signals(2.5, only=2, seed=3), PLAN).findings


def wilson(successes: int, trials: int) -> tuple[float, float, float]:
    z, p = 1.959963984540054, successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z * np.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2)) / (1 + z * z / trials)
    return p, centre - reach, centre + reach


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((10, 10), (0, 10), 0.6075, 1.0)],
)
def test_difference_gives_newcombes_published_intervals(
    a: tuple[int, int], b: tuple[int, int], low: float, high: float
) -> None:
    """Newcombe 1998, table II, method 10: score intervals of each side, combined."""
    value, *found = difference(wilson(*a), wilson(*b))
    assert value == pytest.approx(a[0] / a[1] - b[0] / b[1])
    assert [round(bound, 4) for bound in found] == [low, high]


def test_difference_of_two_audits_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        p, q = rng.uniform(0.01, 0.4, 2)
        sides = []
        for rate, n in ((p, 300), (q, 800)):
            k = int(rng.binomial(n, rate))
            sides.append((k / n, *clopper_pearson(k, n)))
        _, low, high = difference(sides[0], sides[1])
        covered += low <= p - q <= high
    # 380 expected at least; five standard deviations below.
    assert covered >= 380 - 5 * np.sqrt(400 * 0.95 * 0.05)


@given(
    st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.sampled_from([0.98, 0.995, 0.9995]),
)
def test_bounds_carried_to_a_higher_confidence_are_no_narrower_than_exact_ones(
    counts: tuple[int, int], level: float
) -> None:
    value = counts[0] / counts[1]
    low, high = carried((value, *clopper_pearson(*counts)), 0.95, level, clusters=6)
    exact = clopper_pearson(*counts, level)
    assert low <= exact[0] + 1e-12 and high >= exact[1] - 1e-12
    assert carried((value, *clopper_pearson(*counts)), 0.95, 0.95, 6) == clopper_pearson(*counts)


GATES = [
    Gate(limit=0.02),
    Gate(metric="auc", limit=0.62),
    Gate(metric="advantage", limit=0.99),
    Gate(metric="auc", limit=0.6, attack="loss"),
    Gate(fpr=0.001, limit=0.5),
]


@pytest.mark.parametrize("gate", GATES, ids=str)
def test_findings_are_judged_as_the_measurements_were(gate: Gate, leaking: Examination) -> None:
    """What findings keep is enough for the verdict, the figure and every word of the sentence."""
    assert judge_gates(leaking.findings, [gate], {}) == [judge(gate, leaking.pooled)]


@pytest.mark.parametrize("gate", GATES, ids=str)
def test_old_findings_are_judged_no_more_boldly(gate: Gate, leaking: Examination) -> None:
    old = judge_gates(audits.as_old(leaking.findings), [gate], {})[0].verdict
    new = judge_gates(leaking.findings, [gate], {})[0].verdict
    assert old in (new, "inconclusive")


def test_bounds_are_divided_among_attacks_and_rows(leaking: Examination) -> None:
    attack = pooled(leaking.findings)["loss"].bounds["auc"]
    assert (attack.level, attack.corrected_level) == (0.95, pytest.approx(1 - 0.05 / 3))
    # No TPR can be measured for the gap attack, so that only two attacks compete.
    assert pooled(leaking.findings)["loss"].bounds["tpr@0.01"].corrected_level == pytest.approx(1 - 0.05 / 2)
    for row in leaking.findings.classes:
        found = row.bounds["auc"]
        assert found.level == pytest.approx(1 - 0.05 / 3) and found.corrected_level == pytest.approx(1 - 0.05 / 9)
        assert (found.low, found.high) == (row.auc.low, row.auc.high)
        assert found.corrected_low < found.low < found.high < found.corrected_high


@pytest.mark.parametrize(
    ("metric", "limit", "verdict"), [("auc", 0.55, "fail"), ("auc", 0.98, "pass"), ("tpr", 0.9, "pass")]
)
def test_a_gate_by_class_finds_the_class_that_leaks(
    metric: Any, limit: float, verdict: str, one_class: Findings
) -> None:
    result = judge_gates(one_class, [Gate(metric=metric, limit=limit, group="class")], {})[0]
    assert result.verdict == verdict
    assert result.row == "2" and "class 2" in result.sentence
    assert result.figure == (one_class.classes[2].auc if metric == "auc" else one_class.classes[2].tpr)


def test_a_class_may_break_a_limit_that_the_whole_keeps(one_class: Findings) -> None:
    whole, rows = judge_gates(
        one_class, [Gate(metric="auc", limit=0.7), Gate(metric="auc", limit=0.7, group="class")], {}
    )
    assert (whole.verdict, rows.verdict) == ("pass", "fail")


def test_a_limit_within_a_rows_interval_is_inconclusive(one_class: Findings) -> None:
    value = one_class.classes[2].auc.value
    result = judge_gates(one_class, [Gate(metric="auc", limit=round(value or 0, 4), group="class")], {})[0]
    assert result.verdict == "inconclusive" and "may lie on either side" in result.sentence


def test_a_row_that_cannot_be_measured_never_passes(one_class: Findings) -> None:
    unknown = one_class.classes[0].model_copy(update={"auc": Figure.not_measurable("too few records"), "bounds": {}})
    found = one_class.model_copy(update={"classes": [unknown, *one_class.classes[1:]]})
    result = judge_gates(found, [Gate(metric="auc", limit=0.99, group="class")], {})[0]
    assert result.verdict == "inconclusive" and "too few" in result.sentence
    nobody = found.model_copy(update={"classes": [unknown.model_copy(update={"members": 0}), *one_class.classes[1:]]})
    assert judge_gates(nobody, [Gate(metric="auc", limit=0.99, group="class")], {})[0].verdict == "pass"


REGRESSION = Gate(metric="auc", baseline="b", worse_by=0.05)


@pytest.mark.parametrize("old", [False, True], ids=["1.3", "1.2"])
def test_a_regression_is_told_by_the_interval_of_the_difference(
    leaking: Examination, clean: Findings, old: bool
) -> None:
    made = audits.as_old if old else (lambda findings: findings)
    worse = judge_gates(leaking.findings, [REGRESSION], {"b": made(clean)})[0]
    assert worse.verdict == "fail" and worse.difference is not None and worse.baseline is not None
    assert worse.attack == "rmia_online" and "against" in worse.sentence
    now, before = pooled(leaking.findings)["rmia_online"].auc, pooled(clean)["rmia_online"].auc
    assert worse.difference.value == pytest.approx((now.value or 0) - (before.value or 0))
    better = judge_gates(made(clean), [REGRESSION], {"b": leaking.findings})[0]
    assert better.verdict == "pass" and "nothing is worse" in better.sentence
    same = judge_gates(clean, [REGRESSION], {"b": made(clean)})[0]
    assert same.verdict == "pass"
    narrow = judge_gates(clean, [Gate(metric="auc", baseline="b", worse_by=0.001)], {"b": made(clean)})[0]
    assert narrow.verdict == "inconclusive"


def test_a_regression_by_class_names_the_class(one_class: Findings, clean: Findings) -> None:
    gate = Gate(metric="auc", group="class", baseline="b", worse_by=0.05)
    result = judge_gates(one_class, [gate], {"b": clean})[0]
    assert (result.verdict, result.row) == ("fail", "2") and "class 2" in result.sentence


def test_a_regression_says_what_else_differs(leaking: Examination) -> None:
    fewer = examine(audits.signals(0.0, models=6, seed=5), Plan(attacks=["loss", "entropy"], advise=False)).findings
    result = judge_gates(leaking.findings, [REGRESSION], {"b": fewer})[0]
    for part in ("6 reference models a target, the baseline 4", "ran it: entropy, gap, rmia_online"):
        assert part in result.sentence
    nothing = judge_gates(leaking.findings, [REGRESSION], {"b": fewer.model_copy(update={"attacks": []})})[0]
    assert nothing.verdict == "inconclusive" and "in common" in nothing.sentence


def test_rejudging_by_the_same_gates_changes_nothing_and_by_others_only_what_follows() -> None:
    gates = [Gate(metric="auc", limit=0.62), Gate(metric="auc", limit=0.99, group="class")]
    found = examine(LEAKING, Plan(attacks=list(audits.ATTACKS), gates=gates, advise=False)).findings
    assert found.verdict == "fail"
    assert rejudge(found, gates, {}) == found
    other = rejudge(found, gates[1:], {})
    assert other.verdict == "pass" and found.gates[0].sentence not in other.summary
    kept = other.model_dump(exclude={"gates", "verdict", "summary"})
    assert kept == found.model_dump(exclude={"gates", "verdict", "summary"})


def test_a_gate_by_group_waits_for_the_whole_pool() -> None:
    gate = Gate(metric="auc", limit=0.999, group="class")
    plan = Plan(attacks=["loss"], gates=[gate], advise=False)
    found = examine(LEAKING, plan)
    assert found.findings.verdict == "pass"
    assert why_go_on(LEAKING, found, plan, 1.0).startswith("Only the whole pool can pass a gate by group")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "either a limit, or a baseline"),
        ({"limit": 0.1, "baseline": "b", "worse_by": 0.1}, "either a limit, or a baseline"),
        ({"baseline": "b"}, "worse_by is missing"),
        ({"worse_by": 0.1}, "baseline is missing"),
        ({"baseline": "b", "worse_by": 0.0}, "greater than 0"),
        ({"limit": 0.1, "group": "class", "metric": "advantage"}, "auc, or tpr"),
        ({"limit": 0.1, "group": "class", "fpr": 0.1}, "auc, or tpr"),
        ({"limit": 0.1, "group": "class", "attack": "loss"}, "leave attack out"),
    ],
)
def test_gates_that_contradict_themselves_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Gate.model_validate(values)


def test_gates_on_the_command_line() -> None:
    assert parse_gate(" tpr @ 0.01 / home region < 0.1 ") == Gate(limit=0.1, group="home region")
    assert parse_gate("loss:auc<0.6") == Gate(metric="auc", limit=0.6, attack="loss")
    before = Path("runs/before")
    assert gates_of([], before) == [Gate(baseline="runs/before", worse_by=0.02)]
    assert gates_of(["auc<0.6", "auc/class<+0.03"], before)[1:] == [
        Gate(metric="auc", group="class", baseline="runs/before", worse_by=0.03)
    ]
    assert len(gates_of(["auc<0.6"], before)) == 2
    with pytest.raises(ConfigError, match="--baseline"):
        parse_gate("auc<+0.03")


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"limit": 0.1, "group": "sex"}, "group 'sex'"),
        ({"limit": 0.1, "group": "clas"}, "did you mean 'class'"),
        ({"baseline": "nowhere", "worse_by": 0.1}, "no nowhere"),
        ({"limit": 0.1, "attack": "los"}, "did you mean 'loss'"),
    ],
)
def test_gates_that_cannot_be_judged_say_so(gate: dict[str, Any], said: str) -> None:
    with pytest.raises(MemberscopeError, match=said):
        ms.audit(LEAKING, attacks=["loss"], gate=gate)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gates") / "run"
    audits.run(folder, 1.5, gate={"metric": "auc", "limit": 0.99}, seed=1)
    audits.run(folder.parent / "before", 0.0, name="before")
    return folder


@pytest.mark.parametrize(
    ("options", "status", "gates"),
    [
        ([], 0, 1),
        (["--gate", "auc<0.6"], 1, 1),
        (["--gate", "auc/class<0.6"], 1, 1),
        (["--baseline", "{before}", "--gate", "auc<+0.05"], 1, 1),
        (["--baseline", "{before}/findings.json"], 1, 2),
        (["--gate", "tpr@0.001<0.5"], 3, 1),
    ],
)
def test_gate_command_judges_again_and_writes_nothing(
    options: list[str], status: int, gates: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    options = [option.format(before=folder.parent / "before") for option in options]
    left, out, err = command(["gate", str(folder), *options, "--json"], capsys)
    found = json.loads(out)
    assert (left, found["status"], len(found["gates"]), err) == (status, status, gates, "")
    left, out, _ = command(["gate", str(folder), *options], capsys)
    assert left == status and out.startswith({0: "PASS", 1: "FAIL", 3: "INCONCLUSIVE"}[status])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gate", "{folder}/../before"], "a gate to judge the run by"),
        (["gate", "{folder}", "--gate", "auc/sex<0.5"], "one of the groups that the audit measured (class)"),
        (["gate", "{folder}", "--gate", "auc<+0.1"], "Name a run with --baseline"),
        (["gate", "{folder}", "--baseline", "nowhere"], "no nowhere"),
        (["gate", "nowhere"], "a JSON file at nowhere"),
        (["gate", "{folder}/findings.json", "--gate", "auc<0.5", "--write"], "Name the folder"),
    ],
)
def test_gate_command_refuses_without_a_traceback(
    arguments: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = command([part.format(folder=folder) for part in arguments], capsys)
    assert (status, out) == (2, "") and said in err and "Traceback" not in err


def test_gate_command_keeps_the_verdict_if_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    audits.run(folder, 1.5, seed=1)
    assert ms.read_findings(folder).verdict == "no_gate"
    assert command(["gate", str(folder), "--gate", "auc<0.6", "--write"], capsys)[0] == 1
    found = ms.read_findings(folder)
    assert found.verdict == "fail" and found.gates[0].sentence in (folder / "report.html").read_text()
    assert command(["export", str(folder), "--format", "junit"], capsys)[0] == 0
    assert command(["gate", str(folder), "--gate", "auc<0.99", "--write"], capsys)[0] == 0
    assert "<failure" not in (folder / "exports/junit.xml").read_text()
    assert command(["verify", str(folder)], capsys)[0] == 0
