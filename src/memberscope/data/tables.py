"""Your own tables: CSV, TSV and Parquet (extra ``parquet``). Record ids survive."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import DataError, MissingExtraError, nearest
from memberscope.types import Dataset

# Names that a column of classes goes by, in order of preference.
LABELS = ("label", "target", "class", "y")


def read_csv(
    path: Path,
    *,
    label: str | None = None,
    id: str | None = None,
    groups: Sequence[str] = (),
    drop: Sequence[str] = (),
    class_names: Sequence[str] = (),
    delimiter: str | None = None,
) -> Dataset:
    """A text table with a header row; every column without another part is a numeric feature.

    Args:
        path: ``.csv`` (comma) or ``.tsv`` (tab), UTF-8.
        label: column of the classes; ``label``, ``target``, ``class`` or ``y`` when omitted.
        id: column of the records' identities; ``id`` if there is one, else row numbers.
        groups: columns kept as groups and never shown to a model.
        drop: columns left out.
        class_names: the classes in the order of the model's outputs; sorted values when omitted.
        delimiter: what separates fields.

    Returns:
        ``inputs`` (N, F) float64.

    Raises:
        DataError: no such file or column, no header, a row of another length, a field that is not a number.
    """
    separator = delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
    header, texts = _text_columns(path, separator, ())
    _check_header(header, path, separator)
    parts = _parts(header, path, label, id, groups, drop)
    named = [name for name in (parts.label, parts.id, *parts.groups) if name]
    _, texts = _text_columns(path, separator, [header.index(name) for name in named])
    columns = dict(zip(named, texts, strict=True))
    places = [header.index(name) for name in parts.features]
    if not columns[parts.label]:
        raise _empty(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            next(csv.reader(file, delimiter=separator))
            inputs = np.loadtxt(
                file, np.float64, comments=None, delimiter=separator, quotechar='"', usecols=places, ndmin=2
            )
    except ValueError as error:
        _explain(path, separator, header, places, error)
        raise
    return _assemble(inputs, columns, parts, class_names, path)


def read_parquet(
    path: Path,
    *,
    label: str | None = None,
    id: str | None = None,
    groups: Sequence[str] = (),
    drop: Sequence[str] = (),
    class_names: Sequence[str] = (),
) -> Dataset:
    """A Parquet table; arguments and result as in :func:`read_csv`.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: not a Parquet file, no such column, a feature that is missing or not a number.
    """
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError.of("pyarrow", "parquet", f"reading {path.name}") from error
    try:
        table = parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"a whole Parquet file at {path}", str(error).splitlines()[0], "Write it again.") from error
    header = list(table.column_names)
    parts = _parts(header, path, label, id, groups, drop)
    inputs = np.empty((table.num_rows, len(parts.features)), np.float64)
    for place, name in enumerate(parts.features):
        column = table.column(name)
        try:
            inputs[:, place] = np.asarray(column.to_numpy(), np.float64)
        except (ValueError, TypeError, pyarrow.ArrowException) as error:
            raise _not_numeric(name, str(column.type), path) from error
    named = [name for name in (parts.label, parts.id, *parts.groups) if name]
    columns = {name: ["" if v is None else str(v) for v in table.column(name).to_pylist()] for name in named}
    return _assemble(inputs, columns, parts, class_names, path)


@dataclass(frozen=True)
class Parts:
    """Which column is what: the label, the id ("" for row numbers), the groups, and the features."""

    label: str
    id: str
    groups: tuple[str, ...]
    features: tuple[str, ...]


def encode(values: Sequence[str], class_names: Sequence[str], what: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Classes as numbers, and their names in order.

    Whole numbers from 0 stay as they are; other numbers are ordered as numbers, text by alphabet, unless
    ``class_names`` says the order.

    Raises:
        DataError: an empty label, or one that is not among ``class_names``.

    >>> encode(["b", "a", "b"], (), "a file")
    (array([1, 0, 1]), ('a', 'b'))
    """
    distinct = sorted(set(values))
    if "" in distinct:
        raise DataError(
            f"a label for every record of {what}",
            f"none for record {values.index('') + 1}",
            "Drop unlabelled records.",
        )
    if class_names:
        names = tuple(str(name) for name in class_names)
        for value in distinct:
            if value not in names:
                raise DataError(f"labels among the {len(names)} class names", repr(value), "Name every class.")
    else:
        numbers = _whole(distinct)
        if numbers is not None and min(numbers) == 0:
            return np.array(_whole(values), np.int64), tuple(str(k) for k in range(max(numbers) + 1))
        names = tuple(
            distinct if numbers is None else [text for _, text in sorted(zip(numbers, distinct, strict=True))]
        )
    code = {name: place for place, name in enumerate(names)}
    return np.array([code[value] for value in values], np.int64), names


