"""Signals to findings: the whole audit, to be read as its table of contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from memberscope.analysis.exposed import Evidence, evidence, exposed_records
from memberscope.attacks import DEFAULT, Attack
from memberscope.auditing.breakdown import accuracy_figures, class_rows, curves, group_rows, histograms
from memberscope.auditing.gates import check_gates, judge_gates
from memberscope.auditing.plan import checked_targets, chosen_attacks
from memberscope.auditing.power import advise
from memberscope.auditing.scoring import derive_all, score
from memberscope.auditing.wording import headline, limits, summary, threat_model
from memberscope.data.checks import check_inputs
from memberscope.errors import SignalsError
from memberscope.signals.checks import check_signals
from memberscope.signals.references import reference_rows
from memberscope.statistics.intervals import LEVEL
from memberscope.statistics.measure import Measured, Measurement
from memberscope.statistics.verdict import bounds, overall
from memberscope.types import (
    AttackResult,
    CheckResult,
    Dataset,
    Findings,
    Gate,
    GateResult,
    Scores,
    Signals,
)
from memberscope.types.findings import Bounds, ReferenceAdvice

# The figure that ranks attacks and heads the report.
HEADLINE_FPR = 0.01


@dataclass(frozen=True, eq=False)
class Examination:
    """What an audit found, with the scores behind it.

    Args:
        findings: the findings document.
        scores: every attack's scores by name.
        evidence: per-record p-values and flags; None if no attack could run.
        pooled: every attack's figures over all targets by name, at any confidence level.
    """

    findings: Findings
    scores: Mapping[str, Scores]
    evidence: Evidence | None
    pooled: Mapping[str, Measured] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What to audit and how; everything has a default.

    Args:
        name: what the report calls the audit.
        targets: rows to audit; all when None.
        attacks: attacks to run; every one that the access and the references allow when None.
        gates: limits to hold the result against.
        seed: draws folds and bootstraps; the same plan and seed give the same findings.
        facts: entries for the findings' ``data``, ``model``, ``cost`` and ``run``.
        level: confidence at which the gates are judged; above .95 where this is one of several looks.
        baselines: findings to compare with, by ``gate.baseline``.
        advise: find out what more references would add.
    """

    name: str = "audit"
    targets: Sequence[int] | None = None
    attacks: Sequence[str | Attack] | None = None
    gates: Sequence[Gate] = ()
    seed: int = 0
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    level: float = LEVEL
    baselines: Mapping[str, Findings] = field(default_factory=dict)
    advise: bool = True


def examine(
    signals: Signals, plan: Plan | None = None, *, dataset: Dataset | None = None, quiet: bool = True
) -> Examination:
    """Audit the targets of ``signals`` with every attack that can run.

    Args:
        signals: outputs of the targets and of their references.
        plan: what to audit.
        dataset: the records, for checks of the split and for names; its order is the signals' order.
        quiet: show no progress.

    Raises:
        SignalsError: a target does not exist, the data set does not fit the signals, or no attack can run.
        ConfigError: an attack or a gate is unknown.
    """
    plan = plan or Plan()
    targets = checked_targets(signals, plan.targets)
    attacks = chosen_attacks(plan.attacks)
    _check_same_records(signals, dataset)
    check_gates(plan.gates, dataset.groups if dataset else (), plan.baselines)
    class_names = _class_names(signals, dataset)

    derive_all(signals, targets, attacks)
    checks = _checks(signals, targets, dataset, plan.seed)
    scored = score(signals, targets, attacks, plan.seed, quiet=quiet)
    scores, measurements, not_run = scored.scores, scored.measurements, scored.not_run
    pooled = {name: measurement.pooled for name, measurement in measurements.items()}
    strongest = _strongest(pooled)
    proof = evidence(scores)
    records = (
        exposed_records(signals, scores[proof.attack], proof, measurements[proof.attack].clusters, class_names)
        if proof
        else None
    )
    accuracy = accuracy_figures(signals, targets, measurements[strongest].clusters)
    references = {target: len(reference_rows(signals, target)) for target in targets}
    results = [
        result
        for attack in attacks
        if attack.name in scores
        for result in _results(attack, signals, measurements[attack.name], references, _bounds(pooled, attack, plan))
    ]
    facts = {key: dict(value) for key, value in plan.facts.items()}
    audited = ~signals.population
    findings = Findings(
        name=plan.name,
        verdict="no_gate",
        headline=headline(strongest, pooled, len(targets)),
        summary=[],
        data={
            "name": dataset.name if dataset else plan.name,
            "kind": dataset.kind if dataset else "unknown",
            "records": signals.records,
            "classes": signals.classes,
            "class_names": list(class_names),
            "fingerprint": dataset.fingerprint if dataset else signals.fingerprint,
        }
        | facts.get("data", {}),
        model=dict(accuracy) | facts.get("model", {}),
        populations={
            "models": len(signals),
            "targets": len(targets),
            "references": max(references.values()),
            "audit_records": int(audited.sum()),
            "members": round(float(np.mean([signals.members[t].sum() for t in targets]))),
            "non_members": round(float(np.mean([(audited & ~signals.members[t]).sum() for t in targets]))),
            "population": int(signals.population.sum()),
            "queries": signals.queries,
        },
        threat_model=threat_model(signals, max(references.values())),
        checks=checks,
        attacks=results,
        not_run=not_run,
        strongest=strongest,
        gates=[],
        curves=curves(measurements, strongest),
        histograms=histograms(scores, strongest),
        classes=class_rows(signals, measurements[strongest], targets, class_names, plan.level, len(scores)),
        groups=group_rows(signals, measurements[strongest], targets, dataset, plan.level, len(scores)),
        records=records,
        limits=limits(signals, targets, not_run, references),
        cost={"queries": signals.queries * signals.records * len(targets)} | facts.get("cost", {}),
        run={"seed": plan.seed} | facts.get("run", {}),
    )
    # Judged on what the findings hold, so that a run judged again without its models gets the same verdict.
    gates = judge_gates(findings, plan.gates, plan.baselines)
    judged = {
        "gates": gates,
        "verdict": overall(gates),
        "summary": summary(strongest, pooled, accuracy, gates, not_run, checks, records),
        "references": _advice(signals, targets, attacks, measurements, gates, plan) if plan.advise else None,
    }
    return Examination(findings.model_copy(update=judged), scores, proof, pooled)


