"""Fast reading of comma-separated 0/1 features with an optional label first, the official format of
Purchase100, Texas100 and Location-30.

A row ``"13",0,1,…,0`` ends in exactly 2 F bytes of features, so whole chunks of rows are gathered and
checked at once; rows written in any other way go through NumPy's general parser, and both say which row
is wrong.
"""

from __future__ import annotations

from typing import IO

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import DataError

FIX = "The file is damaged or of another format: compare it with the official one."


def read_binary_csv(
    stream: IO[bytes],
    features: int,
    what: str,
    *,
    labelled: bool = True,
    rows: int | None = None,
    chunk: int = 8 << 20,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read a stream of rows to its end.

    Args:
        stream: the bytes.
        features: number F of 0/1 features a row.
        what: name of the file in messages.
        labelled: whether a whole-number label comes first.
        rows: number of rows that there must be, if known; memory is then reserved once.
        chunk: bytes to read at a time; about four times as many are held.

    Returns:
        ``(N, F)`` uint8 of 0 and 1, and ``(N,)`` labels as written (empty if not ``labelled``).

    Raises:
        DataError: a row with another number of fields, a feature that is not 0 or 1, a label that is not a
            whole number, another number of rows than ``rows``, or no row.
    """
    whole = np.empty((rows, features), np.uint8) if rows is not None else None
    parts: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.int64]] = []
    done, rest = 0, b""
    while True:
        piece = stream.read(chunk)
        content = rest + piece
        # Only whole lines are parsed; the last line of the file may lack its newline.
        cut = content.rfind(b"\n") + 1 if piece else len(content)
        rest = content[cut:]
        if cut:
            block, names = _parse(content[:cut], features, what, labelled, done)
            if whole is None:
                parts.append(block)
            elif done + len(block) > len(whole):
                raise DataError(f"{rows:,} rows in {what}", "more", FIX)
            else:
                whole[done : done + len(block)] = block
            labels.append(names)
            done += len(block)
        if not piece:
            break
    if done == 0 or (rows is not None and done != rows):
        raise DataError(f"{rows:,} rows in {what}" if rows else f"at least one row in {what}", f"{done:,}", FIX)
    return whole if whole is not None else np.concatenate(parts), np.concatenate(labels)


def _parse(
    content: bytes, features: int, what: str, labelled: bool, before: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    raw = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(raw == ord("\n"))
    if content[-1:] != b"\n":
        ends = np.append(ends, len(raw))
    starts = np.concatenate([[0], ends[:-1] + 1])
    ends = ends - ((ends > starts) & (raw[np.maximum(ends - 1, 0)] == ord("\r")))
    filled = ends > starts
    starts, ends = starts[filled], ends[filled]
    if not len(starts):
        return np.empty((0, features), np.uint8), np.empty(0, np.int64)
    width = 2 * features if labelled else 2 * features - 1
    first = ends - width
    if (first - starts).min() >= int(labelled) and (labelled or (first == starts).all()):
        rows = np.lib.stride_tricks.sliding_window_view(raw, width)[first]
        digits = rows[:, 1::2] if labelled else rows[:, ::2]
        commas = rows[:, ::2] if labelled else rows[:, 1::2]
        values = digits - np.uint8(ord("0"))
        if values.max() <= 1 and bool((commas == ord(",")).all()):
            if not labelled:
                return values, np.empty(0, np.int64)
            texts = [content[a:b] for a, b in zip(starts.tolist(), first.tolist(), strict=True)]
            # A comma before the features is a field too many, which the general parser names.
            if not any(b"," in text for text in set(texts)):
                return values, _labels(texts, what, before)
    lines = [content[a:b].decode("utf-8", "replace") for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    return _parse_any(lines, features, what, labelled, before)


def _labels(texts: list[bytes], what: str, before: int) -> NDArray[np.int64]:
    known: dict[bytes, int] = {}
    for text in set(texts):
        try:
            known[text] = int(text.strip().strip(b'"'))
        except ValueError as error:
            raise DataError(
                f"a whole number as label in row {before + texts.index(text) + 1} of {what}",
                repr(text[:40].decode("utf-8", "replace")),
                FIX,
            ) from error
    return np.array([known[text] for text in texts], np.int64)


def _parse_any(
    lines: list[str], features: int, what: str, labelled: bool, before: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Rows with spaces, quotes or decimals; slower, and the place where wrong rows are named."""
    fields = features + int(labelled)
    for row, line in enumerate(lines):
        if line.count(",") + 1 != fields:
            raise DataError(f"{fields} fields in row {before + row + 1} of {what}", f"{line.count(',') + 1}", FIX)
    try:
        table = np.loadtxt(lines, np.float64, comments=None, delimiter=",", quotechar='"', ndmin=2)
    except ValueError as error:
        raise DataError(f"numbers in {what}", f"{error} (counted from row {before + 1})", FIX) from error
    values = table[:, int(labelled) :]
    bad = np.argwhere((values != 0) & (values != 1))
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"features of 0 or 1 in {what}",
            f"{values[row, column]:g} in row {before + row + 1}, feature {column + 1}",
            FIX,
        )
    labels = table[:, 0] if labelled else np.empty(0)
    odd = np.flatnonzero(labels != np.floor(labels))
    if len(odd):
        raise DataError(f"a whole number as label in row {before + odd[0] + 1} of {what}", f"{labels[odd[0]]:g}", FIX)
    return values.astype(np.uint8), labels.astype(np.int64)
