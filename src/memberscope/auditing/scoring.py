"""Every attack on every target, scored and measured, whatever the size: one attack after the other, on all cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memberscope.attacks import ATTACKS, Attack
from memberscope.attacks.tuning import TEMPERATURES
from memberscope.errors import SignalsError
from memberscope.large import in_threads, release, threads, working_array
from memberscope.progress import progress
from memberscope.signals.derive import prepare
from memberscope.signals.references import design, targets_among_references
from memberscope.statistics.measure import Measurement
from memberscope.text import percent
from memberscope.types import NotRun, Scores, Signals

# Bytes of outputs beyond which they are read once only.
_SCATTERED = 1 << 32


@dataclass(frozen=True, eq=False)
class Scored:
    """What the attacks said.

    Args:
        scores: by attack that ran.
        measurements: likewise, every figure made.
        not_run: the others, and why.
    """

    scores: Mapping[str, Scores]
    measurements: Mapping[str, Measurement]
    not_run: list[NotRun]


def derive_all(signals: Signals, targets: Sequence[int], attacks: Sequence[Attack]) -> None:
    """Derive what the attacks will ask for in one pass over the outputs."""
    if signals.kind == "labels":
        return
    able = [attack for attack in attacks if not any(attack.lacks(signals, target) for target in targets)]
    tuned = [attack for attack in able if attack.tunes]
    wanted = {t for attack in able if attack not in tuned for t in attack.temperatures(signals, targets[0])}
    if tuned and len(signals) * signals.outputs[0].nbytes > _SCATTERED:
        # To choose on a few records spread over the files would read most of them: all are derived in one pass.
        wanted.update(TEMPERATURES)
    else:
        wanted.update(t for attack in tuned for target in targets for t in attack.temperatures(signals, target))
    prepare(signals, sorted(wanted), targets)


def score(
    signals: Signals,
    targets: tuple[int, ...],
    attacks: Sequence[Attack],
    seed: int,
    *,
    folder: Path | None = None,
    quiet: bool = True,
) -> Scored:
    """Score and measure; an attack that lacks something on any target is not run.

    Args:
        signals: of the targets and their references.
        targets: rows to audit.
        attacks: to run.
        seed: of what attacks draw and of bootstraps.
        folder: where scores lie that do not fit into memory; the signals' when None.
        quiet: show no progress.

    Raises:
        SignalsError: no attack can run.
    """
    members = signals.members[list(targets)]
    if signals.population.any():
        members &= ~signals.population
    twins, shared = design(signals).twin, targets_among_references(signals, targets)
    shape = len(targets), signals.records

    def work(attack: Attack) -> tuple[Scores, Measurement] | str:
        reason = next((reason for target in targets if (reason := attack.lacks(signals, target))), "")
        if reason:
            return reason
        number = [kind.name for kind in ATTACKS].index(attack.name) if type(attack) in ATTACKS else len(ATTACKS)
        rngs = [np.random.default_rng([seed, 4, number, target]) for target in targets]
        into = working_array(shape, np.float64, folder or signals.folder)
        values = attack.score_all(signals, targets, rngs, into)
        if reason := _too_few_scored(signals, values):
            return reason
        found = Scores(attack.name, values, members, targets)
        measurement = Measurement(found, twins, seed, shared if attack.contrasts else 0.0)
        # Made here, while the scores are still in memory.
        _ = measurement.pooled
        return found, measurement

    scores: dict[str, Scores] = {}
    measurements: dict[str, Measurement] = {}
    not_run: list[NotRun] = []
    with progress("attacks", len(attacks), quiet=quiet) as show:
        # Every attack uses all cores, target by target: two at a time would hold twice the scores in order.
        for done, attack in enumerate(attacks, 1):
            result = work(attack)
            if isinstance(result, str):
                not_run.append(NotRun(name=attack.name, reason=result))
            else:
                scores[attack.name], measurements[attack.name] = result
            show(done, attack.name)
    if not scores:
        raise SignalsError(
            "at least one attack that can run",
            "; ".join(f"{missing.name}: {missing.reason}" for missing in not_run),
            "Give more access or more reference models, or choose other attacks.",
        )
    return Scored(scores, measurements, not_run)


def _too_few_scored(signals: Signals, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    """A reason not to report an attack that could score fewer than nine records in ten."""
    missed = np.zeros(signals.records, np.int64)

    def work(row: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        unknown = np.isnan(row)
        release(row)
        return unknown if unknown.any() else None

    for unknown in in_threads(work, values, threads(values.size)):
        if unknown is not None:
            missed += unknown
    audited = ~signals.population
    share = 1 - missed[audited].sum() / (len(values) * audited.sum())
    if share >= 0.9:
        return ""
    missed[~audited] = 0
    example = str(signals.ids[int(np.argmax(missed))])
    return (
        f"only {percent(share)} of the records are IN and OUT in enough references to be scored "
        f"(not, for example, {example!r}): use complementary pairs or more references"
    )
