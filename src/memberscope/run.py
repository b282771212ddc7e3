"""The main job: from a configuration or saved signals to findings, and to a run folder of plain files."""

from __future__ import annotations

import csv
import io
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope import __version__
from memberscope.attacks import Attack
from memberscope.auditing import Examination, Plan, examine
from memberscope.config import AuditConfig, write_yaml
from memberscope.data import load
from memberscope.data.membership import bernoulli, complementary_pairs, splits
from memberscope.errors import ConfigError, MemberscopeError, PoolError
from memberscope.files import atomic, read_json, sha256_file, write_json, write_npy, write_text, writer_lock
from memberscope.report import render
from memberscope.signals.load import load_signals
from memberscope.training.recipe import Recipe
from memberscope.types import Dataset, Findings, Gate, Signals

# Rows of records.csv; beyond them only the first targets are written (all scores are in scores/*.npy).
MOST_ROWS = 500_000


def audit(
    source: Signals | AuditConfig | Mapping[str, Any] | str | Path,
    *,
    dataset: Dataset | None = None,
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
        with clock("audit"):
            found = examine(source, plan, dataset=dataset, quiet=quiet)
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
    if config.signals is not None:
        path = Path(config.signals)
        signals = load_signals(path if path.exists() or base is None else base / path)
    else:
        if out is None:
            raise ConfigError(
                "a folder for the pool and the report", "no 'out'", "Add 'out: runs/NAME' or pass --out runs/NAME."
            )
        signals, dataset, made = _train(config, base or Path(), out, clock, quiet)
        facts |= made
    plan = Plan(
        config.name or "audit",
        None if config.targets == "all" else config.targets,
        chosen,
        config.gate,
        config.seed,
        facts,
    )
    with clock("audit"):
        found = examine(signals, plan, dataset=dataset, quiet=quiet)
    found = _with_times(found, clock)
    if out is not None:
        write_run(out, found, signals, dataset=dataset, config=config.resolved())
    return found.findings


def _train(
    config: AuditConfig, base: Path, out: Path, clock: _Clock, quiet: bool
) -> tuple[Signals, Dataset, dict[str, dict[str, Any]]]:
    """Load the data, train the pool and collect its signals; whatever is finished already is kept."""
    from memberscope.signals.collect import collect
    from memberscope.training.pool import read_metrics, train_pool

    assert config.data is not None
    recipe = Recipe.parse(config.recipe)
    with clock("load"):
        name, options = config.data.arguments(base)
        options.setdefault("seed", config.seed)
        dataset = load(name, **options)
    shape = dataset.inputs.shape[1:]
    recipe.check_inputs(shape, dataset.classes)
    n, choice = len(dataset), config.pool
    population = np.zeros(n, np.bool_)
    if choice.population:
        population[splits(n, population=choice.population, seed=config.seed).population] = True
    audited = np.flatnonzero(~population)
    members = np.zeros((choice.models, n), np.bool_)
    if choice.design == "pairs":
        members[:, audited] = complementary_pairs(choice.models, len(audited), config.seed)
    else:
        members[:, audited] = bernoulli(choice.models, len(audited), choice.share, config.seed)
    with clock("train"):
        pool = train_pool(
            dataset,
            members,
            recipe,
            seed=config.seed,
            folder=out / "pool",
            engine=config.engine,
            workers=config.workers,
            device=config.device,
            quiet=quiet,
        )
    with clock("collect"):
        signals = collect(
            pool,
            dataset,
            folder=out / "signals",
            engine=config.engine,
            workers=config.workers,
            population=population,
            device=config.device,
            quiet=quiet,
        )
    trained = read_metrics(pool)
    clock.seconds["train_models"] = sum(metrics.seconds for metrics in trained)
    return (
        signals,
        dataset,
        {
            "model": {"recipe": recipe.as_json()},
            "cost": {"models_trained": choice.models, "epochs": recipe.epochs},
            "run": _versions() | {"plan": pool.manifest["plan_hash"]},
        },
    )


def write_run(
    folder: Path,
    found: Examination,
    signals: Signals,
    *,
    dataset: Dataset | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write a run folder: config.yaml, scores/*.npy, records.csv, findings.json, report.html, manifest.json.

    Raises:
        PoolError: the folder cannot be written or another process writes there.
    """
    with writer_lock(folder):
        write_text(folder / "config.yaml", write_yaml(config or {}))
        for name, scores in found.scores.items():
            write_npy(folder / "scores" / f"{name}.npy", scores.values)
        _write_records(folder / "records.csv", found, signals)
        write_text(folder / "findings.json", as_json(found.findings))
        write_text(folder / "report.html", render(found.findings, dataset=dataset))
        _write_manifest(folder)


def as_json(findings: Findings) -> str:
    """The findings document, as findings.json and ``--json`` give it."""
    return findings.model_dump_json(indent=1) + "\n"


def read_findings(path: str | Path) -> Findings:
    """Findings from a run folder or a findings.json.

    Raises:
        PoolError: no such file, not JSON, or not a findings document of this schema version.
    """
    path = Path(path)
    path = path / "findings.json" if path.is_dir() else path
    values = read_json(path)
    try:
        return Findings.model_validate(values)
    except ValueError as error:
        lines = str(error).splitlines()
        raise PoolError(
            f"a findings document in {path}", " ".join(lines[1:3]).strip() or lines[0], "Run the audit again."
        ) from error


def report(folder: str | Path, *, dataset: Dataset | None = None) -> Path:
    """Write a run's report again from its findings, without computing anything anew.

    The records are loaded again for pictures if the run's configuration says from where and they are there.

    Returns:
        The path of report.html.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PoolError(f"a run folder {folder}", "no such folder", "Name a folder that an audit wrote.")
    findings = read_findings(folder)
    if dataset is None:
        dataset = _dataset_of(folder, findings)
    with writer_lock(folder):
        write_text(folder / "report.html", render(findings, dataset=dataset))
        _write_manifest(folder)
    return folder / "report.html"


def _dataset_of(folder: Path, findings: Findings) -> Dataset | None:
    """The run's records if they can be loaded and are still the same."""
    try:
        config = AuditConfig.read(folder / "config.yaml")
        if config.data is None:
            return None
        name, options = config.data.arguments(Path())
        options.setdefault("seed", config.seed)
        dataset = load(name, **options)
    except MemberscopeError:
        return None
    return dataset if dataset.fingerprint == findings.data.get("fingerprint") else None


def _write_manifest(folder: Path) -> None:
    """Hashes of everything that the run consists of; pool and signals keep manifests of their own files."""
    names = [
        "config.yaml",
        "findings.json",
        "records.csv",
        "report.html",
        "pool/manifest.json",
        "signals/manifest.json",
    ]
    paths = [folder / name for name in names] + sorted((folder / "scores").glob("*.npy"))
    files = {str(path.relative_to(folder)): sha256_file(path) for path in paths if path.exists()}
    write_json(folder / "manifest.json", {"schema_version": "1.0", "memberscope": __version__, "files": files})


def _write_records(path: Path, found: Examination, signals: Signals) -> None:
    """records.csv: one line a target and record, scores with six digits, empty where not scored."""
    targets = next(iter(found.scores.values())).targets
    audited = np.flatnonzero(~signals.population)
    shown = max(1, min(len(targets), MOST_ROWS // max(len(audited), 1)))
    names = list(found.scores)
    proof = found.evidence
    with atomic(path) as binary:
        file = io.TextIOWrapper(binary, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(file)
        writer.writerow(["target", "id", "label", "member", *names, "p_value", "adjusted_p_value", "flagged"])
        ids, labels = signals.ids[audited].tolist(), signals.labels[audited].tolist()
        for position, target in enumerate(targets[:shown]):
            columns = [_texts(found.scores[name].values[position, audited]) for name in names]
            if proof is None:
                columns += [[""] * len(audited)] * 3
            else:
                columns += [_texts(proof.p_values[position, audited]), _texts(proof.adjusted[position, audited])]
                columns.append(proof.flagged[position, audited].astype(int).tolist())
            member = signals.members[target][audited].astype(int).tolist()
            writer.writerows(zip([target] * len(audited), ids, labels, member, *columns, strict=True))
        file.detach()


def _texts(values: NDArray[np.float64]) -> list[str]:
    return ["" if value != value else f"{value:.6g}" for value in values.tolist()]


class _Clock:
    """Seconds spent in each named step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - started


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
