"""Small saved signals whose leak is decided here, and the runs that audits of them write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import memberscope as ms
from memberscope.data.membership import complementary_pairs
from memberscope.types import Findings, Signals

ATTACKS = ("loss", "gap", "rmia_online")
CLASSES = 3


def signals(leak: float, *, only: int | None = None, seed: int = 0, models: int = 8, records: int = 1500) -> Signals:
    """Models that leak on every record, or on class ``only``, by ``leak`` standard deviations of the logit."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, records)
    members = complementary_pairs(models, records, seed)
    logits = rng.normal(size=(models, records, CLASSES))
    strength = leak * (np.ones(records) if only is None else labels == only)
    logits[:, np.arange(records), labels] += 2 + rng.normal(0, 2, records) + strength * members
    ids = np.array([f"person-{i:05d}" for i in range(records)])
    return Signals(tuple(logits.astype(np.float32)), "logits", members, labels, ids)


def save(path: Path, found: Signals) -> Path:
    """An .npz of signals."""
    logits = np.stack([np.asarray(row)[:, 0] for row in found.outputs])
    np.savez(path, logits=logits, members=found.members, labels=found.labels, ids=found.ids)
    return path


def run(folder: Path, leak: float, *, name: str = "audit", gate: Any = (), seed: int = 0, **options: Any) -> Findings:
    """A run in ``folder`` of three attacks and no analyses."""
    folder.mkdir(parents=True, exist_ok=True)
    path = save(folder.parent / f"{folder.name}.npz", signals(leak, seed=seed, **options))
    gates = gate if isinstance(gate, list) else [gate] if gate else []
    values = {"signals": str(path), "attacks": list(ATTACKS), "analyses": "none", "gate": gates, "name": name}
    return ms.audit(values | {"out": str(folder)})


def as_old(findings: Findings) -> Findings:
    """The same as an audit of schema 1.2 wrote it: without what gates are judged by since."""
    values = findings.model_dump(mode="json") | {"schema_version": "1.2"}
    rows = [*values["classes"], *(row for rows in values["groups"].values() for row in rows)]
    for part in [*values["attacks"], *rows]:
        del part["bounds"]
    for result in values["gates"]:
        for key in ("row", "baseline", "difference"):
            del result[key]
        for key in ("group", "baseline", "worse_by"):
            del result["gate"][key]
    return Findings.model_validate(values)
