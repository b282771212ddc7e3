"""The files of a pool's folder: begun once, a model written whole or not at all, and known again when finished."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memberscope.errors import PoolError
from memberscope.files import atomic, create_json, read_json, write_json, write_npy
from memberscope.training.plan import check_plan, make_manifest, read_manifest
from memberscope.training.rows import Shard, tasks_of
from memberscope.training.store import check_file
from memberscope.types import Dataset, Pool

if TYPE_CHECKING:
    from memberscope.training.loop import Metrics


def begin(
    pool: Pool, plan: Mapping[str, Any], dataset: Dataset, environment: Mapping[str, str], shard: Shard | None
) -> dict[str, Any] | None:
    """The folder's manifest, checked against the plan; written first if the folder is new.

    None if it was new and another shard has just begun it, perhaps on another kind of machine.
    """
    path = pool.folder / "manifest.json"
    # Other shards' files may be in the middle of being written.
    rows = [f"{row:05d}." for task in tasks_of(plan["tasks"], shard) for row in task] if shard else [""]
    for leftover in [path for row in rows for path in pool.folder.glob(f".{row}*.part")]:
        leftover.unlink(missing_ok=True)
    # Sought before the manifest is: a shard that begins meanwhile writes the manifest before any model.
    models = any(pool.folder.glob("*.safetensors"))
    if path.exists():
        manifest = read_manifest(path)
        check_plan(manifest, plan, pool.folder)
        if not (pool.folder / "members.npy").exists():
            write_npy(pool.folder / "members.npy", pool.members)
        return manifest
    if models:
        raise PoolError(
            f"the manifest that belongs to the models in {pool.folder}",
            "none",
            "Restore manifest.json, or use another folder.",
        )
    from memberscope.training.inputs import Normalisation

    manifest = make_manifest(plan, dataset.name, environment)
    manifest["normalisation"] = Normalisation.fit(dataset.inputs).as_json()
    if not create_json(path, manifest):
        return None
    write_npy(pool.folder / "members.npy", pool.members)
    return manifest


def finished(pool: Pool, row: int, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was written beside the model of ``row``, or None if it has to be trained."""
    path = pool.model_path(row)
    if not path.exists():
        return None
    sidecar = read_json(sidecar_path(pool, row))
    if not isinstance(sidecar, dict) or sidecar.get("plan_hash") != manifest["plan_hash"]:
        raise PoolError(
            f"{sidecar_path(pool, row)} of this pool", "one of another plan", "Restore the file, or use another folder."
        )
    # Once the pool is whole, its manifest is the judge: a model and its description could be swapped together.
    check_file(path, manifest.get("files", {}).get(path.name, sidecar.get("sha256", "not written")))
    return sidecar


def write_model(pool: Pool, row: int, content: bytes, traces: bytes, metrics: Metrics, plan_hash: str) -> str:
    """Write a model and what belongs to it; the SHA-256 of the model's file."""
    sha256 = hashlib.sha256(content).hexdigest()
    # The model comes last: where its file exists, the model is finished.
    with atomic(trace_path(pool, row)) as file:
        file.write(traces)
    sidecar = {"row": row, "plan_hash": plan_hash, "sha256": sha256, "traces": hashlib.sha256(traces).hexdigest()}
    write_json(sidecar_path(pool, row), sidecar | {"metrics": asdict(metrics)})
    with atomic(pool.model_path(row)) as file:
        file.write(content)
    return sha256


def trace_path(pool: Pool, row: int) -> Path:
    """Where the traces of a model's training are."""
    return pool.model_path(row).with_suffix(".trace.npz")


def sidecar_path(pool: Pool, row: int) -> Path:
    """Where a model's hash and metrics are."""
    return pool.model_path(row).with_suffix(".json")
