"""What every benchmark shares: the machine, both sides timed in turn, peak memory, and one form of result."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Result:
    """One row: ``ours`` and ``theirs`` in ``unit``; ``ratio`` with its quartiles ``low`` and ``high``.

    An absolute figure has no ``theirs`` and no ``ratio``; ``low`` and ``high`` are then of ``ours``.
    ``target`` bounds the ratio from below, or an absolute figure from above. ``peak_mb`` is the most memory
    used beyond the input.
    """

    name: str
    ours: float
    theirs: float | None
    unit: str
    ratio: float | None
    low: float
    high: float
    target: float | None
    peak_mb: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.ours <= self.target if self.ratio is None else self.ratio >= self.target


def gemm_gflops(size: int = 2048, rounds: int = 5) -> float:
    """Best rate of a square fp32 matrix product with NumPy's BLAS, in GFLOP/s."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size), np.float32) for _ in range(2))
    return max(2 * size**3 / seconds(lambda: a @ b) / 1e9 for _ in range(rounds))


def gemm_bf16(size: int = 2048, rounds: int = 7) -> float:
    """Best rate of a square bfloat16 matrix product with PyTorch on one thread, in GFLOP/s."""
    return _torch_gemm("bfloat16", size, rounds)


def gemm_fp32(size: int = 2048, rounds: int = 3) -> float:
    """Best rate of a square fp32 matrix product with PyTorch on one thread, in GFLOP/s."""
    return _torch_gemm("float32", size, rounds)


def _torch_gemm(dtype: str, size: int, rounds: int) -> float:
    import torch

    torch.set_num_threads(1)
    a, b = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
    torch.mm(a, b)
    return max(2 * size**3 / seconds(lambda: torch.mm(a, b)) / 1e9 for _ in range(rounds))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    load = os.getloadavg()[0]
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(load, 2),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "gemm_fp32_gflops": round(gemm_gflops(), 1),
        "date": time.strftime("%Y-%m-%d"),
    }


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(
    ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int, ours_scale: float = 1.0, theirs_scale: float = 1.0
) -> tuple[list[float], list[float]]:
    """Times of both sides, run in turn so that whatever slows the machine slows both.

    A side that does a share of the work only has its time multiplied by its scale.
    """
    left, right = [], []
    for _ in range(rounds):
        left.append(ours_scale * seconds(ours))
        right.append(theirs_scale * seconds(theirs))
    return left, right


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def compare(
    name: str,
    times: tuple[list[float], list[float]],
    target: float | None,
    peak_mb: float | None = None,
    note: str = "",
) -> Result:
    """A ratio from paired times: how many times faster we are, median and quartiles over the rounds."""
    ratio, low, high = quartiles([theirs / ours for ours, theirs in zip(*times, strict=True)])
    return Result(
        name, statistics.median(times[0]), statistics.median(times[1]), "s", ratio, low, high, target, peak_mb, note
    )


def absolute(
    name: str, times: list[float], target: float | None, peak_mb: float | None = None, note: str = ""
) -> Result:
    """A time of ours alone."""
    middle, low, high = quartiles(times)
    return Result(name, middle, None, "s", None, low, high, target, peak_mb, note)


def resident_mb() -> float:
    """Memory this process holds now."""
    return _status("VmRSS")


class Peak:
    """``with Peak() as peak: …`` then ``peak.mb``: the most memory held inside, beyond what was held before."""

    mb: float

    def __enter__(self) -> Peak:
        # 5 resets the kernel's high-water mark of this process.
        Path("/proc/self/clear_refs").write_text("5")
        self._before = resident_mb()
        return self

    def __exit__(self, *_: object) -> None:
        self.mb = _status("VmHWM") - self._before


class TreePeak:
    """``with TreePeak() as peak: …`` then ``peak.mb``: the most memory that this process and all below it hold.

    Shared pages are counted once (proportional set size), and what was held before is taken off.
    """

    mb: float

    def __init__(self, every: float = 0.1) -> None:
        self._every = every

    def __enter__(self) -> TreePeak:
        self._before = self._most = tree_mb()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.mb = self._most - self._before

    def _look(self) -> None:
        while not self._stop.wait(self._every):
            self._most = max(self._most, tree_mb())


def tree_mb() -> float:
    """Proportional set size of this process and all its descendants."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
    tree = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    total = 0.0
    for process in tree:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) / 1024
    return total


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"no {field} in /proc/self/status")


def in_child(script: str, *arguments: str) -> Any:
    """What ``script`` prints as JSON in a process of its own, whose memory nobody else has touched."""
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{script} {' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def parser(description: str) -> argparse.ArgumentParser:
    """Arguments that every benchmark takes."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--json", action="store_true", help="print a list of objects and nothing else")
    result.add_argument("--quick", action="store_true", help="smaller sizes and fewer rounds, at most 60 s")
    return result


def show(results: list[Result], *, as_json: bool) -> None:
    """Print the results: a JSON list, or a table under a line about the machine."""
    if as_json:
        print(json.dumps([asdict(result) for result in results], indent=1))
        return
    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    for r in results:
        verdict = {True: "reached", False: "MISSED", None: ""}[r.met]
        what = f"{r.ours:.3g} {r.unit}" + (f" against {r.theirs:.4g} {r.unit}" if r.theirs is not None else "")
        spread = f"{r.low:.3g}–{r.high:.3g}"
        figure = f"{r.ratio:.3g}× ({spread})" if r.ratio is not None else f"({spread})"
        aim = "" if r.target is None else f"target {'≥' if r.ratio is not None else '≤'} {r.target:g}: {verdict}"
        memory = "" if r.peak_mb is None else f"peak +{r.peak_mb:.0f} MB"
        print(" | ".join(part for part in (f"{r.name:44s}", what, figure, aim, memory, r.note) if part))
