"""The result in plain sentences: what a reader without statistics takes home must be exactly what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memberscope.attacks import ATTACKS
from memberscope.signals.checks import OVERFITTED
from memberscope.statistics.intervals import LEVEL
from memberscope.statistics.measure import Measured
from memberscope.text import percent
from memberscope.types import Access, CheckResult, GateResult, NotRun, Signals
from memberscope.types.findings import Records

TITLES = {kind.name: kind.title for kind in ATTACKS}

# A lower bound below this is not told from what a coin would find at 1 % false alarms.
CHANCE = 0.01


def title(name: str) -> str:
    """The attack's name for readers."""
    return TITLES.get(name, name)


def headline(strongest: str, pooled: Mapping[str, Measured], targets: int) -> str:
    """The result in one sentence."""
    what = "The model" if targets == 1 else f"Each of these {targets} models, on average,"
    rate = pooled[strongest].tpr[0.01]
    if rate.value is not None:
        low = rate.interval(corrected_level(pooled))[0]
        if low > CHANCE:
            return (
                f"{what} gives away about {one_in(rate.value)} of its training records "
                "to an attacker who accepts one false alarm in a hundred."
            )
        return (
            f"No attack finds {'its' if targets == 1 else 'their'} training records better than chance "
            "at one false alarm in a hundred."
        )
    area = pooled[strongest].auc
    if area.value is not None and area.interval(corrected_level(pooled))[0] > 0.5:
        return (
            f"{what} can be told to have seen its training records better than by chance "
            f"(AUC {area.value:.3f}); too few records were held out to say how many it gives away."
        )
    return "No attack tells training records from others better than chance; few records were held out."


def corrected_level(pooled: Mapping[str, Measured]) -> float:
    """Confidence level of one attack when the strongest of all is picked (Bonferroni)."""
    return 1 - (1 - LEVEL) / len(pooled)


def one_in(rate: float) -> str:
    """A rate as "1 in 8", or in per cent above one third.

    >>> one_in(0.123), one_in(0.45).replace("\\u00a0", " ")
    ('1 in 8', '45 %')
    """
    return percent(round(rate, 2)) if rate > 1 / 3 else f"1 in {round(1 / rate)}"


def summary(
    strongest: str,
    pooled: Mapping[str, Measured],
    accuracy: Mapping[str, Any],
    gates: Sequence[GateResult],
    not_run: Sequence[NotRun],
    checks: Sequence[CheckResult],
    records: Records | None,
) -> list[str]:
    """How sure, why, what was not tested, what to do next."""
    said = [gate.sentence for gate in gates]
    rate = pooled[strongest].tpr[0.01]
    if rate.value is not None:
        low, high = rate.interval(corrected_level(pooled))
        said.append(
            f"The strongest attack is {title(strongest)}: {percent(rate.value)} of the members found at "
            f"{percent(0.01)} false alarms ({percent(low)} to {percent(high)}, "
            f"corrected for picking it from {len(pooled)} attacks)."
        )
    train, test = accuracy["train_accuracy"]["value"], accuracy["test_accuracy"]["value"]
    if train is not None and test is not None:
        overfitted = train - test > OVERFITTED
        said.append(
            f"Accuracy is {percent(train)} on training records and {percent(test)} on others: the model "
            + ("is overfitted, and part of the leakage comes from that." if overfitted else "generalises.")
        )
    if records is not None and records.flagged:
        said.append(
            f"{records.flagged:,} of {records.members:,} training records of a model can be named at a "
            f"false-discovery rate of {percent(records.q)}."
        )
    elif records is not None:
        said.append("No single training record can be named with confidence.")
    if not_run:
        reasons = {missing.reason for missing in not_run}
        why = next(iter(reasons)) if len(reasons) == 1 else f"{len(reasons)} reasons, listed below"
        said.append(f"{len(not_run)} attack{'s were' if len(not_run) > 1 else ' was'} not run ({why}).")
    serious = [check for check in checks if check.level == "error"]
    if serious:
        said.append("Do not rely on these figures: " + " ".join(check.message for check in serious))
    warned = [check for check in checks if check.level == "warning"]
    if warned:
        said.append(
            f"{len(warned)} check{'s' * (len(warned) > 1)} warned: " + "; ".join(c.title.lower() for c in warned) + "."
        )
    leaks = rate.value is not None and rate.interval(corrected_level(pooled))[0] > CHANCE
    said.append(next_step(gates, checks, leaks=leaks, measured=rate.value is not None))
    return said


def next_step(gates: Sequence[GateResult], checks: Sequence[CheckResult], *, leaks: bool, measured: bool) -> str:
    """What to do next, the last sentence of the summary.

    Args:
        gates: as they were judged.
        checks: of the audit.
        leaks: whether the strongest attack finds more at 1 % false alarms than chance does.
        measured: whether that could be measured.
    """
    few = any(check.code == "MS010" and check.level == "warning" for check in checks)
    if any(gate.verdict == "fail" for gate in gates) or leaks:
        return "What to do next: look at the exposed records, then train with a defence and audit again."
    if any(gate.verdict == "inconclusive" for gate in gates) or not measured:
        return "What to do next: hold out more records or audit more targets until the interval decides."
    if few:
        return "What to do next: add reference models before relying on this result; a stronger attacker has them."
    return "What to do next: keep this result as the baseline and audit every release against it."


def threat_model(signals: Signals, references: int) -> dict[str, str]:
    """Who the attacker is, what it sees, what it knows."""
    seen = {
        Access.LABEL: "the predicted class only",
        Access.TOP_K: "the highest scores only",
        Access.ROUNDED: "rounded class probabilities",
        Access.SCORES: "class probabilities in full precision",
        Access.LOGITS: "logits (equal to full-precision probabilities for these attacks)",
        Access.GRADIENTS: "the model itself",
    }[signals.access]
    knows = (
        f"how the model was trained, and data to train {references} reference models like it"
        if references
        else "nothing but the model's answers"
    )
    return {
        "release": "Anyone who can query the model about a record and its label.",
        "access": f"The attacker sees {seen}, {signals.queries} answer{'s' * (signals.queries > 1)} a record.",
        "knowledge": f"The attacker has candidate records with their labels and knows {knows}.",
        "assumptions": "Candidates are members or non-members drawn from the same source; half of them are members "
        "unless stated otherwise.",
    }


def limits(
    signals: Signals, targets: Sequence[int], not_run: Sequence[NotRun], references: Mapping[int, int]
) -> list[str]:
    """What the result does not say."""
    said = [
        "This is not a determination of anonymity: attacks not run, or not yet known, may find more.",
        "Figures are averages over the audited records; single records may be exposed far more, as the list shows.",
    ]
    if len(targets) == 1:
        said.append("One model was audited: another model of the same recipe and another draw of records will differ.")
    else:
        said.append("Intervals are over models of this pool and its records, not over other data sets or recipes.")
    if min(references.values()) < 64:
        said.append(f"With {min(references.values())} references; an attacker with more may find more.")
    if signals.queries == 1:
        said.append("Each record was asked about once; attackers who ask about variations of a record may find more.")
    if not_run:
        said.append("Not run: " + ", ".join(title(missing.name) for missing in not_run) + ".")
    return said
