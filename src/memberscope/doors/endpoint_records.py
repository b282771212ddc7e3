"""The records that an endpoint is asked about: candidates, with or without known membership, and a population."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.data import load
from memberscope.data.arrays import load_arrays
from memberscope.errors import DataError, MissingExtraError, SignalsError
from memberscope.targets.predictions import as_members
from memberscope.types import Dataset

MEMBER = ("member", "members", "membership", "is_member")


@dataclass(frozen=True, eq=False)
class Records:
    """Candidates first, then the population.

    Args:
        dataset: all of them.
        members: ``(N,)`` bool, or None where the candidates' membership is not known.
        population: ``(N,)`` bool, records that are no members and serve to calibrate.
    """

    dataset: Dataset
    members: NDArray[np.bool_] | None
    population: NDArray[np.bool_]

    @property
    def candidates(self) -> NDArray[np.int64]:
        """Where the candidates stand."""
        return np.flatnonzero(~self.population)

    def take(self, index: NDArray[np.int64]) -> Records:
        """The records at ``index``."""
        return Records(
            self.dataset.take(index), None if self.members is None else self.members[index], self.population[index]
        )


def read_records(candidates: Path, population: Path | None, class_names: Sequence[str]) -> Records:
    """Candidates from a table or an NPZ: id, label, inputs, and a column of membership where it is known.

    Args:
        candidates: CSV, TSV, Parquet or NPZ.
        population: likewise, non-members of which nobody doubts that they are none; None without.
        class_names: the classes in the order of the endpoint's scores; found in the labels when empty.

    Raises:
        DataError: a file that is missing or damaged, inputs of different shapes, ids twice.
        SignalsError: a membership that is none.
    """
    first, members = _read(candidates, class_names)
    nobody = np.zeros(len(first), np.bool_)
    if population is None:
        return Records(first, members, nobody)
    # The same classes mean the same numbers in both files.
    second, claimed = _read(population, first.class_names if not _numbered(first) else class_names)
    if claimed is not None and claimed.any():
        raise SignalsError(
            f"non-members alone in {population}",
            f"{int(claimed.sum()):,} members",
            "Name records outside the training.",
        )
    if second.inputs.shape[1:] != first.inputs.shape[1:] or second.feature_names != first.feature_names:
        raise DataError(
            f"the inputs of {candidates} in {population}: shape {first.inputs.shape[1:]}",
            f"shape {second.inputs.shape[1:]}"
            if second.inputs.shape[1:] != first.inputs.shape[1:]
            else "columns of other names or in another order",
            "Write both files alike.",
        )
    ids = second.ids
    if (ids == np.arange(len(ids)).astype(np.str_)).all():
        ids = np.char.add("population-", ids)
    both = Dataset(
        np.concatenate([first.inputs, second.inputs]),
        np.concatenate([first.labels, second.labels]),
        np.concatenate([first.ids, ids]),
        max(first.class_names, second.class_names, key=len),
        first.feature_names,
        {},
        first.name,
    )
    if members is not None:
        members = np.concatenate([members, np.zeros(len(second), np.bool_)])
    return Records(both, members, np.concatenate([nobody, np.ones(len(second), np.bool_)]))


def _numbered(dataset: Dataset) -> bool:
    return dataset.class_names == tuple(str(k) for k in range(dataset.classes))


def _read(path: Path, class_names: Sequence[str]) -> tuple[Dataset, NDArray[np.bool_] | None]:
    if not path.is_file():
        raise DataError(f"a file {path}", "a folder" if path.is_dir() else "no such file", "Check the path.")
    if path.suffix.lower() == ".npz":
        return _from_npz(path, class_names)
    name = next((column for column in _columns(path) if column.lower() in MEMBER), None)
    options: dict[str, Any] = {"class_names": list(class_names)} if class_names else {}
    if name is None:
        return load(str(path), **options), None
    read = load(str(path), groups=[name], **options)
    members = as_members(np.asarray(read.groups[name]).astype(np.str_), read.ids, path)
    return _without_groups(read), members


def _from_npz(path: Path, class_names: Sequence[str]) -> tuple[Dataset, NDArray[np.bool_] | None]:
    arrays = load_arrays(path)
    name = next((each for each in arrays if each.lower() in MEMBER), None)
    given = arrays.pop(name) if name else None
    missing = [each for each, known in (("inputs", ("inputs", "x", "X")), ("labels", ("labels", "y"))) if not
               any(one in arrays for one in known)]  # fmt: skip
    if missing:
        raise DataError(
            f"an array {missing[0]!r} in {path}", ", ".join(arrays) or "none", "Save inputs, labels, ids and member."
        )
    labels = next(arrays[each] for each in ("labels", "y") if each in arrays)
    names = tuple(class_names) or tuple(np.asarray(arrays.get("class_names", ())).astype(np.str_).tolist())
    if labels.dtype.kind in "US":
        from memberscope.data.tables import encode

        labels, names = encode(labels.tolist(), names, str(path))
    dataset = Dataset(
        next(arrays[each] for each in ("inputs", "x", "X") if each in arrays),
        labels,
        arrays.get("ids", np.empty(0, np.str_)),
        names,
        tuple(np.asarray(arrays.get("feature_names", ())).astype(np.str_).tolist()),
        {},
        path.stem,
    )
    if given is None:
        return dataset, None
    if given.shape != (len(dataset),):
        raise DataError(f"{name} of shape ({len(dataset)},) in {path}", f"{given.shape}", "Give one value a record.")
    words = given.astype(np.int64) if given.dtype.kind == "b" else given
    return dataset, as_members(words.astype(np.str_), dataset.ids, path)


def _columns(path: Path) -> list[str]:
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise MissingExtraError.of("pyarrow", "parquet", f"reading {path.name}") from error
        try:
            return list(parquet.read_schema(path).names)
        except (OSError, ValueError) as error:
            said = str(error).splitlines()[0]
            raise DataError(f"a whole Parquet file at {path}", said, "Write it again.") from error
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [name.strip() for name in next(csv.reader(file, delimiter=separator), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"a table in UTF-8 at {path}", str(error), "Check how the file was written.") from error


def _without_groups(dataset: Dataset) -> Dataset:
    return Dataset(
        dataset.inputs, dataset.labels, dataset.ids, dataset.class_names, dataset.feature_names, {}, dataset.name
    )
