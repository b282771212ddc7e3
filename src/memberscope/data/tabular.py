"""Purchase100, Texas100 and Location-30 from their official archives (privacytrustlab/datasets).

Shokri et al. 2017 made the 0/1 features and the classes. Purchase100 and Location-30 are one file of rows,
label first; Texas100 is ``texas/100/feats`` and ``texas/100/labels``. Parsed tables are cached as .npy
under the archive's SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from memberscope.data.archives import Archive, members, reading, verify
from memberscope.data.binary_csv import read_binary_csv
from memberscope.data.places import data_dir
from memberscope.errors import DataError, PoolError
from memberscope.files import read_npy, sha256_file, write_npy
from memberscope.types import Dataset

SITE = "https://github.com/privacytrustlab/datasets/raw/master/"
# Part of the cache's key: a change of the parser must not meet the tables of an older one.
PARSER = "1"


@dataclass(frozen=True)
class Table:
    """One official table.

    Args:
        name: of the data set; ids begin with it.
        archive: as published.
        records: rows that it must have; None to accept any number.
        features: 0/1 features a row.
        classes: labels run from 1 to this.
    """

    name: str
    archive: Archive
    records: int | None
    features: int
    classes: int


# The SHA-256 of Location-30 is computed from the official file; those of the other two are not published,
# and are not made up: their shapes are checked instead.
PURCHASE100 = Table(
    "purchase100", Archive("dataset_purchase.tgz", SITE + "dataset_purchase.tgz", "", 43), 197_324, 600, 100
)
TEXAS100 = Table("texas100", Archive("dataset_texas.tgz", SITE + "dataset_texas.tgz", "", 22), 67_330, 6_169, 100)
LOCATION30 = Table(
    "location30",
    Archive(
        "dataset_location.tgz",
        SITE + "dataset_location.tgz",
        "sha256:927203f85a868f8ee17a0ded1dc61699efe602167beabe34fbf45b4b1de94b33",
        1,
    ),
    5_010,
    446,
    30,
)


def read_table(path: Path, table: Table, *, cache: bool = True) -> Dataset:
    """An official table from its archive, its extracted folder, or its extracted file.

    Args:
        path: the ``.tgz``; a file of rows, label first (``.gz`` not); or a folder that holds ``feats`` and
            ``labels``, at its top or under ``texas/100`` or ``100``.
        table: what to expect; a copy without ``records`` and checksum for other data in this format.
        cache: keep the parsed table under ``data_dir()/cache`` and use it next time.

    Returns:
        ``inputs`` (N, F) uint8 of 0 and 1; labels 0 … K-1 for the official 1 … K; ids such as
        ``location30-00001``, the official row number from 1.

    Raises:
        DataError: missing or damaged file, wrong checksum, wrong shape, a feature that is not 0 or 1, a
            label out of range.
    """
    sources = _folder_files(path) if path.is_dir() else (path,)
    if len(sources) == 1:
        _check_exists(path, table)
        if _is_tar(path):
            verify(path, table.archive.checksum)
    folder = data_dir() / "cache"
    digest = hashlib.sha256("".join(sha256_file(source) for source in sources).encode()).hexdigest()
    stem = f"{table.name}-{table.features}-{PARSER}-{digest[:32]}"
    files = folder / f"{stem}-inputs.npy", folder / f"{stem}-labels.npy"
    parsed = _cached(*files, table) if cache else None
    if parsed is None:
        parsed = _parse(sources, table)
        if cache:
            # A full disk or a read-only home costs speed next time, not the data.
            with contextlib.suppress(PoolError):
                write_npy(files[1], parsed[1])
                write_npy(files[0], parsed[0])
    inputs, labels = parsed
    bad = np.flatnonzero((labels < 1) | (labels > table.classes))
    if len(bad):
        raise DataError(
            f"labels from 1 to {table.classes} in {path}",
            f"{labels[bad[0]]} in row {bad[0] + 1}",
            "The file is damaged or of another format: compare it with the official one.",
        )
    digits = len(str(table.records or len(labels)))
    ids = np.array([f"{table.name}-{i:0{max(5, digits)}d}" for i in range(1, len(labels) + 1)])
    names = tuple(str(k) for k in range(1, table.classes + 1))
    return Dataset(inputs, labels - 1, ids, names, name=table.name)


def _check_exists(path: Path, table: Table) -> None:
    if not path.is_file():
        raise DataError(
            f"{table.archive.filename} at {path}",
            "no such file",
            f"Download {table.archive.url} and give its place as path=.",
        )


def _is_tar(path: Path) -> bool:
    return path.name.endswith((".tgz", ".tar", ".tar.gz"))


def _folder_files(folder: Path) -> tuple[Path, Path]:
    for place in (folder, folder / "texas" / "100", folder / "100"):
        if (place / "feats").is_file() and (place / "labels").is_file():
            return place / "feats", place / "labels"
    raise DataError(
        f"files 'feats' and 'labels' in {folder} or its texas/100",
        "none",
        "Give the official archive or the file of rows instead.",
    )


def _cached(inputs: Path, labels: Path, table: Table) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """The cached table, or None if there is none or it is damaged."""
    if not (inputs.is_file() and labels.is_file()):
        return None
    try:
        features, classes = read_npy(inputs), read_npy(labels)
    except DataError:
        return None
    whole = features.ndim == 2 and features.shape == (len(classes), table.features) and features.dtype == np.uint8
    return (features, classes) if whole else None


def _parse(sources: tuple[Path, ...], table: Table) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if len(sources) == 2:
        with sources[0].open("rb") as feats, sources[1].open("rb") as names:
            return _rows(feats, table, str(sources[0]), labelled=False)[0], _label_file(names, table, str(sources[1]))
    if not _is_tar(sources[0]):
        with sources[0].open("rb") as file:
            return _rows(file, table, str(sources[0]))
    with reading(sources[0]):
        return _parse_tar(sources[0], table)


def _parse_tar(path: Path, table: Table) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The table in a tar: a pair ``…/feats`` and ``…/labels``, or the first file of rows.

    The archive is read to its end even so, since only there a truncation shows.
    """
    rows: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None
    inputs: NDArray[np.uint8] | None = None
    labels: NDArray[np.int64] | None = None
    for name, _, stream in members(path):
        where = f"{name} of {path}"
        *folders, base = name.split("/")
        # Texas has folders by number of classes; texas/100 is the published task.
        other = bool(folders) and folders[-1].isdigit() and folders[-1] != str(table.classes)
        if base.startswith(".") or other or rows is not None:
            continue
        if base == "feats":
            inputs = _rows(stream, table, where, labelled=False)[0]
        elif base == "labels":
            labels = _label_file(stream, table, where)
        elif inputs is None and labels is None:
            rows = _rows(stream, table, where)
    if rows is None and inputs is not None and labels is not None:
        rows = inputs, labels
    if rows is None:
        raise DataError(
            f"a file of rows, or 'feats' and 'labels', in {path}",
            "an archive without them",
            f"Use the official {table.archive.filename} from {table.archive.url}.",
        )
    return rows


def _rows(
    stream: IO[bytes], table: Table, where: str, *, labelled: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return read_binary_csv(stream, table.features, where, labelled=labelled, rows=table.records)


def _label_file(stream: IO[bytes], table: Table, where: str) -> NDArray[np.int64]:
    """One label a line."""
    try:
        lines = stream.read().decode("utf-8", "replace").split("\n")
        labels = np.array([int(line.strip().strip('"')) for line in lines if line.strip()], np.int64)
    except ValueError as error:
        raise DataError(f"one whole number a line in {where}", str(error), "Restore the official file.") from error
    if table.records is not None and len(labels) != table.records:
        raise DataError(f"{table.records:,} labels in {where}", f"{len(labels):,}", "Restore the official file.")
    return labels
