"""Kill a pool training at random instants, resume it, and compare it with one that was never killed.

    python benchmarks/kill_pool.py [--kills 20] [--engine serial|processes] [--models 48] [--seed 0] [--folder DIR]

Each kill is a SIGKILL to the training process itself (its workers end by themselves), at a random instant of
start-up or of the training. Prints one JSON object: kills that hit a running
training, models finished at each kill, models trained twice (must be 0), model files that differ from the
unkilled pool's (must be 0), and whether the logits collected from both and the findings of an audit of all
rows are the same (the date and the seconds in ``run`` aside). Exit status 1 if not.
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
from pathlib import Path
from typing import Any

import numpy as np

from memberscope.auditing import examine
from memberscope.data.embedded import digits
from memberscope.data.membership import complementary_pairs
from memberscope.files import sha256_file
from memberscope.signals.collect import collect
from memberscope.training.pool import load_pool, train_pool
from memberscope.training.recipe import Recipe
from memberscope.types import Pool

RECIPE = Recipe.parse(
    {"model": {"name": "fcn", "widths": [128, 64]}, "optimizer": "adam", "epochs": 30, "batch_size": 32, "dropout": 0.1}
)


def train(folder: Path, engine: str, models: int) -> Pool:
    """Train, or go on with, the pool in ``folder``."""
    dataset = digits()
    members = complementary_pairs(models, len(dataset), 1)
    return train_pool(dataset, members, RECIPE, seed=7, folder=folder, engine=engine, quiet=True)


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and modification time of every finished model: a model trained again would have others."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.safetensors"))}


def main() -> int:
    """Run the kills; the exit status says whether the pool survived them unchanged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--engine", default="processes", choices=["serial", "processes"])
    parser.add_argument("--models", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--train-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train_only:
        train(arguments.folder, arguments.engine, arguments.models)
        return 0
    root = arguments.folder or Path(tempfile.mkdtemp(prefix="memberscope-kill-"))
    try:
        summary = run(root, arguments)
    finally:
        if arguments.folder is None:
            shutil.rmtree(root, ignore_errors=True)
    print(json.dumps(summary, indent=1))
    return 0 if summary["passed"] else 1


def run(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The summary of one acceptance run under ``root``."""
    rng = np.random.default_rng(arguments.seed)
    command = [
        sys.executable,
        __file__,
        "--train-only",
        "--engine",
        arguments.engine,
        "--models",
        str(arguments.models),
    ]
    started = time.monotonic()
    process = subprocess.Popen([*command, "--folder", str(root / "whole")])
    while not finished(root / "whole") and process.poll() is None:
        time.sleep(0.05)
    first = time.monotonic() - started
    if process.wait():
        raise SystemExit("the unkilled training failed")
    whole = time.monotonic() - started

    killed, retrained, at_kill = root / "killed", 0, []
    each = (whole - first) / arguments.models
    kills = 0
    before: dict[str, tuple[int, int]] = {}
    while kills < arguments.kills:
        # joblib's tracker complains about what a killed parent left behind, and removes it.
        process = subprocess.Popen([*command, "--folder", str(killed)], stderr=subprocess.DEVNULL)
        # A third of the kills fall anywhere from start-up (importing PyTorch takes seconds) to the first model,
        # the others after one or two more models; counted in models, not in seconds, because other work on the
        # machine would otherwise let the pool finish before the last kill.
        more = int(rng.integers(0, 3)) if len(before) + 6 < arguments.models else 0
        while more and process.poll() is None and len(finished(killed)) < len(before) + more:
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0, each if more else first)))
        running = process.poll() is None
        if running:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if running:
            kills += 1
        after = finished(killed)
        retrained += sum(after.get(name) != stamp for name, stamp in before.items())
        before = after
        at_kill.append(len(after))
        if not running:
            break
    subprocess.run([*command, "--folder", str(killed)], check=True)
    retrained += sum(finished(killed).get(name) != stamp for name, stamp in before.items())

    pools = [load_pool(root / name) for name in ("whole", "killed")]
    differing = sum(
        sha256_file(pools[0].model_path(row)) != sha256_file(pools[1].model_path(row)) for row in range(len(pools[0]))
    )
    signals = [collect(pool, digits(), folder=pool.folder / "signals", quiet=True) for pool in pools]
    findings = [examine(found).findings.model_dump(exclude={"run"}) for found in signals]
    return {
        "engine": arguments.engine,
        "models": arguments.models,
        "kills": kills,
        "finished_at_kill": at_kill,
        "retrained": retrained,
        "models_that_differ": differing,
        "manifests_equal": pools[0].manifest == pools[1].manifest,
        "signals_equal": signals[0].fingerprint == signals[1].fingerprint,
        "findings_equal": findings[0] == findings[1],
        "seconds_unkilled": round(whole, 1),
        "seconds_in_all": round(time.monotonic() - started, 1),
        "passed": kills == arguments.kills
        and not retrained
        and not differing
        and signals[0].fingerprint == signals[1].fingerprint
        and findings[0] == findings[1],
    }


if __name__ == "__main__":
    sys.exit(main())
