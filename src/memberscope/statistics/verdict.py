"""Gates: pass, fail or inconclusive, by intervals and never by point estimates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from memberscope.errors import ConfigError, nearest
from memberscope.statistics.intervals import LEVEL, Estimate
from memberscope.statistics.measure import Measured
from memberscope.text import percent
from memberscope.types import Figure, Gate, GateResult
from memberscope.types.findings import Bounds, Verdict

Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Candidate:
    """One of the figures that a gate holds against its limit.

    Args:
        name: of the attack, or of the row of a group.
        value: the figure.
        low: bound at the confidence of the judgement.
        high: likewise.
        corrected_low: bound that allows for picking this one of all that are judged.
    """

    name: str
    value: float
    low: float
    high: float
    corrected_low: float

    @property
    def figure(self) -> Figure:
        """As it stands in a gate's result."""
        return Figure(value=self.value, low=min(self.low, self.value), high=max(self.high, self.value))


def decide(limit: float, candidates: Sequence[Candidate], *, complete: bool = True) -> tuple[Outcome, Candidate]:
    """Hold several figures against one limit; the verdict, and the figure that decided it.

    Fail if a corrected lower bound lies above the limit: one of k was picked, so it is taken at level
    1 − (1 − level)/k (Bonferroni). Pass if every upper bound lies below it: all must, which needs no correction.

    Args:
        limit: that every figure must keep.
        candidates: at least one.
        complete: whether every figure that should be judged could be measured; without, nothing passes.
    """
    worst = max(candidates, key=lambda one: one.corrected_low)
    if worst.corrected_low > limit:
        return "fail", worst
    worst = max(candidates, key=lambda one: one.high)
    return ("pass" if complete and worst.high < limit else "inconclusive"), worst


def bounds(estimate: Estimate, level: float, choices: int) -> Bounds | None:
    """What gates judge an estimate by, None if it could not be made.

    Args:
        estimate: of one of ``choices`` figures from which the worst may be picked.
        level: confidence of the judgement.
        choices: 1 or more.
    """
    if estimate.value is None:
        return None
    corrected = 1 - (1 - level) / max(choices, 1)
    (low, high), (corrected_low, corrected_high) = estimate.interval(level), estimate.interval(corrected)
    return Bounds(
        level=level,
        low=low,
        high=high,
        corrected_level=corrected,
        corrected_low=corrected_low,
        corrected_high=corrected_high,
    )


def judge(gate: Gate, measured: Mapping[str, Measured], level: float = LEVEL) -> GateResult:
    """Hold the figures over all targets against a limit, as :func:`decide` says.

    Args:
        gate: metric, limit and attack; neither by group nor a regression.
        measured: figures over all targets by attack.
        level: confidence of the judgement; above .95 where it is one of several.

    Raises:
        ConfigError: the gate's attack was not run.
    """
    check_attack(gate, measured)
    names = list(measured) if gate.attack == "strongest" else [gate.attack]
    estimates = {name: measured[name].estimate(gate.metric, gate.fpr) for name in names}
    known = {name: estimate for name, estimate in estimates.items() if estimate.value is not None}
    candidates = [
        Candidate(name, estimate.value, found.low, found.high, found.corrected_low)
        for name, estimate in known.items()
        if estimate.value is not None and (found := bounds(estimate, level, len(known)))
    ]
    reason = next(iter(estimates.values())).reason if estimates else "no attack was run"
    return against_limit(gate, candidates, names[0] if names else "none", reason)


def check_attack(gate: Gate, run: Mapping[str, object]) -> None:
    """Raise a ConfigError unless the gate's attack is among those that were run."""
    if gate.attack != "strongest" and gate.attack not in run:
        raise ConfigError(
            f"a gate on an attack that was run ({', '.join(run)}) or 'strongest'",
            f"{gate.attack!r}{nearest(gate.attack, run)}",
            "Change the gate's attack, or give the audit what that attack needs.",
        )


def against_limit(gate: Gate, candidates: Sequence[Candidate], attack: str, reason: str) -> GateResult:
    """The result of a gate on attacks.

    Args:
        gate: with a limit.
        candidates: one an attack.
        attack: named where there is no candidate.
        reason: why there is none.
    """
    assert gate.limit is not None
    what = metric_of(gate)
    if not candidates:
        return unmeasured(gate, attack, reason)
    verdict, worst = decide(gate.limit, candidates)
    figure, shown = worst.figure, shower(gate)
    assert figure.low is not None and figure.high is not None
    limit, at, low, high = (shown(x) for x in (gate.limit, worst.value, figure.low, figure.high))
    said = {
        "fail": f"Fail: the {what} of {worst.name} is {at}, and at least {shown(worst.corrected_low)}"
        f"{f' (corrected for {len(candidates)} attacks)' if len(candidates) > 1 else ''}, above the limit of {limit}.",
        "pass": f"Pass: the {what} is at most {shown(worst.high)} ({worst.name}), below the limit of {limit}.",
        "inconclusive": f"Inconclusive: the {what} may lie on either side of the limit of {limit} "
        f"({worst.name}: {at}, from {low} to {high}). More records or targets decide it.",
    }[verdict]
    return GateResult(gate=gate, verdict=verdict, attack=worst.name, figure=figure, sentence=said)


def unmeasured(gate: Gate, attack: str, reason: str) -> GateResult:
    """The result of a gate whose figure could not be measured."""
    return GateResult(
        gate=gate,
        verdict="inconclusive",
        attack=attack,
        figure=Figure.not_measurable(reason),
        sentence=f"Inconclusive: the {metric_of(gate)} could not be measured ({reason}).",
    )


def metric_of(gate: Gate) -> str:
    """The gate's metric in a sentence."""
    return f"{_METRICS[gate.metric]}{f' at {percent(gate.fpr)} false alarms' if gate.metric == 'tpr' else ''}"


def shower(gate: Gate) -> Callable[[float], str]:
    """How figures of the gate's metric are written: an area with decimals, a rate in per cent."""
    return _decimals if gate.metric == "auc" else percent


def _decimals(value: float) -> str:
    return f"{value:.3f}"


_METRICS = {"tpr": "true-positive rate", "auc": "AUC", "advantage": "advantage (TPR − FPR)"}


def overall(results: Sequence[GateResult]) -> Verdict:
    """One verdict of several gates: fail before inconclusive before pass; ``no_gate`` without any."""
    verdicts = {result.verdict for result in results}
    for verdict in ("fail", "inconclusive", "pass"):
        if verdict in verdicts:
            return verdict
    return "no_gate"
