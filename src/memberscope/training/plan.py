"""What a pool's folder is bound to: data, members, recipe, seed, tasks; and what may not change under it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import ConfigError, PoolError
from memberscope.files import read_json, sha256_arrays, sha256_json
from memberscope.training.recipe import Recipe
from memberscope.types import Dataset

SCHEMA = 1
MISSING = "nothing"


def make_plan(dataset: Dataset, members: NDArray[np.bool_], recipe: Recipe, seed: int, device: str) -> dict[str, Any]:
    """Everything that decides the bytes of a pool's models on one machine, as JSON values.

    ``tasks`` lists the rows that are trained together; today one row each. Which rows share a task is part
    of the plan, so that whoever runs it, the bytes are the same.
    """
    return {
        "data": {
            "fingerprint": dataset.fingerprint,
            "records": len(dataset),
            "input_shape": list(dataset.inputs.shape[1:]),
            "classes": dataset.classes,
        },
        "members": sha256_arrays(members),
        "models": len(members),
        "recipe": recipe.as_json(),
        "seed": seed,
        "device": device,
        "tasks": [[row] for row in range(len(members))],
    }


def make_manifest(plan: Mapping[str, Any], name: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """The manifest of a pool that is about to be trained; ``name`` is the data set's, for people."""
    return {
        "schema": SCHEMA,
        "data_name": name,
        "plan": dict(plan),
        "plan_hash": sha256_json(plan),
        "environment": dict(environment),
    }


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest in ``path``.

    Raises:
        PoolError: missing, not a pool's manifest, of a later version, or altered since it was written.
    """
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not {"schema", "plan", "plan_hash", "normalisation"} <= manifest.keys():
        raise PoolError(f"a pool's manifest in {path}", "another JSON file", "Name the folder that train_pool wrote.")
    if manifest["schema"] != SCHEMA:
        raise PoolError(
            f"a manifest of schema {SCHEMA} in {path}",
            f"schema {manifest['schema']}",
            "Open it with the version that wrote it.",
        )
    if sha256_json(manifest["plan"]) != manifest["plan_hash"]:
        raise PoolError(f"{path} as it was written", "a plan that was edited", "Restore the file, or train a new pool.")
    return manifest


def check_plan(manifest: Mapping[str, Any], plan: Mapping[str, Any], folder: Path) -> None:
    """Raise a PoolError that names every field in which ``plan`` differs from the folder's."""
    old = dict(manifest["plan"])
    # A recipe written before an option existed means that option's default.
    with contextlib.suppress(ConfigError):
        old["recipe"] = Recipe.parse(old["recipe"]).as_json()
    if changes := differences(old, plan):
        raise PoolError(
            f"the plan with which the models in {folder} were begun",
            f"other values: {'; '.join(changes)}",
            "Undo the change, or use another folder (or delete this one) to train a new pool.",
        )


def check_environment(manifest: Mapping[str, Any], environment: Mapping[str, str], folder: Path) -> None:
    """Raise a PoolError if a half-finished pool would go on with other software or another kind of processor."""
    if changes := differences(manifest.get("environment", {}), environment):
        raise PoolError(
            f"the software and processor with which the half-finished pool in {folder} was begun",
            f"other ones: {'; '.join(changes)}",
            "Its models would not all be trained alike: go back to what was used, or use another folder.",
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``"recipe.epochs is 5, was 3"`` for every value that differs.

    >>> differences({"seed": 0, "recipe": {"epochs": 3}}, {"seed": 0, "recipe": {"epochs": 5}})
    ['recipe.epochs is 5, was 3']
    """
    before, after = _flat(old), _flat(new)
    return [
        f"{key} is {_short(after.get(key, MISSING))}, was {_short(before.get(key, MISSING))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, MISSING) != after.get(key, MISSING)
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, part in value.items():
        flat |= _flat(part, f"{prefix}{key}.") if isinstance(part, Mapping) else {f"{prefix}{key}": part}
    return flat


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:20]}…"
