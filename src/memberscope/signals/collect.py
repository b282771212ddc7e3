"""Ask every model of a pool about every record, in streams, into memory-mapped files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import DataError, PoolError, SignalsError
from memberscope.files import (
    atomic,
    read_json,
    read_npy,
    sha256_arrays,
    sha256_file,
    sha256_json,
    write_json,
    write_npy,
    writer_lock,
)
from memberscope.progress import progress
from memberscope.training.engines import Engine, get_engine
from memberscope.training.store import ModelPlan
from memberscope.types import Dataset, Pool, Signals

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1


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
) -> Signals:
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

    Returns:
        Signals whose logits are memory maps.

    Raises:
        PoolError: other records than the pool was trained on, an unfinished pool, a model file that is
            missing or altered, a folder that cannot be written.
        SignalsError: a population of the wrong shape or with members, logits that are not finite.
    """
    folder, runner = Path(folder), get_engine(engine, workers)
    if "files" not in pool.manifest:
        raise PoolError("a finished pool", f"{pool.folder} without all its models", "Run train_pool again, it goes on.")
    if dataset.fingerprint != pool.manifest["plan"]["data"]["fingerprint"]:
        raise PoolError(
            f"the records that the models in {pool.folder} were trained on ({pool.manifest['data_name']!r})",
            f"other records or another order ({dataset.name!r})",
            "Give collect the same data set as train_pool.",
        )
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
    plan = ModelPlan.of(pool)
    task = _Task(dataset.inputs, plan, folder / "logits", dataset.fingerprint, device)
    models = [
        (row, pool.model_path(row), pool.manifest["files"][pool.model_path(row).name]) for row in range(len(pool))
    ]
    with writer_lock(folder):
        for leftover in folder.rglob(".*.part"):
            leftover.unlink(missing_ok=True)
        done = {row: digest for row, _, model in models if (digest := _finished(task.path(row), task.source(model)))}
        todo = [model for model in models if model[0] not in done]
        with (
            progress(f"asking {len(pool)} models", len(pool), done=len(done), quiet=quiet) as show,
            closing(runner.run(task, todo, threads=plan.recipe.threads)) as results,
        ):
            for row, digest in results:
                done[row] = digest
                show(len(done))
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
    paths = [folder / "logits" / f"{row:05d}.npy" for row in range(len(manifest["rows"]))]
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
    )


@dataclass(frozen=True, eq=False)
class _Task:
    """Writes one model's answers; sent to workers as it is."""

    inputs: NDArray[Any]
    plan: ModelPlan
    folder: Path
    fingerprint: str
    device: str

    def path(self, row: int) -> Path:
        """Where the answers of ``row`` go."""
        return self.folder / f"{row:05d}.npy"

    def source(self, model: str) -> dict[str, Any]:
        """What the answers of the model file with hash ``model`` depend on."""
        return {
            "schema": SCHEMA,
            "model": model,
            "dataset": self.fingerprint,
            "precision": "fp32",
            "device": self.device,
        }

    def __call__(self, task: tuple[int, Path, str]) -> tuple[int, str]:
        """Row and SHA-256 of its file. Answers do not travel: for a million records they are too large."""
        row, path, model = task
        with atomic(self.path(row)) as file:
            written = _Hashing(file)
            shape = (len(self.inputs), 1, self.plan.classes)
            np.lib.format.write_array_header_1_0(written, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for logits in self.ask(path, model):
                written.write(logits.tobytes())
        digest = written.digest.hexdigest()
        write_json(self.path(row).with_suffix(".json"), {"source": self.source(model), "sha256": digest})
        return row, digest

    def ask(self, path: Path, sha256: str) -> Iterator[NDArray[np.float32]]:
        """The logits ``(B, K)`` of the model in ``path``, batch after batch."""
        import torch

        from memberscope.training.inputs import Encoder
        from memberscope.training.loop import reproducible
        from memberscope.training.store import load_model

        recipe = self.plan.recipe
        with reproducible(recipe.threads, self.device), torch.no_grad():
            model = load_model(path, sha256, self.plan, self.device)
            encode = Encoder.of(self.plan.normalisation, self.inputs.ndim == 4, recipe.channels_last, self.device)
            for place, batch in encode.stream(self.inputs, recipe.evaluation_batch_size):
                logits: Tensor = model(batch)
                if not logits.isfinite().all():
                    raise SignalsError(
                        "finite logits",
                        f"NaN or infinity from {path.name} for records {place.start} to {place.stop - 1}",
                        "A diverged model cannot be audited: train the pool with a lower learning rate.",
                    )
                yield logits.cpu().numpy().astype("<f4")


class _Hashing:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self.file.write(content)


def _finished(path: Path, source: Mapping[str, Any]) -> str:
    """The hash of a row that is there and still right, or an empty string."""
    sidecar = path.with_suffix(".json")
    if not path.exists() or not sidecar.exists():
        return ""
    described = read_json(sidecar)
    right = described.get("source") == source and sha256_file(path) == described.get("sha256")
    return str(described["sha256"]) if right else ""


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
