"""Scaling over workers: one pool of small CNNs by one process, two processes and two Ray nodes, in turn.

    python benchmarks/engines.py [--quick] [--json] [--rounds 3] [--models 24] [--log benchmarks/engines_measured.json]

The rows: two processes against one, and two Ray nodes (127.0.0.2 and 127.0.0.3, one processor each) against two
processes (target 0.9), each as the ratio of models trained a second and worker, by the wall time of ``train_pool``:
start-up, transport, writing and waiting at the end are in it. The Ray cluster and the processes are warm: what is timed
is the pool. ``--log`` writes what was measured, a model's seconds and the wall time of every run, from which
``scale_plan.py`` is tested.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import Result, machine, parser, quartiles, show
from ray_nodes import ray_nodes

from memberscope.data.embedded import digits
from memberscope.data.membership import complementary_pairs
from memberscope.training.engines import Engine, Processes, Ray, Serial
from memberscope.training.pool import read_metrics, train_pool
from memberscope.training.recipe import Recipe

TARGET = 0.9


@dataclass(frozen=True)
class Run:
    """One pool: who trained it, with how many workers, each model's seconds, and the wall time."""

    engine: str
    workers: int
    seconds: list[float]
    wall: float

    @property
    def rate(self) -> float:
        """Models trained in a second of one worker."""
        return len(self.seconds) / (self.workers * self.wall)


def train(engine: Engine, workers: int, models: int, epochs: int) -> Run:
    """Train a pool of small CNNs in a fresh folder."""
    data = digits(as_images=True)
    recipe = Recipe.parse(
        {
            "model": {"name": "cnn", "widths": [16, 32], "hidden": 32},
            "epochs": epochs,
            "precision": "fp32",
            "channels_last": False,
            "trajectory": [],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        members = complementary_pairs(models, len(data), 1)
        started = time.perf_counter()
        pool = train_pool(data, members, recipe, seed=3, folder=folder, engine=engine, quiet=True)
        wall = time.perf_counter() - started
        return Run(engine.name, workers, [metrics.seconds for metrics in read_metrics(pool)], wall)


def measure(rounds: int, models: int, epochs: int) -> list[Run]:
    """Every side once a round, so that whatever slows the machine slows all."""
    runs: list[Run] = []
    with ray_nodes(2) as address:
        ray = Ray(address=address)
        with ray.session():
            sides: list[tuple[Engine, int]] = [(Processes(2), 2), (ray, 2), (Serial(), 1)]
            for engine, workers in sides:
                train(engine, workers, 4, 1)
            for _ in range(rounds):
                runs += [train(engine, workers, models, epochs) for engine, workers in sides]
    return runs


def rows(runs: list[Run]) -> list[Result]:
    """Rates, ours of the side that is named first."""
    by_name = {name: [run for run in runs if run.engine == name] for name in ("serial", "processes", "ray")}
    results = []
    for name, theirs, ours, target in (
        ("two processes against one", "serial", "processes", None),
        ("two Ray nodes against two processes", "processes", "ray", TARGET),
    ):
        left, right = ([run.rate for run in by_name[side]] for side in (ours, theirs))
        ratio, low, high = quartiles([one / other for one, other in zip(left, right, strict=True)])
        note = f"wall {np.median([run.wall for run in by_name[ours]]):.1f} s"
        results.append(
            Result(
                name,
                float(np.median(left)),
                float(np.median(right)),
                "models/s and worker",
                ratio,
                low,
                high,
                target,
                None,
                note,
            )
        )
    return results


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--models", type=int, default=24)
    arguments.add_argument("--epochs", type=int, default=12)
    arguments.add_argument("--log", type=Path, help="write the measured seconds there")
    given = arguments.parse_args()
    runs = measure(2, 8, 3) if given.quick else measure(given.rounds, given.models, given.epochs)
    if given.log:
        log: dict[str, Any] = {"machine": machine(), "runs": [asdict(run) for run in runs]}
        given.log.write_text(json.dumps(log, indent=1) + "\n")
    results = rows(runs)
    show(results, as_json=given.json)
    if not given.json:
        for result in results:
            print(f"{result.name}: {result.ratio:.3f} ({result.low:.3f}–{result.high:.3f})")


if __name__ == "__main__":
    main()
