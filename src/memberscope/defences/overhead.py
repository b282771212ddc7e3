"""What an output policy costs a query, beside what the model itself takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from memberscope.outputs import OutputPolicy
from memberscope.statistics.cluster import t_interval
from memberscope.types import Dataset, Figure, Pool

# A repeat of many calls, so that the clock's resolution is nothing; many repeats, so that other work shows as spread.
REPEATS, CALLS, WARM_UP = 15, 40, 3


@dataclass(frozen=True)
class Overhead:
    """Seconds a query.

    Args:
        policy: that the output policy adds.
        relative: the same as a share of the model's own time.
        model: that the model itself takes, without the policy.
    """

    policy: Figure
    relative: Figure
    model: Figure


NO_OVERHEAD = Figure(value=0.0, low=0.0, high=0.0)


def measure_overhead(pool: Pool, row: int, dataset: Dataset, policy: OutputPolicy) -> Overhead:
    """Time one query of one record through the model of ``row`` and through ``policy``, with a warm-up.

    Each figure is the median over 15 repeats of 40 queries with a distribution-free 95 % interval; they depend on the
    machine, and on what else it does.
    """
    import torch

    from memberscope.training.inputs import Encoder
    from memberscope.training.loop import reproducible
    from memberscope.training.store import ModelPlan, pool_model

    plan = ModelPlan.of(pool)
    with reproducible(plan.recipe.threads, "cpu"), torch.no_grad():
        model = pool_model(pool, row)
        encode = Encoder.of(plan.normalisation, dataset.kind == "image", plan.recipe.channels_last, "cpu")
        queries = [encode(encode.load(np.array(dataset.inputs[[record % len(dataset)]]))) for record in range(CALLS)]
        answers = [model(query).numpy() for query in queries]

        def ask() -> None:
            for query in queries:
                model(query)

        def change() -> None:
            for answer in answers:
                policy(answer)

        model_times, policy_times = _repeat(ask), _repeat(change)
    return Overhead(_median(policy_times), _ratio(policy_times, model_times), _median(model_times))


def _repeat(work: Callable[[], None]) -> list[float]:
    """Seconds a call of each repeat, after the warm-up."""
    times = []
    for _ in range(WARM_UP + REPEATS):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) / CALLS)
    return times[WARM_UP:]


def _median(times: list[float]) -> Figure:
    """Median with the order statistics that enclose it with at least 95 % (the 4th from each end of 15: 96.5 %)."""
    ordered = sorted(times)
    return Figure(value=float(np.median(ordered)), low=ordered[3], high=ordered[-4])


def _ratio(times: list[float], others: list[float]) -> Figure:
    """Ratio of the geometric means with a t interval on the logarithm."""
    shares = np.log(times) - np.log(others)
    centre, deviation = float(shares.mean()), float(shares.std(ddof=1) / np.sqrt(len(shares)))
    low, high = t_interval(centre, deviation, len(shares), logit=False)(0.95)
    return Figure(value=float(np.exp(centre)), low=float(np.exp(low)), high=float(np.exp(high)))
