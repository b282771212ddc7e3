"""Saved predictions as tables, CSV or Parquet: which column is what, and its content in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from memberscope.data.delimited import Dialect, Piece, read_header, read_pieces, sniff
from memberscope.errors import DataError, MissingExtraError, nearest

# Names that columns go by, in order of preference.
IDS = ("id", "record_id", "record", "ids")
LABELS = ("label", "true_label", "y_true", "target", "class", "y")
MEMBERS = ("member", "is_member", "membership", "members", "train", "in_train", "split")
PREDICTED = ("predicted", "prediction", "predicted_label", "y_pred")
VALUES = ("value", "score", "probability", "logit")


@dataclass(frozen=True)
class Reading:
    """How tables are to be read; what is not said is found.

    Args:
        id: column of the ids; ``label`` of the true classes; ``member`` of the membership.
        ignore: columns that are no scores.
        delimiter: what separates fields; ``decimal``, the decimal mark; ``encoding``, a codec of Python's.
    """

    id: str | None = None
    label: str | None = None
    member: str | None = None
    ignore: tuple[str, ...] = ()
    delimiter: str | None = None
    decimal: str | None = None
    encoding: str | None = None


@dataclass(frozen=True)
class Columns:
    """What the columns of a table of predictions are.

    Args:
        layout: ``"wide"``, one column a class; ``"long"``, one line a record and class; ``"labels"``, the
            predicted class alone.
        id, label, member: columns, empty where there is none.
        scores: of the wide layout, a column a class; of the long one, the column of values.
        category: of the long layout the column of classes, of labels the column of predicted classes.
    """

    layout: str
    id: str
    label: str
    member: str
    scores: tuple[str, ...] = ()
    category: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns that are read as text."""
        return tuple(name for name in (self.id, self.label, self.member, self.category) if name)


@dataclass(frozen=True)
class Table:
    """A table on disk whose columns are known."""

    path: Path
    columns: Columns
    dialect: Dialect | None = field(default=None)

    def pieces(self) -> Iterator[Piece]:
        """Its content: text columns by name and scores ``(n, F)``."""
        if self.dialect is not None:
            return read_pieces(self.path, self.dialect, self.columns.texts, self.columns.scores)
        return _parquet_pieces(self.path, self.columns)


def open_table(path: Path, reading: Reading, *, scores: bool = True) -> Table:
    """The table at ``path``.

    Args:
        path: ``.parquet`` or text.
        reading: what is known of it.
        scores: it holds predictions, not membership alone.

    Raises:
        DataError: no such file, another kind of file, or columns that cannot be told apart.
    """
    if path.suffix.lower() in (".parquet", ".pq"):
        header, dialect = _parquet_header(path), None
    else:
        dialect = sniff(path, delimiter=reading.delimiter, decimal=reading.decimal, encoding=reading.encoding)
        header = read_header(path, dialect)
    return Table(path, find_columns(header, path, reading, scores), dialect)


def find_columns(header: Sequence[str], path: Path, reading: Reading, scores: bool = True) -> Columns:
    """Which column is what.

    Raises:
        DataError: a named column that is not there, no column of ids, or nothing that could be a score.
    """
    for name in (reading.id, reading.label, reading.member, *reading.ignore):
        if name is not None and name not in header:
            raise DataError(
                f"a column {name!r} in {path}{nearest(name, header)}",
                f"columns {', '.join(header[:20])}",
                "Mend the name.",
            )
    left = [name for name in header if name not in reading.ignore]

    def take(given: str | None, known: Sequence[str]) -> str:
        found = given or next((name for word in known for name in left if name.lower() == word), "")
        if found:
            left.remove(found)
        return found

    lower = [name.lower() for name in left]
    value = take(None, VALUES) if scores and "class" in lower and any(word in lower for word in VALUES) else ""
    category = take(None, ("class",)) if value else ""
    identity = take(reading.id, IDS)
    member = take(reading.member, MEMBERS)
    label = take(reading.label, LABELS)
    if not identity:
        raise DataError(
            f"a column of ids in {path} ({', '.join(IDS)})",
            f"columns {', '.join(header[:20])}",
            "Name it with id=: records are matched by their ids, never by their place.",
        )
    if not scores:
        return Columns("membership", identity, "", "", tuple(left))
    if value:
        if left:
            raise _left_over(left[0], path, "id, label, member, class and value")
        return Columns("long", identity, label, member, (value,), category)
    predicted = take(None, PREDICTED)
    if predicted and not left:
        return Columns("labels", identity, label, member, (), predicted)
    if not left:
        raise DataError(
            f"a column a class, or a column 'predicted', in {path}",
            f"columns {', '.join(header[:20])}",
            "Write the scores of every class, or the predicted class alone.",
        )
    # With scores the predicted class says nothing more.
    return Columns("wide", identity, label, member, tuple(left))


def _left_over(name: str, path: Path, known: str) -> DataError:
    return DataError(f"columns {known} in {path}", f"another one, {name!r}", "Drop it, or name it in ignore=.")


def _parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError.of("pyarrow", "parquet", f"reading {path.name}") from error
    try:
        return parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            f"a whole Parquet file at {path}", str(error).splitlines()[0], "Check the path, or write it again."
        ) from error


def _parquet_header(path: Path) -> list[str]:
    with _parquet(path) as file:
        return [str(name) for name in file.schema_arrow.names]


def _parquet_pieces(path: Path, columns: Columns) -> Iterator[Piece]:
    import pyarrow

    with _parquet(path) as file:
        for batch in file.iter_batches(65_536, columns=[*columns.texts, *columns.scores]):
            values = np.empty((batch.num_rows, len(columns.scores)))
            for place, name in enumerate(columns.scores):
                column = batch.column(name)
                try:
                    part = np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
                except (ValueError, TypeError, pyarrow.ArrowException) as error:
                    raise DataError(
                        f"numbers in column {name!r} of {path}",
                        str(column.type),
                        "Drop it, or name it in ignore= if it is no score.",
                    ) from error
                if int(np.count_nonzero(~np.isfinite(part))) > column.null_count:
                    raise DataError(f"finite numbers in column {name!r} of {path}", "NaN or infinity", "Mend it.")
                values[:, place] = part
            texts = {
                name: np.array(["" if v is None else str(v).strip() for v in batch.column(name).to_pylist()], np.str_)
                for name in columns.texts
            }
            yield texts, values
