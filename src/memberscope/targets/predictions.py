"""One model's saved predictions: CSV, NPZ or Parquet; scores, logits, some scores or labels alone."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.data.arrays import load_arrays
from memberscope.errors import DataError, SignalsError, nearest
from memberscope.large import IN_MEMORY, pieces, working_array
from memberscope.targets.tables import Reading, Table, open_table

TRUE = frozenset(["1", "true", "yes", "y", "t", "member", "in", "train", "training"])
FALSE = frozenset(
    ["0", "false", "no", "n", "f", "nonmember", "non-member", "non_member", "out", "test", "holdout", "heldout"]
)

_NPZ_SCORES = ("logits", "probabilities", "scores", "predictions", "outputs")
_NPZ_LABELS = ("predicted_labels", "predicted")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one model said, as it stands in its file.

    Args:
        path: of the file.
        ids: ``(N,)`` different ids.
        classes: names of the columns of ``scores``; of a file of labels those that were predicted.
        scores: ``(N, K)`` float64, NaN where a class was not given; None for labels alone.
        predicted: ``(N,)`` predicted classes as text; None with scores.
        labels: ``(N,)`` true classes as text, None if the file has none.
        members: ``(N,)``, None if the file has none.
        said: ``"logits"`` or ``"probabilities"`` where the file names them so.
        numbered: the file has no ids, and row numbers stand for them.
    """

    path: Path
    ids: NDArray[np.str_]
    classes: tuple[str, ...]
    scores: NDArray[np.float64] | None
    predicted: NDArray[np.str_] | None
    labels: NDArray[np.str_] | None
    members: NDArray[np.bool_] | None
    said: str = ""
    numbered: bool = False

    def __len__(self) -> int:
        return len(self.ids)


