"""From signals to findings and, where a folder is given, an ordinary run folder: what all doors end with."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from memberscope import __version__
from memberscope.attacks import Attack
from memberscope.auditing import Examination, Plan, examine
from memberscope.auditing.why import ANALYSES, Material, analyse
from memberscope.config import AuditConfig
from memberscope.errors import DataError
from memberscope.files import sha256_arrays, sha256_file, sha256_json, write_json, write_npy, writer_lock
from memberscope.run_folder import read_baselines, write_run
from memberscope.signals.derive import scaled_logits_row
from memberscope.text import percent
from memberscope.types import Access, CheckResult, Dataset, Findings, Gate, Signals
from memberscope.work import Clock

# Below this share of different scores, ties are said.
_FEW_SCORES = 0.5

Gates = Gate | Mapping[str, Any] | Sequence[Gate | Mapping[str, Any]]


@dataclass(frozen=True)
class Wanted:
    """What every door is asked for.

    Args:
        attacks: to run; all that the access admits when None.
        gates: limits to hold the result against.
        name: what the report calls the audit.
        seed: of everything drawn at random.
        out: the run folder; nothing is written when None.
        quiet: show no progress.
        config: what stands in the run folder's config.yaml.
        analyses: what to find out about the leaking records; everything when None.
    """

    attacks: Sequence[str | Attack] | None = None
    gates: Sequence[Gate] = ()
    name: str = "audit"
    seed: int = 0
    out: Path | None = None
    quiet: bool = True
    config: Mapping[str, Any] = field(default_factory=dict)
    analyses: Sequence[str] | None = None


@dataclass(frozen=True)
class Story:
    """What a door knows beside the signals.

    Args:
        sentences: what the summary says of the door, before its last sentence.
        threat: entries of the threat model that replace the audit's.
        facts: entries of ``data``, ``model``, ``cost`` and ``run``.
        checks: further ones.
        clock: seconds spent so far.
    """

    sentences: Sequence[str] = ()
    threat: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    checks: Sequence[CheckResult] = ()
    clock: Clock = field(default_factory=Clock)


def as_gates(gate: Gates) -> list[Gate]:
    """One gate or several, as objects or mappings.

    Raises:
        ConfigError: an unknown key or a value out of range.
    """
    given = [gate] if isinstance(gate, Gate | Mapping) else list(gate)
    return [g if isinstance(g, Gate) else AuditConfig.parse({"data": "digits", "gate": dict(g)}).gate[0] for g in given]


def conclude(signals: Signals, wanted: Wanted, story: Story, dataset: Dataset | None = None) -> Findings:
    """Audit row 0 with every other row as a reference, analyse, and write the run folder.

    Args:
        signals: the target's outputs first.
        wanted: what was asked for.
        story: what the door has to say.
        dataset: the records, in the order of the signals, where the door has them.
    """
    facts = {key: dict(value) for key, value in story.facts.items()}
    facts["run"] = _versions() | facts.get("run", {})
    baselines = read_baselines(wanted.gates)
    plan = Plan(wanted.name, [0], wanted.attacks, wanted.gates, wanted.seed, facts, baselines=baselines)
    with story.clock("audit"), threadpool_limits(1, "openmp"):
        found = examine(signals, plan, dataset=dataset, quiet=wanted.quiet)
    with story.clock("analyses"):
        found = _analysed(found, signals, dataset, wanted)
    found = _told(found, signals, story)
    if wanted.out is not None:
        _keep(signals, wanted.out / "signals")
        write_run(wanted.out, found, signals, dataset=dataset, config=wanted.config)
    return found.findings


def _analysed(found: Examination, signals: Signals, dataset: Dataset | None, wanted: Wanted) -> Examination:
    chosen = ANALYSES if wanted.analyses is None else [name for name in ANALYSES if name in wanted.analyses]
    if not chosen:
        return found
    made = analyse(signals, found, Material(dataset), chosen=chosen, seed=wanted.seed, quiet=wanted.quiet)
    said = list(found.findings.summary)
    if made.outliers is not None and made.outliers.verdict != "undecided":
        said.insert(-1, made.outliers.sentence)
    return replace(found, findings=found.findings.model_copy(update={"analyses": made, "summary": said}))


def _told(found: Examination, signals: Signals, story: Story) -> Examination:
    """The findings with the door's own sentences, threat model, checks and times."""
    findings = found.findings
    said = list(findings.summary)
    said[-1:-1] = [*story.sentences, *_of_scores(signals), *_of_chance(findings)]
    run = findings.run | {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {step: round(seconds, 2) for step, seconds in story.clock.seconds.items()},
    }
    changes = {
        "summary": said,
        "threat_model": {**findings.threat_model, **story.threat},
        "checks": sorted([*findings.checks, *story.checks], key=lambda check: check.code),
        "run": run,
    }
    return replace(found, findings=findings.model_copy(update=changes))