def _whole(values: Sequence[str]) -> list[int] | None:
    """The values as whole numbers, or None if any is not one."""
    try:
        numbers = [float(value) for value in values]
        return [int(n) for n in numbers] if all(n == int(n) for n in numbers) else None
    except (ValueError, OverflowError):
        return None


def _text_columns(path: Path, separator: str, places: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    """The header, and the columns at ``places`` as text; every row must have the header's length."""
    columns: list[list[str]] = [[] for _ in places]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator)
            header = [name.strip() for name in next(reader, [])]
            if not places:
                return header, columns
            for fields in reader:
                if fields and len(fields) != len(header):
                    raise DataError(
                        f"{len(header)} fields in line {reader.line_num} of {path}",
                        f"{len(fields)}",
                        "Mend the line.",
                    )
                for column, place in zip(columns, places, strict=True):
                    if fields:
                        column.append(fields[place].strip())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"a table in UTF-8 at {path}", str(error), "Check the path and how the file was written."
        ) from error
    return header, columns


def _check_header(header: list[str], path: Path, separator: str) -> None:
    if not header:
        raise DataError(
            f"a table with a header row at {path}", "an empty file", "Write the names of the columns first."
        )
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        raise DataError(
            f"columns separated by {separator!r} in {path}",
            f"the one column {header[0][:60]!r}",
            "Give delimiter=.",
        )
    if _whole(header) is not None or len(set(header)) < len(header):
        raise DataError(
            f"a header row of different column names in {path}",
            ", ".join(header[:8]),
            "Write the names of the columns in the first line.",
        )


def _parts(
    header: list[str],
    path: Path,
    label: str | None,
    id: str | None,
    groups: Sequence[str],
    drop: Sequence[str],
) -> Parts:
    found = label or next((name for known in LABELS for name in header if name.lower() == known), "")
    if not found:
        raise DataError(
            f"a column named {', '.join(LABELS)} in {path}",
            f"columns {', '.join(header[:20])}",
            "Name it with label=.",
        )
    identity = id or next((name for name in header if name.lower() == "id"), "")
    special = [found, *([identity] if identity else []), *groups, *drop]
    for name in special:
        if name not in header:
            raise DataError(
                f"a column {name!r} in {path}{nearest(name, header)}",
                f"columns {', '.join(header[:20])}",
                "Mend the name.",
            )
    features = tuple(name for name in header if name not in special)
    if not features:
        raise DataError(f"at least one feature column in {path}", "none", "Add columns that the model sees.")
    return Parts(found, identity, tuple(groups), features)


def _explain(path: Path, separator: str, header: list[str], places: list[int], error: ValueError) -> None:
    """Find the first field that is not a number, and raise the error that names it."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator)
        next(reader)
        for fields in reader:
            for place in places if fields else []:
                try:
                    float(fields[place])
                except ValueError:
                    raise _not_numeric(header[place], f"{fields[place]!r} in line {reader.line_num}", path) from error
    raise DataError(f"a table of numbers at {path}", str(error), "Check quotes and separators.") from error


def _empty(path: Path) -> DataError:
    return DataError(f"at least one record in {path}", "none", "Check the file.")


def _not_numeric(column: str, got: str, path: Path) -> DataError:
    return DataError(
        f"numbers in column {column!r} of {path}",
        got,
        "Encode or fill it, or name it in groups= or drop= if the model does not see it.",
    )


def _assemble(
    inputs: NDArray[np.float64],
    columns: Mapping[str, list[str]],
    parts: Parts,
    class_names: Sequence[str],
    path: Path,
) -> Dataset:
    if not len(inputs):
        raise _empty(path)
    labels, names = encode(columns[parts.label], class_names, str(path))
    return Dataset(
        inputs,
        labels,
        np.array(columns[parts.id] if parts.id else [], np.str_),
        names,
        parts.features,
        {name: np.array(columns[name]) for name in parts.groups},
        path.stem,
    )
