"""Checks on outputs and membership before an audit (codes MS005 to MS014)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from memberscope.checks import CODES
from memberscope.large import in_threads, release, threads
from memberscope.signals.derive import correct_row
from memberscope.signals.distributions import saturated_share
from memberscope.signals.references import counts, reference_rows
from memberscope.text import percent
from memberscope.types import Access, CheckResult, Signals

OVERFITTED = 0.10
SIZE_TOLERANCE = 0.05
FEW_REFERENCES = 16


def result(code: str, level: Literal["ok", "info", "warning", "error"], message: str) -> CheckResult:
    """A check's finding with the title and, unless all is well, the action of its code."""
    known = CODES[code]
    return CheckResult(
        code=code,
        level=level,
        title=known.title,
        message=message,
        action="" if level == "ok" else known.action,
    )


def check_signals(signals: Signals, targets: Sequence[int]) -> list[CheckResult]:
    """All checks that need no inputs, in the order of their codes."""
    checks = [_false_alarms(signals, targets), *_resolution(signals, targets)]
    references = max(len(reference_rows(signals, target)) for target in targets)
    if references:
        checks.append(_sizes(signals, targets))
    count = len(targets) * signals.records
    rates = np.array(list(in_threads(lambda target: accuracies(signals, target), targets, threads(count))))
    checks.append(_gap(rates))
    checks.append(_references(references))
    if references:
        checks += [_counting(signals, targets), _both_sides(signals, targets)]
    checks += [_chance(signals, rates), _twice(signals)]
    return sorted(checks, key=lambda check: check.code)


def _false_alarms(signals: Signals, targets: Sequence[int]) -> CheckResult:
    audited = ~signals.population
    count = sum(int((~signals.members[target] & audited).sum()) for target in targets)
    said = f"{count:,} scored non-members over {len(targets)} target{'s' * (len(targets) > 1)}"
    if count < 1_000:
        return result(
            "MS005",
            "warning",
            f"{said}: rates at {percent(0.01)} and {percent(0.001)} false alarms cannot be measured.",
        )
    if count < 10_000:
        return result("MS005", "info", f"{said}: enough for {percent(0.01)}, not for {percent(0.001)}.")
    return result("MS005", "ok", f"{said}: enough for {percent(0.001)}.")


def _resolution(signals: Signals, targets: Sequence[int]) -> list[CheckResult]:
    if signals.kind != "probabilities":
        return []
    share = max(saturated_share(signals, row) for row in targets)
    level: Literal["ok", "warning"] = "warning" if share > 0.01 else "ok"
    found = [result("MS006", level, f"{percent(share)} of a target's answers are saturated (0 or 1 for the label).")]
    if signals.access == Access.ROUNDED:
        found.append(result("MS007", "warning", f"Probabilities are rounded to {signals.digits} decimals."))
    else:
        found.append(result("MS007", "ok", "Probabilities are not rounded."))
    return found


def _sizes(signals: Signals, targets: Sequence[int]) -> CheckResult:
    sizes = signals.members.sum(axis=1)
    worst = 0.0
    for target in targets:
        others = sizes[reference_rows(signals, target)]
        if len(others):
            worst = max(worst, float(np.abs(others - sizes[target]).max() / sizes[target]))
    said = f"A reference's number of training records differs from its target's by at most {percent(worst)}."
    return result("MS008", "warning" if worst > SIZE_TOLERANCE else "ok", said)


def accuracies(signals: Signals, target: int) -> tuple[float, float]:
    """Accuracy of one model on its members and on its audited non-members."""
    correct = correct_row(signals, target)
    correct = correct[:, 0] if correct.shape[1] == 1 else correct.mean(axis=1)
    members = signals.members[target]
    return float(correct[members].mean()), float(correct[~members & ~signals.population].mean())


