"""The records of an audit: members and non-members, with labels as the model names them and ids that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import ConfigError, DataError, nearest
from memberscope.targets.inputs import as_inputs, count, fingerprint, joined
from memberscope.targets.predictions import canonical
from memberscope.types import Dataset


@dataclass(frozen=True, eq=False)
class Candidates:
    """Records whose membership is known.

    Args:
        inputs: N records, members first.
        labels: ``(N,)`` as the user gave them.
        ids: ``(N,)`` different.
        members: ``(N,)``.
        class_names: where the records' source names its classes.
        feature_names: likewise of a table's columns.
        coded: labels are places among ``class_names``, as in a data set.
    """

    inputs: Any
    labels: NDArray[Any]
    ids: NDArray[np.str_]
    members: NDArray[np.bool_]
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    coded: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """A hash of records, labels and ids."""
        return fingerprint(self.inputs, self.labels, self.ids)


def candidates(members: Any, nonmembers: Any) -> Candidates:
    """Members and non-members together.

    Args:
        members: ``(X, y)``, ``(X, y, ids)`` or a data set.
        nonmembers: likewise.

    Raises:
        DataError: another form, no records, labels missing, ids twice, or records of different shapes.
    """
    inside, outside = side(members, "members"), side(nonmembers, "nonmembers")
    if inside.class_names and outside.class_names and inside.class_names != outside.class_names:
        raise DataError(
            f"the classes of the members, {', '.join(inside.class_names[:8])}",
            f"{', '.join(outside.class_names[:8])} in the non-members",
            "Give both the same class_names.",
        )
    if (inside.labels.dtype.kind in "US") != (outside.labels.dtype.kind in "US"):
        raise DataError(
            f"labels of one kind, as {str(inside.labels[0])!r}",
            f"numbers on one side, text on the other ({outside.labels.dtype})",
            "Write labels the same way.",
        )
    if inside.coded != outside.coded:
        raise DataError(
            "two data sets, or (X, y) twice",
            "one of each",
            "Give both in the same form: a data set numbers its classes.",
        )
    ids = np.concatenate([inside.ids, outside.ids])
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        raise DataError(
            "a different id for every record",
            f"{str(unique[counts > 1][0])!r} {int(counts.max())} times",
            "A record is a member or it is not: remove what stands on both sides.",
        )
    return Candidates(
        joined(inside.inputs, outside.inputs),
        np.concatenate([inside.labels, outside.labels]),
        ids,
        np.repeat([True, False], [len(inside.labels), len(outside.labels)]),
        inside.class_names,
        inside.feature_names,
        inside.coded,
    )


def side(given: Any, what: str) -> Candidates:
    """One side as ``(X, y)``, ``(X, y, ids)`` or a data set; ``members`` of the result mean nothing."""
    if isinstance(given, Dataset):
        labels: NDArray[Any] = given.labels
        inputs, ids = given.inputs, given.ids
        if np.array_equal(ids, np.arange(len(ids)).astype(np.str_)):
            # Row numbers stand for ids that the data do not have; both sides would have the same.
            ids = _numbered(what.removesuffix("s"), len(ids))
        class_names, features = given.class_names, given.feature_names
    else:
        if not isinstance(given, tuple | list) or not 2 <= len(given) <= 3:
            raise DataError(
                f"{what} as (X, y), (X, y, ids) or a data set",
                type(given).__name__ if not isinstance(given, tuple | list) else f"{len(given)} parts",
                "Give the records and their true labels.",
            )
        inputs, labels = as_inputs(given[0]), np.asarray(given[1])
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        class_names, features = (), tuple(map(str, inputs.columns)) if hasattr(inputs, "iloc") else ()
        single = what.removesuffix("s")
        ids = np.asarray(given[2]).astype(np.str_) if len(given) == 3 else _numbered(single, len(labels))
    n = count(inputs)
    if labels.ndim != 1 or len(labels) != n or len(ids) != n:
        raise DataError(
            f"a label and an id for each of the {n} {what}",
            f"labels of shape {labels.shape}, {len(ids)} ids",
            "Give one of each a record.",
        )
    if not n:
        raise DataError(f"{what}", "none", "An audit compares members and non-members: give both.")
    if labels.dtype.kind == "O":
        labels = labels.astype(np.str_)
    if labels.dtype.kind == "f":
        if not (np.isfinite(labels).all() and (labels == np.floor(labels)).all()):
            raise DataError(
                f"classes as labels of the {what}", "numbers that are not whole", "Give a class for every record."
            )
        labels = labels.astype(np.int64)
    return Candidates(
        inputs, labels, ids, np.ones(n, np.bool_), tuple(class_names), tuple(features), isinstance(given, Dataset)
    )


def _numbered(what: str, n: int) -> NDArray[np.str_]:
    return np.array([f"{what}-{k}" for k in range(n)], np.str_)


@dataclass(frozen=True, eq=False)
class Classes:
    """The model's classes in the order of its scores.

    Args:
        values: as the model knows them, what a fit is given.
        names: as text.
        shown: what reports call them, where that differs.
    """

    values: tuple[Any, ...]
    names: tuple[str, ...]
    shown: tuple[str, ...] = ()

    def encode(self, labels: NDArray[Any], what: str) -> NDArray[np.int64]:
        """Labels as places among the classes.

        Raises:
            DataError: a class that the model does not know.
        """
        distinct, index = np.unique(labels, return_inverse=True)
        place = {name: k for k, name in enumerate(self.names)}
        found = []
        for value in distinct.tolist():
            name = canonical(str(value))
            if name not in place:
                raise DataError(
                    f"labels among the model's {len(self.names)} classes: {', '.join(self.names[:12])}",
                    f"{name!r} among the {what}{nearest(name, self.names)}",
                    "Write labels as in training, or leave out records of unseen classes.",
                )
            found.append(place[name])
        return np.array(found, np.int64)[index]


def labels_for(given: Candidates, known: Sequence[Any] | None) -> NDArray[Any]:
    """Labels as the model names them: those of a data set by name if the model knows the names, else by number."""
    if given.coded and known is not None:
        names = [canonical(name) for name in given.class_names]
        if {names[k] for k in np.unique(given.labels)} <= {canonical(str(each)) for each in known}:
            return np.asarray(np.array(names)[given.labels])
    return given.labels


def classes_of(
    known: Sequence[Any] | None, width: int | None, given: Candidates, class_names: Sequence[str]
) -> Classes:
    """The classes: from the model, from the user, from the data's names, else 0 … K − 1.

    Args:
        known: what the model says.
        width: number of scores, None for labels alone.
        given: the records.
        class_names: from the user.

    Raises:
        ConfigError: another number of names than scores.
    """
    if known is not None:
        return Classes(tuple(known), tuple(canonical(str(each)) for each in known))
    columns = None if width is None else max(2, width)
    names = [str(each) for each in (class_names or given.class_names)]
    if class_names and columns is not None and len(names) != columns:
        raise ConfigError(f"{columns} class_names, one a score", f"{len(names)}", "Name every class of the model.")
    distinct = np.unique(given.labels)
    if given.coded and not class_names and (columns is None or len(names) == columns):
        return Classes(tuple(range(len(names))), tuple(str(k) for k in range(len(names))), tuple(names))
    if names and (columns is None or len(names) == columns):
        plain = distinct.dtype.kind in "iu"
        values: Any = [int(each) for each in names] if plain and all(n.isdigit() for n in names) else names
        if plain and not all(n.isdigit() for n in names):
            return Classes(tuple(range(len(names))), tuple(str(k) for k in range(len(names))), tuple(names))
        return Classes(tuple(values), tuple(canonical(each) for each in names))
    if distinct.dtype.kind not in "iub":
        if columns is not None:
            raise ConfigError(
                f"the names of the model's {columns} classes in the order of its scores",
                f"labels as text, such as {str(distinct[0])!r}, and a model that does not name its classes",
                "Give class_names=[…].",
            )
        return Classes(tuple(distinct.tolist()), tuple(canonical(str(each)) for each in distinct.tolist()))
    size = columns if columns is not None else int(distinct.max()) + 1
    return Classes(tuple(range(size)), tuple(str(k) for k in range(size)))
