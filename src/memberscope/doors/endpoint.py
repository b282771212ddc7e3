"""Door 4: a model behind an HTTP endpoint, attacked within budgets and without asking anything twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.attacks import Attack
from memberscope.auditing.plan import chosen_attacks
from memberscope.doors.conclude import Gates, Story, Wanted, as_gates, conclude
from memberscope.doors.endpoint_asking import Cost, Session
from memberscope.doors.endpoint_asking import estimate as _estimate
from memberscope.doors.endpoint_queries import query_attacks
from memberscope.doors.endpoint_ranking import rank
from memberscope.doors.endpoint_records import Records, read_records
from memberscope.doors.endpoint_references import References, read_references, without_members
from memberscope.errors import ConfigError, SignalsError
from memberscope.targets.http.config import Endpoint
from memberscope.targets.http.detect import Given, Seen, arrays
from memberscope.targets.http.secrets import Secrets
from memberscope.types import Findings, Signals
from memberscope.work import Clock

# Fewer answered records than this on either side say nothing about a model.
FEWEST = 2


def attack_endpoint(
    endpoint: Endpoint | Mapping[str, Any] | str | Path,
    candidates: str | Path,
    *,
    population: str | Path | None = None,
    references: str | Path | None = None,
    attacks: Sequence[str | Attack] | None = None,
    gate: Gates = (),
    name: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    quiet: bool = True,
) -> Findings:
    """Ask an endpoint about candidate records and attack what it answers.

    Args:
        endpoint: its description: an object, a mapping, or a YAML file.
        candidates: CSV, TSV, Parquet or NPZ with id, label, inputs and, where it is known, a column ``member``.
        population: likewise, records that are certainly no members: they calibrate attacks and p-values.
        references: an NPZ of reference models' outputs on the same ids (see ``read_references``).
        attacks: to run; all that the access admits when None.
        gate: limits to hold the result against; only where membership is known.
        name: what the report calls the audit.
        seed: of the order of the questions, perturbed copies, folds and bootstraps.
        out: the run folder, ``runs/NAME`` when None. It holds the transcript: a run that was stopped at any instant
            goes on from there, and nothing that was answered is asked twice.
        quiet: show no progress.

    Returns:
        With known membership the findings of an audit; without it a ranking, in ``records.csv``, with p-values if
        there is a population, and nothing that needs the truth.

    Raises:
        EndpointError: the endpoint does not answer as described.
        ConfigError: a description that is wrong, a secret that is unset, a gate without known membership.
        DataError, SignalsError: records or reference outputs that do not fit.
    """
    endpoint = _described(endpoint)
    gates = as_gates(gate)
    # Checked before anything is asked: requests may cost money.
    base = chosen_attacks(attacks)
    name = name or endpoint.name or "endpoint"
    folder = Path(out) if out is not None else Path("runs") / name
    clock = Clock()
    with clock("read"):
        records = read_records(Path(candidates), None if population is None else Path(population), endpoint.classes)
    if gates and records.members is None:
        raise ConfigError(
            f"a column 'member' in {candidates} for a gate",
            "candidates of unknown membership",
            "Leave the gate out, or say of every candidate whether the model was trained on it.",
        )
    secrets = Secrets.of(endpoint.uri, endpoint.headers, endpoint.request, endpoint.proxy)
    config = {
        "name": name,
        "endpoint": endpoint.resolved(),
        "candidates": str(candidates),
        "population": None if population is None else str(population),
        "references": None if references is None else str(references),
        "gate": [each.model_dump() for each in gates],
        "seed": seed,
        "out": str(folder),
    }
    with secrets.guard():
        with clock("ask"), Session.open(endpoint, records.dataset, folder, secrets, seed, quiet) as session:
            seen, answers = session.ask_records()
            rows = sorted(answers)
            # In the random order of the questions, for what a budget leaves out here too.
            wanted_rows = [int(row) for row in session.order if int(row) in answers]
            if records.members is not None:
                wanted_rows = [row for row in wanted_rows if not records.population[row]]
            made = [
                each.attack(session.predicted, records.dataset, wanted_rows) for each in query_attacks(endpoint, seed)
            ]
            facts, left_out = session.facts(), session.skipped()
        index = np.array(rows, np.int64)
        answered = records.take(index)
        given = arrays([answers[row] for row in rows], seen, records.dataset.class_names)
        others = None
        if references is not None:
            others = read_references(Path(references), answered.dataset.ids, given, seen)
        kept = np.zeros(len(records.dataset), np.bool_)
        kept[index] = True
        if others is not None and others.outside:
            base = tuple(without_members(each) for each in base)
        chosen = [*base, *(make(kept) for make in made)]
        story = _story(endpoint, seen, records, left_out, others, facts, clock)
        wanted = Wanted(chosen, gates, name, seed, folder, quiet, config)
        if answered.members is None:
            return rank(_signals(answered, given, others), answered, wanted, story, calibrated=population is not None)
        _check_sides(answered)
        return conclude(_signals(answered, given, others), wanted, story, answered.dataset)


def estimate_endpoint(
    endpoint: Endpoint | Mapping[str, Any] | str | Path,
    candidates: str | Path,
    *,
    population: str | Path | None = None,
    name: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Cost:
    """What :func:`attack_endpoint` with the same arguments would send; nothing is sent or written."""
    endpoint = _described(endpoint)
    folder = Path(out) if out is not None else Path("runs") / (name or endpoint.name or "endpoint")
    records = read_records(Path(candidates), None if population is None else Path(population), endpoint.classes)
    return _estimate(endpoint, records.dataset, folder, seed)


def _described(endpoint: Endpoint | Mapping[str, Any] | str | Path) -> Endpoint:
    if isinstance(endpoint, Endpoint):
        return endpoint
    return Endpoint.parse(endpoint) if isinstance(endpoint, Mapping) else Endpoint.read(Path(endpoint))


def _signals(records: Records, given: Given, references: References | None) -> Signals:
    """The endpoint as row 0; where membership is unknown, the candidates are taken for members."""
    members = records.members
    if members is None:
        members = ~records.population
        if not records.population.any():
            # Nobody reads it, but a model needs both kinds: see ``rank``.
            members = np.arange(len(members)) > 0
    rows: tuple[NDArray[Any], ...] = (given.outputs,)
    table = members[None]
    if references is not None:
        rows += references.outputs
        table = np.concatenate([table, references.members])
    population = records.population if records.members is not None else np.zeros(len(members), np.bool_)
    if references is not None and references.members[:, population].any():
        raise SignalsError(
            "a population that no reference was trained on",
            f"{int(references.members[:, population].any(axis=0).sum()):,} records that one was",
            "Use records outside every training set as population.",
        )
    return Signals(
        rows,
        given.kind,
        table,
        records.dataset.labels,
        records.dataset.ids,
        population,
        given.names,
        outside=references is not None and references.outside,
    )


def _check_sides(records: Records) -> None:
    assert records.members is not None
    members = records.members[~records.population]
    inside, outside = int(members.sum()), int((~members).sum())
    if inside < FEWEST or outside < FEWEST:
        raise SignalsError(
            f"answers about at least {FEWEST} members and {FEWEST} non-members",
            f"{inside} members and {outside} non-members",
            "Raise budget.requests, or give more candidates of both kinds.",
        )


def _story(
    endpoint: Endpoint,
    seen: Seen,
    records: Records,
    left_out: tuple[int, int],
    references: References | None,
    cost: Mapping[str, Any],
    clock: Clock,
) -> Story:
    host = endpoint.uri
    sentences = [f"The endpoint gives {seen.sentence}: access level {seen.level}."]
    refused, open_ = left_out
    if refused:
        sentences.append(f"The endpoint refused {refused:,} of {len(records.dataset):,} records, which are left out.")
    if open_:
        sentences.append(
            f"{open_:,} of {len(records.dataset):,} records have no answer: the budgets were used up or the endpoint "
            "failed. They are left out, and were drawn at random unless the endpoint fails on some kinds of record."
        )
    shown = f"{seen.sentence}; what is left is spread evenly over the other classes" if seen.level == "top_k" else None
    threat = {
        "release": f"Anyone who may call {host}.",
        "access": f"The attacker sees {shown or seen.sentence}, over HTTP, within the budget of "
        f"{endpoint.budget.requests:,} requests.",
    }
    if references is not None and references.outside:
        threat["assumptions"] = (
            "The reference models were trained on stand-in data, on none of the candidates; how like the target they "
            "were trained is the auditor's assumption."
        )
        sentences.append(
            f"The {len(references.outputs)} reference models never saw a candidate: attacks that need models trained "
            "on the records were not run, and checks of the references' training size do not apply."
        )
    elif references is not None:
        threat["assumptions"] = "The reference models were trained as the target was; only their answers were seen."
    facts: dict[str, dict[str, Any]] = {
        "data": {"access": seen.level, "source": "HTTP endpoint"},
        "model": {"endpoint": host, "protocol": endpoint.protocol or "request template"},
        "cost": dict(cost),
    }
    return Story(sentences, threat, facts, clock=clock)
