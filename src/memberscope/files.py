"""Plain files, written atomically, hashed, never unpickled, and locked against a second writer."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import DataError, PoolError


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears at ``path`` whole or not at all, whenever the process is killed.

    Raises:
        PoolError: the folder cannot be written or the disk is full; nothing is left behind.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; results are meant to be shared like any other file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise PoolError(
            f"to write {path}",
            f"{error.strerror or error}",
            "Free space or choose a writable folder, then run again.",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in ``path``.

    Raises:
        PoolError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PoolError(
            f"a JSON file at {path}", str(error), "Check the path, or remove the damaged file and run again."
        ) from error


def write_npy(path: Path, array: NDArray[Any]) -> None:
    """Write an array as .npy, atomically; object arrays are refused."""
    with atomic(path) as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def read_npy(path: Path, *, mmap: bool = False) -> NDArray[Any]:
    """The array in a .npy file, memory-mapped read-only if ``mmap``; nothing is ever unpickled.

    Raises:
        DataError: the file is missing, truncated, or holds objects.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"a whole .npy file of numbers or strings at {path}",
            str(error).splitlines()[0],
            "Write it again with numpy.save(..., allow_pickle=False).",
        ) from error
    return array


def sha256_file(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_arrays(*arrays: NDArray[Any]) -> str:
    """SHA-256 over the types, shapes and contents of arrays, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        # In pieces, so that a memory-mapped array is never held whole.
        flat = np.ascontiguousarray(array).reshape(-1)
        for start in range(0, flat.size, 1 << 24):
            digest.update(flat[start : start + (1 << 24)].view(np.uint8).data)
    return digest.hexdigest()


@contextlib.contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for writing; the kernel frees it when the process ends, however it ends.

    Raises:
        PoolError: another process writes there (its process id is named).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise PoolError(
            f"a writable folder {folder}",
            f"{error.strerror or error}",
            "Choose another folder or change its permissions.",
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise PoolError(
                f"to be the only writer of {folder}",
                f"it is being written by {holder}",
                "Wait for it, or use another folder.",
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield
