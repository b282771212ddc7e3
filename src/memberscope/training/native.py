"""The C kernels beside this file: compiled once a machine, loaded where they can run, else the reason why not."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from memberscope.errors import ConfigError, PoolError

PLAIN = "PyTorch's own"
SWITCH = "MEMBERSCOPE_KERNELS"

_PACKAGE = Path(__file__).parents[1]
_SOURCES = {
    "dense_block": ("training/kernels/common.h", "training/kernels/dense_block.c"),
    "fcn": ("training/kernels/common.h", "training/kernels/fcn.c"),
    "max_pool": ("training/kernels/common.h", "training/kernels/max_pool.c"),
    "scalars": ("signals/kernels/scalars.c",),
    "walk": ("statistics/kernels/walk.c",),
}
_KINDS = {
    "dense_block": "dense blocks in C",
    "fcn": "steps in C",
    "max_pool": "pooling in C",
    "scalars": "sums in C",
    "walk": "walk in C",
}
_WHO = {"scalars": "scoring", "walk": "scoring"}
# Without contraction the source alone says what is rounded where, whichever compiler reads it.
_FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")
_LIBRARIES = ("-lm",)
_TILES = {"amx_tile", "amx_bf16", "avx512_bf16", "avx512bw", "avx512vl"}
_NEEDED: dict[str, set[str]] = {"dense_block": _TILES, "fcn": _TILES, "max_pool": _TILES}


@dataclass(frozen=True, eq=False)
class Kernels:
    """Compiled kernels, or why there are none.

    Args:
        source: which: ``"dense_block"``, ``"fcn"`` or ``"max_pool"``; ``"scalars"`` or ``"walk"``, which scoring uses.
        library: their functions, or None.
        reason: why there is no library; empty if there is one.
    """

    source: str
    library: ctypes.CDLL | None
    reason: str = ""

    @property
    def name(self) -> str:
        """What decides over a model's bytes: the version of the kernels' source, or that there are none."""
        if self.library is None:
            return PLAIN
        return f"{_KINDS[self.source]} {hashlib.sha256(_text(self.source).encode()).hexdigest()[:6]}"

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


class _Unsafe(Exception):
    """A file or folder that somebody else could have written."""


def dense_kernels() -> Kernels:
    """The kernels of dense blocks; see :func:`kernels`."""
    return kernels("dense_block")


def fcn_kernels() -> Kernels:
    """The kernels of fully connected networks; see :func:`kernels`."""
    return kernels("fcn")


def pooling_kernels() -> Kernels:
    """The kernels of 2×2 max pooling; see :func:`kernels`. They give PyTorch's bytes, so no plan names them."""
    return kernels("max_pool")


def kernels_like(name: str) -> Kernels:
    """What this machine has of the kind of kernels called ``name``, as :attr:`Kernels.name` says it."""
    return kernels(next(source for source, kind in _KINDS.items() if name.startswith(kind)))


def require(planned: str | None, found: Kernels) -> ctypes.CDLL | None:
    """The library to train with, or None for PyTorch's own operations.

    Args:
        planned: the name of the kernels with which training was planned; None takes what this machine has.
        found: what this machine has.

    Raises:
        PoolError: this process does not have the kernels of that name.
    """
    if planned == PLAIN:
        return None
    if planned not in (None, found.name):
        raise PoolError(
            f"the kernels with which training was planned, {planned}",
            f"{found} in the process that is to train",
            f"Give every machine the same processor and a C compiler, or set {SWITCH}=off on all of them.",
        )
    return found.library


