"""What models said about records, and which records they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import MemberscopeError, SignalsError
from memberscope.large import release
from memberscope.types.access import Access
from memberscope.types.dataset import as_labels, check_ids
from memberscope.types.pool import check_members

Kind = Literal["logits", "probabilities", "labels"]

# A float32 softmax of a thousand classes sums to 1 within about 1e-6; anything further off is not a distribution,
# unless every probability was rounded by itself.
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Signals:
    """Outputs of M models on N records, each asked Q times.

    Args:
        outputs: one array a model, ``(N, Q, K)`` floats (logits or probabilities; K = 1 is the score of
            class 1 of two), or ``(N, Q)`` predicted classes for ``kind="labels"``. Arrays may be memory
            maps. One array ``(M, N, K)`` or ``(M, N, Q, K)`` is accepted too.
        kind: what the outputs are.
        members: ``(M, N)`` bool.
        labels: ``(N,)`` true classes.
        ids: ``(N,)`` identities; row numbers when omitted.
        population: ``(N,)`` bool, records that no model was trained on, used to calibrate attacks and
            never audited; none when omitted.
        class_names: names of the classes.
        folder: where derived scalars are cached; nowhere when omitted.
        fingerprint: content hash of the outputs if the writer knows it.
        checked: whoever wrote the outputs has made sure that they are finite; they are not read again to see.
        outside: every row but the first may have trained on none of these records (references on stand-in data).

    Raises:
        SignalsError: shapes disagree, values not finite, not distributions, labels out of range, a model
            without members or non-members.
    """

    outputs: Sequence[NDArray[Any]]
    kind: Kind
    members: NDArray[np.bool_]
    labels: NDArray[np.int64]
    ids: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, np.str_))
    population: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    class_names: tuple[str, ...] = ()
    folder: Path | None = None
    fingerprint: str = ""
    checked: bool = False
    outside: bool = False
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        members = np.asarray(self.members)
        try:
            check_members(members[:1] if self.outside else members)
            labels = as_labels(self.labels)
            n = len(labels)
            ids = np.asarray(self.ids)
            ids = np.arange(n).astype(np.str_) if ids.size == 0 else ids.astype(np.str_)
            check_ids(ids, n)
        except MemberscopeError as error:
            raise SignalsError(error.expected, error.got, error.fix) from error
        if members.shape[1] != n:
            raise SignalsError(
                f"membership of {n} records, one column a label",
                f"members of shape {members.shape}",
                "Give members (models, records) and labels (records,) for the same records.",
            )
        outputs = self._rows(n, len(members))
        population = np.asarray(self.population)
        population = np.zeros(n, np.bool_) if population.size == 0 else population
        if population.shape != (n,) or population.dtype != np.bool_:
            raise SignalsError(
                f"population as booleans of shape ({n},)",
                f"type {population.dtype}, shape {population.shape}",
                "Convert it.",
            )
        if members[:, population].any():
            raise SignalsError(
                "population records that no model was trained on",
                f"{int(members[:, population].any(axis=0).sum())} of them are members of a model",
                "Use records outside every training set as population.",
            )
        width = 2 if self.kind != "labels" and outputs[0].shape[-1] == 1 else outputs[0].shape[-1]
        if self.kind != "labels" and labels.max() >= width:
            raise SignalsError(
                f"labels from 0 to {width - 1}, one for each of the {width} output columns",
                f"label {labels.max()}",
                "Check that labels start at 0 and that no class is missing from the outputs.",
            )
        for attribute, value in (
            ("outputs", outputs),
            ("members", members),
            ("labels", labels),
            ("ids", ids),
            ("population", population),
        ):
            object.__setattr__(self, attribute, value)
        for row in range(0 if self.checked else len(outputs)):
            self._check_row(row)

    def _rows(self, n: int, m: int) -> tuple[NDArray[Any], ...]:
        """The outputs as one (N, Q, K) array a model (or (N, Q) labels), shapes checked."""
        rows = tuple(np.asarray(row) if not isinstance(row, np.ndarray) else row for row in self.outputs)
        wanted = 2 if self.kind == "labels" else 3
        rows = tuple(row[:, None] if row.ndim == wanted - 1 else row for row in rows)
        shapes = {row.shape for row in rows}
        first = next(iter(shapes), ())
        if len(rows) != m or len(shapes) != 1 or len(first) != wanted or first[0] != n or 0 in first:
            what = "(M, N) or (M, N, Q)" if self.kind == "labels" else "(M, N, K) or (M, N, Q, K)"
            raise SignalsError(
                f"{self.kind} of shape {what} for M = {m} models and N = {n} records",
                f"{len(rows)} models with shapes {sorted(shapes)[:3]}",
                "Make the first axis the models and the second the records, in the order of the labels.",
            )
        if any(row.dtype.kind not in ("iu" if self.kind == "labels" else "f") for row in rows):
            raise SignalsError(
                f"{self.kind} as {'integers' if self.kind == 'labels' else 'floating-point numbers'}",
                f"type {rows[0].dtype}",
                "Convert the array, and check that it holds what its name says.",
            )
        return rows

    def _check_row(self, row: int) -> None:
        values = self.outputs[row]
        if self.kind == "labels":
            return
        # One pass in pieces: a memory map is never held whole.
        for start in range(0, len(values), 65_536):
            part = values[start : start + 65_536]
            if not np.isfinite(part).all():
                bad = start + int(np.flatnonzero(~np.isfinite(part).all(axis=(1, 2)))[0])
                raise SignalsError(
                    f"finite {self.kind}",
                    f"NaN or infinity from model {row} for record {str(self.ids[bad])!r}",
                    "A diverged model cannot be audited: retrain it or leave its row out.",
                )
            if self.kind == "probabilities":
                total = part.sum(axis=2, dtype=np.float64)
                allowed = self._sum_tolerance if part.shape[2] > 1 else np.inf
                if part.min() < 0 or part.max() > 1 + SUM_TOLERANCE or np.abs(total - 1).max() > allowed:
                    raise SignalsError(
                        "probabilities in [0, 1] that sum to 1",
                        f"values from {part.min():.4g} to {part.max():.4g}, sums from {total.min():.4g} to "
                        f"{total.max():.4g} in model {row}",
                        "If these are logits, name the array 'logits'; if they are rounded, pass enough digits.",
                    )
            release(part)

    def __len__(self) -> int:
        return len(self.outputs)

    @property
    def records(self) -> int:
        """Number of records N."""
        return len(self.labels)

    @property
    def queries(self) -> int:
        """Number of queries a record Q."""
        return int(self.outputs[0].shape[1])

    @property
    def classes(self) -> int:
        """Number of classes K (2 for a single output column)."""
        if self.kind == "labels":
            return int(max(self.labels.max(), *(int(row.max()) for row in self.outputs))) + 1
        return max(2, int(self.outputs[0].shape[2]))

    @cached_property
    def digits(self) -> int | None:
        """Decimals to which probabilities were rounded (at most 6), or None if they were not."""
        if self.kind != "probabilities":
            return None
        sample = np.concatenate([np.asarray(row[:512]).ravel() for row in self.outputs[:8]])
        exact = sample.astype(np.float64)
        # A decimal written in a float type comes back as the nearest such float: anything else was not rounded.
        spacing = 2 * np.spacing(np.abs(sample)).astype(np.float64)
        for digits in range(7):
            if spacing.max() > 0.25 * 10.0**-digits:
                # The type itself is no finer than these decimals, so every number would look rounded.
                return None
            if (np.abs(exact - np.round(exact, digits)) <= np.where(exact == 0, 0, spacing)).all():
                return digits
        return None

    @cached_property
    def _sum_tolerance(self) -> float:
        """How far a sum may be from 1: K roundings of at most half the last decimal each add up."""
        rounding = 0.0 if self.digits is None else 0.5 * 10.0**-self.digits * self.outputs[0].shape[2]
        return SUM_TOLERANCE + rounding

    @property
    def access(self) -> Access:
        """What the outputs let an attacker see."""
        if self.kind == "labels":
            return Access.LABEL
        if self.kind == "logits":
            return Access.LOGITS
        return Access.SCORES if self.digits is None else Access.ROUNDED
