"""Your own arrays in an NPZ. Record ids survive; nothing is ever unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.data.tables import encode
from memberscope.errors import DataError, nearest
from memberscope.types import Dataset


def read_npz(path: Path, *, class_names: Sequence[str] = ()) -> Dataset:
    """An NPZ with ``inputs`` (or ``x``, ``X``) and ``labels`` (or ``y``).

    Optional arrays: ``ids``, ``class_names``, ``feature_names``, and groups as ``group_NAME``. Arrays of
    Python objects are refused, never loaded.

    Raises:
        DataError: damaged file, arrays missing or unknown, objects inside.
    """
    arrays = load_arrays(path)
    inputs = _first(arrays, ("inputs", "x", "X"), path)
    labels = _first(arrays, ("labels", "y"), path)
    known = {"inputs", "x", "X", "labels", "y", "ids", "class_names", "feature_names"}
    for name in arrays:
        if name not in known and not name.startswith("group_"):
            raise DataError(
                f"arrays named {', '.join(sorted(known))} or group_NAME in {path}",
                f"{name!r}{nearest(name, known)}",
                "Rename or remove the array.",
            )
    names = tuple(class_names) or tuple(arrays.get("class_names", np.empty(0)).astype(np.str_).tolist())
    if labels.dtype.kind in "US":
        labels, names = encode(labels.astype(np.str_).tolist(), names, str(path))
    return Dataset(
        inputs,
        labels,
        arrays.get("ids", np.empty(0, np.str_)),
        names,
        tuple(arrays.get("feature_names", np.empty(0)).astype(np.str_).tolist()),
        {name.removeprefix("group_"): values for name, values in arrays.items() if name.startswith("group_")},
        path.stem,
    )


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of an NPZ; nothing is ever unpickled.

    Raises:
        DataError: the file is missing, damaged, not an NPZ, or holds Python objects.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise DataError(
            f"an .npz archive at {path}",
            "no such file" if not path.is_file() else "a damaged file or one of another kind",
            "Write it with numpy.savez, or check the path.",
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "pickle" in message:
            message = "Python objects, which are refused because loading them can run code"
        raise DataError(
            f"whole arrays of numbers or strings in {path}",
            message,
            "Write it again with numpy.savez and plain numeric or string arrays.",
        ) from error
    for name, array in arrays.items():
        # A member that is not .npy comes back as bytes.
        if not isinstance(array, np.ndarray):
            raise DataError(f"only .npy arrays in {path}", f"the member {name!r}", "Write it again with numpy.savez.")
    return arrays


def _first(arrays: dict[str, NDArray[Any]], names: tuple[str, ...], path: Path) -> NDArray[Any]:
    for name in names:
        if name in arrays:
            return arrays[name]
    raise DataError(
        f"an array named {' or '.join(names)} in {path}",
        f"{', '.join(arrays) or 'no array'}",
        "Name the arrays so, or load them yourself and build a Dataset.",
    )
