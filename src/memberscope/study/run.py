"""The whole study, to be read as its table of contents."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from memberscope import __version__
from memberscope.auditing import Plan, examine
from memberscope.defences import Defence
from memberscope.defences.overhead import measure_overhead
from memberscope.files import read_json, sha256_json, write_json, write_text, writer_lock
from memberscope.outputs import Reweighting, apply_policy
from memberscope.report import render
from memberscope.run_folder import as_json
from memberscope.signals.derive import loss, scaled_logits
from memberscope.study.config import StudyConfig
from memberscope.study.estimate import estimate
from memberscope.study.folder import bind, write_study
from memberscope.study.prepare import SCORER, Prepared, prepare
from memberscope.study.rows import Behind, study_rows
from memberscope.study.wording import fronts, headline, summary
from memberscope.types import Pool, Signals
from memberscope.types.study import StudyResult, StudyRow

# Part of every row's key: raise it when the figures of a row are made otherwise.
VERSION = 2


def run_study(
    config: StudyConfig, out: str | Path, *, base: Path | None = None, quiet: bool = True, page: bool = True
) -> StudyResult:
    """Train, audit and tabulate every row of a study; killed at any instant and called again, it goes on.

    Args:
        config: what to study.
        out: folder for pools, signals, a page and findings a row, study.json, study.csv and index.html.
        base: folder from which relative paths of the configuration are sought too.
        quiet: show neither the estimate nor progress.
        page: write index.html.

    Returns:
        The study; the same configuration gives the same, but for times.

    Raises:
        MemberscopeError: before anything is trained, if a row cannot be trained or audited on these records, the
            data are not here, or the folder holds another study; later, if a training diverges.
    """
    out = Path(out)
    prepared = prepare(config, base)
    notes = list(prepared.notes)
    with writer_lock(out):
        bind(out, prepared)
        if not quiet:
            _announce(prepared, out)
        work = _Work(prepared, out, quiet)
        rows: dict[str, list[StudyRow]] = {}
        for name in prepared.recipes:
            for defence in (row for row in prepared.rows if row.pool == name):
                with work.timed(defence.name):
                    rows[defence.name] = work.row(defence)
            # The scorer's pool is trained though it may be no row.
            if name == SCORER and any(recipe.curriculum for recipe in prepared.recipes.values()):
                work.score(name)
        ordered = [row for name in prepared.config.rows for row in rows[name]]
        result = _result(prepared, ordered, notes, work.seconds)
        write_study(out, result, page=page)
    return result


@dataclass(eq=False)
class _Work:
    """Pools, signals and rows of one run; whatever is finished in the folder is kept."""

    prepared: Prepared
    out: Path
    quiet: bool
    seconds: dict[str, float] = field(default_factory=dict)
    difficulty: NDArray[np.float64] | None = None
    held: tuple[str, Pool, Signals] | None = None

    def row(self, defence: Defence) -> list[StudyRow]:
        """The rows of ``defence``, kept from before if models, code and plan are the same."""
        pool, plain = self.pool(defence.pool)
        policies: list[Reweighting] = []
        signals = plain
        if defence.policy is not None:
            policies = [
                Reweighting.fit(np.asarray(plain.outputs[row])[member, 0], plain.labels[member])
                for row, member in enumerate(plain.members)
            ]
            signals = apply_policy(plain, policies, folder=self.out / "signals" / defence.name)
        path, key = self.out / "rows" / f"{defence.name}.rows.json", self._key(defence, pool, signals)
        if path.exists() and (kept := read_json(path)).get("key") == key:
            return [StudyRow.model_validate(row) for row in kept["rows"]]
        facts: dict[str, dict[str, Any]] = {
            "model": {
                "recipe": pool.recipe,
                "mode": pool.manifest.get("mode", "one model at a time"),
                "defence": defence.does,
            },
            "cost": {"models_trained": len(pool)},
            "run": {"memberscope": __version__, "plan": pool.manifest["plan_hash"]},
        }
        config = self.prepared.config
        plan = Plan(
            f"{config.name}: {defence.title}", self.prepared.targets, None, (), config.seed, facts, advise=False
        )
        # OpenMP's threads spin while they wait, and cost a busy machine more than they bring to arrays this small.
        with threadpool_limits(1, "openmp"):
            found = examine(signals, plan, dataset=self.prepared.dataset, quiet=self.quiet)
        rows = study_rows(defence, self.prepared, signals, found, self._behind(pool, plain, policies))
        write_text(self.out / "rows" / f"{defence.name}.json", as_json(found.findings))
        write_text(self.out / "rows" / f"{defence.name}.html", render(found.findings, dataset=self.prepared.dataset))
        write_json(path, {"key": key, "rows": [row.model_dump(mode="json") for row in rows]})
        return rows

    def pool(self, name: str) -> tuple[Pool, Signals]:
        """The trained pool ``name`` and what its models say."""
        from memberscope.signals.collect import collect
        from memberscope.training.pool import train_pool

        if self.held is not None and self.held[0] == name:
            return self.held[1:]
        prepared, config = self.prepared, self.prepared.config
        recipe = prepared.recipes[name]
        if not self.quiet:
            place = list(prepared.recipes).index(name) + 1
            print(f"[{place} of {len(prepared.recipes)}] {name}", file=sys.stderr, flush=True)
        pool = train_pool(
            prepared.dataset,
            prepared.members,
            recipe,
            seed=config.seed,
            folder=self.out / "pools" / name,
            engine=config.engine,
            workers=config.workers,
            device=config.device,
            quiet=self.quiet,
            validation=prepared.validation if recipe.early_stopping else None,
            difficulty=self.difficulty if recipe.curriculum else None,
        )
        signals = collect(
            pool,
            prepared.dataset,
            folder=self.out / "signals" / name,
            engine=config.engine,
            workers=config.workers,
            device=config.device,
            quiet=self.quiet,
        )
        self.held = name, pool, signals
        return pool, signals

    def score(self, name: str) -> None:
        """How hard each record is: its mean loss under the models of ``name`` that did not train on it."""
        _, signals = self.pool(name)
        losses = loss(scaled_logits(signals))[:, :, 0]
        outside = ~signals.members
        self.difficulty = (losses * outside).sum(axis=0) / outside.sum(axis=0)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note how long a row took in this run."""
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 1)

    def _key(self, defence: Defence, pool: Pool, signals: Signals) -> str:
        config = self.prepared.config
        return sha256_json(
            {
                "version": [VERSION, __version__],
                "method": defence.name,
                "plan": pool.manifest["plan_hash"],
                "signals": signals.fingerprint,
                "targets": self.prepared.targets,
                "seed": config.seed,
                "published": config.published,
                "name": config.name,
            }
        )

    def _behind(self, pool: Pool, plain: Signals, policies: list[Reweighting]) -> Behind:
        from memberscope.training.pool import read_metrics

        metrics = read_metrics(pool)
        behind = Behind(
            [model.train_seconds for model in metrics],
            [model.epochs for model in metrics],
            [model.best_epoch for model in metrics if model.best_epoch is not None],
            [model.privacy for model in metrics if model.privacy is not None],
        )
        if not policies:
            return behind
        target = self.prepared.targets[0]
        spent = measure_overhead(pool, target, self.prepared.dataset, policies[target])
        shifted = [
            policy.details(np.asarray(logits)[:, 0]).shifted
            for policy, logits in zip(policies, plain.outputs, strict=True)
        ]
        return Behind(
            behind.seconds, behind.epochs, behind.kept, behind.privacy, np.stack(shifted), spent.policy, spent.relative
        )


