"""Ask every model of a pool about every record, in streams, into memory-mapped files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import DataError, SignalsError
from memberscope.files import (
    read_json,
    read_npy,
    sha256_arrays,
    sha256_file,
    sha256_json,
    write_json,
    write_npy,
    writer_lock,
)
from memberscope.signals.ask import SCHEMA, Question, answers_path, ask_models, check_pool, clear_leftovers
from memberscope.training.engines import Engine, get_engine
from memberscope.training.rows import Shard, check_shard, part_of, tasks_of
from memberscope.training.store import ModelPlan
from memberscope.types import Dataset, Pool, Signals


@overload
def collect(
    pool: Pool,
    dataset: Dataset,
    *,
    folder: Path | str,
    engine: str | Engine = "serial",
    workers: int | None = None,
    population: NDArray[np.bool_] | None = None,
    device: str = "cpu",
    quiet: bool = False,
    shard: None = None,
) -> Signals: ...


@overload
def collect(
    pool: Pool,
    dataset: Dataset,
    *,
    folder: Path | str,
    engine: str | Engine = "serial",
    workers: int | None = None,
    population: NDArray[np.bool_] | None = None,
    device: str = "cpu",
    quiet: bool = False,
    shard: Shard,
) -> Signals | None: ...


def collect(
    pool: Pool,
    dataset: Dataset,
    *,
    folder: Path | str,
    engine: str | Engine = "serial",
    workers: int | None = None,
    population: NDArray[np.bool_] | None = None,
    device: str = "cpu",
    quiet: bool = False,
    shard: Shard | None = None,
) -> Signals | None:
    """The logits of every model on every record, without noise, dropout or augmentation.

    Models answer in float32 whatever the recipe's training precision: scaled logits of confident records
    differ by less than bfloat16 resolves. Rows already there and still right are kept, so a killed
    collection goes on and a second call costs nothing.

    Args:
        pool: a finished pool.
        dataset: the very records that the pool's membership speaks of.
        folder: where ``logits/NNNNN.npy`` (one ``(N, 1, K)`` float32 a model) and what describes them go.
        engine: as in ``train_pool``.
        workers: processes at once.
        population: ``(N,)`` bool, records that no model was trained on, kept to calibrate attacks.
        device: ``"cpu"`` or ``"cuda"``.
        quiet: show no progress.
        shard: ``(i, n)`` as in ``train_pool``: ask the models of this shard only, beside other processes. Their
            training must be finished, the whole pool's need not be.

    Returns:
        Signals whose logits are memory maps; of a shard None as long as the answers of other shards are missing.

    Raises:
        PoolError: other records than the pool was trained on, an unfinished pool, a model file that is
            missing or altered, a folder that cannot be written.
        SignalsError: a population of the wrong shape or with members, logits that are not finite.
    """
    folder, runner = Path(folder), get_engine(engine, workers)
    check_shard(shard)
    check_pool(pool, dataset, "collect", shard)
    population = np.zeros(len(dataset), np.bool_) if population is None else np.asarray(population)
    if population.shape != (len(dataset),) or population.dtype != np.bool_:
        raise SignalsError(
            f"population as booleans of shape ({len(dataset)},)",
            f"type {population.dtype}, shape {population.shape}",
            "Convert it.",
        )
    # Checked before the work; Signals would refuse the same at its end.
    if exposed := int(pool.members[:, population].any(axis=0).sum()):
        raise SignalsError(
            "population records that no model was trained on",
            f"{exposed} of them are members of a model",
            "Use records outside every training set as population.",
        )
    question = Question("logits", dataset.inputs, ModelPlan.of(pool), folder / "logits", dataset.fingerprint, device)
    with writer_lock(folder, part_of(shard)):
        if shard is None:
            clear_leftovers(folder)
        # A pool that was stopped early has fewer models than its plan.
        rows = [row for task in tasks_of(pool.manifest["plan"]["tasks"], shard) for row in task if row < len(pool)]
        done = ask_models(question, pool, rows, runner, quiet=quiet)
        if len(pool.manifest.get("files", ())) < len(pool):
            return None
        # Of several shards, whoever finds all answers there; what each of them writes is the same.
        for row in set(range(len(pool))) - done.keys():
            if not (digest := question.finished(row, pool.manifest["files"][pool.model_path(row).name])):
                return None
            done[row] = digest
        _describe(folder, pool, dataset, population, [done[row] for row in range(len(pool))])
    return load_collected(folder, verify=False)


def load_collected(folder: Path | str, *, verify: bool = True) -> Signals:
    """Signals that ``collect`` wrote; needs no PyTorch.

    Args:
        verify: hash every file (about a second a gigabyte).

    Raises:
        SignalsError: no such signals, not finished, or a file that is missing or not as it was written.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        raise SignalsError(
            f"collected signals in {folder}", "no manifest.json", "Run collect again: it goes on where it stopped."
        )
    manifest = read_json(folder / "manifest.json")
    if not isinstance(manifest, Mapping) or "rows" not in manifest:
        raise SignalsError(
            f"the manifest of signals in {folder}", "another JSON file", "Name the folder that collect wrote."
        )
    paths = [answers_path(folder / "logits", row) for row in range(len(manifest["rows"]))]
    try:
        if verify:
            for path, digest in zip(paths, manifest["rows"], strict=True):
                if sha256_file(path) != digest:
                    raise SignalsError(
                        f"{path} as it was written", "another content", "Delete it and run collect again."
                    )
        arrays = {name: read_npy(folder / f"{name}.npy") for name in ("members", "labels", "ids", "population")}
        outputs = tuple(read_npy(path, mmap=True) for path in paths)
    except (OSError, DataError) as error:
        raise SignalsError(
            f"whole signals in {folder}", str(error), "Run collect again: it writes what is missing."
        ) from error
    if sha256_arrays(*arrays.values()) != manifest["tables"]:
        raise SignalsError(
            f"members, labels, ids and population in {folder} as written", "another content", "Run collect again."
        )
    return Signals(
        outputs,
        "logits",
        arrays["members"],
        arrays["labels"],
        arrays["ids"],
        arrays["population"],
        tuple(manifest["class_names"]),
        folder,
        manifest["fingerprint"],
        # Models are asked so that no answer can be anything else.
        checked=True,
    )


def _describe(folder: Path, pool: Pool, dataset: Dataset, population: NDArray[np.bool_], rows: list[str]) -> None:
    """Write the tables and, last, the manifest that makes the signals whole."""
    tables = {"members": pool.members, "labels": dataset.labels, "ids": dataset.ids, "population": population}
    content = sha256_arrays(*tables.values())
    manifest = {
        "schema": SCHEMA,
        "kind": "logits",
        "models": len(pool),
        "records": len(dataset),
        "queries": 1,
        "classes": dataset.classes,
        "class_names": list(dataset.class_names),
        "data_name": dataset.name,
        "dataset": dataset.fingerprint,
        "plan_hash": pool.manifest["plan_hash"],
        "rows": rows,
        "tables": content,
        "fingerprint": sha256_json([rows, content]),
    }
    path = folder / "manifest.json"
    if path.exists() and read_json(path) == manifest:
        return
    for name, array in tables.items():
        write_npy(folder / f"{name}.npy", array)
    write_json(path, manifest)
