"""Every gate judged on what the findings hold: at the end of an audit and, without computing anything, later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from memberscope.auditing.figures import bounds_of, figure_of, pooled, row_bounds, row_figure, rows_of
from memberscope.auditing.regression import judge_regression
from memberscope.auditing.wording import CHANCE, next_step
from memberscope.errors import ConfigError, nearest
from memberscope.statistics.verdict import (
    Candidate,
    against_limit,
    check_attack,
    decide,
    metric_of,
    overall,
    shower,
    unmeasured,
)
from memberscope.text import percent
from memberscope.types import Findings, Gate, GateResult


def judge_gates(findings: Findings, gates: Sequence[Gate], baselines: Mapping[str, Findings]) -> list[GateResult]:
    """Hold what an audit found against limits, rows of groups against theirs, and figures against a baseline's.

    Args:
        findings: without regard to the gates that it holds.
        gates: to judge.
        baselines: findings by ``gate.baseline``, for every regression.

    Raises:
        ConfigError: a gate's attack was not run, or its group is not in the findings.
    """
    judges = {"limit": _attacks, "group": _rows}
    return [
        judge_regression(findings, gate, baselines[gate.baseline])
        if gate.baseline is not None
        else judges[gate.kind](findings, gate)
        for gate in gates
    ]


def rejudge(findings: Findings, gates: Sequence[Gate], baselines: Mapping[str, Findings]) -> Findings:
    """Findings with other gates: results, verdict and the sentences that follow from them; nothing else changes."""
    results = judge_gates(findings, gates, baselines)
    old = {result.sentence for result in findings.gates}
    kept = [said for said in findings.summary[:-1] if said not in old]
    strongest = pooled(findings).get(findings.strongest)
    found = None if strongest is None else bounds_of(findings, strongest, "tpr@0.01")
    leaks = found is not None and found.corrected_low > CHANCE
    step = next_step(results, findings.checks, leaks=leaks, measured=found is not None)
    return findings.model_copy(
        update={
            "gates": results,
            "verdict": overall(results),
            "summary": [*(result.sentence for result in results), *kept, step],
        }
    )


def check_gates(gates: Iterable[Gate], groups: Iterable[str], baselines: Mapping[str, Findings]) -> None:
    """Refuse, before anything is computed, a gate that could not be judged in the end.

    Args:
        gates: of the plan.
        groups: names that the data have.
        baselines: that could be read.

    Raises:
        ConfigError: a group that the data do not have, or a baseline that nobody gave.
    """
    known = ["class", *groups]
    for gate in gates:
        if gate.group is not None and gate.group not in known:
            raise ConfigError(
                f"a gate by one of {', '.join(known)}",
                f"group {gate.group!r}{nearest(gate.group, known)}",
                "Name one of them, or give the data set that group.",
            )
        if gate.baseline is not None and gate.baseline not in baselines:
            raise ConfigError(
                f"the findings of the baseline {gate.baseline}",
                "none",
                "Run the audit from a configuration, or pass baselines to the plan.",
            )


def _attacks(findings: Findings, gate: Gate) -> GateResult:
    """A limit on one attack or on every one."""
    run = pooled(findings)
    check_attack(gate, run)
    names = list(run) if gate.attack == "strongest" else [gate.attack]
    candidates = []
    for name in names:
        found, value = bounds_of(findings, run[name], gate.figure), figure_of(run[name], gate.figure).value
        if found is not None and value is not None:
            # One named attack was not picked from others.
            low = found.corrected_low if gate.attack == "strongest" else found.low
            candidates.append(Candidate(name, value, found.low, found.high, low))
    reason = (figure_of(run[names[0]], gate.figure).reason or "not measured") if names else "no attack was run"
    return against_limit(gate, candidates, names[0] if names else "none", reason)


def _rows(findings: Findings, gate: Gate) -> GateResult:
    """A limit on every row of a group, under the strongest attack."""
    assert gate.limit is not None and gate.group is not None
    rows = [row for row in rows_of(findings, gate.group) if row.members]
    candidates, missing = [], []
    for row in rows:
        found, value = row_bounds(findings, row, gate.figure, len(rows)), row_figure(row, gate.figure).value
        if found is None or value is None:
            missing.append(row)
        else:
            candidates.append(Candidate(row.name, value, found.low, found.high, found.corrected_low))
    if not candidates:
        reason = (row_figure(missing[0], gate.figure).reason if missing else None) or "no row has members"
        return unmeasured(gate, findings.strongest, reason)
    verdict, worst = decide(gate.limit, candidates, complete=not missing)
    shown = shower(gate)
    what = metric_of(gate) if gate.metric == "auc" else f"share of members found at the {percent(gate.fpr)} threshold"
    limit, low, high = (shown(x) for x in (gate.limit, worst.low, worst.high))
    where = f"{gate.group} {worst.name}"
    count = f"{len(rows)} row{'s' * (len(rows) > 1)}"
    if verdict == "fail":
        said = (
            f"Fail: the {what} in {where} is {shown(worst.value)}, and at least {shown(worst.corrected_low)} "
            f"(corrected for {count} and for the choice of the attack), above the limit of {limit}."
        )
    elif verdict == "pass":
        said = (
            f"Pass: the {what} is at most {high} in every {gate.group} (highest in {where}; corrected for {count}), "
            f"below the limit of {limit}."
        )
    elif worst.high < gate.limit:
        names = ", ".join(row.name for row in missing[:5])
        said = (
            f"Inconclusive: the {what} keeps the limit of {limit} in every {gate.group} that could be measured, but "
            f"not every one could be ({names}: {row_figure(missing[0], gate.figure).reason})."
        )
    else:
        said = (
            f"Inconclusive: the {what} in {where} may lie on either side of the limit of {limit} "
            f"({shown(worst.value)}, from {low} to {high}; corrected for {count}). More records or targets decide it."
        )
    return GateResult(
        gate=gate, verdict=verdict, attack=findings.strongest, figure=worst.figure, sentence=said, row=worst.name
    )
