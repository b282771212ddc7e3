"""The main job: from a configuration or saved signals to findings."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from memberscope import __version__
from memberscope.attacks import Attack
from memberscope.auditing import Examination, Plan, examine
from memberscope.auditing.gates import check_gates
from memberscope.auditing.looks import as_look, why_go_on
from memberscope.auditing.why import ANALYSES, Material, analyse
from memberscope.config import AuditConfig
from memberscope.errors import ConfigError
from memberscope.exports.source import locate
from memberscope.run_folder import export_run, read_baselines, write_run
from memberscope.signals.load import load_signals
from memberscope.statistics.looks import levels
from memberscope.types import Dataset, Findings, Gate, Pool, Signals
from memberscope.types.findings import Look
from memberscope.work import Clock, Work


def audit(
    source: Signals | AuditConfig | Mapping[str, Any] | str | Path,
    *,
    dataset: Dataset | None = None,
    pool: Pool | None = None,
    targets: Sequence[int] | None = None,
    attacks: Sequence[str | Attack] | None = None,
    gate: Gate | Mapping[str, Any] | Sequence[Gate | Mapping[str, Any]] = (),
    name: str | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    quiet: bool = True,
) -> Findings:
    """Audit signals, or everything that a configuration says, and write a run folder if ``out`` is given.

    Args:
        source: signals; a path to an .npz of them; or a configuration, as an object, a mapping or a YAML file.
        dataset: the records behind the signals, for checks of the split, names and pictures.
        pool: the models behind the signals; with it and the records, every analysis can be made.
        targets: rows to audit; all (or the configuration's) when None.
        attacks: attacks to run; all that can (or the configuration's) when None.
        gate: limits to hold the result against, beside the configuration's.
        name: what the report calls the audit.
        seed: draws membership, training, folds and bootstraps.
        out: folder for ``findings.json``, ``records.csv``, ``report.html`` and what led to them. A killed run
            goes on when it is started again with the same folder.
        quiet: show no progress.

    Returns:
        The findings; the same configuration and seed give the same, but for ``run``.

    Raises:
        MemberscopeError: what was expected, what came, what to do.
    """
    gates = [gate] if isinstance(gate, Gate | Mapping) else list(gate)
    extra: dict[str, Any] = {
        "targets": None if targets is None else [int(row) for row in targets],
        "name": name,
        "seed": seed,
        "out": None if out is None else str(out),
    }
    if isinstance(source, Signals):
        plan = Plan(
            name or "audit",
            targets,
            attacks,
            [item if isinstance(item, Gate) else _gate(item) for item in gates],
            seed or 0,
            {"run": _versions()},
        )
        plan = replace(plan, baselines=read_baselines(plan.gates))
        clock = Clock()
        with clock("audit"), threadpool_limits(1, "openmp"):
            found = examine(source, plan, dataset=dataset, quiet=quiet)
        with clock("analyses"):
            folder = pool.folder if out is None and pool is not None else Path(out) if out is not None else None
            material = Material(dataset, pool, None if folder is None else folder / "features")
            found = _with_analyses(found, source, material, ANALYSES, plan.seed, quiet)
        found = _with_times(found, clock)
        if out is not None:
            write_run(Path(out), found, source, dataset=dataset, config={"name": plan.name, "seed": plan.seed})
        return found.findings
    base, file = Path(), None
    if isinstance(source, AuditConfig):
        config = source
    elif isinstance(source, Mapping):
        config = AuditConfig.parse(source)
    elif Path(source).suffix.lower() in (".yaml", ".yml"):
        config, base, file = AuditConfig.read(Path(source)), Path(source).parent, Path(source)
        extra["name"] = name or config.name or Path(source).stem
    elif Path(source).suffix.lower() == ".npz":
        config = AuditConfig(signals=str(source), name=name or Path(source).stem)
    else:
        raise ConfigError(
            "signals, a configuration, or a path to .yaml or .npz", f"{str(source)!r}", "Name such a file."
        )
    changes = {key: value for key, value in extra.items() if value is not None}
    if gates:
        given = [item.model_dump() if isinstance(item, Gate) else dict(item) for item in gates]
        changes["gate"] = [item.model_dump() for item in config.gate] + given
    if changes:
        config = AuditConfig.parse(config.model_dump() | changes)
    return run(config, base=base, dataset=dataset, attacks=attacks, source=file, quiet=quiet)


def run(
    config: AuditConfig,
    *,
    base: Path | None = None,
    dataset: Dataset | None = None,
    attacks: Sequence[str | Attack] | None = None,
    source: Path | None = None,
    quiet: bool = True,
) -> Findings:
    """Do what a configuration says: load, train, collect, attack, judge, write.

    Args:
        config: what to do.
        base: where relative paths are sought beside the working directory.
        dataset: see :func:`audit`.
        attacks: see :func:`audit`.
        source: the file that the configuration was read from, at whose lines exports point.
        quiet: show no progress.
    """
    if config.exports and config.out is None:
        raise ConfigError("a run folder, which exports are written from", "no 'out'", "Add 'out: runs/NAME'.")
    clock = Clock()
    # Before anything is trained: a baseline that is not there would only be missed at the end.
    baselines = read_baselines(config.gate, base)
    where = {} if source is None else {"configuration": locate(source)}
    out = None if config.out is None else Path(config.out)
    chosen = attacks or (None if config.attacks == "all" else config.attacks)
    plan = Plan(
        config.name or "audit",
        None if config.targets == "all" else config.targets,
        chosen,
        config.gate,
        config.seed,
        {"run": _versions() | where},
        baselines=baselines,
    )
    folder = None if out is None else out / "features"
    if config.signals is not None:
        path = Path(config.signals)
        signals = load_signals(path if path.exists() or base is None else base / path)
        with clock("audit"), threadpool_limits(1, "openmp"):
            found = examine(signals, plan, dataset=dataset, quiet=quiet)
        material = Material(dataset, None, folder, config.device, "serial", config.workers)
    else:
        with clock("load"):
            work = Work.of(config, base or Path())
        dataset = work.dataset
        check_gates(config.gate, dataset.groups, baselines)
        with work.session():
            pool, signals, found = _grown(work, plan, clock, quiet)
        material = Material(dataset, pool, folder, config.device, work.engine, config.workers)
    with clock("analyses"):
        found = _with_analyses(found, signals, material, config.chosen_analyses(), config.seed, quiet)
    found = _with_times(found, clock)
    if out is not None:
        write_run(out, found, signals, dataset=dataset, config=config.resolved())
        for export, place in zip(config.exports, export_run(out, found.findings, config.exports), strict=True):
            if not quiet:
                print(f"exported {export.format}: {place}", file=sys.stderr, flush=True)
    return found.findings


def _grown(work: Work, plan: Plan, clock: Clock, quiet: bool) -> tuple[Pool, Signals, Examination]:
    """Train, ask and examine; with looks, the first models of the pool, then more of them, until all is decided."""
    from memberscope.training.pool import read_metrics

    sizes = work.config.pool.looked_at
    seen: list[Look] = []
    for size, level in zip(sizes, levels(len(sizes)), strict=True):
        last = size == sizes[-1]
        with clock("train"):
            pool = work.train(until=None if last else size, quiet=quiet)
        with clock("collect"):
            signals = work.ask(pool, quiet=quiet)
        clock.seconds["train_models"] = sum(metrics.seconds for metrics in read_metrics(pool))
        facts = {
            "model": {"recipe": pool.recipe, "mode": pool.manifest.get("mode", "one model at a time")},
            "cost": {"models_trained": len(pool), "epochs": work.recipe.epochs},
            "run": {**plan.facts["run"], "plan": pool.manifest["plan_hash"]},
        }
        targets = None if plan.targets is None else [row for row in plan.targets if row < size or last]
        if targets is not None and not targets:
            continue
        asked = replace(plan, targets=targets, level=level, facts=facts)
        with clock("audit"), threadpool_limits(1, "openmp"):
            found = examine(signals, asked, dataset=work.dataset, quiet=quiet)
            why = "" if last else why_go_on(signals, found, asked, math.log2((sizes[-1] - 2) / (size - 2)))
        if len(sizes) > 1:
            seen.append(as_look(found.findings, level, why, whole=sizes[-1]))
            if not quiet:
                print(seen[-1].sentence, file=sys.stderr, flush=True)
        if last or not why:
            break
    said = list(found.findings.summary)
    if seen:
        said.insert(-1, seen[-1].sentence)
    return pool, signals, replace(found, findings=found.findings.model_copy(update={"looks": seen, "summary": said}))


def _with_analyses(
    found: Examination, signals: Signals, material: Material, chosen: Sequence[str], seed: int, quiet: bool
) -> Examination:
    if not chosen:
        return found
    made = analyse(signals, found, material, chosen=chosen, seed=seed, quiet=quiet)
    said = list(found.findings.summary)
    if made.outliers is not None and made.outliers.verdict != "undecided":
        # Before the last sentence, which says what to do next.
        said.insert(-1, made.outliers.sentence)
    findings = found.findings.model_copy(update={"analyses": made, "summary": said})
    return replace(found, findings=findings)


def _with_times(found: Examination, clock: Clock) -> Examination:
    facts = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {step: round(seconds, 2) for step, seconds in clock.seconds.items()},
    }
    findings = found.findings.model_copy(update={"run": found.findings.run | facts})
    return replace(found, findings=findings)


def _versions() -> dict[str, Any]:
    import scipy

    return {
        "memberscope": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "platform": platform.platform(),
    }


def _gate(values: Mapping[str, Any]) -> Gate:
    return AuditConfig.parse({"data": "digits", "gate": dict(values)}).gate[0]