def _of_scores(signals: Signals) -> list[str]:
    """That many records share a score, as with forests and rounded numbers."""
    if signals.kind == "labels":
        return []
    different = len(np.unique(scaled_logits_row(signals, 0)))
    if different >= _FEW_SCORES * signals.records * signals.queries:
        return []
    return [
        f"The model gives only {different:,} different scores to {signals.records:,} records: ties are counted half "
        "for either side, and probabilities of 0 and 1 are clipped at what the given numbers resolve."
    ]


def _of_chance(findings: Findings) -> list[str]:
    for check in findings.checks:
        if check.code == "MS013" and check.level == "warning":
            return [
                "These look like another model's answers: on held-out records they are right less often than a guess. "
                "Check that classes, labels and ids belong to this model."
            ]
    return []


def seen_access(signals: Signals, top_k: int | None = None) -> tuple[str, str]:
    """The access level's name and what an attacker sees, for the threat model."""
    if top_k is not None:
        return Access.TOP_K.label, (
            f"the {top_k} highest class probabilities; what is left is spread evenly over the other classes, "
            "as an attacker would"
        )
    said = {
        "labels": "the predicted class only",
        "logits": f"logits of {signals.classes} classes",
        "probabilities": f"probabilities of {signals.classes} classes in full precision",
    }[signals.kind]
    if signals.digits is not None:
        said = f"probabilities of {signals.classes} classes, rounded to {signals.digits} decimals"
    return signals.access.label, said


def accuracy_sentence(signals: Signals, rows: Sequence[int]) -> str:
    """Training and test accuracy, mean over models."""
    from memberscope.signals.checks import accuracies

    train, test = np.mean([accuracies(signals, row) for row in rows], axis=0)
    return f"{percent(float(train))} on training records and {percent(float(test))} on others"


def _keep(signals: Signals, folder: Path) -> None:
    """Write the outputs beside the findings, a file a model, as a pool's are."""
    with writer_lock(folder):
        digests = []
        for row, outputs in enumerate(signals.outputs):
            path = folder / signals.kind / f"{row:05d}.npy"
            write_npy(path, outputs)
            digests.append(sha256_file(path))
        tables = {
            "members": signals.members,
            "labels": signals.labels,
            "ids": signals.ids,
            "population": signals.population,
        }
        for name, array in tables.items():
            write_npy(folder / f"{name}.npy", array)
        content = sha256_arrays(*tables.values())
        write_json(
            folder / "manifest.json",
            {
                "schema": 1,
                "kind": signals.kind,
                "models": len(signals),
                "records": signals.records,
                "queries": signals.queries,
                "classes": signals.classes,
                "class_names": list(signals.class_names),
                "rows": digests,
                "tables": content,
                "fingerprint": sha256_json([digests, content]),
            },
        )


def numeric_dataset(
    inputs: Any, labels: Any, ids: Any, class_names: Sequence[str], name: str, feature_names: Sequence[str] = ()
) -> Dataset | None:
    """The records for checks of the split and pictures, or None where they are no table of numbers and no images."""
    try:
        array = np.asarray(inputs.to_numpy() if hasattr(inputs, "to_numpy") else inputs)
        if array.dtype.kind == "O":
            array = array.astype(np.float64)
        return Dataset(array, labels, ids, tuple(class_names), tuple(feature_names), {}, name)
    except (DataError, ValueError, TypeError):
        return None


def _versions() -> dict[str, Any]:
    import platform

    return {
        "memberscope": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": sys.platform,
    }