@functools.cache
def kernels(source: str) -> Kernels:
    """The kernels of ``source``, built on the first call (about two seconds) and kept in the user's cache folder.

    They need Linux, an x86-64 processor (for training one with AMX) and a C compiler (``$CC``, ``cc`` or ``gcc``).
    Without one of them, or with ``MEMBERSCOPE_KERNELS=off``, training goes through PyTorch's own operations, with other
    bytes, and scoring through NumPy's. A cache folder or library that others can write to is not used; that, and a
    compiler that is missing or fails, is warned of.

    Raises:
        ConfigError: ``MEMBERSCOPE_KERNELS`` is neither ``on`` nor ``off``.
    """
    switch = os.environ.get(SWITCH, "on")
    if switch not in ("on", "off", ""):
        raise ConfigError(f"{SWITCH} as on or off", repr(switch), "Change or unset it.")
    if switch == "off":
        return Kernels(source, None, f"{SWITCH} is off")
    processor, flags = _processor()
    if platform.system() != "Linux" or platform.machine() != "x86_64" or not flags >= _NEEDED.get(source, set()):
        lacks = "the processor has no AMX tiles for bfloat16" if source in _NEEDED else "this is not Linux on x86-64"
        return Kernels(source, None, lacks)
    compiler = shlex.split(os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or "")
    if not compiler:
        return _without(source, "there is no C compiler (cc or gcc)")
    try:
        version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
        command = " ".join((*compiler, *_FLAGS, *_LIBRARIES))
        parts = (_text(source), version, processor, " ".join(sorted(flags)), command)
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
        library = _load(compiler, source, key)
    except _Unsafe as error:
        return _without(source, str(error))
    except (OSError, subprocess.CalledProcessError) as error:
        detail = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        what = f"building and loading them with {compiler[0]} failed"
        return _without(source, f"{what}: {detail[0] if detail else error}")
    if source in _NEEDED and not library.usable():
        return Kernels(source, None, "the kernel of the operating system refuses the AMX tiles")
    return Kernels(source, library)


def _text(source: str) -> str:
    """All that is compiled for ``source``."""
    return "".join((_PACKAGE / path).read_text() for path in _SOURCES[source])


def _without(source: str, reason: str) -> Kernels:
    warnings.warn(
        f"{_WHO.get(source, 'training')} without its {_KINDS[source]}, several times slower: {reason}", stacklevel=3
    )
    return Kernels(source, None, reason)


def _load(compiler: list[str], source: str, key: str) -> ctypes.CDLL:
    """The library named ``key``; built first unless it is there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memberscope" / "kernels"
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = os.access(cache, os.W_OK)
    except OSError:
        kept = False
    if kept:
        _check_safe(cache, stat.S_ISDIR)
        for path in sorted(cache.glob(f"{key}-*.so")):
            _check_safe(path, stat.S_ISREG)
            # Loading half a file ends the process.
            if _digest(path) == path.stem.rpartition("-")[2]:
                return ctypes.CDLL(str(path))
            path.unlink(missing_ok=True)
        return ctypes.CDLL(str(_build(compiler, source, cache, key)))
    # Without a cache folder the file is gone as soon as it is loaded, and every process builds its own.
    with tempfile.TemporaryDirectory(prefix="memberscope-") as folder:
        return ctypes.CDLL(str(_build(compiler, source, Path(folder), key)))


def _check_safe(path: Path, is_kind: Callable[[int], bool]) -> None:
    """Raise unless ``path`` itself, not what it links to, is of the kind, this user's, and nobody else's to write."""
    found = path.lstat()
    if not is_kind(found.st_mode):
        raise _Unsafe(f"{path} is not what was put there; delete it")
    if found.st_uid != os.geteuid():
        raise _Unsafe(f"{path} belongs to another user; delete it, or set XDG_CACHE_HOME")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _Unsafe(f"others can write to {path}; delete it, or take that away (chmod go-w)")


def _build(compiler: list[str], source: str, cache: Path, key: str) -> Path:
    """Compile into ``cache``, as ``key`` and the hash of the content; whole or not there, whoever builds beside us."""
    with tempfile.TemporaryDirectory(prefix="memberscope-", dir=cache) as folder:
        made = Path(folder) / "kernels.so"
        command = [*compiler, *_FLAGS, "-o", str(made), str(_PACKAGE / _SOURCES[source][-1]), *_LIBRARIES]
        subprocess.run(command, capture_output=True, text=True, check=True)
        made.chmod(0o700)
        return made.replace(cache / f"{key}-{_digest(made)}.so")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _processor() -> tuple[str, set[str]]:
    """Name and features of the first processor; empty where Linux does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "", set()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    return found.get("model name", ""), set(found.get("flags", "").split())