def _announce(prepared: Prepared, out: Path) -> None:
    """Say what will be done and how long it will take, on standard error."""
    config = prepared.config
    say = [*prepared.notes]
    say.append(
        f"{config.name} at scale {config.scale}: {len(config.rows)} rows on {len(prepared.recipes)} pools of "
        f"{config.models} models, {prepared.size:,} training records each."
    )
    for line in say:
        print(line, file=sys.stderr, flush=True)
    expected = estimate(prepared, out)
    if expected.models:
        rough = "" if config.engine == "serial" else ", processes side by side"
        print(
            f"{expected}{rough}; auditing comes on top. A stopped study goes on where it stopped.",
            file=sys.stderr,
            flush=True,
        )
    else:
        print("Every model is trained already.", file=sys.stderr, flush=True)


def _result(prepared: Prepared, rows: list[StudyRow], notes: list[str], seconds: dict[str, float]) -> StudyResult:
    config = prepared.config
    pooled = [row for row in rows if row.seed == "all"]
    found = fronts(pooled)
    choice = config.data[0]
    return StudyResult(
        name=config.name,
        scale=config.scale,
        headline=headline(pooled),
        summary=summary(prepared, pooled, found),
        data={
            "name": prepared.dataset.name,
            "source": choice.name or str(choice.path),
            "kind": prepared.dataset.kind,
            "records": len(prepared.dataset),
            "classes": prepared.dataset.classes,
            "fingerprint": prepared.dataset.fingerprint,
        },
        populations={
            "models": config.models,
            "targets": len(prepared.targets),
            "references": config.models - (2 if config.folds == 2 else 1),
            "audit_records": len(prepared.dataset),
            "members": prepared.size,
            "non_members": len(prepared.dataset) - prepared.size,
            "validation": 0 if prepared.validation is None else len(prepared.validation),
        },
        config=config.resolved() | {"recipes": {name: recipe.as_json() for name, recipe in prepared.recipes.items()}},
        published=config.published,
        fronts=found,
        rows=rows,
        notes=notes,
        run={
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "memberscope": __version__,
            "seconds": seconds,
        },
    )
