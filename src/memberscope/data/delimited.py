"""Delimited text of any size: how it was written is found out, then it is read in pieces.

pyarrow reads it where it is installed, the csv module elsewhere; what comes out is the same.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import DataError

Piece = tuple[dict[str, NDArray[np.str_]], NDArray[np.float64]]

DELIMITERS = (",", ";", "\t", "|")
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}

# Bytes looked at to find out how a file was written, and bytes and rows read at once.
_HEAD = 1 << 16
_BLOCK = 1 << 24
_ROWS = 20_000

_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_POINT = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")

_OTHER_FILES = (
    (b"\x80", "a pickle", "Nothing is ever unpickled, because that can run code: write CSV, NPZ or Parquet."),
    (b"PK", "an archive, perhaps an Excel workbook", "Save the sheet as CSV."),
    (b"\x1f\x8b", "a file compressed with gzip", "Decompress it first."),
    (b"PAR1", "a Parquet file", "Give it the ending .parquet."),
    (b"\x93NUMPY", "a NumPy array", "Save it with numpy.savez, with names for its arrays."),
)


@dataclass(frozen=True)
class Dialect:
    """How a text table was written.

    Args:
        encoding: a codec of Python's.
        delimiter: one character.
        decimal: ``"."`` or ``","``.
    """

    encoding: str
    delimiter: str
    decimal: str


def sniff(
    path: Path, *, delimiter: str | None = None, decimal: str | None = None, encoding: str | None = None
) -> Dialect:
    """How the table at ``path`` was written, from its first 64 KiB; what is given is not sought.

    Raises:
        DataError: no such file, an empty one, another kind of file, an encoding that cannot be told,
            several delimiters, or decimal points and commas side by side.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise DataError(f"a file {path}", f"{error.strerror or error}", "Check the path.") from error
    if not head.strip():
        raise DataError(f"a table with a header row at {path}", "an empty file", "Check how it was written.")
    for start, what, fix in _OTHER_FILES:
        if head.startswith(start):
            raise DataError(f"a text table at {path}", what, fix)
    encoding = encoding or _encoding(head, path)
    lines = [line for line in _decode(head, encoding, path).splitlines() if line.strip()]
    if len(head) == _HEAD:
        # The last line may be cut.
        lines = lines[:-1]
    found = delimiter or _delimiter(lines, path)
    return Dialect(encoding, found, decimal or _decimal(lines[1:200], found, path))


def _encoding(head: bytes, path: Path) -> str:
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return name
    if b"\0" in head:
        raise DataError(
            f"a text table in UTF-8 at {path}",
            "zero bytes: UTF-16 without a mark at its start, or no text at all",
            "Save it as UTF-8, or give encoding='utf-16-le'.",
        )
    return "utf-8"


def _decode(head: bytes, encoding: str, path: Path) -> str:
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head)
    except LookupError as error:
        raise DataError("an encoding that Python knows", repr(encoding), "Use 'utf-8' or 'latin-1'.") from error
    except UnicodeError as error:
        raise _wrong_encoding(path, encoding, str(error)) from error


def _wrong_encoding(path: Path, encoding: str, said: str) -> DataError:
    return DataError(
        f"a text table in {encoding.upper().removesuffix('-SIG')} at {path}",
        f"bytes that are none ({said})",
        "Save it as UTF-8, or give its encoding, such as encoding='cp1252' (Windows) or 'latin-1'.",
    )


def _delimiter(lines: Sequence[str], path: Path) -> str:
    sample = lines[:50]
    fields = {mark: [len(row) for row in csv.reader(sample, delimiter=mark)] for mark in DELIMITERS}
    fits = [mark for mark in DELIMITERS if fields[mark][0] > 1 and len(set(fields[mark])) == 1]
    if fits:
        return max(fits, key=lambda mark: fields[mark][0])
    marks = [mark for mark in DELIMITERS if fields[mark][0] > 1]
    if not marks:
        raise DataError(
            f"columns separated by commas, semicolons, tabs or bars in {path}",
            f"the one column {sample[0][:60]!r}",
            "Give delimiter=, or write more than one column.",
        )
    best = max(marks, key=lambda mark: fields[mark][0])
    width = fields[best][0]
    for other in DELIMITERS:
        place = next(
            (i for i, n in enumerate(fields[other]) if other != best and n > 1 and fields[best][i] != width), 0
        )
        if place or (other != best and fields[other][0] > 1):
            raise DataError(
                f"one delimiter in {path}",
                f"{NAMES[best]} and {NAMES[other]} (see line {place + 1})",
                "Separate all fields by the same character, and quote fields that contain it.",
            )
    return best


def _decimal(lines: Sequence[str], delimiter: str, path: Path) -> str:
    cells = [cell.strip() for row in csv.reader(lines, delimiter=delimiter) for cell in row]
    comma = next((cell for cell in cells if _COMMA.fullmatch(cell)), None)
    point = next((cell for cell in cells if _POINT.fullmatch(cell)), None)
    if comma and point:
        raise DataError(
            f"decimal points or decimal commas in {path}",
            f"both, for example {point} and {comma}",
            "Write numbers one way, or give decimal='.' or decimal=','.",
        )
    return "," if comma else "."


