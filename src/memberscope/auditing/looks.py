"""Judging the gates while a pool grows: when training more references would no longer change the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memberscope.attacks import Attack
from memberscope.auditing import Examination, Plan
from memberscope.auditing.plan import checked_targets, chosen_attacks
from memberscope.auditing.power import gained, key
from memberscope.statistics.intervals import LEVEL
from memberscope.statistics.looks import gain_bound
from memberscope.statistics.measure import Measured
from memberscope.statistics.verdict import judge
from memberscope.text import percent
from memberscope.types import Findings, Gate, Signals
from memberscope.types.findings import Look


def still_open(
    signals: Signals,
    attacks: Mapping[str, Attack],
    pooled: Mapping[str, Measured],
    gates: Sequence[Gate],
    targets: Sequence[int],
    *,
    level: float,
    doublings: float,
    seed: int,
) -> str:
    """Why training should go on, or an empty string if every gate is decided for good.

    A gate that fails is decided: more references only make attacks stronger. A gate that passes is decided if it
    would pass still after every attack has gained, for each doubling of its references to come, as much as it may
    have gained by the last one (:func:`~memberscope.statistics.looks.gain_bound`).

    Args:
        signals: of the models so far.
        attacks: that were run, by name.
        pooled: their figures over all targets.
        gates: to be decided.
        targets: audited rows.
        level: of this look.
        doublings: log2 of the references of the whole pool over those so far.
        seed: draws the targets that are attacked with half of the references.
    """
    bounds: dict[str, dict[str, float]] = {}
    for gate in gates:
        assert gate.limit is not None
        result = judge(gate, pooled, level=level)
        if result.verdict == "inconclusive":
            return result.sentence
        if result.verdict == "fail" or not doublings:
            continue
        figure = key(gate.metric, gate.fpr)
        for name in pooled if gate.attack == "strongest" else [gate.attack]:
            estimate = pooled[name].estimate(gate.metric, gate.fpr)
            if estimate.value is None or not attacks[name].minimum:
                continue
            if name not in bounds:
                bounds[name] = _bounds(signals, attacks[name], targets, doublings, level, seed)
            reach = estimate.interval(level)[1] + bounds[name].get(figure, float("inf"))
            if reach >= gate.limit:
                return (
                    f"The gate on {gate.metric} passes so far, but {name} may still gain enough from more references "
                    "to fail it."
                )
    return ""


def _bounds(
    signals: Signals, attack: Attack, targets: Sequence[int], doublings: float, level: float, seed: int
) -> dict[str, float]:
    """Most that each figure of ``attack`` may still gain; a figure that cannot be bounded is left out."""
    most = len(signals) - 2
    found = gained(signals, attack, targets, [most // 4 * 2, most], seed)
    if found is None:
        return {}
    return {
        figure: gain_bound(values[0], values[-1], doublings, level)
        for figure, values in found.figures.items()
        if found.measurable(figure)
    }


def why_go_on(signals: Signals, found: Examination, plan: Plan, doublings: float) -> str:
    """:func:`still_open` for what :func:`~memberscope.auditing.examine` found by ``plan``."""
    attacks = {attack.name: attack for attack in chosen_attacks(plan.attacks)}
    targets = checked_targets(signals, plan.targets)
    for result in found.findings.gates:
        if result.gate.kind != "limit" and result.verdict != "fail":
            return f"Only the whole pool can pass a gate by {'group' if result.gate.group else 'regression'}."
    limits = [gate for gate in plan.gates if gate.kind == "limit"]
    return still_open(
        signals, attacks, found.pooled, limits, targets, level=plan.level, doublings=doublings, seed=plan.seed
    )


def as_look(findings: Findings, level: float, why: str, whole: int) -> Look:
    """What one judgement found.

    Args:
        findings: of the models so far.
        level: at which the gates were judged.
        why: training goes on; empty if it ends here.
        whole: models of the whole pool.
    """
    models = findings.populations["models"]
    at = (
        f"Judged with {models} of at most {whole} models, at a confidence of {percent(level)} so that all looks "
        f"together have {percent(LEVEL)}"
    )
    if why:
        sentence = f"{at}: not decided. {why}"
    elif models < whole:
        sentence = f"{at}: decided, so that {whole - models} models need not be trained."
    else:
        sentence = f"{at}: this is the last look."
    return Look(
        models=models,
        references=findings.populations["references"],
        level=level,
        verdict=findings.verdict,
        strongest=findings.strongest,
        sentence=sentence,
    )
