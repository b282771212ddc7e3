"""Plain files, written atomically, hashed, never unpickled, and locked against a second writer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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


def create_json(path: Path, value: Any) -> bool:
    """Write ``value`` unless ``path`` is there; of several writers, on one machine or many, one gets True."""
    own = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.part")
    write_json(own, value)
    try:
        path.hardlink_to(own)
    except FileExistsError:
        return False
    except OSError:
        # A file system without hard links.
        if path.exists():
            return False
        own.replace(path)
    finally:
        own.unlink(missing_ok=True)
    return True


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
def writer_lock(folder: Path, part: str = "") -> Iterator[None]:
    """Hold ``folder`` for writing, alone or, with ``part``, beside writers of other parts of the same split.

    The kernel frees the lock when the process ends, however it ends. Writers on several machines see each other
    where the shared file system has flock (NFS, GPFS, CephFS, Lustre mounted with ``-o flock``); where it has
    none, only writers on one machine do, and that is said. Files are whole all the same: each appears by a rename.

    Args:
        folder: made if it is not there.
        part: for example ``"2-of-8"``.

    Raises:
        PoolError: another process writes there (it is named, with its machine and since when).
    """
    with _open_lock(folder, folder / ".lock") as whole:
        # All writers of parts share the folder's lock, which a writer of the whole wants for itself.
        if not _flock(whole, fcntl.LOCK_SH if part else fcntl.LOCK_EX):
            raise _held(folder, [_signature(whole)] if part else _holders(folder) or [_signature(whole)])
        if not part:
            for leftover in folder.glob(".lock-*"):
                leftover.unlink(missing_ok=True)
            with _signed(whole):
                yield
            return
        with _open_lock(folder, folder / f".lock-{part}") as own:
            if not _flock(own, fcntl.LOCK_EX):
                raise _held(folder, [_signature(own)], part)
            split = part.rpartition("-of-")[2]
            if others := _holders(folder, lambda other: other.rpartition("-of-")[2] != split):
                raise _held(folder, others, part)
            with _signed(own):
                yield


# What flock answers where a file system has no locks, or nobody who keeps them.
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


def _open_lock(folder: Path, path: Path) -> IO[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return path.open("a+")
    except OSError as error:
        raise PoolError(
            f"a writable folder {folder}",
            f"{error.strerror or error}",
            "Choose another folder or change its permissions.",
        ) from error


def _flock(file: IO[str], how: int, tries: int = 5) -> bool:
    """Whether the lock was got; somebody who only looks holds it for a moment, so a few tries."""
    for left in reversed(range(tries)):
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return _unlocked(file)
            if left:
                time.sleep(0.05)
    return False


def _unlocked(file: IO[str]) -> bool:
    """The same without locks: refused only to a writer that lives on this machine."""
    found = re.fullmatch(r"process (\d+) on (\S+) since .*", _signature(file))
    if found and found[2] == socket.gethostname() and int(found[1]) != os.getpid():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(found[1]), 0)
            return False
    print(
        f"memberscope: the file system of {file.name} has no locks: start no second run of the same on another machine",
        file=sys.stderr,
        flush=True,
    )
    return True


@contextlib.contextmanager
def _signed(file: IO[str]) -> Iterator[None]:
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}")
    file.flush()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.truncate(0)


def _signature(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "another process"


def _holders(folder: Path, wanted: Callable[[str], bool] = lambda part: True) -> list[str]:
    """Who holds the locks of parts."""
    held = []
    for path in sorted(folder.glob(".lock-*")):
        part = path.name.removeprefix(".lock-")
        if wanted(part):
            with path.open("a+") as file:
                if not _flock(file, fcntl.LOCK_SH, tries=1):
                    held.append(f"{_signature(file)} (shard {part.replace('-of-', '/')})")
    return held


def _held(folder: Path, holders: list[str], part: str = "") -> PoolError:
    what = f"the only writer of shard {part.replace('-of-', '/')} in" if part else "the only writer of"
    return PoolError(
        f"to be {what} {folder}",
        f"it is being written by {', '.join(holders)}",
        "Wait for it, or use another folder.",
    )
