"""The learning rate at every step, as a plain function of the recipe."""

from __future__ import annotations

import math

from memberscope.training.recipe import Recipe

# torch.optim.lr_scheduler.OneCycleLR's defaults: start at peak / 25, end 10,000 times below the start.
ONECYCLE_START, ONECYCLE_END, ONECYCLE_RISE = 1 / 25, 1e-4, 0.3


def learning_rate_at(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of optimiser step ``step`` (from 0).

    ``constant``; ``step`` (times gamma at every milestone passed); ``cosine`` (half a cosine from the
    rate to 0; Loshchilov & Hutter 2017); ``onecycle`` (cosine up to the rate, cosine down; Smith 2018).
    A warm-up multiplies the first three by a line from 0 to 1.

    >>> recipe = Recipe(schedule="step", milestones=(30, 60), learning_rate=0.1, epochs=90)
    >>> [round(learning_rate_at(recipe, 10 * epoch, 10), 4) for epoch in (0, 29, 30, 60)]
    [0.1, 0.1, 0.01, 0.001]
    """
    epoch = step / steps_per_epoch
    peak = recipe.learning_rate
    if recipe.schedule == "onecycle":
        last = max(recipe.epochs * steps_per_epoch - 1, 1)
        rise = (recipe.warmup / recipe.epochs or ONECYCLE_RISE) * (last + 1) - 1
        start = peak * ONECYCLE_START
        if step <= rise:
            return _cosine(start, peak, step / rise if rise > 0 else 1.0)
        return _cosine(peak, start * ONECYCLE_END, (step - rise) / (last - rise) if last > rise else 1.0)
    warm = min(1.0, (step + 1) / (recipe.warmup * steps_per_epoch)) if recipe.warmup else 1.0
    if recipe.schedule == "cosine":
        return warm * _cosine(peak, 0.0, epoch / recipe.epochs)
    if recipe.schedule == "step":
        return warm * peak * recipe.gamma ** sum(epoch >= milestone for milestone in recipe.milestones)
    return warm * peak


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
