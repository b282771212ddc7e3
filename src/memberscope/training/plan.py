"""What a pool's folder is bound to: data, members, recipe, seed, tasks; and what may not change under it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import ConfigError, DataError, MissingExtraError, PoolError
from memberscope.files import read_json, sha256_arrays, sha256_json
from memberscope.training.mode import describe, make_tasks, stack_size, why_not_stacked
from memberscope.training.recipe import Recipe
from memberscope.types import Dataset

SCHEMA = 1
MISSING = "nothing"


def make_plan(
    dataset: Dataset,
    members: NDArray[np.bool_],
    recipe: Recipe,
    seed: int,
    device: str,
    validation: Dataset | None = None,
    difficulty: NDArray[np.float64] | None = None,
    stack: int | None = None,
) -> dict[str, Any]:
    """Everything that decides the bytes of a pool's models on one machine, as JSON values.

    ``recipe`` has nothing left to ``auto``. ``tasks`` lists the rows that are trained together, as many as ``stack``
    or, with None, as pays. Which rows share a task is part of the plan, so that whoever runs it, the bytes are the
    same.
    """
    extras = {} if validation is None else {"validation": validation.fingerprint}
    extras |= {} if difficulty is None else {"difficulty": sha256_arrays(difficulty)}
    shape = dataset.inputs.shape[1:]
    size = stack_size(recipe, shape, dataset.classes, len(members), device) if stack is None else stack
    return extras | {
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
        "tasks": make_tasks(members, recipe, size),
    }


def check_stack(recipe: Recipe, stack: int | None) -> None:
    """Raise a ConfigError unless ``stack`` models of ``recipe`` can be trained at once."""
    if stack is None:
        return
    if type(stack) is not int or stack < 1:
        raise ConfigError("at least 1 model a stack, or None", repr(stack), "Leave stack out: it is then chosen.")
    if stack > 1 and (why := why_not_stacked(recipe)):
        raise ConfigError("a recipe whose models can be trained in a stack", why, "Leave stack out, or set it to 1.")


def as_begun(manifest: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """``recipe`` with what it leaves to ``auto`` as the pool of ``manifest`` was begun."""
    old = manifest["plan"]["recipe"]
    # Before there was a choice, the default was float32 and the ordinary memory format.
    begun = {"precision": old.get("precision", "fp32"), "channels_last": old.get("channels_last", False)}
    return recipe.model_copy(update={key: value for key, value in begun.items() if getattr(recipe, key) == "auto"})


def check_extras(
    dataset: Dataset, recipe: Recipe, validation: Dataset | None, difficulty: NDArray[np.float64] | None
) -> None:
    """Raise unless the recipe has what it needs beside the records, and that fits them.

    Raises:
        ConfigError: early stopping without a validation split, a curriculum without difficulties, bit flips on
            values other than 0 and 1.
        DataError: a validation split of another shape, or one that holds audited records.
    """
    if recipe.early_stopping is not None and validation is None:
        raise ConfigError(
            "a validation split for early_stopping",
            "none",
            "Set pool.validation in the configuration, or pass validation=.",
        )
    if validation is not None:
        _check_validation(dataset, validation)
    if recipe.curriculum is not None and difficulty is None:
        raise ConfigError(
            "a difficulty for every record for curriculum",
            "none",
            "Pass difficulty=, for example the mean loss of models that did not train on the record.",
        )
    if difficulty is not None and (difficulty.shape != (len(dataset),) or not np.isfinite(difficulty).all()):
        raise DataError(
            f"finite difficulties of shape ({len(dataset)},)", f"shape {difficulty.shape}", "Give one a record."
        )
    if recipe.augmentation is not None and recipe.augmentation.bit_flip:
        wrong = next((part for part in _parts(dataset.inputs) if not ((part == 0) | (part == 1)).all()), None)
        if wrong is not None:
            raise ConfigError(
                "a table of 0 and 1 for bit_flip", f"values from {wrong.min()} to {wrong.max()}", "Leave bit_flip out."
            )


def _parts(inputs: NDArray[Any]) -> list[NDArray[Any]]:
    return np.array_split(inputs, len(inputs) // 4096 + 1)


def _check_validation(dataset: Dataset, validation: Dataset) -> None:
    if validation.inputs.shape[1:] != dataset.inputs.shape[1:] or validation.classes > dataset.classes:
        raise DataError(
            f"validation records of shape {dataset.inputs.shape[1:]} with at most {dataset.classes} classes",
            f"shape {validation.inputs.shape[1:]}, {validation.classes} classes",
            "Take the validation split from the same data.",
        )
    known = {record: place for place, record in enumerate(_digests(dataset))}
    places = [known.get(record) for record in _digests(validation)]
    same = [place for place in places if place is not None]
    # Equal records with different ids occur in any table of few values; with equal ids they are the same record.
    ids = sum(place is not None and dataset.ids[place] == validation.ids[row] for row, place in enumerate(places))
    if ids or len(same) > len(validation) / 2:
        raise DataError(
            "a validation split that shares no record with the audit pool",
            f"{max(ids, len(same)):,} of {len(validation):,} that are in both",
            "Split before training: memberscope.data.membership.splits gives disjoint parts.",
        )


def _digests(dataset: Dataset) -> list[bytes]:
    return [
        hashlib.blake2b(row.tobytes() + label.tobytes(), digest_size=16).digest()
        for row, label in zip(dataset.inputs, dataset.labels, strict=True)
    ]


def make_manifest(plan: Mapping[str, Any], name: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """The manifest of a pool that is about to be trained; ``name`` is the data set's, for people."""
    return {
        "schema": SCHEMA,
        "data_name": name,
        "plan": dict(plan),
        "plan_hash": sha256_json(plan),
        "environment": dict(environment),
        "mode": describe(Recipe.parse(plan["recipe"]), plan["tasks"]),
    }


def describe_environment(device: str) -> dict[str, str]:
    """Versions and processor, which may change a model's bytes though the plan is the same.

    Raises:
        ConfigError: no such device here.
        MissingExtraError: PyTorch is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("torch", "torch", "training") from error
    from memberscope import __version__

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ConfigError("a device such as 'cpu' or 'cuda'", repr(device), "Name a device of this machine.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("a CUDA device", "none on this machine", "Use device 'cpu'.")
    processor = torch.cuda.get_device_name(device) if kind == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"memberscope": __version__, "torch": torch.__version__, "processor": processor}


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
        old["recipe"] = as_begun(manifest, Recipe.parse(old["recipe"])).as_json()
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
