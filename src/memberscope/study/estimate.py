"""How long a study will take: a few steps of every recipe, timed before the first model trains."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memberscope.defences import revised
from memberscope.study.prepare import Prepared
from memberscope.training.recipe import Recipe
from memberscope.types import Dataset

# Seconds that timing one recipe should take at most, once PyTorch is warm.
BUDGET = 1.5


@dataclass(frozen=True)
class Estimate:
    """Seconds of training, processes side by side, and how many models that is."""

    seconds: float
    models: int

    def __str__(self) -> str:
        return f"{self.models} model{'s' * (self.models != 1)} to train, about {duration(self.seconds)}"


def duration(seconds: float) -> str:
    """Seconds in words that promise no more than an estimate holds.

    >>> duration(45), duration(130), duration(9000)
    ('1 minute', '2 minutes', '2.5 hours')
    """
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} hours"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'s' * (minutes > 1)}"


def estimate(prepared: Prepared, out: Path) -> Estimate:
    """Time the recipes of which models are missing in ``out``; early stopping counts as if it never stopped."""
    from joblib import cpu_count

    total, models = 0.0, 0
    for name, recipe in prepared.recipes.items():
        finished = len(list((out / "pools" / name).glob("*.safetensors")))
        missing = len(prepared.members) - finished
        if missing <= 0:
            continue
        workers = prepared.config.workers or max(1, cpu_count() // recipe.threads)
        beside = 1 if prepared.config.engine == "serial" else min(workers, missing)
        total += math.ceil(missing / beside) * model_seconds(recipe, prepared)
        models += missing
    return Estimate(total, models)


def model_seconds(recipe: Recipe, prepared: Prepared) -> float:
    """Seconds that one model takes, from short trainings of different length."""
    an_epoch = math.ceil(prepared.size / recipe.batch_size)
    wanted = recipe.epochs * an_epoch
    # The first one warms up what every later one finds warm.
    _timed(recipe, prepared, 1)
    short, few = _timed(recipe, prepared, 1)
    long, many = short, few
    # Steps take a millisecond or a second: as many as the budget allows, in two leaps.
    for _ in range(2):
        steps = min(max(2, int(many * BUDGET / max(long, 1e-6))), an_epoch)
        if steps <= many:
            break
        long, many = _timed(recipe, prepared, steps)
    if many == few or long <= short:
        return long / many * wanted
    step = (long - short) / (many - few)
    return max(short - few * step, 0.0) + step * wanted


def _timed(recipe: Recipe, prepared: Prepared, steps: int) -> tuple[float, int]:
    """Seconds of training one epoch of about ``steps`` batches, and how many they were."""
    from memberscope.training.answers import TrainingData
    from memberscope.training.inputs import Normalisation
    from memberscope.training.loop import train

    records = min(steps * recipe.batch_size + (recipe.privacy is not None), len(prepared.dataset) - 1)
    part: Dataset = prepared.dataset.take(np.arange(records + 1))
    member = np.arange(records + 1) < records
    changes: dict[str, Any] = {"epochs": 1, "early_stopping": None, "curriculum": None, "trajectory": [], "warmup": 0.0}
    changes |= {"schedule": "constant", "milestones": []}
    if recipe.privacy is not None:
        # The noise is found once a training, in a time that does not grow with it.
        known = recipe.privacy.model_dump() | {"epsilon": None, "noise_multiplier": 1.0}
        changes["privacy"] = known | {"delta": None, "accountant": "rdp"}
    short = revised(recipe, **changes)
    data = TrainingData(part.inputs, part.labels, part.classes, Normalisation.fit(part.inputs[:256]))
    started = time.perf_counter()
    metrics = train(data, member, short, seed=(0,), name="a timing", device=prepared.config.device).metrics
    took = time.perf_counter() - started
    return took - metrics.evaluation_seconds, max(1, math.ceil(records / recipe.batch_size))
