"""Training of convolution nets against the loop that the field writes: same records, same steps, both sides in turn.

    python benchmarks/conv_loops.py --model densenet|cnn|resnet [--json] [--quick]

Ours is ``train`` with a default recipe (its precision and memory format are chosen by the machine), in workers that
keep their memory as those of the engines do. Theirs is :func:`dataloader_loop.train_one` on the same architecture:
fp32, NCHW, a DataLoader over normalised tensors, Adam.
Each side trains one model in each of two processes of one thread; theirs also gets a try as one process of two
threads, and is measured the faster way. Pixels are random, which costs what photographs cost. Seconds are those of
the training alone, of the slower process. No round is begun that would end after 420 s, or 45 s with
``--quick``, which shows that it runs and is no measurement.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch
from common import Result, compare, gemm_bf16, gemm_fp32, parser, quartiles, show
from dataloader_loop import train_one
from joblib import Parallel, delayed
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from memberscope.models import build
from memberscope.training.answers import TrainingData
from memberscope.training.engines.memory import keep_memory
from memberscope.training.inputs import Normalisation
from memberscope.training.loop import train
from memberscope.training.mode import describe, resolve
from memberscope.training.recipe import Recipe

BATCH, SHAPE, CLASSES = 64, (3, 32, 32), 10
TARGETS = {"densenet": 5.0, "cnn": 2.5, "resnet": 3.0}
# Records a model trains on in one round: with fewer, the cost of a training before its first step counts too much.
RECORDS = {"densenet": 256, "cnn": 4096, "resnet": 384}
QUICK = {"densenet": 64, "cnn": 1024, "resnet": 64}
SECONDS = {True: 45.0, False: 420.0}  # by whether it is to be quick; at least one round is measured
HELD_OUT = 8


def records(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Random images ``(count, 3, 32, 32)`` and labels."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, *SHAPE), np.uint8), rng.integers(0, CLASSES, count)


def recipe_of(model: str) -> Recipe:
    """What a user gets who names the model and nothing else; one epoch."""
    return Recipe.parse({"model": model, "epochs": 1, "batch_size": BATCH})


def ours_one(model: str, count: int, seed: int) -> tuple[float, float]:
    """Seconds of one epoch on ``count`` records with our loop, and this worker's bf16 GEMM rate."""
    keep_memory()
    inputs, labels = records(count + HELD_OUT)
    data = TrainingData(inputs, labels, CLASSES, Normalisation.fit(inputs))
    member = np.arange(len(labels)) < count
    trained = train(data, member, recipe_of(model), seed=(0, seed), name=f"model {seed}")
    return trained.metrics.train_seconds, gemm_bf16()


def theirs_one(model: str, count: int, threads: int, models: int = 1) -> float:
    """Seconds of one epoch each of ``models`` models with the plain loop."""
    torch.set_num_threads(threads)
    inputs, labels = records(count)
    x = inputs.astype(np.float32)
    x = (x - x.mean((0, 2, 3), keepdims=True)) / x.std((0, 2, 3), keepdims=True)
    return sum(train_one(build(model, SHAPE, CLASSES), x, labels, 1, BATCH) for _ in range(models))


def flops_a_step(model: str) -> int:
    """Of convolutions and matrix products, forward and backward, for one batch."""
    with FlopCounterMode(display=False) as counter:
        build(model, SHAPE, CLASSES)(torch.zeros(1, *SHAPE)).sum().backward()  # type: ignore[no-untyped-call]
    total: int = counter.get_total_flops()
    return BATCH * total


def convolutions(model: str, *, models: int | None = None, quick: bool = False) -> list[Result]:
    """The ratio, and the rate reached.

    Args:
        model: ``"densenet"``, ``"cnn"`` or ``"resnet"``.
        models: trained at once, a process each; 2 by default.
        quick: at most two rounds instead of five, of fewer steps.
    """
    begun = time.perf_counter()
    workers, rounds = models or 2, 2 if quick else 5
    count = (QUICK if quick else RECORDS)[model]
    at_once = Parallel(n_jobs=workers, backend="loky")

    def ours() -> tuple[float, float]:
        found: list[Any] = at_once(delayed(ours_one)(model, count, seed) for seed in range(workers))
        return max(seconds for seconds, _ in found), float(np.mean([rate for _, rate in found]))

    def apart(count: int) -> float:
        return max(at_once(delayed(theirs_one)(model, count, 1) for _ in range(workers)))

    def together(count: int) -> float:
        return theirs_one(model, count, workers, workers)

    # The first round starts the workers and builds what is built once a machine; it is not counted.
    at_once(delayed(ours_one)(model, BATCH, seed) for seed in range(workers))
    ways = {f"{workers} processes of one thread": apart}
    if not quick:
        ways[f"one process of {workers} threads"] = together
    trial = (
        {name: way(max(BATCH, count // 4)) for name, way in ways.items()} if len(ways) > 1 else dict.fromkeys(ways, 0.0)
    )
    fastest = min(trial, key=trial.__getitem__)
    times: tuple[list[float], list[float]] = ([], [])
    shares = []
    work = flops_a_step(model) * count / BATCH
    longest = 0.0
    while len(shares) < rounds and (not shares or time.perf_counter() - begun + longest < SECONDS[quick]):
        started = time.perf_counter()
        seconds, rate = ours()
        times[0].append(seconds)
        times[1].append(ways[fastest](count))
        shares.append(work / seconds / 1e9 / rate)
        longest = max(longest, time.perf_counter() - started)
    mode = describe(resolve(recipe_of(model), SHAPE, CLASSES, "cpu"), [[0]])
    share, low, high = quartiles(shares)
    reached = [work / side[len(side) // 2] / 1e9 for side in map(sorted, times)]
    note = f"ours: {mode}; theirs: fp32, {fastest}; {count} records a model and round, {len(shares)} rounds"
    gemm = f"GEMM fp32 {gemm_fp32():.0f}, bf16 {gemm_bf16():.0f}"
    rates = f"a core: {reached[0]:.0f} GFLOP/s, theirs {reached[1]:.0f}; {gemm}"
    return [
        compare(f"training, {model}, {workers} models at once", times, TARGETS[model], note=note),
        Result(f"share of the bf16 GEMM rate, {model}", share, None, "1", None, low, high, None, note=rates),
    ]


def main() -> int:
    """Print the results; the exit status is 0 even where a target is missed, which the table says."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--model", default="densenet", choices=sorted(TARGETS))
    arguments.add_argument("--models", type=int, help="trained at once, a process each")
    given = arguments.parse_args()
    show(convolutions(given.model, models=given.models, quick=given.quick), as_json=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
