"""Time, cost, stragglers, restarts and storage of a pool on 1 to 1,000 GPUs: a discrete-event simulation.

    python benchmarks/scale_plan.py [--plan benchmarks/scale_plan.json] [--runs 20] [--quick] [--json]

What is simulated is what the engines do: the head hands the next task of the plan to whoever is free, writes what
comes back one model after the other, and gives a task whose worker was lost to the next. A task's time is drawn
around its mean (machines differ, and some runs are slow), a worker's start costs once, and workers are lost at a
constant rate. Model seconds come from ``scale_plan.json``: figures measured here on one processor core, divided by
a GPU's assumed speed relative to that core, which is an assumption with a range and is printed as one.
``tests/test_scale_plan.py`` holds the simulation against measured runs of two processes and two Ray nodes.
"""

from __future__ import annotations

import argparse
import heapq
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

PLAN = Path(__file__).with_suffix(".json")
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


@dataclass(frozen=True)
class Fleet:
    """Who works.

    Args:
        workers: tasks at once.
        start: seconds until a worker, first or after a loss, begins its first task (machine, imports, data).
        send: seconds a task waits between being handed out and beginning.
        write: seconds the head takes to write one finished task, one after the other.
        losses: expected losses of a worker per hour.
    """

    workers: int
    start: float = 0.0
    send: float = 0.0
    write: float = 0.0
    losses: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a simulated run came to.

    Args:
        wall: seconds from the start to the last model written.
        busy: seconds that workers spent on tasks that were finished.
        lost: seconds of work that were lost with workers.
        restarts: tasks begun again.
        straggling: seconds in which some workers were done and others not.
        held: workers times wall seconds until each was no longer needed, which is what is paid for.
    """

    wall: float
    busy: float
    lost: float
    restarts: int
    straggling: float
    held: float

    @property
    def efficiency(self) -> float:
        """Share of the paid time that went into finished models."""
        return self.busy / self.held if self.held else 0.0


def simulate(seconds: Sequence[float], fleet: Fleet, rng: np.random.Generator) -> Outcome:
    """Run tasks of the given ``seconds`` in their order.

    Events are workers that become free or are lost; the head, which writes, is one more queue.
    """
    waiting = list(range(len(seconds)))[::-1]
    # (time, order, worker, task that ends then or -1, seconds it took, whether the worker was lost)
    events: list[tuple[float, int, int, int, float, bool]] = []
    count = min(fleet.workers, len(seconds))
    for worker in range(count):
        heapq.heappush(events, (fleet.start, worker, worker, -1, 0.0, False))
    order, writer, busy, lost, restarts = count, 0.0, 0.0, 0.0, 0
    idle_since = dict.fromkeys(range(count), 0.0)
    parked: list[int] = []
    wall = 0.0
    while events:
        now, _, worker, task, spent, died = heapq.heappop(events)
        if died:
            lost += spent
            restarts += 1
            waiting.append(task)
            order += 1
            heapq.heappush(events, (now + fleet.start, order, worker, -1, 0.0, False))
            # Somebody who had nothing left to do takes the task over at once.
            if parked:
                order += 1
                heapq.heappush(events, (now, order, parked.pop(), -1, 0.0, False))
            continue
        if task >= 0:
            busy += spent
            # The head refills before it writes, but hands out nothing while it is still writing what came before.
            begin = max(writer, now)
            writer = begin + fleet.write
            wall = max(wall, writer)
            now = begin
        idle_since[worker] = now
        if not waiting:
            parked.append(worker)
            continue
        task = waiting.pop()
        takes = seconds[task]
        until = rng.exponential(3600 / fleet.losses) if fleet.losses else np.inf
        died = until < takes
        spent = float(min(until, takes))
        order += 1
        heapq.heappush(events, (now + fleet.send + spent, order, worker, task, spent, died))
    ends = np.array(list(idle_since.values()))
    # Workers beyond the tasks are never started.
    return Outcome(wall, busy, lost, restarts, float(wall - ends.min()), float(ends.sum()))


def draw(mean: float, spread: float, slow: float, models: int, rng: np.random.Generator) -> list[float]:
    """Seconds of models: lognormal around ``mean``; a share ``slow`` takes twice as long (a throttled machine)."""
    factor = rng.lognormal(-(spread**2) / 2, spread, models)
    return [float(mean * one) for one in factor * np.where(rng.random(models) < slow, 2.0, 1.0)]


def table(plan: dict[str, Any], runs: int, seed: int = 0) -> list[dict[str, Any]]:
    """One row a model kind, GPU speed and number of GPUs: medians over ``runs`` simulated runs."""
    rows = []
    for name, model in plan["models"].items():
        core = model["epoch_seconds_core"] * model["epochs"] * plan["records_in_training"] / model["records_measured"]
        for speed_name, speed in model["gpu_speed"].items():
            for workers in WORKERS:
                fleet = Fleet(
                    workers,
                    plan["start_seconds"],
                    plan["send_seconds"] + model["megabytes"] / plan["megabytes_per_second"],
                    plan["write_seconds"],
                    plan["losses_per_hour"],
                )
                rng = np.random.default_rng([seed, workers])
                done = [
                    simulate(draw(core / speed, plan["spread"], plan["slow_share"], plan["pool"], rng), fleet, rng)
                    for _ in range(runs)
                ]
                hours = np.array([one.wall for one in done]) / 3600
                rows.append(
                    {
                        "model": name,
                        "gpu_speed": speed_name,
                        "gpus": workers,
                        "hours": float(np.median(hours)),
                        "hours_low": float(np.quantile(hours, 0.05)),
                        "hours_high": float(np.quantile(hours, 0.95)),
                        "gpu_hours": float(np.median([one.held for one in done])) / 3600,
                        "cost": float(np.median([one.held for one in done])) / 3600 * plan["dollars_per_gpu_hour"],
                        "efficiency": float(np.median([one.efficiency for one in done])),
                        "straggling_minutes": float(np.median([one.straggling for one in done])) / 60,
                        "restarts": float(np.mean([one.restarts for one in done])),
                        "storage_gb": plan["pool"]
                        * (model["megabytes"] + 4e-6 * plan["records_asked"] * plan["classes"])
                        / 1e3,
                    }
                )
    return rows


def check(log: dict[str, Any], fleet: Fleet) -> list[tuple[str, float, float]]:
    """Engine, simulated and measured wall seconds of every measured run with more than one worker."""
    found = []
    for run in log["runs"]:
        if run["workers"] > 1:
            told = simulate(run["seconds"], replace(fleet, workers=run["workers"]), np.random.default_rng(0))
            found.append((run["engine"], told.wall, run["wall"]))
    return found


def measure(records: int = 512, epochs: int = 2) -> dict[str, dict[str, float]]:
    """Processor seconds of an epoch over ``records`` CIFAR-sized images on one core, and a model file's size."""
    from memberscope.training.answers import TrainingData
    from memberscope.training.inputs import Normalisation
    from memberscope.training.loop import train
    from memberscope.training.mode import resolve
    from memberscope.training.recipe import Recipe
    from memberscope.training.store import encode

    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (records + 64, 3, 32, 32), dtype=np.uint8)
    data = TrainingData(inputs, rng.integers(0, 10, len(inputs)), 10, Normalisation.fit(inputs))
    member = np.arange(len(inputs)) < records
    found = {}
    for title, name in (("ResNet-18", "resnet"), ("DenseNet-BC-100-12", "densenet")):
        recipe = Recipe.parse({"model": name, "epochs": epochs, "batch_size": 128, "trajectory": []})
        recipe = resolve(recipe, inputs.shape[1:], 10, "cpu")
        # The first call compiles or loads what the model needs.
        train(data, member[::-1].copy(), recipe.model_copy(update={"epochs": 1}), seed=(0,), name="warm")
        started = time.process_time()
        trained = train(data, member, recipe, seed=(0,), name=name)
        spent = time.process_time() - started
        share = trained.metrics.train_seconds / trained.metrics.seconds
        found[title] = {
            "epoch_seconds_core": round(spent * share / epochs, 2),
            "records_measured": records,
            "megabytes": round(len(encode(trained.state, 0, "")) / 1e6, 1),
        }
    return found


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--plan", type=Path, default=PLAN)
    arguments.add_argument("--runs", type=int, default=20)
    arguments.add_argument("--quick", action="store_true", help="three runs a row")
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--measure", action="store_true", help="put this machine's core seconds into the plan")
    given = arguments.parse_args()
    plan = json.loads(given.plan.read_text())
    if given.measure:
        for name, figures in measure().items():
            plan["models"][name] |= figures
        given.plan.write_text(json.dumps(plan, indent=1) + "\n")
    rows = table(plan, 3 if given.quick else given.runs)
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{plan['pool']} models; speeds and prices are assumptions of {given.plan.name}, core seconds are measured\n")
    print("| model | GPU is × a core (assumed) | GPUs | hours (5–95 %) | GPU hours | $ | efficiency | last GPU waits, min | restarts | GB |")  # fmt: skip # noqa: E501
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        speed = plan["models"][row["model"]]["gpu_speed"][row["gpu_speed"]]
        print(
            f"| {row['model']} | {speed:g} ({row['gpu_speed']}) | {row['gpus']} | {row['hours']:.2f} "
            f"({row['hours_low']:.2f}–{row['hours_high']:.2f}) | {row['gpu_hours']:.1f} | {row['cost']:.0f} "
            f"| {row['efficiency']:.0%} | {row['straggling_minutes']:.1f} | {row['restarts']:.1f} "
            f"| {row['storage_gb']:.1f} |"
        )


if __name__ == "__main__":
    main()