def read_predictions(path: str | Path, reading: Reading | None = None, *, folder: Path | None = None) -> Predictions:
    """The predictions in ``path``, read in pieces: memory is bounded by the ids, not by the scores.

    Args:
        path: ``.npz``, ``.parquet`` or a text table (CSV).
        reading: what is known of a table.
        folder: where scores lie that do not fit into memory.

    Raises:
        DataError: the file is missing, damaged, of another kind, or its columns cannot be told apart.
        SignalsError: an id twice, a membership that is none, a record without scores.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"a file {path}", "a folder" if path.is_dir() else "no such file", "Check the path.")
    if path.suffix.lower() == ".npz":
        found = _from_npz(path)
    else:
        table = open_table(path, reading or Reading())
        found = (_from_long if table.columns.layout == "long" else _from_wide)(table, folder)
    if not len(found):
        raise DataError(f"at least one record in {path}", "none", "Check how the file was written.")
    _check_ids(found)
    return found


def _check_ids(found: Predictions) -> None:
    unique, counts = np.unique(found.ids, return_counts=True)
    if len(unique) < len(found.ids):
        raise SignalsError(
            f"every id once in {found.path}",
            f"{str(unique[counts > 1][0])!r} {int(counts.max())} times",
            "Write one line a record; for one line a record and class name the columns id, class and value.",
        )
    if unique[0] == "":
        raise SignalsError(
            f"an id for every record of {found.path}", "an empty one", "Give every record the id by which you know it."
        )


def as_members(values: NDArray[np.str_], ids: NDArray[np.str_], path: Path) -> NDArray[np.bool_]:
    """Membership written as words or numbers.

    Raises:
        SignalsError: another word, naming its record.
    """
    distinct, index = np.unique(values, return_inverse=True)
    known = []
    for place, word in enumerate(distinct.tolist()):
        short = canonical(word).lower()
        if short not in TRUE | FALSE:
            raise SignalsError(
                f"members written as 1 and 0 (or true/false, yes/no, train/test) in {path}",
                f"{word!r} for record {str(ids[int(np.argmax(index == place))])!r}",
                "Say for every record whether the model was trained on it.",
            )
        known.append(short in TRUE)
    return np.array(known, np.bool_)[index]


def canonical(text: str) -> str:
    """A class's name without what a spreadsheet may have changed: blanks, and ``3.0`` for ``3``.

    >>> canonical(" 3.0"), canonical("cat")
    ('3', 'cat')
    """
    text = text.strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number == np.floor(number) and abs(number) < 1e15 else text


def _canonical(values: NDArray[np.str_]) -> NDArray[np.str_]:
    distinct, index = np.unique(values, return_inverse=True)
    return np.array([canonical(value) for value in distinct.tolist()], np.str_)[index]


def _labels(values: NDArray[np.str_], ids: NDArray[np.str_], path: Path, what: str = "label") -> NDArray[np.str_]:
    if (values == "").any():
        raise SignalsError(
            f"a {what} for every record of {path}",
            f"none for record {str(ids[int(np.argmax(values == ''))])!r}",
            "Drop unlabelled records: without a label they cannot be audited.",
        )
    return _canonical(values)


class _Rows:
    """Rows of numbers that are appended, in a file without a name until their number is known."""

    def __init__(self, folder: Path | None) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self.file: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def add(self, values: NDArray[Any]) -> None:
        """Append ``values``, of the same type and width each time."""
        self.file.write(np.ascontiguousarray(values).data)

    def array(self, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """All rows, in memory or, if they are many, as a map of the file."""
        self.file.flush()
        size = os.fstat(self.file.fileno()).st_size
        with self.file as file:
            if size <= IN_MEMORY:
                file.seek(0)
                return np.frombuffer(file.read(), dtype).reshape(shape).copy()
            return np.memmap(file, dtype, "r+", shape=shape)


def _from_wide(table: Table, folder: Path | None) -> Predictions:
    columns = table.columns
    rows, count = _Rows(folder), 0
    held: dict[str, list[NDArray[np.str_]]] = {name: [np.empty(0, np.str_)] for name in columns.texts}
    for texts, values in table.pieces():
        for name, part in texts.items():
            held[name].append(part)
        if columns.scores:
            if (nothing := np.isnan(values).all(axis=1)).any():
                raise _no_scores(table.path, str(texts[columns.id][int(np.argmax(nothing))]))
            rows.add(values)
        count += len(values)
    whole = {name: np.concatenate(parts) for name, parts in held.items()}
    ids = whole[columns.id]
    predicted = _labels(whole[columns.category], ids, table.path, "prediction") if columns.category else None
    return Predictions(
        table.path,
        ids,
        columns.scores if predicted is None else tuple(np.unique(predicted).tolist()),
        rows.array(np.float64, (count, len(columns.scores))) if columns.scores else None,
        predicted,
        _labels(whole[columns.label], ids, table.path) if columns.label else None,
        as_members(whole[columns.member], ids, table.path) if columns.member else None,
    )


def _no_scores(path: Path, record: str) -> SignalsError:
    return SignalsError(f"at least one score for every record of {path}", f"none for {record!r}", "Drop the record.")


class _Codes:
    """Words numbered in the order in which they first appear."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}

    def __call__(self, words: NDArray[np.str_]) -> NDArray[np.int64]:
        distinct, first, index = np.unique(words, return_index=True, return_inverse=True)
        for place in np.argsort(first):
            self.codes.setdefault(str(distinct[place]), len(self.codes))
        return np.array([self.codes[word] for word in distinct.tolist()], np.int64)[index]

    def words(self) -> list[str]:
        return list(self.codes)


def _from_long(table: Table, folder: Path | None) -> Predictions:
    """One line a record and class; lines of a record need not stand together."""
    columns, path = table.columns, table.path
    ids, classes = _Codes(), _Codes()
    attributes = {name: (_Codes(), np.full(1024, -1, np.int64)) for name in (columns.label, columns.member) if name}
    triples, count = _Rows(folder), 0
    kind = np.dtype([("id", "<i8"), ("class", "<i4"), ("value", "<f8")])
    for texts, values in table.pieces():
        which = ids(texts[columns.id])
        if (blank := np.isnan(values[:, 0])).any():
            raise SignalsError(
                f"a value in every line of {path}",
                f"none for record {str(texts[columns.id][int(np.argmax(blank))])!r}",
                "Leave out lines of classes that the model did not answer.",
            )
        for name, (codes, known) in list(attributes.items()):
            if len(ids.codes) > len(known):
                known = np.concatenate([known, np.full(max(len(known), len(ids.codes)), -1, np.int64)])
                attributes[name] = codes, known
            given = codes(texts[name])
            fresh = known[which] < 0
            known[which[fresh]] = given[fresh]
            if (wrong := known[which] != given).any():
                record = str(texts[columns.id][int(np.argmax(wrong))])
                raise SignalsError(
                    f"one {name} a record in {path}", f"several for {record!r}", "Repeat the same on all its lines."
                )
        part = np.empty(len(values), kind)
        part["id"], part["class"], part["value"] = which, classes(_canonical(texts[columns.category])), values[:, 0]
        triples.add(part)
        count += len(part)
    n, names = len(ids.codes), tuple(classes.words())
    scores = working_array((n, len(names)), np.float64, folder)
    for where in pieces(n, 1 << 16):
        scores[where] = np.nan
    lines = triples.array(kind, (count,))
    for where in pieces(count, 1 << 20):
        row, column = lines["id"][where], lines["class"][where]
        flat = row * len(names) + column
        if not np.isnan(scores[row, column]).all() or len(np.unique(flat)) < len(flat):
            order = np.argsort(flat, kind="stable")
            twice = order[1:][np.diff(flat[order]) == 0]
            place = int(twice[0]) if len(twice) else int(np.argmax(~np.isnan(scores[row, column])))
            raise SignalsError(
                f"one line a record and class in {path}",
                f"two for {ids.words()[int(row[place])]!r} and class {names[int(column[place])]!r}",
                "Write every pair once.",
            )
        scores[row, column] = lines["value"][where]
    every = np.array(ids.words(), np.str_)
    rising = sorted(range(len(names)), key=lambda k: _by_number(names[k]))
    if rising != list(range(len(names))):
        for where in pieces(n, 1 << 16):
            scores[where] = scores[where][:, rising]
    values_of = {name: np.array(codes.words(), np.str_)[known[:n]] for name, (codes, known) in attributes.items()}
    return Predictions(
        path,
        every,
        tuple(names[k] for k in rising),
        scores,
        None,
        _labels(values_of[columns.label], every, path) if columns.label else None,
        as_members(values_of[columns.member], every, path) if columns.member else None,
    )


