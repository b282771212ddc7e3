"""CIFAR-10 and CIFAR-100 in their official *binary* layout (Krizhevsky 2009), archive or extracted folder.

A record is one label byte (CIFAR-100: coarse, then fine) and 3,072 pixel bytes: the red, green and blue
planes of 32 × 32, row by row. No pickle is involved.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memberscope.data.archives import Archive, members, reading, verify
from memberscope.errors import DataError
from memberscope.types import Dataset

PIXELS = 3072


@dataclass(frozen=True)
class Cifar:
    """One variant of the layout.

    Args:
        name: of the data set.
        archive: as published.
        train, test: files of each split in official order, without ``.bin``.
        meta: file of the class names.
        classes: number of (fine) classes.
        coarse: number of coarse classes, whose byte comes first; 0 when there is none.
        counts: records in each file, in the order of ``train + test``; empty to accept any number.
    """

    name: str
    archive: Archive
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    classes: int
    coarse: int = 0
    counts: tuple[int, ...] = ()

    @property
    def header(self) -> int:
        """Label bytes before the pixels."""
        return 2 if self.coarse else 1


CIFAR10 = Cifar(
    "cifar10",
    Archive(
        "cifar-10-binary.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "md5:c32a1d4ab5d03f1284b67883e8d87530",
        170,
    ),
    tuple(f"data_batch_{i}" for i in range(1, 6)),
    ("test_batch",),
    "batches.meta.txt",
    10,
    counts=(10_000,) * 6,
)
CIFAR100 = Cifar(
    "cifar100",
    Archive(
        "cifar-100-binary.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "md5:03b5dce01913d631647c71ecec9e9cb8",
        169,
    ),
    ("train",),
    ("test",),
    "fine_label_names.txt",
    100,
    20,
    (50_000, 10_000),
)


def read_cifar(path: Path, layout: Cifar) -> Dataset:
    """CIFAR images from the official archive, or a folder in its layout.

    Args:
        path: the ``.tar.gz``, or the folder of ``.bin`` files (or one that holds that folder).
        layout: ``CIFAR10``, ``CIFAR100``, or a copy without counts and checksum for data in their format.

    Returns:
        ``inputs`` (N, 3, 32, 32) uint8, training records first, in official order; ids ``train/00001`` …
        and ``test/00001`` …; group ``split``, and for CIFAR-100 ``coarse``.

    Raises:
        DataError: missing or truncated file, wrong checksum, wrong size, a label byte out of range.
    """
    if path.is_dir():
        files = _read_folder(path, layout)
    else:
        verify(path, layout.archive.checksum)
        with reading(path):
            files = _read_archive(path, layout)
    names = layout.train + layout.test
    absent = [f"{name}.bin" for name in names if name not in files]
    if absent and (layout.counts or not files):
        raise DataError(
            f"the files {', '.join(name + '.bin' for name in names)} in {path}",
            f"no {', '.join(absent)}",
            f"Use the official {layout.archive.filename} from {layout.archive.url}.",
        )
    raw = {name: _records(files[name], name, path, layout) for name in names if name in files}
    inputs = np.concatenate([block[:, layout.header :] for block in raw.values()]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([block[:, layout.header - 1] for block in raw.values()]).astype(np.int64)
    n_train = sum(len(raw[name]) for name in layout.train if name in raw)
    n_test = len(labels) - n_train
    ids = [f"train/{i:05d}" for i in range(1, n_train + 1)] + [f"test/{i:05d}" for i in range(1, n_test + 1)]
    groups = {"split": np.array(["train"] * n_train + ["test"] * n_test)}
    if layout.coarse:
        coarse = np.concatenate([block[:, 0] for block in raw.values()])
        groups["coarse"] = _names(files.get("coarse_label_names.txt"), layout.coarse, path)[coarse]
    classes = _names(files.get(layout.meta), layout.classes, path)
    return Dataset(inputs, labels, np.array(ids), tuple(classes.tolist()), groups=groups, name=layout.name)


def detect_cifar(path: Path) -> Cifar | None:
    """The layout of a folder or archive in CIFAR's binary format, free of counts and checksum, or None."""
    if path.is_dir():
        found = {file.name for folder in _folders(path) for file in folder.glob("*.bin")}
    else:
        with reading(path):
            found = {name.rsplit("/", 1)[-1] for name, _, _ in members(path)}
    for layout in (CIFAR10, CIFAR100):
        if found & {f"{name}.bin" for name in layout.train + layout.test}:
            bare = dataclasses.replace(layout.archive, checksum="")
            return dataclasses.replace(layout, archive=bare, counts=(), name=path.name)
    return None


def _wanted(layout: Cifar) -> dict[str, str]:
    """File names in the layout, mapped to what ``read_cifar`` calls them."""
    bins = {f"{name}.bin": name for name in layout.train + layout.test}
    texts = {layout.meta: layout.meta, "coarse_label_names.txt": "coarse_label_names.txt"}
    return bins | texts


def _folders(path: Path) -> list[Path]:
    return [path, *sorted(child for child in path.iterdir() if child.is_dir())]


def _read_folder(path: Path, layout: Cifar) -> dict[str, bytes]:
    for folder in _folders(path):
        files = {key: folder / name for name, key in _wanted(layout).items() if (folder / name).is_file()}
        if any(key in files for key in layout.train + layout.test):
            return {key: file.read_bytes() for key, file in files.items()}
    return {}


def _read_archive(path: Path, layout: Cifar) -> dict[str, bytes]:
    wanted = _wanted(layout)
    files: dict[str, bytes] = {}
    for name, _, stream in members(path):
        key = wanted.get(name.rsplit("/", 1)[-1])
        if key is not None and key not in files:
            files[key] = stream.read()
    return files


def _records(content: bytes, name: str, path: Path, layout: Cifar) -> NDArray[np.uint8]:
    """The file's records, (n, header + 3072) uint8, checked."""
    width = layout.header + PIXELS
    count = dict(zip(layout.train + layout.test, layout.counts, strict=False)).get(name)
    if not content or len(content) % width or (count is not None and len(content) != count * width):
        wanted = f"{count:,} records of {width:,} bytes" if count is not None else f"whole records of {width:,} bytes"
        raise DataError(
            f"{wanted} in {name}.bin of {path}",
            f"{len(content):,} bytes",
            "The file is truncated or of another format: remove it and download it again.",
        )
    block = np.frombuffer(content, np.uint8).reshape(-1, width)
    for column, classes in ((layout.header - 1, layout.classes), (0, layout.coarse or layout.classes)):
        bad = np.flatnonzero(block[:, column] >= classes)
        if len(bad):
            raise DataError(
                f"label bytes from 0 to {classes - 1} in {name}.bin of {path}",
                f"{block[bad[0], column]} in record {bad[0] + 1}",
                "The file is damaged or of another format: remove it and download it again.",
            )
    return block


def _names(content: bytes | None, classes: int, path: Path) -> NDArray[np.str_]:
    """Class names from a meta file, numbers without one."""
    if content is None:
        return np.arange(classes).astype(np.str_)
    names = content.decode("utf-8", "replace").split()
    if len(names) != classes:
        raise DataError(f"{classes} class names in {path}", f"{len(names)}", "Restore the official file of names.")
    return np.array(names)
