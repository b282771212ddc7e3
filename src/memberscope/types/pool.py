"""A folder of models with known membership."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import PoolError


@dataclass(frozen=True, eq=False)
class Pool:
    """Models trained alike on known subsets of one data set; any row may play target.

    Args:
        folder: holds ``00000.safetensors`` … one file a model, ``members.npy`` and ``manifest.json``.
        members: ``(M, N)`` bool, which records each model was trained on.
        recipe: how every model was trained, as plain JSON values.
        manifest: plan, seeds, versions and the SHA-256 of every model file.
    """

    folder: Path
    members: NDArray[np.bool_]
    recipe: Mapping[str, Any]
    manifest: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_members(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def model_path(self, row: int) -> Path:
        """The model file of ``row``."""
        if not 0 <= row < len(self):
            raise PoolError(f"a model row from 0 to {len(self) - 1}", str(row), "Name a row of the pool.")
        return self.folder / f"{row:05d}.safetensors"


def check_members(members: NDArray[Any]) -> None:
    """Raise a PoolError unless ``members`` is a boolean (M, N) with members and non-members in every row."""
    if members.ndim != 2 or members.dtype != np.bool_:
        raise PoolError(
            "membership as booleans of shape (models, records)",
            f"type {members.dtype}, shape {members.shape}",
            "Convert it with members.astype(bool), after checking that 1 means member.",
        )
    if not members.size:
        raise PoolError("at least one model and one record", f"shape {members.shape}", "Give members a row a model.")
    counts = members.sum(axis=1)
    for row in np.flatnonzero((counts == 0) | (counts == members.shape[1]))[:1]:
        raise PoolError(
            "members and non-members in every model",
            f"model {row} was trained on {'no record' if counts[row] == 0 else 'every record'}",
            "Hold records out of every model: an audit needs both kinds to compare.",
        )
