"""Arrays that may not fit into memory, worked on in pieces and in threads.

Beyond :data:`IN_MEMORY` bytes an array is a file that is mapped into memory and deleted with its last user. Pages of
a mapped file count as memory of the process until they are given back, which :func:`release` does; nothing is lost,
since the kernel keeps what was written.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from memberscope.errors import PoolError

T = TypeVar("T")
R = TypeVar("R")

# Bytes of one array that are kept in memory; larger ones go to disk.
IN_MEMORY = 1 << 24

# Numbers a piece: its float64 temporaries stay in a core's second-level cache.
PIECE = 1 << 14

# Below this many numbers threads cost more than they bring.
_WORTH_THREADS = 1 << 18


def working_array(
    shape: tuple[int, ...],
    dtype: DTypeLike = np.float64,
    folder: Path | None = None,
    *,
    file: IO[bytes] | None = None,
) -> NDArray[Any]:
    """An array to fill, in memory or, if it is large, in a file without a name in ``folder``.

    Args:
        shape: of the array.
        dtype: of its numbers.
        folder: where a large one lies; the system's folder for temporary files when None.
        file: where it shall lie, from the file's present position on, instead.

    Raises:
        PoolError: the folder cannot be written or the disk is full.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY and file is None:
        return np.empty(shape, dtype)
    try:
        if file is not None:
            return _mapped(file, shape, dtype, size)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as own:
            return _mapped(own, shape, dtype, size)
    except OSError as error:
        raise PoolError(
            f"{size / 1e9:.1f} GB on disk in {folder or tempfile.gettempdir()} for what does not fit into memory",
            f"{error.strerror or error}",
            "Free space, or set TMPDIR to a folder with enough of it.",
        ) from error


def _mapped(file: IO[bytes], shape: tuple[int, ...], dtype: DTypeLike, size: int) -> NDArray[Any]:
    start = file.tell()
    # Space is taken now: a full disk met while writing through a map would kill the process.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, start + size)
    else:
        file.truncate(start + size)
    return np.memmap(file, dtype, "r+", offset=start, shape=shape)


def release(array: NDArray[Any]) -> None:
    """Give the memory of a mapped file's part back to the system; does nothing to other arrays."""
    owner: Any = array
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = getattr(owner, "base", None)
    if owner is None or not array.size or not hasattr(mmap, "MADV_DONTNEED"):
        return
    # Where NumPy 1 had it and where NumPy 2 has it.
    low, high = getattr(np.lib, "array_utils", np).byte_bounds(array)
    first = np.frombuffer(owner, np.uint8).__array_interface__["data"][0]
    start = (low - first) // mmap.PAGESIZE * mmap.PAGESIZE
    owner.madvise(mmap.MADV_DONTNEED, start, high - first - start)


def address(array: NDArray[Any]) -> ctypes.c_void_p:
    """Where a C function finds the array's numbers, one after the other; it keeps nothing alive."""
    return ctypes.c_void_p(array.ctypes.data)


def pieces(count: int, size: int = PIECE) -> Iterator[slice]:
    """Slices of at most ``size`` that cover ``range(count)`` in order."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def threads(numbers: int = _WORTH_THREADS) -> int:
    """How many threads work on so many numbers: one a core, or MEMBERSCOPE_THREADS, or one if it is little."""
    if numbers < _WORTH_THREADS:
        return 1
    wanted = os.environ.get("MEMBERSCOPE_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) else len(os.sched_getaffinity(0))


def in_threads(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """``work(item)`` of each item in the order of the items, at most ``workers`` and as many results at once."""
    if workers <= 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: list[Future[R]] = []
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > workers:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def quantiles(rows: NDArray[np.float64], wanted: tuple[float, ...]) -> tuple[float, ...]:
    """Quantiles over all numbers of ``(T, N)`` that are not NaN, linear between neighbours, as NumPy's.

    Without a copy of them: a sample says where to look, and only what lies there is put in order.
    """
    step = max(1, rows.size // 1_000_000)
    sample = np.sort(np.concatenate([row[::step] for row in rows]))
    sample = sample[~np.isnan(sample)]
    count = sum(in_threads(_known, rows, threads(rows.size)))
    result = []
    for share in wanted:
        place = share * (count - 1)
        first = int(place)
        reach = 5 * np.sqrt(share * (1 - share) * len(sample)) + 2
        low, high = int(share * len(sample) - reach), int(share * len(sample) + reach)
        least = sample[low] if low >= 0 else -np.inf
        most = sample[high] if high < len(sample) else np.inf
        below, near = _between(rows, least, most)
        if not below <= first or first + 1 >= below + len(near) < count:
            below, near = _between(rows, -np.inf, np.inf)
        at = np.sort(near)[[first - below, min(first + 1, count - 1) - below]]
        result.append(float(at[0] + (place - first) * (at[1] - at[0])))
    return tuple(result)


def _between(rows: NDArray[np.float64], low: float, high: float) -> tuple[int, NDArray[np.float64]]:
    """How many numbers lie below ``low``, and those from ``low`` to ``high``."""

    def work(row: NDArray[np.float64]) -> tuple[int, NDArray[np.float64]]:
        found = int(np.count_nonzero(row < low)), row[(row >= low) & (row <= high)]
        release(row)
        return found

    parts = list(in_threads(work, rows, threads(rows.size)))
    return sum(below for below, _ in parts), np.concatenate([near for _, near in parts])


def _known(row: NDArray[np.float64]) -> int:
    """How many numbers are not NaN."""
    found = int(np.count_nonzero(~np.isnan(row)))
    release(row)
    return found
