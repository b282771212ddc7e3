"""The main job: from a configuration or saved signals to findings."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from memberscope import __version__
from memberscope.attacks import Attack
from memberscope.auditing import Examination, Plan, examine
from memberscope.auditing.why import ANALYSES, Material, analyse
from memberscope.config import AuditConfig
from memberscope.data.membership import bernoulli, complementary_pairs, splits
from memberscope.errors import ConfigError
from memberscope.run_folder import write_run
from memberscope.signals.load import load_signals
from memberscope.training.engines import Engine, get_engine, session
from memberscope.training.recipe import Recipe
from memberscope.training.rows import Shard, check_shard, tasks_of
from memberscope.types import Dataset, Findings, Gate, Pool, Signals


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
        clock = _Clock()
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
    base = Path()
    if isinstance(source, AuditConfig):
        config = source
    elif isinstance(source, Mapping):
        config = AuditConfig.parse(source)
    elif Path(source).suffix.lower() in (".yaml", ".yml"):
        config, base = AuditConfig.read(Path(source)), Path(source).parent
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
    return run(config, base=base, dataset=dataset, attacks=attacks, quiet=quiet)


def run(
    config: AuditConfig,
    *,
    base: Path | None = None,
    dataset: Dataset | None = None,
    attacks: Sequence[str | Attack] | None = None,
    quiet: bool = True,
) -> Findings:
    """Do what a configuration says: load, train, collect, attack, judge, write."""
    clock = _Clock()
    out = None if config.out is None else Path(config.out)
    chosen = attacks or (None if config.attacks == "all" else config.attacks)
    facts: dict[str, dict[str, Any]] = {"run": _versions()}
    pool = None
    if config.signals is not None:
        path = Path(config.signals)
        signals = load_signals(path if path.exists() or base is None else base / path)
        engine: str | Engine = "serial"
    else:
        out, engine = _folder(config), config.make_engine()
        with session(get_engine(engine, config.workers), config.trained_recipe().threads):
            pool, signals, dataset, made = _train(config, engine, base or Path(), out, clock, quiet)
        facts |= made
    plan = Plan(
        config.name or "audit",
        None if config.targets == "all" else config.targets,
        chosen,
        config.gate,
        config.seed,
        facts,
    )
    with clock("audit"), threadpool_limits(1, "openmp"):
        found = examine(signals, plan, dataset=dataset, quiet=quiet)
    folder = None if out is None else out / "features"
    material = Material(dataset, pool, folder, config.device, engine, config.workers)
    with clock("analyses"):
        found = _with_analyses(found, signals, material, config.chosen_analyses(), config.seed, quiet)
    found = _with_times(found, clock)
    if out is not None:
        write_run(out, found, signals, dataset=dataset, config=config.resolved())
    return found.findings


def run_shard(config: AuditConfig, shard: Shard, *, base: Path | None = None, quiet: bool = True) -> dict[str, Any]:
    """Train and ask the models of one shard, beside other processes with the same folder and other shards.

    Args:
        config: as for every shard and for the audit itself.
        shard: ``(i, n)``, 1 <= i <= n.
        base: where relative paths are sought beside the working directory.
        quiet: show no progress.

    Returns:
        ``shard``, ``models`` of the shard, ``untrained`` and ``unasked`` of the whole pool, and a ``sentence`` on
        what is still missing. The audit without a shard does the rest and trains nothing once all are done.

    Raises:
        MemberscopeError: what was expected, what came, what to do.
    """
    from memberscope.signals.ask import answers_path
    from memberscope.signals.collect import collect
    from memberscope.training.pool import missing_models, train_pool

    check_shard(shard)
    if config.data is None:
        raise ConfigError("a configuration with data for a shard", "saved signals", "Leave --shard out.")
    out, engine = _folder(config), config.make_engine()
    work = _prepare(config, base or Path())
    with session(get_engine(engine, config.workers), work.recipe.threads):
        pool = train_pool(
            work.dataset,
            work.members,
            work.recipe,
            seed=config.seed,
            folder=out / "pool",
            engine=engine,
            workers=config.workers,
            device=config.device,
            quiet=quiet,
            validation=work.validation,
            shard=shard,
            stack=config.pool.stacked,
        )
        collect(
            pool,
            work.dataset,
            folder=out / "signals",
            engine=engine,
            workers=config.workers,
            population=work.population,
            device=config.device,
            quiet=quiet,
            shard=shard,
        )
    own = sum(len(task) for task in tasks_of(pool.manifest["plan"]["tasks"], shard))
    untrained = missing_models(pool.folder, len(pool))
    unasked = [row for row in range(len(pool)) if not answers_path(out / "signals" / "logits", row).exists()]
    name = f"{shard[0]}/{shard[1]}"
    done = f"Shard {name} is done: {own} of the {len(pool)} models are its own."
    if unasked:
        left = f"Still missing: {len(untrained)} models to train and {len(unasked)} to ask, which other shards do;"
        sentence = f"{done} {left} after them run the same command without --shard."
    else:
        sentence = f"{done} Nothing is missing: run the same command without --shard for the findings."
    return {
        "shard": name,
        "models": own,
        "untrained": len(untrained),
        "unasked": len(unasked),
        "sentence": sentence,
    }


def _folder(config: AuditConfig) -> Path:
    if config.out is None:
        raise ConfigError(
            "a folder for the pool and the report", "no 'out'", "Add 'out: runs/NAME' or pass --out runs/NAME."
        )
    return Path(config.out)


@dataclass(frozen=True)
class _Work:
    """What a pool is trained on."""

    dataset: Dataset
    validation: Dataset | None
    recipe: Recipe
    members: NDArray[np.bool_]
    population: NDArray[np.bool_]


def _prepare(config: AuditConfig, base: Path) -> _Work:
    recipe = config.trained_recipe()
    dataset, validation = config.load_records(base)
    shape = dataset.inputs.shape[1:]
    recipe.check_inputs(shape, dataset.classes)
    choice = config.pool
    n = len(dataset)
    population = np.zeros(n, np.bool_)
    if choice.population:
        population[splits(n, population=choice.population, seed=config.seed).population] = True
    audited = np.flatnonzero(~population)
    members = np.zeros((choice.models, n), np.bool_)
    if choice.design == "pairs":
        members[:, audited] = complementary_pairs(choice.models, len(audited), config.seed)
    else:
        members[:, audited] = bernoulli(choice.models, len(audited), choice.share, config.seed)
    return _Work(dataset, validation, recipe, members, population)


def _train(
    config: AuditConfig, engine: str | Engine, base: Path, out: Path, clock: _Clock, quiet: bool
) -> tuple[Pool, Signals, Dataset, dict[str, dict[str, Any]]]:
    """Load the data, train the pool and collect its signals; whatever is finished already is kept."""
    from memberscope.signals.collect import collect
    from memberscope.training.pool import read_metrics, train_pool

    with clock("load"):
        work = _prepare(config, base)
    dataset, recipe = work.dataset, work.recipe
    with clock("train"):
        pool = train_pool(
            dataset,
            work.members,
            recipe,
            seed=config.seed,
            folder=out / "pool",
            engine=engine,
            workers=config.workers,
            device=config.device,
            quiet=quiet,
            validation=work.validation,
            stack=config.pool.stacked,
        )
    with clock("collect"):
        signals = collect(
            pool,
            dataset,
            folder=out / "signals",
            engine=engine,
            workers=config.workers,
            population=work.population,
            device=config.device,
            quiet=quiet,
        )
    trained = read_metrics(pool)
    clock.seconds["train_models"] = sum(metrics.seconds for metrics in trained)
    return (
        pool,
        signals,
        dataset,
        {
            "model": {"recipe": pool.recipe, "mode": pool.manifest.get("mode", "one model at a time")},
            "cost": {"models_trained": config.pool.models, "epochs": recipe.epochs},
            "run": _versions() | {"plan": pool.manifest["plan_hash"]},
        },
    )


class _Clock:
    """Seconds spent in each named step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - started


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
    return Examination(findings, found.scores, found.evidence)


def _with_times(found: Examination, clock: _Clock) -> Examination:
    facts = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {step: round(seconds, 2) for step, seconds in clock.seconds.items()},
    }
    findings = found.findings.model_copy(update={"run": found.findings.run | facts})
    return Examination(findings, found.scores, found.evidence)


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