def _bounds(pooled: Mapping[str, Measured], attack: Attack, plan: Plan) -> dict[str, Bounds]:
    """What gates judge one attack's figures by."""
    found = {}
    for name in ("auc", "advantage", *(f"tpr@{fpr:g}" for fpr in pooled[attack.name].tpr)):
        metric, _, fpr = name.partition("@")
        estimates = {other: measured.estimate(metric, float(fpr or 0.01)) for other, measured in pooled.items()}
        rivals = sum(estimate.value is not None for estimate in estimates.values())
        if one := bounds(estimates[attack.name], plan.level, rivals):
            found[name] = one
    return found


def _advice(
    signals: Signals,
    targets: tuple[int, ...],
    attacks: Sequence[Attack],
    measurements: Mapping[str, Measurement],
    gates: Sequence[GateResult],
    plan: Plan,
) -> ReferenceAdvice | None:
    """By the default attack, or by the one that can use most references if that was not run."""
    able = [attack for attack in attacks if attack.minimum and attack.name in measurements]
    if not able:
        return None
    attack = next((attack for attack in able if attack.name == DEFAULT), max(able, key=lambda each: each.recommended))
    clusters = int(measurements[attack.name].clusters.max()) + 1
    return advise(signals, attack, targets, gates, clusters, plan.seed)


def _checks(signals: Signals, targets: Sequence[int], dataset: Dataset | None, seed: int) -> list[CheckResult]:
    checks = check_signals(signals, targets)
    if dataset is None:
        from memberscope.signals.checks import result

        unknown = "Not checked: the records themselves were not given, only the model's outputs."
        return [result(code, "info", unknown) for code in ("MS001", "MS002", "MS003", "MS004")] + checks
    audited = np.flatnonzero(~signals.population)
    # One target stands for all: a pool draws every target's membership the same way.
    members = signals.members[targets[0]][audited]
    shown = dataset if len(audited) == len(dataset) else dataset.take(audited)
    return sorted(check_inputs(shown, members, np.random.default_rng([seed, 3])) + checks, key=lambda check: check.code)


def _results(
    attack: Attack,
    signals: Signals,
    measurement: Measurement,
    references: Mapping[int, int],
    judged: Mapping[str, Bounds],
) -> list[AttackResult]:
    def one(target: Any, measured: Measured, count: int, scored: int, pooled: bool) -> AttackResult:
        return AttackResult(
            name=attack.name,
            target=target,
            references=count if attack.minimum else 0,
            access=attack.needs(),
            records_scored=scored,
            auc=measured.auc.figure(),
            advantage=measured.advantage.figure(),
            tpr_at_fpr={f"{fpr:g}": estimate.figure() for fpr, estimate in measured.tpr.items()},
            operating_point=measurement.operating_point if pooled else None,
            parameters=dict(attack.parameters()) if pooled else {},
            bounds=dict(judged) if pooled else {},
        )

    scored = measurement.scored
    rows = [one("all", measurement.pooled, max(references.values()), int(scored.sum()), True)]
    for position, target in enumerate(measurement.scores.targets):
        rows.append(one(target, measurement.targets[position], references[target], int(scored[position]), False))
    return rows


def _strongest(pooled: Mapping[str, Measured]) -> str:
    """The attack with the highest lower bound of the TPR at 1 %, or of the AUC where no TPR can be measured."""

    def low(measured: Measured, metric: str) -> float:
        estimate = measured.estimate(metric, HEADLINE_FPR)
        return -1.0 if estimate.value is None else estimate.interval(0.95)[0]

    metric = "tpr" if any(m.tpr[HEADLINE_FPR].value is not None for m in pooled.values()) else "auc"
    return max(pooled, key=lambda name: (low(pooled[name], metric), low(pooled[name], "auc")))


def _check_same_records(signals: Signals, dataset: Dataset | None) -> None:
    if dataset is None:
        return
    if len(dataset) != signals.records or (dataset.ids != signals.ids).any():
        raise SignalsError(
            f"the data set that the signals were collected on, {signals.records} records in the same order",
            f"{len(dataset)} records" + (" with other ids" if len(dataset) == signals.records else ""),
            "Pass the same data set to collect and to audit.",
        )


def _class_names(signals: Signals, dataset: Dataset | None) -> tuple[str, ...]:
    names = dataset.class_names if dataset else signals.class_names
    return names if len(names) >= signals.classes else tuple(str(k) for k in range(signals.classes))
