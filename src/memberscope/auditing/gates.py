"""Every gate judged on what the findings hold: at the end of an audit and, without computing anything, later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from memberscope.auditing.wording import CHANCE, next_step
from memberscope.errors import ConfigError, nearest
from memberscope.statistics.difference import carried, difference
from memberscope.statistics.intervals import LEVEL
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
from memberscope.text import SPACE, percent
from memberscope.types import AttackResult, Figure, Findings, Gate, GateResult
from memberscope.types.findings import Bounds, ClassRow


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
        _regression(findings, gate, baselines[gate.baseline])
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


def pooled(findings: Findings) -> dict[str, AttackResult]:
    """The results over all targets, by attack."""
    return {result.name: result for result in findings.attacks if result.target == "all"}


def figure_of(result: AttackResult, name: str) -> Figure:
    """The figure ``"auc"``, ``"advantage"`` or ``"tpr@0.01"`` of a result."""
    if name.startswith("tpr@"):
        return result.tpr_at_fpr.get(name.removeprefix("tpr@"), Figure.not_measurable("not measured"))
    return result.auc if name == "auc" else result.advantage


def bounds_of(findings: Findings, result: AttackResult, name: str) -> Bounds | None:
    """What a figure of an attack over all targets is judged by; None where it was not measured.

    Findings before schema 1.3 keep 95 % intervals only: the wider ones are carried over from them.
    """
    figure = figure_of(result, name)
    if figure.value is None or figure.low is None or figure.high is None:
        return None
    if name in result.bounds:
        return result.bounds[name]
    rivals = sum(figure_of(other, name).value is not None for other in pooled(findings).values())
    return _carried(findings, (figure.value, figure.low, figure.high), LEVEL, rivals)


def rows_of(findings: Findings, group: str) -> list[ClassRow]:
    """The rows of ``"class"`` or of a group.

    Raises:
        ConfigError: the findings have no such group.
    """
    if group == "class":
        return findings.classes
    if group not in findings.groups:
        known = ["class", *findings.groups]
        raise ConfigError(
            f"a gate by one of the groups that the audit measured ({', '.join(known)})",
            f"group {group!r}{nearest(group, known)}",
            "Name one of them; groups with 2 to 50 values are measured.",
        )
    return findings.groups[group]


def row_figure(row: ClassRow, name: str) -> Figure:
    """The figure ``"auc"`` or ``"tpr@0.01"`` of a row."""
    return row.auc if name == "auc" else row.tpr


def row_bounds(findings: Findings, row: ClassRow, name: str, rows: int) -> Bounds | None:
    """What a figure of one of several rows is judged by; None where it was not measured."""
    figure = row_figure(row, name)
    if figure.value is None or figure.low is None or figure.high is None:
        return None
    if name in row.bounds:
        return row.bounds[name]
    level = 1 - (1 - LEVEL) / max(rows, 1)
    return _carried(findings, (figure.value, figure.low, figure.high), level, len(pooled(findings)))


def _carried(findings: Findings, figure: tuple[float, float, float], level: float, choices: int) -> Bounds:
    # How many targets are twins is not in the findings; the fewest clusters there may be give the widest bounds.
    targets = int(findings.populations.get("targets", 1))
    clusters = targets if targets < 3 else (targets + 1) // 2
    corrected = 1 - (1 - level) / max(choices, 1)
    low, high = carried(figure, level, corrected, clusters)
    return Bounds(
        level=level,
        low=figure[1],
        high=figure[2],
        corrected_level=corrected,
        corrected_low=low,
        corrected_high=high,
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


def _regression(findings: Findings, gate: Gate, baseline: Findings) -> GateResult:
    """The difference from a baseline: of every attack that both ran, or of every row that both have."""
    assert gate.worse_by is not None
    sides = _row_sides(findings, gate, baseline) if gate.group else _attack_sides(findings, gate, baseline)
    if not sides:
        return unmeasured(gate, gate.attack if gate.attack != "strongest" else findings.strongest, _NOTHING)
    candidates, figures = [], {}
    for name, (new, old) in sides.items():
        value, low, high = difference(_plain(new), _plain(old))
        corrected_low = low if len(sides) == 1 and not gate.group else difference(_corrected(new), _corrected(old))[1]
        candidates.append(Candidate(name, value, low, high, corrected_low))
        figures[name] = _figure(new), _figure(old)
    verdict, worst = decide(gate.worse_by, candidates)
    now, before = figures[worst.name]
    rise = _change if gate.metric == "auc" else _points
    shown = shower(gate)
    assert now.value is not None and before.value is not None
    what = f"{metric_of(gate)} of {worst.name}" if not gate.group else f"{metric_of(gate)} in {gate.group} {worst.name}"
    against = f"{shown(now.value)} against {shown(before.value)} in the baseline"
    many = f" (corrected for {len(sides)} {'rows' if gate.group else 'attacks'})" if len(sides) > 1 else ""
    said = {
        "fail": f"Fail: the {what} is {against}: worse by at least {rise(worst.corrected_low)}{many}, more than the "
        f"{rise(gate.worse_by)} allowed.",
        "pass": (
            f"Pass: nothing is worse than in the baseline by more than {rise(worst.high)} (the {what}: {against}), "
            f"which is below the {rise(gate.worse_by)} allowed."
            if worst.high > 0
            else f"Pass: nothing is worse than in the baseline (nearest to it, the {what}: {against})."
        ),
        "inconclusive": f"Inconclusive: the {what} is {against}; the change lies between {rise(worst.low)} and "
        f"{rise(worst.high)}, on either side of the {rise(gate.worse_by)} allowed. More records or targets decide it.",
    }[verdict]
    notes = unlike(findings, baseline)
    return GateResult(
        gate=gate,
        verdict=verdict,
        attack=findings.strongest if gate.group else worst.name,
        figure=now,
        sentence=" ".join([said, *notes]),
        row=worst.name if gate.group else None,
        baseline=before,
        difference=worst.figure,
    )


# A value with what it is judged by.
_Side = tuple[float, Bounds]
_NOTHING = "this audit and the baseline have no such figure in common"


def _attack_sides(findings: Findings, gate: Gate, baseline: Findings) -> dict[str, tuple[_Side, _Side]]:
    now, before = pooled(findings), pooled(baseline)
    if gate.attack != "strongest":
        check_attack(gate, now)
        check_attack(gate, before)
    sides = {}
    for name in now if gate.attack == "strongest" else [gate.attack]:
        if name in before:
            new, old = (
                _side(figure_of(run[name], gate.figure), bounds_of(owner, run[name], gate.figure))
                for owner, run in ((findings, now), (baseline, before))
            )
            if new and old:
                sides[name] = new, old
    return sides


def _row_sides(findings: Findings, gate: Gate, baseline: Findings) -> dict[str, tuple[_Side, _Side]]:
    assert gate.group is not None
    rows = rows_of(findings, gate.group)
    others = {row.name: row for row in rows_of(baseline, gate.group)}
    sides = {}
    for row in rows:
        if row.name in others:
            new, old = (
                _side(row_figure(part, gate.figure), row_bounds(owner, part, gate.figure, count))
                for owner, part, count in ((findings, row, len(rows)), (baseline, others[row.name], len(others)))
            )
            if new and old:
                sides[row.name] = new, old
    return sides


def _side(figure: Figure, found: Bounds | None) -> _Side | None:
    return None if figure.value is None or found is None else (figure.value, found)


def _plain(side: _Side) -> tuple[float, float, float]:
    return side[0], side[1].low, side[1].high


def _corrected(side: _Side) -> tuple[float, float, float]:
    return side[0], side[1].corrected_low, side[1].corrected_high


def _figure(side: _Side) -> Figure:
    value, low, high = _plain(side)
    return Figure(value=value, low=min(low, value), high=max(high, value))


def _points(change: float) -> str:
    """A change of a rate.

    >>> _points(-0.021), _points(0.01)
    ('−2.1 points', '1 point')
    """
    text = percent(change).removesuffix(f"{SPACE}%").replace("-", "−")
    return f"{text} point{'s' * (text != '1')}"


def _change(change: float) -> str:
    """A change of an area."""
    return f"{change:.3f}".replace("-", "−")


def unlike(new: Findings, old: Findings) -> list[str]:
    """Sentences on what differs between two audits beside the models: a change may come from that."""
    said = []
    if new.data.get("fingerprint") != old.data.get("fingerprint"):
        said.append("The baseline audited other records.")
    ours, theirs = (findings.populations.get("references") for findings in (new, old))
    if ours != theirs:
        said.append(f"This audit has {ours} reference models a target, the baseline {theirs}.")
    if new.threat_model.get("access") != old.threat_model.get("access"):
        said.append("The attacker sees other answers than in the baseline.")
    only = sorted(set(pooled(new)) ^ set(pooled(old)))
    if only:
        said.append(f"Not compared, because only one of the two audits ran it: {', '.join(only)}.")
    return said
