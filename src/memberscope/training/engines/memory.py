"""How a worker gets its memory: once, on large pages.

A step of a convolution net allocates and frees hundreds of megabytes. By default the system takes them back and hands
them out again in pages of 4 kB, each zeroed and entered anew: up to a fourth of a DenseNet's step.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

# <malloc.h>: how many allocations may be mapped by themselves; how much free memory stays.
_MMAP_MAX, _TRIM_THRESHOLD = -4, -1


def keep_memory() -> None:
    """Let this process keep what it frees for its next allocation, and have PyTorch use large pages.

    For processes that train and do nothing else; before PyTorch's first tensor. Changes no result. Without effect
    where the C library is not glibc, or has been told otherwise by its own ``MALLOC_`` variables.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
