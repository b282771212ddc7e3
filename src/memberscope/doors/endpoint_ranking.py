"""Candidates of unknown membership: ranked, and no figure that would need to know the truth."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from memberscope import __version__
from memberscope.analysis.exposed import EVIDENCE, FALSE_DISCOVERIES, LISTED, p_values
from memberscope.attacks import Attack
from memberscope.auditing.wording import threat_model, title
from memberscope.config import write_yaml
from memberscope.data.checks import check_inputs
from memberscope.doors.conclude import Story, Wanted
from memberscope.doors.endpoint_queries import NoiseRobustness
from memberscope.doors.endpoint_records import Records
from memberscope.errors import SignalsError
from memberscope.files import atomic, write_text
from memberscope.run_folder import as_json, report
from memberscope.signals.references import reference_rows
from memberscope.statistics.intervals import benjamini_hochberg
from memberscope.text import percent
from memberscope.types import AttackResult, CheckResult, Figure, Findings, NotRun, Scores, Signals
from memberscope.types.findings import RecordRow
from memberscope.types.findings import Records as Exposed

Floats = NDArray[np.float64]

# Compares with records known to be non-members, of which there are none without a population.
_NEEDS_POPULATION = ("attack_p",)

_UNKNOWN = "which candidates are members is not known"
_NO_RATE = (
    "No false-alarm rate can be stated: without a population of known non-members nobody can say how often a record "
    "that the model never saw would score as high. Pass --population to have p-values."
)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Candidates by the attack that ranks them.

    Args:
        attack: its name.
        order: ``(n,)`` rows of the candidates, the most likely member first.
        p_values: ``(N,)``, NaN without a population and for the population itself.
        adjusted: ``(N,)`` after Benjamini-Hochberg over the candidates.
    """

    attack: str
    order: NDArray[np.int64]
    p_values: Floats
    adjusted: Floats


def rank(signals: Signals, records: Records, wanted: Wanted, story: Story, *, calibrated: bool) -> Findings:
    """Score the candidates and write a run folder without figures that would need the truth.

    Args:
        signals: the endpoint's outputs as row 0. Row 0 of ``members`` says who is a candidate; without a population
            it says nothing, and no attack that is run here reads it.
        records: in the order of the signals.
        wanted: what was asked for.
        story: what the door has to say.
        calibrated: there is a population.
    """
    with story.clock("audit"):
        scores, not_run = _scores(signals, wanted, calibrated)
        ranking = _ranking(scores, records, calibrated)
    findings = _findings(signals, records, scores, not_run, ranking, wanted, story, calibrated)
    if wanted.out is not None:
        write_text(wanted.out / "config.yaml", write_yaml(wanted.config))
        _write_records(wanted, records, scores, ranking)
        write_text(wanted.out / "findings.json", as_json(findings))
        report(wanted.out, dataset=records.dataset, anew=True)
    return findings


def _scores(signals: Signals, wanted: Wanted, calibrated: bool) -> tuple[dict[str, Floats], list[NotRun]]:
    scores: dict[str, Floats] = {}
    not_run: list[NotRun] = []
    attacks: Sequence[Attack] = [each for each in wanted.attacks or () if isinstance(each, Attack)]
    for number, attack in enumerate(attacks):
        reason = attack.lacks(signals, 0)
        if not reason and not calibrated and attack.name in _NEEDS_POPULATION:
            reason = "needs a population of known non-members"
        if not reason:
            values = attack(signals, 0, np.random.default_rng([wanted.seed, 4, number]))
            scored = float(np.mean(~np.isnan(values)))
            if scored < 0.9:
                reason = f"only {percent(scored)} of the records can be scored with these references"
            else:
                scores[attack.name] = values
        if reason:
            not_run.append(NotRun(name=attack.name, reason=reason))
    if not scores:
        raise SignalsError(
            "at least one attack that can run",
            "; ".join(f"{missing.name}: {missing.reason}" for missing in not_run),
            "Choose other attacks, or leave --attack out.",
        )
    return scores, not_run


def _ranking(scores: dict[str, Floats], records: Records, calibrated: bool) -> Ranking:
    # Fixed in advance and not chosen by the result; copies tell more than being right once.
    order = [name for name in EVIDENCE if name != "gap"]
    name = next((each for each in (*order, NoiseRobustness.name, "gap") if each in scores), next(iter(scores)))
    values, candidates = scores[name], records.candidates
    p, adjusted = np.full((2, len(values)), np.nan)
    if calibrated:
        found = p_values(Scores(name, values[None], ~records.population[None], (0,)))[0]
        p[candidates] = found[candidates]
        known = candidates[~np.isnan(p[candidates])]
        adjusted[known] = benjamini_hochberg(p[known])
    ranked = np.nan_to_num(values[candidates], nan=-np.inf)
    # Equal scores in the order of the ids: the same whichever answer came first.
    places = np.lexsort((records.dataset.ids[candidates], -ranked))
    return Ranking(name, candidates[places], p, adjusted)


