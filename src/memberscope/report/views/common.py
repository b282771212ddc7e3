"""What several parts of the report ask of the findings."""

from __future__ import annotations

from memberscope.types import AttackResult, Figure, Findings

NOT_GIVEN = Figure.not_measurable("not measured")


def pooled_results(findings: Findings) -> list[AttackResult]:
    """One result an attack: over all targets, or of its only target; the strongest at 1 % false alarms first."""
    chosen: dict[str, AttackResult] = {}
    for result in findings.attacks:
        if result.name not in chosen or result.target == "all":
            chosen[result.name] = result
    return sorted(chosen.values(), key=lambda result: (result.name != findings.strongest, *_weakness(result)))


def strongest_result(findings: Findings) -> AttackResult | None:
    """The strongest attack's pooled result, None when no attack ran."""
    return next((result for result in pooled_results(findings) if result.name == findings.strongest), None)


def tpr(result: AttackResult, key: str = "0.01") -> Figure:
    """The true-positive rate at a false-positive rate, with a reason when it was not measured at all."""
    return result.tpr_at_fpr.get(key, NOT_GIVEN)


def exposed(findings: Findings) -> Figure:
    """The share exposed at 1 % false alarms, as page one shows it.

    Where a gate decided on it, with the gate's own interval, which allows for the choice of the strongest attack:
    the figure beside a limit is the one that was held against it.
    """
    for result in findings.gates:
        gate = result.gate
        decided = (
            gate.kind == "limit" and gate.metric == "tpr" and gate.fpr == 0.01 and result.attack == findings.strongest
        )
        if decided and result.figure.value is not None:
            return result.figure
    strongest = strongest_result(findings)
    return tpr(strongest) if strongest else Figure.not_measurable("no attack could run")


def limit_on(findings: Findings, metric: str, fpr: float = 0.01) -> float | None:
    """The tightest limit that a gate sets on ``metric`` (at ``fpr``) of the strongest attack, if any."""
    limits = [
        result.gate.limit
        for result in findings.gates
        if result.gate.limit is not None
        and result.gate.group is None
        and result.gate.metric == metric
        and (metric != "tpr" or result.gate.fpr == fpr)
        and result.gate.attack in ("strongest", findings.strongest)
    ]
    return min(limits, default=None)


def _weakness(result: AttackResult) -> tuple[float, float]:
    found, auc = tpr(result), result.auc
    return (-(found.low if found.low is not None else -1.0), -(auc.value if auc.value is not None else -1.0))
