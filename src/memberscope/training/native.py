"""The C kernels beside this file: compiled once a machine, loaded where they can run, else the reason why not."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).parent / "kernels" / "dense_block.c"
_FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
_NEEDED = {"amx_tile", "amx_bf16", "avx512_bf16", "avx512bw", "avx512vl"}


@dataclass(frozen=True, eq=False)
class Kernels:
    """The compiled kernels, or why there are none.

    Args:
        library: their functions, or None.
        reason: why there is no library; empty if there is one.
    """

    library: ctypes.CDLL | None
    reason: str = ""


@functools.cache
def dense_kernels() -> Kernels:
    """The kernels of dense blocks, built on the first call (about two seconds) and kept in the user's cache folder.

    They need an x86-64 processor with AMX and a C compiler (``$CC``, ``cc`` or ``gcc``). Without one of them
    training goes through PyTorch's own operations, with other bytes.
    """
    processor, flags = _processor()
    if platform.system() != "Linux" or platform.machine() != "x86_64" or not flags >= _NEEDED:
        return Kernels(None, "the processor has no AMX tiles for bfloat16")
    compiler = shlex.split(os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or "")
    if not compiler:
        return Kernels(None, "there is no C compiler (cc or gcc)")
    try:
        version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
        parts = (_SOURCE.read_text(), version, processor, " ".join(sorted(flags)), " ".join(_FLAGS))
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
        library = ctypes.CDLL(str(_built(compiler, key)))
    except (OSError, subprocess.CalledProcessError) as error:
        detail = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        return Kernels(None, f"the C compiler {compiler[0]} failed: {detail[0] if detail else error}")
    if not library.usable():
        return Kernels(None, "the kernel of the operating system refuses the AMX tiles")
    return Kernels(library)


def _built(compiler: list[str], key: str) -> Path:
    """The compiled file; several processes may build it at once, each into a name of its own."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memberscope" / "kernels"
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        ours = os.access(cache, os.W_OK) and cache.stat().st_uid == os.getuid()
    except OSError:
        ours = False
    if ours and (cache / f"{key}.so").exists():
        return cache / f"{key}.so"
    # Without a cache folder of our own, the file lasts as long as this process: nobody else's code is ever loaded.
    folder = Path(tempfile.mkdtemp(prefix="memberscope-", dir=cache if ours else None))
    made = folder / "kernels.so"
    try:
        command = [*compiler, *_FLAGS, "-o", str(made), str(_SOURCE)]
        subprocess.run(command, capture_output=True, text=True, check=True)
        if ours:
            return made.replace(cache / f"{key}.so")
        kept = tempfile.NamedTemporaryFile(prefix="memberscope-", suffix=".so", delete=False)  # noqa: SIM115
        kept.close()
        return Path(shutil.copyfile(made, kept.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _processor() -> tuple[str, set[str]]:
    """Name and features of the first processor; empty where Linux does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "", set()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    return found.get("model name", ""), set(found.get("flags", "").split())
