"""The simulation of large pools: exact where it can be computed by hand, and close to measured runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scale_plan import PLAN, Fleet, check, simulate, table

MEASURED = Path(__file__).parents[1] / "benchmarks" / "engines_measured.json"

# Measured walls hold what the simulation leaves out: other work on the machine, the operating system's turns.
TOLERANCE = 0.05


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_by_hand() -> None:
    one = simulate([3, 1, 2], Fleet(1), rng())
    assert (one.wall, one.busy, one.lost, one.restarts, one.straggling) == (6, 6, 0, 0, 0)
    # 3 | 1 2: both end at 3. With a start of 1 and 0.5 a hand-over: 1 + .5 + 3, 1 + .5 + 1 + .5 + 2.
    assert simulate([3, 1, 2], Fleet(2), rng()).wall == 3
    assert simulate([3, 1, 2], Fleet(2, start=1, send=0.5), rng()).wall == pytest.approx(5)
    # The head writes one after the other: four tasks end at 1, the last is written at 1 + 4 x 0.25.
    assert simulate([1, 1, 1, 1], Fleet(4, write=0.25), rng()).wall == pytest.approx(2)
    # A straggler: the others wait for it.
    late = simulate([1, 1, 5], Fleet(3), rng())
    assert (late.wall, late.straggling, late.held) == (5, 4, 7)


@given(st.lists(st.floats(0.1, 50), min_size=1, max_size=40), st.integers(1, 50))
def test_between_the_bounds_of_list_scheduling(seconds: list[float], workers: int) -> None:
    done = simulate(seconds, Fleet(workers), rng())
    count = min(workers, len(seconds))
    least = max(max(seconds), sum(seconds) / count)
    assert least - 1e-9 <= done.wall <= (2 - 1 / count) * least + 1e-9
    assert done.busy == pytest.approx(sum(seconds))


def test_losses_cost_what_they_should() -> None:
    # Memoryless losses at rate r: a task of s seconds is begun exp(r s) times on average.
    rate, seconds = 1.0, 1800.0
    generator = rng()
    done = [simulate([seconds] * 40, Fleet(4, losses=rate), generator) for _ in range(60)]
    begun = np.mean([one.restarts for one in done]) / 40 + 1
    assert begun == pytest.approx(np.exp(rate * seconds / 3600), rel=0.05)
    assert np.mean([one.busy for one in done]) == pytest.approx(40 * seconds)


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_measured_runs_of_two_workers_are_predicted(engine: str) -> None:
    log, plan = json.loads(MEASURED.read_text()), json.loads(PLAN.read_text())
    fleet = Fleet(2, send=plan["send_seconds"], write=plan["write_seconds"])
    pairs = [(told, wall) for name, told, wall in check(log, fleet) if name == engine]
    assert len(pairs) >= 2
    assert np.median([told / wall for told, wall in pairs]) == pytest.approx(1, abs=TOLERANCE)


def test_more_gpus_are_faster_and_never_cheaper() -> None:
    rows = table(json.loads(PLAN.read_text()), runs=2)
    groups = {(row["model"], row["gpu_speed"]) for row in rows}
    assert {model for model, _ in groups} == {"ResNet-18", "DenseNet-BC-100-12"}
    for group in groups:
        ours = [row for row in rows if (row["model"], row["gpu_speed"]) == group]
        assert ours[0]["gpus"] == 1 and ours[-1]["gpus"] == 1000
        assert ours[0]["hours"] > 50 * ours[-1]["hours"]
        assert ours[-1]["gpu_hours"] > 0.9 * ours[0]["gpu_hours"]
