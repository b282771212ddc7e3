"""Gates: pass, fail or inconclusive, by intervals and never by point estimates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from memberscope.errors import ConfigError, nearest
from memberscope.statistics.intervals import LEVEL, Estimate
from memberscope.statistics.measure import Measured
from memberscope.text import percent
from memberscope.types import Gate, GateResult
from memberscope.types.findings import Verdict


def judge(gate: Gate, measured: Mapping[str, Measured], level: float = LEVEL) -> GateResult:
    """Hold the figures over all targets against a limit.

    Fail if an attack's lower bound lies above the limit, pass if every measurable attack's upper bound lies
    below it, else inconclusive. To choose the strongest of k attacks is a selection: to fail, its lower bound
    is taken at level 1 − (1 − level)/k (Bonferroni); to pass, all must pass, which needs no correction.

    Args:
        gate: metric, limit and attack.
        measured: figures over all targets by attack.
        level: confidence of the judgement; above .95 where it is one of several.

    Raises:
        ConfigError: the gate's attack was not run.
    """
    if gate.attack != "strongest" and gate.attack not in measured:
        raise ConfigError(
            f"a gate on an attack that was run ({', '.join(measured)}) or 'strongest'",
            f"{gate.attack!r}{nearest(gate.attack, measured)}",
            "Change the gate's attack, or give the audit what that attack needs.",
        )
    names = list(measured) if gate.attack == "strongest" else [gate.attack]
    estimates = {name: measured[name].estimate(gate.metric, gate.fpr) for name in names}
    known = {name: estimate for name, estimate in estimates.items() if estimate.value is not None}
    what = f"{_METRICS[gate.metric]}{f' at {percent(gate.fpr)} false alarms' if gate.metric == 'tpr' else ''}"
    if not known:
        reason = next(iter(estimates.values())).reason if estimates else "no attack was run"
        return GateResult(
            gate=gate,
            verdict="inconclusive",
            attack=names[0] if names else "none",
            figure=Estimate.missing(reason).figure(),
            sentence=f"Inconclusive: the {what} could not be measured ({reason}).",
        )
    corrected = 1 - (1 - level) / len(known)
    lows = {name: estimate.interval(corrected)[0] for name, estimate in known.items()}
    highs = {name: estimate.interval(level)[1] for name, estimate in known.items()}
    worst = max(lows, key=lambda name: lows[name])
    if lows[worst] > gate.limit:
        verdict: Literal["pass", "fail", "inconclusive"] = "fail"
    else:
        worst = max(highs, key=lambda name: highs[name])
        verdict = "pass" if highs[worst] < gate.limit else "inconclusive"
    figure = known[worst].figure(level)
    shown = _decimals if gate.metric == "auc" else percent
    assert figure.value is not None and figure.low is not None and figure.high is not None
    limit, at, low, high = (shown(x) for x in (gate.limit, figure.value, figure.low, figure.high))
    said = {
        "fail": f"Fail: the {what} of {worst} is {at}, and at least {shown(lows[worst])}"
        f"{f' (corrected for {len(known)} attacks)' if len(known) > 1 else ''}, above the limit of {limit}.",
        "pass": f"Pass: the {what} is at most {shown(highs[worst])} ({worst}), below the limit of {limit}.",
        "inconclusive": f"Inconclusive: the {what} may lie on either side of the limit of {limit} "
        f"({worst}: {at}, from {low} to {high}). More records or targets decide it.",
    }[verdict]
    return GateResult(gate=gate, verdict=verdict, attack=worst, figure=figure, sentence=said)


def _decimals(value: float) -> str:
    return f"{value:.3f}"


_METRICS = {"tpr": "true-positive rate", "auc": "AUC", "advantage": "advantage (TPR − FPR)"}


def overall(results: list[GateResult]) -> Verdict:
    """One verdict of several gates: fail before inconclusive before pass; ``no_gate`` without any."""
    verdicts = {result.verdict for result in results}
    for verdict in ("fail", "inconclusive", "pass"):
        if verdict in verdicts:
            return verdict
    return "no_gate"