def _gap(rates: NDArray[np.float64]) -> CheckResult:
    train, test = rates.mean(axis=0)
    said = f"Training accuracy {percent(train)}, test accuracy {percent(test)}"
    if train - test > OVERFITTED:
        return result("MS009", "warning", f"{said}: the model is overfitted.")
    return result("MS009", "ok", f"{said}: the model generalises; leakage found here is beyond overfitting.")


def _references(count: int) -> CheckResult:
    if not count:
        return result("MS010", "warning", "No reference models: only attacks with a global threshold were run.")
    said = f"{count} reference model{'s' * (count > 1)} a target"
    return result("MS010", "warning" if count < FEW_REFERENCES else "ok", f"{said}.")


def _counting(signals: Signals, targets: Sequence[int]) -> CheckResult:
    """Rank correlation of the number of IN references with membership: a score that no attack may profit from."""
    audited = ~signals.population

    def work(target: int) -> float:
        count = counts(signals, target)[0][audited]
        member = signals.members[target][audited]
        m, n = int(member.sum()), int((~member).sum())
        if count.min() == count.max() or not m or not n:
            return 0.0
        ranks = rankdata(count)
        area = (ranks[member].sum() - m * (m + 1) / 2) / (m * n)
        # Null variance of the Mann-Whitney statistic, ties included.
        return float(abs(area - 0.5) / np.sqrt(ranks.var() / (m * n * (m + n - 1))))

    worst = max(in_threads(work, targets, threads(len(targets) * signals.records)))
    # Bonferroni over targets at about 1 in 10,000.
    limit = 4.0 + 0.5 * np.log10(len(targets))
    if worst > limit:
        return result(
            "MS011",
            "error",
            f"How many references trained on a record tells members from non-members ({worst:.0f} standard errors).",
        )
    return result("MS011", "ok", "The number of references trained on a record says nothing about membership.")


def _both_sides(signals: Signals, targets: Sequence[int]) -> CheckResult:
    audited = ~signals.population
    short = 0
    example = ""

    def work(target: int) -> NDArray[np.int64]:
        inside, outside = counts(signals, target)
        return np.flatnonzero((np.minimum(inside, outside) < 2) & audited)

    workers = threads(len(targets) * signals.records)
    for target, few in zip(targets, in_threads(work, targets, workers), strict=True):
        if len(few) > short:
            short = len(few)
            example = f" of target {target}, for example {str(signals.ids[few[0]])!r}"
    if short:
        return result(
            "MS012",
            "warning",
            f"{short:,} records{example}, are IN or OUT in fewer than 2 references and are left out by some attacks.",
        )
    return result("MS012", "ok", "Every record is IN and OUT in at least 2 references of every target.")


def _chance(signals: Signals, rates: NDArray[np.float64]) -> CheckResult:
    test = float(rates[:, 1].mean())
    chance = float(np.bincount(signals.labels).max() / signals.records) if signals.classes == 2 else 1 / signals.classes
    if signals.classes == 2:
        chance = min(chance, 0.5)
    level: Literal["ok", "warning"] = "warning" if test < 0.9 * chance else "ok"
    return result(
        "MS013",
        level,
        f"Test accuracy {percent(test)}; guessing one of {signals.classes} classes gives {percent(chance)}.",
    )


def _twice(signals: Signals) -> CheckResult:
    seen: dict[str, int] = {}
    # A few runs of records: a mapped file is read in long stretches, so that single ones spread over it cost all of it.
    starts = np.linspace(0, max(signals.records - 64, 0), 8).round().astype(int)
    sample = np.unique(np.minimum(starts[:, None] + np.arange(64), signals.records - 1))
    for row, outputs in enumerate(signals.outputs):
        # Labels alone agree between good models; only scores identify a model.
        digest = hashlib.sha256(outputs[sample].tobytes()).hexdigest()
        release(outputs)
        if signals.kind != "labels" and digest in seen:
            return result("MS014", "error", f"Models {seen[digest]} and {row} give the same outputs.")
        seen[digest] = row
    return result("MS014", "ok", "No two models give the same outputs.")
