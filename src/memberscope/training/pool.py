"""Pools: many models trained alike on known subsets of one data set, one file a model, resumable."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import ConfigError, PoolError
from memberscope.files import (
    read_json,
    read_npy,
    sha256_arrays,
    sha256_file,
    write_json,
    writer_lock,
)
from memberscope.progress import progress
from memberscope.training.engines import Engine, get_engine
from memberscope.training.mode import describe, resolve
from memberscope.training.plan import (
    as_begun,
    check_environment,
    check_extras,
    check_stack,
    describe_environment,
    make_plan,
    read_manifest,
)
from memberscope.training.pool_files import begin, finished, sidecar_path, trace_path, write_model
from memberscope.training.recipe import Recipe
from memberscope.training.rows import Shard, check_shard, part_of, tasks_of
from memberscope.training.store import check_file, encode
from memberscope.types import Dataset, Pool

if TYPE_CHECKING:
    from memberscope.training.answers import TrainingData
    from memberscope.training.loop import Metrics
    from memberscope.training.traces import Traces


def train_pool(
    dataset: Dataset,
    members: NDArray[np.bool_],
    recipe: Recipe,
    *,
    seed: int = 0,
    folder: Path | str,
    engine: str | Engine = "serial",
    workers: int | None = None,
    device: str = "cpu",
    quiet: bool = False,
    validation: Dataset | None = None,
    difficulty: NDArray[np.float64] | None = None,
    stack: int | None = None,
    shard: Shard | None = None,
    until: int | None = None,
) -> Pool:
    """Train one model a row of ``members``; killed at any instant and called again, it goes on.

    Args:
        dataset: N records.
        members: ``(M, N)`` bool; model m is trained on the records where row m is true.
        recipe: how every model is trained.
        seed: of the pool; each model's weights, dropout and order follow from ``(seed, row)``.
        folder: where models, membership and manifest are kept.
        engine: ``"serial"``, ``"processes"``, ``"ray"`` or an :class:`~memberscope.training.engines.Engine`; the same
            plan gives the same model bytes on one machine, whichever runs it.
        workers: processes at once; by default as many as the cores allow.
        device: ``"cpu"`` or ``"cuda"``; part of the plan.
        quiet: show no progress.
        validation: records of the same kind that no model is trained on or audited with, for early stopping.
        difficulty: ``(N,)`` higher is harder, for a curriculum; scored by models that did not train on the record.
        stack: models trained at once in one task (fully connected networks only); None takes what pays, or what the
            pool in ``folder`` was begun with. Part of the plan, as is what becomes of ``auto`` in the recipe.
        shard: ``(i, n)``, 1 <= i <= n: train every n-th task of the plan, from the i-th, beside processes that
            train the other shards in the same folder, on this machine or others. Not part of the plan.
        until: stop when so many models, the first of the plan, are there: a pool that may grow later, by a larger
            number or none. Not part of the plan.

    Returns:
        The finished pool; of a shard the pool as it is, whose manifest has ``files`` when all models are there; with
        ``until`` the pool of the first so many models.

    Raises:
        DataError: a validation split that does not fit the records or holds some of them.
        PoolError: membership that cannot be audited; a folder begun with another plan (every differing
            value is named), altered in the meantime, written by another process, not writable or full; a
            training that diverged; a worker that was killed. Finished models are always kept.
        ConfigError: a model that cannot take these records, an unknown engine or device.
        MissingExtraError: PyTorch is not installed.
    """
    folder, runner = Path(folder), get_engine(engine, workers)
    check_shard(shard)
    if until is not None and not 1 <= until <= len(members):
        raise ConfigError(f"until from 1 to the {len(members)} models of the pool", str(until), "Change it.")
    if type(seed) is not int or seed < 0:
        raise ConfigError("a seed as a whole number of at least 0", repr(seed), "Give for example seed=0.")
    recipe.check_inputs(dataset.inputs.shape[1:], dataset.classes)
    check_stack(recipe, stack)
    pool = Pool(folder, np.ascontiguousarray(members), recipe.as_json(), {})
    if pool.members.shape[1] != len(dataset):
        raise PoolError(
            f"one column of members a record, ({len(pool)}, {len(dataset)})",
            f"shape {pool.members.shape}",
            "Draw members anew.",
        )
    check_extras(dataset, recipe, validation, difficulty)
    environment = describe_environment(device)
    with writer_lock(folder, part_of(shard)):
        manifest = None
        # The second time only if another shard has begun the folder in between: then its plan counts.
        while manifest is None:
            begun = read_manifest(folder / "manifest.json") if (folder / "manifest.json").exists() else None
            shape = dataset.inputs.shape[1:]
            recipe = as_begun(begun, recipe) if begun else resolve(recipe, shape, dataset.classes, device)
            plan = make_plan(dataset, pool.members, recipe, seed, device, validation, difficulty, stack)
            if begun and stack is None and len(pool) == begun["plan"]["models"]:
                plan["tasks"] = begun["plan"]["tasks"]
            pool = Pool(folder, pool.members, recipe.as_json(), {})
            environment |= _describe_kernels(recipe, device)
            manifest = begin(pool, plan, dataset, environment, shard)
        wanted = len(pool) if until is None else until
        own = [task for task in tasks_of(plan["tasks"], shard) if min(task) < wanted]
        rows = [row for task in own for row in task]
        done = {row: sidecar["sha256"] for row in rows if (sidecar := finished(pool, row, manifest))}
        if len(done) < len(rows):
            check_environment(manifest, environment, folder)
            title = f"training {len(rows)} models ({describe(recipe, plan['tasks'])})"
            tasks = [(tuple(task), pool.members[task]) for task in own if not all(row in done for row in task)]
            data = _training_data(dataset, manifest, validation, difficulty)
            function = _Task(data, recipe, seed, device, manifest["plan_hash"], environment.get("kernels"))
            with (
                progress(title, len(rows), done=len(done), quiet=quiet) as show,
                closing(runner.run(function, tasks, threads=recipe.threads)) as results,
            ):
                for row, content, traces, metrics in (model for result in results for model in result):
                    if row not in done:
                        done[row] = write_model(pool, row, content, traces, metrics, manifest["plan_hash"])
                    show(
                        len(done),
                        f"(model {row}: train {metrics.train_accuracy:.1%}, held out {metrics.held_out_accuracy:.1%})",
                    )
        if not missing_models(folder, wanted):
            # Of several shards, whoever finds all models there; what each of them writes is the same.
            listed = max(wanted, len(manifest.get("files", ())))
            others = {row: finished(pool, row, manifest) for row in range(listed) if row not in done}
            done |= {row: sidecar["sha256"] for row, sidecar in others.items() if sidecar}
            files = {pool.model_path(row).name: done[row] for row in range(listed)}
            if manifest.get("files") != files:
                manifest = {**manifest, "files": files}
                write_json(folder / "manifest.json", manifest)
    return Pool(folder, pool.members[:wanted], pool.recipe, manifest)


def load_pool(folder: Path | str, *, verify: bool = True) -> Pool:
    """A finished pool, or the first models of one that was stopped early.

    Args:
        folder: what ``train_pool`` wrote.
        verify: hash every model file (about a second a gigabyte). Models are checked when loaded anyway.

    Raises:
        PoolError: no pool there, not finished, or a file that is missing or not as it was written (named).
    """
    folder = Path(folder)
    manifest = read_manifest(folder / "manifest.json")
    models: int = manifest["plan"]["models"]
    if "files" not in manifest:
        raise PoolError(
            f"a finished pool in {folder}",
            f"{models - len(missing_models(folder, models))} of {models} models",
            "Run the training again: it goes on where it stopped.",
        )
    if not (folder / "members.npy").exists():
        raise PoolError(
            f"membership in {folder / 'members.npy'}", "no such file", "Restore it, or train the pool again."
        )
    members = read_npy(folder / "members.npy")
    if sha256_arrays(members) != manifest["plan"]["members"]:
        raise PoolError(
            f"{folder / 'members.npy'} as it was written",
            "another content",
            "Restore the file, or train the pool again.",
        )
    pool = Pool(folder, members[: len(manifest["files"])], manifest["plan"]["recipe"], manifest)
    for row in range(len(pool)):
        model = pool.model_path(row)
        if verify:
            check_file(model, manifest["files"].get(model.name, "not listed"))
        elif not model.exists():
            raise PoolError(f"the model file {model}", "no such file", "Restore it, or train the pool again.")
    return pool


def missing_models(folder: Path, models: int) -> list[int]:
    """Rows of a pool of so many models whose model file is not there yet."""
    return [row for row in range(models) if not (folder / f"{row:05d}.safetensors").exists()]


def read_metrics(pool: Pool) -> list[Metrics]:
    """Accuracies, loss and seconds of every model, in the order of the rows."""
    from memberscope.training.loop import Metrics

    return [Metrics(**read_json(sidecar_path(pool, row))["metrics"]) for row in range(len(pool))]


def read_traces(pool: Pool) -> dict[int, Traces]:
    """What each model's training left beside its weights, by row; empty for pools of before traces were kept.

    Raises:
        PoolError: a trace is missing, damaged or not as it was written.
    """
    from memberscope.training.traces import Traces

    traces = {}
    for row in range(len(pool)):
        expected = read_json(sidecar_path(pool, row)).get("traces")
        if expected is None:
            continue
        path = trace_path(pool, row)
        if path.exists() and sha256_file(path) != expected:
            raise PoolError(
                f"{path} as it was written", "another content", "Delete the model beside it and train it again."
            )
        traces[row] = Traces.read(path)
    return traces


@dataclass(frozen=True, eq=False)
class _Task:
    """Trains the models of one task of the plan; sent to workers as it is."""

    data: TrainingData
    recipe: Recipe
    seed: int
    device: str
    plan_hash: str
    kernels: str | None = None

    def __call__(self, task: tuple[tuple[int, ...], NDArray[np.bool_]]) -> list[tuple[int, bytes, bytes, Metrics]]:
        """Row, file content, traces and metrics of every model; by value, so that only the lock's holder writes."""
        rows, members = task
        seeds, names = [(self.seed, row) for row in rows], [f"model {row}" for row in rows]
        where: dict[str, Any] = {"device": self.device, "kernels": self.kernels}
        if len(rows) == 1:
            from memberscope.training.loop import train

            trained = [train(self.data, members[0], self.recipe, seed=seeds[0], name=names[0], **where)]
        else:
            from memberscope.training.stacked import train_stack

            trained = train_stack(self.data, members, self.recipe, seeds=seeds, names=names, **where)
        return [
            (row, encode(one.state, row, self.plan_hash), one.traces.encode(), one.metrics)
            for row, one in zip(rows, trained, strict=True)
        ]


def _describe_kernels(recipe: Recipe, device: str) -> dict[str, str]:
    from memberscope.training.compiled import describe_kernels

    return describe_kernels(recipe, device)


def _training_data(
    dataset: Dataset,
    manifest: Mapping[str, Any],
    validation: Dataset | None,
    difficulty: NDArray[np.float64] | None,
) -> TrainingData:
    from memberscope.training.answers import TrainingData
    from memberscope.training.inputs import Normalisation

    return TrainingData(
        dataset.inputs,
        dataset.labels,
        dataset.classes,
        Normalisation.parse(manifest["normalisation"]),
        None if validation is None else (validation.inputs, validation.labels),
        difficulty,
    )