def read_header(path: Path, dialect: Dialect) -> list[str]:
    """The names of the columns, without blanks around them.

    Raises:
        DataError: no names, numbers alone, an empty or a repeated name.
    """
    with path.open(encoding=dialect.encoding, newline="") as file:
        header = [name.strip() for name in next(csv.reader(file, delimiter=dialect.delimiter), [])]
    if all(_is_number(name) for name in header):
        raise DataError(
            f"a header row in {path}", f"numbers: {', '.join(header[:6])}", "Write the names of the columns first."
        )
    for place, name in enumerate(header):
        if not name or name in header[:place]:
            raise DataError(
                f"different column names in {path}",
                f"{'an empty name' if not name else repr(name) + ' twice'} (column {place + 1})",
                "Name every column, each once.",
            )
    return header


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def read_pieces(path: Path, dialect: Dialect, texts: Sequence[str], numbers: Sequence[str]) -> Iterator[Piece]:
    """The table in pieces: the columns ``texts`` by name, ``(n,)`` each, and ``numbers`` ``(n, F)``.

    An empty number is NaN; a number written as NaN or infinity is refused.

    Raises:
        DataError: a row of another length, a field that is not a finite number, or bytes of another encoding; the
            line is named.
    """
    done = 0
    try:
        for piece in _with_pyarrow(path, dialect, texts, numbers):
            done += len(piece[1])
            yield piece
        return
    except _Refused:
        # The slow reader either says in which line it is, or can read what the fast one cannot.
        pass
    yield from _with_csv(path, dialect, texts, numbers, skip=done)


class _Refused(Exception):
    """pyarrow is missing, or met something that it cannot read."""


def _with_pyarrow(path: Path, dialect: Dialect, texts: Sequence[str], numbers: Sequence[str]) -> Iterator[Piece]:
    try:
        import pyarrow as pa
        from pyarrow import csv as arrow
    except ImportError as error:
        raise _Refused from error
    try:
        reader = arrow.open_csv(
            path,
            arrow.ReadOptions(block_size=_BLOCK, encoding=dialect.encoding.removesuffix("-sig")),
            arrow.ParseOptions(delimiter=dialect.delimiter),
            arrow.ConvertOptions(
                column_types={**dict.fromkeys(texts, pa.string()), **dict.fromkeys(numbers, pa.float64())},
                include_columns=[*texts, *numbers],
                null_values=[""],
                strings_can_be_null=False,
                decimal_point=dialect.decimal,
            ),
        )
        for batch in reader:
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            values = np.empty((batch.num_rows, len(numbers)))
            for place, name in enumerate(numbers):
                column = columns[name]
                part = column.to_numpy(zero_copy_only=False)
                if int(np.count_nonzero(~np.isfinite(part))) > column.null_count:
                    raise _Refused
                values[:, place] = part
            yield (
                {name: np.char.strip(columns[name].to_numpy(zero_copy_only=False).astype(np.str_)) for name in texts},
                values,
            )
    except (pa.ArrowException, KeyError, UnicodeError, ValueError) as error:
        raise _Refused from error


def _with_csv(
    path: Path, dialect: Dialect, texts: Sequence[str], numbers: Sequence[str], skip: int = 0
) -> Iterator[Piece]:
    try:
        with path.open(encoding=dialect.encoding, newline="") as file:
            reader = csv.reader(file, delimiter=dialect.delimiter)
            header = [name.strip() for name in next(reader)]
            where = [header.index(name) for name in texts]
            places = [header.index(name) for name in numbers]
            held: list[list[str]] = []
            lines: list[int] = []
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise _wrong_length(path, reader.line_num, len(header), len(fields), dialect)
                if skip:
                    skip -= 1
                    continue
                held.append(fields)
                lines.append(reader.line_num)
                if len(held) == _ROWS:
                    yield _piece(held, lines, texts, where, numbers, places, dialect, path)
                    held, lines = [], []
            if held:
                yield _piece(held, lines, texts, where, numbers, places, dialect, path)
    except UnicodeError as error:
        raise _wrong_encoding(path, dialect.encoding, str(error)) from error
    except (csv.Error, OSError) as error:
        raise DataError(f"a text table at {path}", str(error), "Check how the file was written.") from error


def _wrong_length(path: Path, line: int, wanted: int, got: int, dialect: Dialect) -> DataError:
    hint = (
        " If numbers have decimal commas, separate the fields by semicolons or quote the numbers."
        if dialect.delimiter == "," and got > wanted
        else " Its fields may be separated by another character than those of other lines."
        if got == 1
        else ""
    )
    return DataError(f"{wanted} fields in line {line} of {path}", f"{got}", f"Mend the line.{hint}")


def _piece(
    held: list[list[str]],
    lines: list[int],
    texts: Sequence[str],
    where: Sequence[int],
    numbers: Sequence[str],
    places: Sequence[int],
    dialect: Dialect,
    path: Path,
) -> Piece:
    values = np.empty((len(held), len(places)))
    for row, (fields, line) in enumerate(zip(held, lines, strict=True)):
        for column, place in enumerate(places):
            values[row, column] = _number(fields[place], dialect, numbers[column], line, path)
    return {
        name: np.array([fields[place].strip() for fields in held], np.str_)
        for name, place in zip(texts, where, strict=True)
    }, values


def _number(text: str, dialect: Dialect, column: str, line: int, path: Path) -> float:
    text = text.strip()
    if not text:
        return float("nan")
    try:
        value = float(text.replace(",", ".") if dialect.decimal == "," and "." not in text else text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(
            f"finite numbers in column {column!r} of {path}",
            f"{text!r} in line {line}",
            "Mend or drop the record; name a column that is no score in ignore=.",
        )
    return value
