"""A model a file: safetensors, whose bytes depend on nothing but the weights, the row and the plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memberscope.errors import PoolError
from memberscope.files import sha256_file
from memberscope.training.recipe import Recipe
from memberscope.types import Pool

if TYPE_CHECKING:
    from torch import Tensor

    from memberscope.models.base import Classifier
    from memberscope.training.inputs import Normalisation


@dataclass(frozen=True)
class ModelPlan:
    """Everything but the weights that is needed to run a model of a pool."""

    recipe: Recipe
    input_shape: tuple[int, ...]
    classes: int
    normalisation: Normalisation

    @classmethod
    def of(cls, pool: Pool) -> ModelPlan:
        """What the manifest of ``pool`` says."""
        from memberscope.training.inputs import Normalisation

        data = pool.manifest["plan"]["data"]
        return cls(
            Recipe.parse(pool.recipe),
            tuple(data["input_shape"]),
            data["classes"],
            Normalisation.parse(pool.manifest["normalisation"]),
        )


def encode(state: Mapping[str, Tensor], row: int, plan_hash: str) -> bytes:
    """A model file's bytes."""
    from safetensors.torch import save

    # One key: the writer stores several in the order of a hash map, which differs from run to run.
    return save(dict(state), {"memberscope": json.dumps({"plan_hash": plan_hash, "row": row}, sort_keys=True)})


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: names, types and places of tensors, and metadata.

    Raises:
        PoolError: missing, not safetensors (a pickle is named as such), or cut short. Nothing is executed.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            header = (
                json.loads(file.read(length)) if len(start) == 8 and 2 <= length <= min(size - 8, 100_000_000) else None
            )
        if not isinstance(header, dict):
            raise ValueError("no safetensors header")
        ends = [value["data_offsets"][1] for key, value in header.items() if key != "__metadata__"]
        if 8 + length + max(ends, default=0) != size:
            raise ValueError(f"{size} bytes where its header announces {8 + length + max(ends, default=0)}")
    except OSError as error:
        raise PoolError(
            f"the model file {path}", f"{error.strerror or error}", "Restore it, or train the pool again."
        ) from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        # A pickle starts with its protocol mark; torch.save wraps one in a zip.
        pickled = start[:1] == b"\x80" or start[:4] == b"PK\x03\x04"
        got = "a pickle, which could run any code when loaded" if pickled else f"a damaged file: {error}"
        raise PoolError(
            f"a safetensors file at {path}", got, "It was not loaded. Save weights with safetensors.torch.save_file."
        ) from error
    return header


def check_file(path: Path, sha256: str) -> None:
    """Raise a PoolError unless ``path`` is a safetensors file with that hash."""
    read_header(path)
    if (got := sha256_file(path)) != sha256:
        raise _altered(path, got, sha256)


def load_model(path: Path, sha256: str, plan: ModelPlan, device: str = "cpu") -> Classifier:
    """The model in ``path``, ready to be asked: weights loaded, in evaluation mode.

    Raises:
        PoolError: missing, altered since it was written, or weights of another architecture.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    from memberscope.models import build

    read_header(path)
    content = path.read_bytes()
    if (got := hashlib.sha256(content).hexdigest()) != sha256:
        raise _altered(path, got, sha256)
    with torch.random.fork_rng(devices=[]):
        model = build(plan.recipe.model.name, plan.input_shape, plan.classes, **plan.recipe.model_options())
    try:
        model.load_state_dict(load(content))
    except (SafetensorError, RuntimeError) as error:
        raise PoolError(
            f"the weights of a {plan.recipe.model.name} in {path}",
            str(error).splitlines()[0],
            "Load it with the recipe that it was trained with.",
        ) from error
    if plan.recipe.channels_last is True and len(plan.input_shape) == 3:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(device).eval()


def pool_model(pool: Pool, row: int, device: str = "cpu") -> Classifier:
    """The model of ``row``; its file is checked against the manifest.

    Raises:
        PoolError: no such row, or see :func:`load_model`.
    """
    path = pool.model_path(row)
    return load_model(path, pool.manifest["files"][path.name], ModelPlan.of(pool), device)


def _altered(path: Path, got: str, sha256: str) -> PoolError:
    return PoolError(
        f"{path} as it was written (SHA-256 {sha256[:12]}…)",
        f"another content ({got[:12]}…)",
        "Restore the file, or delete it and run the training again: only that model is trained anew.",
    )
