"""Data: named sets, your own files, membership designs, and checks before an audit.

>>> from memberscope.data import load
>>> load("purchases", records=1000).inputs.shape
(1000, 600)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from memberscope.data.arrays import read_npz
from memberscope.data.catalogue import REGISTRY, Entry
from memberscope.data.download import download
from memberscope.data.image_folder import read_image_folder
from memberscope.data.images import detect_cifar, read_cifar
from memberscope.data.places import data_dir
from memberscope.data.tables import read_csv, read_parquet
from memberscope.errors import ConfigError, DataError, nearest
from memberscope.types import Dataset

__all__ = ["REGISTRY", "Entry", "data_dir", "fetch", "info", "load"]

FILES = ".csv, .tsv, .parquet, .npz, a folder of images by class, or CIFAR's binary layout"
ARCHIVES = (".tgz", ".tar", ".tar.gz")


def load(
    name_or_path: str | Path,
    *,
    records: int | None = None,
    n: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Dataset:
    """A data set by name, or from a file or folder of yours.

    Args:
        name_or_path: a name in ``REGISTRY``; or a path to .csv, .tsv, .parquet, .npz, a folder of images
            by class, or a folder or archive in CIFAR's binary layout.
        records: how many records: generated for ``purchases``, else drawn at random without replacement
            and kept in their order; all when omitted (``purchases``: 20,000).
        n: the same as ``records``.
        seed: of the generator or the draw; fewer records are a subset of more.
        options: of the loader: ``path`` (where the official archive or its folder lies) for fetched sets,
            ``as_images`` for digits, ``label``, ``id``, ``groups``, ``drop``, ``class_names`` for tables,
            ``size`` for images.

    Returns:
        The records with their ids.

    Raises:
        ConfigError: an unknown name or option, or a number of records out of range.
        DataError: a missing, damaged or malformed file.
        MissingExtraError: a Parquet file without pyarrow.

    >>> str(load("digits", records=100, seed=3).ids[0])
    'digits-0007'
    """
    if records is not None and n is not None and records != n:
        raise ConfigError("records or n, which mean the same", f"records={records} and n={n}", "Give one of them.")
    wanted = n if records is None else records
    if wanted is not None and wanted < 1:
        raise ConfigError("at least 1 record", f"records={wanted}", "Ask for more records.")
    name = str(name_or_path)
    if name == "purchases":
        size = {} if wanted is None else {"records": wanted}
        return _call(REGISTRY[name].loader, name, {"seed": seed, **size, **options})
    loader = REGISTRY[name].loader if name in REGISTRY else _reader(Path(name_or_path).expanduser())
    data = _call(loader, name, options)
    if wanted is None or wanted == len(data):
        return data
    if wanted > len(data):
        raise ConfigError(f"at most {len(data):,} records of {name}", f"records={wanted:,}", "Ask for fewer records.")
    return data.take(np.sort(np.random.default_rng(seed).permutation(len(data))[:wanted]))


def fetch(name: str, *, quiet: bool = False) -> Path:
    """Download the official archive of ``name`` into ``data_dir()`` unless it lies there already.

    Returns:
        The path of the archive.

    Raises:
        ConfigError: an unknown name, or data that need no download.
        DataError: no network or a wrong checksum; says which file to put where.
        PoolError: the folder cannot be written.
    """
    if name not in REGISTRY:
        raise _unknown(name)
    entry = REGISTRY[name]
    if entry.archive is None or entry.place is None:
        raise ConfigError(
            "data with an archive to download", f"{name!r}, which comes with memberscope", "Load it as it is."
        )
    return download(entry.archive, entry.place.parent, quiet=quiet)


def info(name_or_path: str | Path) -> dict[str, Any]:
    """What is known of a data set, as plain JSON values.

    Returns:
        For a name (without loading anything): ``name``, ``description``, ``shape``, ``classes``,
        ``source``, ``embedded``, ``available``, ``place`` (where the archive belongs), ``url``,
        ``checksum``. For a path (loaded): ``name``, ``kind``, ``shape``, ``dtype``, ``classes``,
        ``class_names`` and ``class_counts``, ``groups``, ``first_ids``, ``fingerprint``.

    Raises:
        ConfigError, DataError: as :func:`load`.
    """
    if str(name_or_path) in REGISTRY:
        entry = REGISTRY[str(name_or_path)]
        archive = entry.archive
        return {
            "name": entry.name,
            "description": entry.description,
            "shape": list(entry.shape),
            "classes": entry.classes,
            "source": entry.source,
            "embedded": entry.embedded,
            "available": entry.available,
            "place": str(entry.place) if entry.place else None,
            "url": archive.url if archive else None,
            "checksum": (archive.checksum or None) if archive else None,
        }
    data = load(name_or_path)
    return {
        "name": data.name,
        "kind": data.kind,
        "shape": list(data.inputs.shape),
        "dtype": str(data.inputs.dtype),
        "classes": data.classes,
        "class_names": list(data.class_names),
        "class_counts": np.bincount(data.labels, minlength=data.classes).tolist(),
        "groups": sorted(data.groups),
        "first_ids": data.ids[:5].tolist(),
        "fingerprint": data.fingerprint,
    }


def _reader(path: Path) -> Callable[..., Dataset]:
    """The loader for a file or folder, its path filled in."""
    if not path.exists():
        if len(path.parts) == 1 and not path.suffix:
            raise _unknown(str(path))
        raise DataError(f"a data set at {path}", "no such file or folder", f"Check the path; readable are {FILES}.")
    suffix = path.suffix.lower()
    if path.is_dir() or path.name.lower().endswith(ARCHIVES):
        layout = detect_cifar(path)
        if layout is not None:
            return functools.partial(read_cifar, path, layout)
        if path.is_dir():
            return functools.partial(read_image_folder, path)
        raise DataError(
            f"CIFAR's binary files in {path}",
            "an archive of something else",
            "For an official archive, give its name and the file: load('purchase100', path=…).",
        )
    readers: dict[str, Callable[..., Dataset]] = {
        ".csv": read_csv,
        ".tsv": read_csv,
        ".parquet": read_parquet,
        ".npz": read_npz,
    }
    if suffix not in readers:
        raise DataError(f"a file of a known kind ({FILES})", str(path), "Convert it to one of them.")
    return functools.partial(readers[suffix], path)


def _call(loader: Callable[..., Dataset], name: str, options: dict[str, Any]) -> Dataset:
    known = list(inspect.signature(loader).parameters)
    for key in options:
        if key not in known:
            raise ConfigError(
                f"options of {name}: {', '.join([*known, 'records', 'seed'])}",
                f"{key!r}{nearest(key, known)}",
                "Remove or rename it.",
            )
    return loader(**options)


def _unknown(name: str) -> ConfigError:
    return ConfigError(
        f"a known data set ({', '.join(REGISTRY)}) or an existing path",
        f"{name!r}{nearest(name, REGISTRY)}",
        "Run 'memberscope data list' to see them.",
    )