def _by_number(name: str) -> tuple[int, float, str]:
    return (0, float(name), "") if name.lstrip("-").isdigit() else (1, 0.0, name)


def _from_npz(path: Path) -> Predictions:
    arrays = load_arrays(path)
    wanted = (*_NPZ_SCORES, *_NPZ_LABELS)
    known = {*wanted, "ids", "labels", "members", "member", "class_names"}
    for name in arrays:
        if name not in known:
            raise DataError(
                f"arrays among {', '.join(sorted(known))} in {path}", f"{name!r}{nearest(name, known)}", "Rename it."
            )
    given = [name for name in wanted if name in arrays]
    if len(given) != 1:
        raise DataError(
            f"one of {', '.join(wanted)} in {path}", " and ".join(given) or "none", "Save one kind of prediction."
        )
    values = arrays[given[0]]
    labels_only = given[0] in _NPZ_LABELS
    if values.ndim != (1 if labels_only else 2):
        if not labels_only and values.ndim == 1:
            values = values[:, None]
        else:
            raise DataError(
                f"{given[0]} of shape {'(records,)' if labels_only else '(records, classes)'} in {path}",
                f"shape {values.shape}",
                "Save one model a file; a file of several models is read with --signals.",
            )
    n = len(values)
    ids = arrays.get("ids", np.arange(n)).astype(np.str_)
    members = arrays.get("members", arrays.get("member"))
    for name, array in (("ids", ids), ("labels", arrays.get("labels")), ("members", members)):
        if array is not None and array.shape != (n,):
            raise DataError(f"{name} of shape ({n},) in {path}", f"shape {array.shape}", "Save one value a record.")
    if not labels_only and values.dtype.kind != "f":
        raise DataError(f"floating-point {given[0]} in {path}", f"type {values.dtype}", "Convert them.")
    names = tuple(arrays.get("class_names", np.arange(0 if labels_only else values.shape[1])).astype(np.str_).tolist())
    if not labels_only and len(names) != values.shape[1]:
        raise DataError(f"{values.shape[1]} class_names in {path}", f"{len(names)}", "Name every column of the scores.")
    if not labels_only and not np.isfinite(values).all():
        bad = int(np.argmax(~np.isfinite(values).all(axis=1)))
        raise SignalsError(f"finite {given[0]} in {path}", f"NaN or infinity for {str(ids[bad])!r}", "Mend or drop it.")
    labels = arrays.get("labels")
    predicted = _labels(values.astype(np.str_), ids, path) if labels_only else None
    return Predictions(
        path,
        ids,
        names if predicted is None else tuple(np.unique(predicted).tolist()),
        # Kept in its own type: decimals that were rounded are told by it.
        None if labels_only else values,
        predicted,
        None if labels is None else _labels(labels.astype(np.str_), ids, path),
        None if members is None else as_members(members.astype(np.str_), ids, path),
        given[0] if given[0] in ("logits", "probabilities") else "",
        "ids" not in arrays,
    )
