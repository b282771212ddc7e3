"""Large arrays for worker processes of one machine: mapped into each, copied into none."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Below this, a copy in the message costs less than a mapping.
SMALLEST = 1 << 20

Rebuild = tuple[Any, ...]


class Sharing:
    """Gives arrays to workers by name instead of by value.

    An array in memory is put once into an anonymous file of this process, which workers reach through /proc and
    which is gone with the process, however it ends; a memory map is opened anew from its own file.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[NDArray[Any], int]] = {}

    def describe(self, array: NDArray[Any]) -> Rebuild:
        """How a worker rebuilds ``array``, as ``__reduce__`` says it."""
        if array.nbytes < SMALLEST or array.dtype.hasobject or not hasattr(os, "memfd_create"):
            plain: Rebuild = np.asarray(array).__reduce_ex__(4)  # type: ignore[assignment]
            return plain
        if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.flags.c_contiguous:
            return _mapped, (str(array.filename), array.dtype, array.offset, array.shape)
        if id(array) not in self._kept:
            file = os.memfd_create("memberscope", os.MFD_CLOEXEC)
            with os.fdopen(os.dup(file), "wb") as stream:
                stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            # The array itself is kept so that its id stays its own.
            self._kept[id(array)] = array, file
        return _mapped, (f"/proc/{os.getpid()}/fd/{self._kept[id(array)][1]}", array.dtype, 0, array.shape)

    def close(self) -> None:
        """Let go of the copies; workers that still map one keep it until they are done."""
        for _, file in self._kept.values():
            os.close(file)
        self._kept.clear()


def _mapped(path: str, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.memmap(path, dtype, "r", offset, shape)
