"""Kill a pool training at random instants, resume it, and compare it with one that was never killed.

    python benchmarks/kill_pool.py [--engine serial|processes|ray|shard] [--kills 20] [--worker-kills 5]
                                   [--models 48] [--seed 0] [--folder DIR]

Each kill is a SIGKILL to the training process itself (its workers end by themselves), at a random instant of
start-up or of the training, after which it is started again. With ``shard`` two processes train the two shards of
one folder and one of them is killed. Then come kills of single workers (``processes``: a process a core; ``ray``:
tasks on two nodes, 127.0.0.2 and 127.0.0.3) of a training that has to finish without being started again.
Prints one JSON object: kills that hit a running training, models finished at each kill, models trained twice (must
be 0), model files that differ from those of the unkilled pool, which the engine ``serial`` trains (must be 0), and
whether the logits collected from both and the findings of an audit of all rows are the same (the date and the
seconds in ``run`` aside). Exit status 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from memberscope.auditing import examine
from memberscope.data.embedded import digits
from memberscope.data.membership import complementary_pairs
from memberscope.files import sha256_file
from memberscope.signals.collect import collect
from memberscope.training.engines import Engine, Ray
from memberscope.training.pool import load_pool, train_pool
from memberscope.training.recipe import Recipe
from memberscope.training.rows import parse_shard

RECIPE = Recipe.parse(
    {"model": {"name": "fcn", "widths": [128, 64]}, "optimizer": "adam", "epochs": 30, "batch_size": 32, "dropout": 0.1}
)
SHARDS = 2


def train(folder: Path, engine: str, models: int, shard: str | None, address: str | None) -> None:
    """Train, or go on with, the pool in ``folder``."""
    dataset = digits()
    members = complementary_pairs(models, len(dataset), 1)
    part = parse_shard(shard) if shard else None
    runner: str | Engine = Ray(address=address) if engine == "ray" else engine
    # A model a task, so that there is something to be killed between.
    train_pool(
        dataset, members, RECIPE, seed=7, folder=folder, engine=runner, workers=2, quiet=True, stack=1, shard=part
    )


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and modification time of every finished model: a model trained again would have others."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.safetensors"))}


def main() -> int:
    """Run the kills; the exit status says whether the pool survived them unchanged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--worker-kills", type=int, default=5)
    parser.add_argument("--engine", default="processes", choices=["serial", "processes", "ray", "shard"])
    parser.add_argument("--models", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    for hidden in ("--train-only", "--shard", "--address"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train_only:
        train(arguments.folder, arguments.train_only, arguments.models, arguments.shard, arguments.address)
        return 0
    root = arguments.folder or Path(tempfile.mkdtemp(prefix="memberscope-kill-"))
    try:
        with ExitStack() as stack:
            address = None
            if arguments.engine == "ray":
                from ray_nodes import ray_nodes

                address = stack.enter_context(ray_nodes(2))
            summary = Trial(root, arguments.engine, arguments.models, address, arguments.seed).run(
                arguments.kills, arguments.worker_kills
            )
    finally:
        if arguments.folder is None:
            shutil.rmtree(root, ignore_errors=True)
    print(json.dumps(summary, indent=1))
    return 0 if summary["passed"] else 1


@dataclass
class Trial:
    """One acceptance run under ``root``."""

    root: Path
    engine: str
    models: int
    address: str | None
    seed: int
    retrained: int = 0
    before: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.killed = self.root / "killed"

    def run(self, kills: int, worker_kills: int) -> dict[str, Any]:
        """The summary."""
        started = time.monotonic()
        first, whole = self._unkilled()
        at_kill = self._kill_trainings(kills, first, (whole - first) / self.models)
        self._wait(self._start(self.killed))
        self._look(self.killed)
        # Shards are finished by a run without one, which must find nothing to train.
        if self.engine == "shard":
            self._wait(self._start(self.killed, "serial"))
            self._look(self.killed)
        names = ["whole", "killed"]
        hit = worker_kills = worker_kills if self.engine in ("processes", "ray") else 0
        if worker_kills:
            names.append("workers")
            hit = self._kill_workers(self.root / "workers", worker_kills)
        pools = [load_pool(self.root / name) for name in names]
        files = [[sha256_file(pool.model_path(row)) for row in range(len(pool))] for pool in pools]
        differing = sum(one != other for found in files[1:] for one, other in zip(files[0], found, strict=True))
        signals = [collect(pool, digits(), folder=pool.folder / "signals", quiet=True) for pool in pools]
        findings = [examine(found).findings.model_dump(exclude={"run"}) for found in signals]
        summary = {
            "engine": self.engine,
            "models": self.models,
            "kills": len(at_kill),
            "finished_at_kill": at_kill,
            "worker_kills": hit,
            "retrained": self.retrained,
            "models_that_differ_from_serial": differing,
            "manifests_equal": all(pool.manifest == pools[0].manifest for pool in pools),
            "signals_equal": len({found.fingerprint for found in signals}) == 1,
            "findings_equal": all(found == findings[0] for found in findings),
            "seconds_unkilled": round(whole, 1),
            "seconds_in_all": round(time.monotonic() - started, 1),
        }
        passed = (
            len(at_kill) == kills
            and hit == worker_kills
            and not self.retrained
            and not differing
            and all(summary[f"{what}_equal"] for what in ("manifests", "signals", "findings"))
        )
        return summary | {"passed": passed}

    def _unkilled(self) -> tuple[float, float]:
        """Seconds to the first model and to the last of the pool that ``serial`` trains in peace."""
        started = time.monotonic()
        (process,) = self._start(self.root / "whole", "serial")
        while not finished(self.root / "whole") and process.poll() is None:
            time.sleep(0.05)
        first = time.monotonic() - started
        self._wait([process])
        return first, time.monotonic() - started

    def _kill_trainings(self, kills: int, first: float, each: float) -> list[int]:
        """Models that were there at each kill."""
        at_kill: list[int] = []
        while len(at_kill) < kills:
            processes = self._start(self.killed)
            victim = processes[int(self.rng.integers(len(processes)))]
            # A third of the kills fall anywhere from start-up (importing PyTorch takes seconds) to the first model,
            # the others after one or two more models; counted in models, not in seconds, because other work on
            # the machine would otherwise let the pool finish before the last kill.
            more = int(self.rng.integers(0, 3)) if len(self.before) + 6 < self.models else 0
            while more and victim.poll() is None and len(finished(self.killed)) < len(self.before) + more:
                time.sleep(0.005)
            end = time.monotonic() + float(self.rng.uniform(0, each if more else first))
            enough = len(self.before) + more + 2
            while time.monotonic() < end and victim.poll() is None and len(finished(self.killed)) < enough:
                time.sleep(0.005)
            running = victim.poll() is None
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
            self._look(self.killed)
            if not running:
                break
            at_kill.append(len(self.before))
        return at_kill

    def _kill_workers(self, folder: Path, kills: int) -> int:
        """Single workers are killed; the training goes on by itself. How many kills hit one at work."""
        self.before = {}
        (process,) = self._start(folder)
        hit = 0
        while hit < kills and process.poll() is None:
            enough = len(self.before) + 2
            while process.poll() is None and len(finished(folder)) < enough:
                time.sleep(0.005)
            time.sleep(float(self.rng.uniform(0, 0.3)))
            self._look(folder)
            if workers := self._workers(process):
                with suppress(ProcessLookupError):
                    os.kill(workers[int(self.rng.integers(len(workers)))], signal.SIGKILL)
                    hit += 1
        self._wait([process])
        self._look(folder)
        return hit

    def _workers(self, process: subprocess.Popen[bytes]) -> list[int]:
        """Process ids of workers: children of the training, or what runs our tasks on our Ray nodes."""
        import psutil

        mine = psutil.Process(process.pid if self.engine == "processes" else None).children(recursive=True)
        found = []
        for child in mine:
            with suppress(psutil.Error):
                command = " ".join(child.cmdline())
                if "popen_loky_posix" in command or command.startswith("ray::_call"):
                    found.append(child.pid)
        return found

    def _start(self, folder: Path, engine: str = "") -> list[subprocess.Popen[bytes]]:
        """The processes that train the pool in ``folder``."""
        shard = (engine or self.engine) == "shard"
        command = [
            sys.executable,
            __file__,
            f"--train-only={'serial' if shard else engine or self.engine}",
            f"--models={self.models}",
            f"--folder={folder}",
        ]
        command += [f"--address={self.address}"] if self.address else []
        parts = [[f"--shard={number + 1}/{SHARDS}"] if shard else [] for number in range(SHARDS if shard else 1)]
        # Trackers complain about what a killed parent left behind, and remove it.
        quiet = subprocess.DEVNULL if folder == self.killed else sys.stderr
        return [subprocess.Popen([*command, *part], stderr=quiet) for part in parts]

    def _wait(self, processes: list[subprocess.Popen[bytes]]) -> None:
        for process in processes:
            if process.wait():
                raise SystemExit("a training that nobody killed failed")

    def _look(self, folder: Path) -> None:
        """Count models that were there before and have been written anew since."""
        after = finished(folder)
        self.retrained += sum(after.get(name) != stamp for name, stamp in self.before.items())
        self.before = after


if __name__ == "__main__":
    sys.exit(main())