def _findings(
    signals: Signals,
    records: Records,
    scores: dict[str, Floats],
    not_run: list[NotRun],
    ranking: Ranking,
    wanted: Wanted,
    story: Story,
    calibrated: bool,
) -> Findings:
    count, references = len(ranking.order), len(reference_rows(signals, 0))
    flagged = int((ranking.adjusted <= FALSE_DISCOVERIES).sum())
    unknown = Figure.not_measurable(_UNKNOWN)
    first = ", ".join(str(each) for each in records.dataset.ids[ranking.order[:10]])
    summary = [
        f"Which of the {count:,} candidates are members is not known: they are ranked, and how many members the attack "
        "finds cannot be measured.",
        f"Ranked by {title(ranking.attack)}, the most likely members first: {first}.",
        f"P-values compare with {int(records.population.sum()):,} records of the population: {flagged:,} candidates "
        f"stand out at a false-discovery rate of {percent(FALSE_DISCOVERIES)}, if candidates that are no members are "
        "like the population."
        if calibrated
        else _NO_RATE,
        *story.sentences,
        "What to do next: give candidates of known membership to measure how much the endpoint leaks.",
    ]
    facts = {key: dict(value) for key, value in story.facts.items()}
    seconds = {step: round(each, 2) for step, each in story.clock.seconds.items()}
    return Findings(
        name=wanted.name,
        verdict="no_gate",
        headline=f"{flagged:,} of {count:,} candidates stand out from records that the model never saw."
        if calibrated
        else f"{count:,} candidates are ranked; how many of them are members, and how sure that is, cannot be said.",
        summary=summary,
        data={
            "name": records.dataset.name,
            "kind": records.dataset.kind,
            "records": len(records.dataset),
            "classes": signals.classes,
            "class_names": list(signals.class_names),
            "fingerprint": records.dataset.fingerprint,
        }
        | facts.get("data", {}),
        model=facts.get("model", {}),
        populations={
            "models": len(signals),
            "targets": 1,
            "references": references,
            "candidates": count,
            "population": int(records.population.sum()),
            "queries": 1,
        },
        threat_model=threat_model(signals, references) | dict(story.threat),
        checks=_checks(records, wanted.seed) if calibrated else [],
        attacks=[
            AttackResult(
                name=attack.name,
                target="all",
                references=references if attack.minimum else 0,
                access=attack.needs(),
                records_scored=int((~np.isnan(scores[attack.name])).sum()),
                auc=unknown,
                advantage=unknown,
                tpr_at_fpr=dict.fromkeys(("0.1", "0.01", "0.001"), unknown),
                parameters=dict(attack.parameters()),
            )
            for attack in wanted.attacks or ()
            if isinstance(attack, Attack) and attack.name in scores
        ],
        not_run=not_run,
        strongest=ranking.attack,
        gates=[],
        curves=[],
        histograms=[],
        classes=[],
        records=_exposed(signals, records, scores[ranking.attack], ranking, flagged) if calibrated else None,
        limits=[
            "This is not a determination of anonymity: attacks not run, or not yet known, may find more.",
            "A rank or a p-value is no proof that a record was a member.",
            *([] if calibrated else [_NO_RATE]),
        ],
        cost=facts.get("cost", {}),
        run={
            "seed": wanted.seed,
            "memberscope": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": seconds,
        },
    )


def _checks(records: Records, seed: int) -> list[CheckResult]:
    """Whether candidates and population are alike: else p-values compare two sources."""
    return check_inputs(records.dataset, ~records.population, np.random.default_rng([seed, 3]))


def _exposed(signals: Signals, records: Records, values: Floats, ranking: Ranking, flagged: int) -> Exposed:
    ids, labels, names = records.dataset.ids, records.dataset.labels, signals.class_names
    return Exposed(
        attack=ranking.attack,
        q=FALSE_DISCOVERIES,
        flagged=flagged,
        members=len(ranking.order),
        share=Figure.not_measurable(f"{_UNKNOWN}; these are all candidates"),
        always=0,
        top=[
            RecordRow(
                id=str(ids[row]),
                label=int(labels[row]),
                label_name=names[labels[row]] if labels[row] < len(names) else str(labels[row]),
                score=float(values[row]),
                p_value=float(ranking.p_values[row]),
                adjusted_p_value=float(ranking.adjusted[row]),
                support_in=int(ranking.adjusted[row] <= FALSE_DISCOVERIES),
                targets_in=1,
                support_out=0,
                targets_out=0,
            )
            for row in ranking.order[:LISTED].tolist()
            if ranking.adjusted[row] <= FALSE_DISCOVERIES
        ],
    )


def _write_records(wanted: Wanted, records: Records, scores: dict[str, Floats], ranking: Ranking) -> None:
    """records.csv: the candidates in the order of the ranking, p-values empty without a population."""
    assert wanted.out is not None
    with atomic(wanted.out / "records.csv") as binary:
        file = io.TextIOWrapper(binary, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(file)
        writer.writerow(["rank", "id", "label", *scores, "p_value", "adjusted_p_value", "flagged"])
        for place, row in enumerate(ranking.order.tolist(), 1):
            proof = ["", "", ""]
            if not np.isnan(ranking.p_values[row]):
                said = ranking.adjusted[row] <= FALSE_DISCOVERIES
                proof = [f"{ranking.p_values[row]:.6g}", f"{ranking.adjusted[row]:.6g}", str(int(said))]
            shown = [("" if np.isnan(values[row]) else f"{values[row]:.6g}") for values in scores.values()]
            writer.writerow([place, records.dataset.ids[row], int(records.dataset.labels[row]), *shown, *proof])
        file.detach()
