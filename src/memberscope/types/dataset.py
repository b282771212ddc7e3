"""Records with labels and identities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memberscope.errors import DataError
from memberscope.files import sha256_arrays


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled records; a record's id follows it to the last page of the report.

    Args:
        inputs: ``(N, F)`` table or ``(N, C, H, W)`` images, any real or integer type, finite.
        labels: ``(N,)`` integers in ``[0, K)``.
        ids: ``(N,)`` unique identities, kept as text; row numbers when omitted.
        class_names: K names; ``"0" … "K-1"`` when omitted. A class may have no record.
        feature_names: F names of a table's columns.
        groups: further ``(N,)`` attributes by name (published split, subgroup, planted oddities);
            never shown to a model.
        name: what reports call the data.

    Raises:
        DataError: shapes disagree, labels out of range, ids repeated, values not finite.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    ids: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, np.str_))
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    groups: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    name: str = "data"

    def __post_init__(self) -> None:
        inputs = np.asarray(self.inputs)
        labels = as_labels(self.labels)
        n = len(labels)
        if inputs.ndim not in (2, 4) or len(inputs) != n:
            raise DataError(
                "inputs of shape (N, features) or (N, channels, height, width), one per label",
                f"inputs of shape {inputs.shape} with {n} labels",
                "Reshape the inputs, or give one label a record.",
            )
        if n == 0:
            raise DataError("at least one record", "none", "Check the file or the selection.")
        if inputs.dtype.kind not in "biuf":
            raise DataError("numeric inputs", f"type {inputs.dtype}", "Encode text columns as numbers first.")
        if inputs.dtype.kind == "f" and not all(
            np.isfinite(part).all() for part in np.array_split(inputs, n // 4096 + 1)
        ):
            raise DataError("finite inputs", "NaN or infinity", "Remove or impute the records concerned.")
        ids = np.asarray(self.ids)
        ids = np.arange(n).astype(np.str_) if ids.size == 0 else ids.astype(np.str_)
        check_ids(ids, n)
        classes = tuple(str(name) for name in self.class_names) or tuple(str(k) for k in range(int(labels.max()) + 1))
        if labels.max() >= len(classes):
            raise DataError(
                f"labels below {len(classes)}, the number of class names",
                f"label {labels.max()}",
                "Name every class.",
            )
        if self.feature_names and (inputs.ndim != 2 or len(self.feature_names) != inputs.shape[1]):
            raise DataError(
                "one feature name a column",
                f"{len(self.feature_names)} names for shape {inputs.shape}",
                "Name every column.",
            )
        for key, values in self.groups.items():
            if np.shape(values) != (n,):
                raise DataError(f"group {key!r} of shape ({n},)", f"{np.shape(values)}", "Give one value a record.")
        for attribute, value in (
            ("inputs", inputs),
            ("labels", labels),
            ("ids", ids),
            ("class_names", classes),
        ):
            object.__setattr__(self, attribute, value)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def kind(self) -> Literal["image", "table"]:
        """``"image"`` for four axes, else ``"table"``."""
        return "image" if self.inputs.ndim == 4 else "table"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over inputs, labels and ids; what every cache is keyed on."""
        return sha256_arrays(self.inputs, self.labels, self.ids)

    def take(self, indices: ArrayLike) -> Dataset:
        """The records at ``indices``, in that order, with their ids and groups.

        >>> data = Dataset(np.eye(3), np.array([0, 1, 1]), np.array(["a", "b", "c"]))
        >>> data.take([2, 0]).ids.tolist()
        ['c', 'a']
        """
        index = np.asarray(indices)
        return Dataset(
            self.inputs[index],
            self.labels[index],
            self.ids[index],
            self.class_names,
            self.feature_names,
            {key: values[index] for key, values in self.groups.items()},
            self.name,
        )


def as_labels(labels: Any) -> NDArray[np.int64]:
    """Labels as non-negative int64 of shape (N,), or a DataError that says what is wrong."""
    array = np.asarray(labels)
    whole = array.dtype.kind in "iu" or (array.dtype.kind == "f" and bool(np.all(array == np.floor(array))))
    if array.ndim != 1 or (array.size and not whole):
        raise DataError(
            "labels as one integer a record, shape (N,)",
            f"shape {array.shape}, type {array.dtype}" + ("" if whole else ", some not whole numbers"),
            "Encode the classes as 0 … K-1; a record without a label cannot be audited.",
        )
    if array.size and array.min() < 0:
        raise DataError(
            "labels of at least 0",
            f"label {array.min()}",
            "Encode the classes as 0 … K-1 and drop unlabelled records.",
        )
    return array.astype(np.int64)


def check_ids(ids: NDArray[np.str_], n: int) -> None:
    """Raise a DataError unless there are ``n`` different ids."""
    if ids.shape != (n,):
        raise DataError(f"one id a record, shape ({n},)", f"shape {ids.shape}", "Give every record its id.")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < n:
        raise DataError(
            "a different id for every record",
            f"{n - len(unique)} repeated, for example {str(unique[counts > 1][0])!r}",
            "Make the ids unique, or leave them out to use row numbers.",
        )
