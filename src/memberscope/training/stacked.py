"""Several fully connected networks trained at once, each as if it were alone.

Every model has its own initial weights, members, order, augmentation and, on the CPU, dropout: the same random
streams as :func:`memberscope.training.loop.train` draws, so that in float32 a model of a stack equals the one trained
alone up to rounding. On a GPU dropout comes from the CPU's stream, where the single loop uses the GPU's own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memberscope.errors import ConfigError
from memberscope.models import build
from memberscope.models.fcn import Fcn
from memberscope.training.answers import TrainingData
from memberscope.training.augment import Augmenter
from memberscope.training.inputs import Encoder
from memberscope.training.kernel_steps import KernelSteps
from memberscope.training.loop import (
    Metrics,
    Trained,
    check_needs,
    diverged,
    finished_state,
    make_traces,
    reproducible,
    seeds_of,
)
from memberscope.training.mode import fits_kernels, resolve, why_not_stacked
from memberscope.training.native import fcn_kernels, require
from memberscope.training.recipe import Recipe
from memberscope.training.stacked_model import StackedFcn, fill
from memberscope.training.stacked_steps import StackedSteps, Table
from memberscope.training.watch import Watch


@dataclass(eq=False)
class _Model:
    """What belongs to one model of the stack."""

    row: int
    name: str
    member: NDArray[np.bool_]
    watch: Watch
    losses: list[Tensor] = field(default_factory=list)
    loss: float = math.nan


def train_stack(
    data: TrainingData,
    members: NDArray[np.bool_],
    recipe: Recipe,
    *,
    seeds: Sequence[Sequence[int]],
    names: Sequence[str],
    device: str = "cpu",
    kernels: str | None = None,
) -> list[Trained]:
    """Train a model for every row of ``members`` ``(S, N)`` at once; see :func:`memberscope.training.loop.train`.

    Args:
        seeds: entropy of each model alone.
        names: what errors call each model.
        kernels: by the name that :func:`memberscope.training.compiled.describe_kernels` gave where training was
            planned; None takes what this machine has.

    Returns:
        What ``train`` returns, of each row. The seconds of a model are its share of the stack's.

    Raises:
        PoolError: the loss or a weight of a model is no longer finite; other kernels here than ``kernels``.
        ConfigError: a recipe that cannot be stacked, or that asks for what ``data`` lacks.
    """
    started = time.perf_counter()
    if why := why_not_stacked(recipe):
        raise ConfigError("a recipe whose models can be trained in a stack", why, "Train its models one at a time.")
    check_needs(data, recipe)
    recipe = resolve(recipe, data.inputs.shape[1:], data.classes, device)
    done: dict[int, tuple[_Model, dict[str, Tensor], NDArray[np.bool_], int]] = {}
    with reproducible(recipe.threads, device), torch.no_grad():
        images = data.inputs.ndim == 4
        encode = Encoder.of(data.normalisation, images, recipe.channels_last, device)
        face, steps = _prepare(data, members, recipe, seeds, encode, device, kernels)
        running = [
            _Model(row, name, member, Watch(data, encode, recipe, device))
            for row, (name, member) in enumerate(zip(names, members, strict=True))
        ]
        for epoch in range(1, recipe.epochs + 1):
            kept = _no_losses(steps, device) if recipe.loss_trace else None
            for place, (model, loss) in enumerate(zip(running, steps.epoch(kept), strict=True)):
                model.loss = loss
                if not math.isfinite(loss):
                    raise diverged(model.name, f"a loss of {loss} in epoch {epoch} of {recipe.epochs}")
                if kept is not None:
                    model.losses.append(kept[place, : steps.counts[place]].clone())
            if epoch in recipe.trajectory or recipe.early_stopping is not None:
                for place, model in enumerate(running):
                    fill(face, *steps.row(place))
                    model.watch.after(epoch, face)
            ended = [place for place, model in enumerate(running) if model.watch.stop or epoch == recipe.epochs]
            for place in ended:
                model = running[place]
                fill(face, *steps.row(place))
                if model.watch.best is not None:
                    face.load_state_dict(model.watch.best)
                state = finished_state(face, model.name, epoch)
                done[model.row] = model, state, model.watch.last(epoch, face), epoch
            if ended:
                going = [place for place in range(len(running)) if place not in ended]
                running = [running[place] for place in going]
                if not running:
                    break
                steps.keep(going)
    asked = sum(model.watch.seconds for model, *_ in done.values())
    share = (time.perf_counter() - started - asked) / len(members)
    return [_trained(*done[row], recipe, share) for row in range(len(members))]


def _prepare(
    data: TrainingData,
    members: NDArray[np.bool_],
    recipe: Recipe,
    seeds: Sequence[Sequence[int]],
    encode: Encoder,
    device: str,
    kernels: str | None,
) -> tuple[Fcn, StackedSteps | KernelSteps]:
    """A network to ask any model of the stack with, and the stack at its start."""
    models: list[Fcn] = []
    orders, drops, changes = [], [], []
    for seed in seeds:
        initial, order, change, _, _ = seeds_of(seed)
        torch.manual_seed(initial)
        model = build(recipe.model.name, data.inputs.shape[1:], data.classes, **recipe.model_options())
        assert isinstance(model, Fcn)
        models.append(model.to(device))
        orders.append(order)
        drops.append(torch.Generator())
        # Alone, a model draws its dropout from the state in which its initial weights left PyTorch's generator.
        drops[-1].set_state(torch.get_rng_state())
        changes += [Augmenter(recipe.augmentation, change)] if recipe.augmentation else []
    table, own = Table(data, encode, device), [torch.from_numpy(np.flatnonzero(member)) for member in members]
    streams: Any = {"orders": orders, "drops": drops, "changes": changes}
    if fits_kernels(recipe, device) and (library := require(kernels, fcn_kernels())) is not None:
        return models[0], KernelSteps(library, models, table, own, recipe, **streams)
    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    return models[0], StackedSteps(StackedFcn(models, dtype), table, own, recipe, device=device, **streams)


def _no_losses(steps: StackedSteps | KernelSteps, device: str) -> Tensor:
    return torch.full((len(steps.counts), steps.columns), math.nan, device=device)


def _trained(
    model: _Model, state: dict[str, Tensor], correct: NDArray[np.bool_], epoch: int, recipe: Recipe, share: float
) -> Trained:
    metrics = Metrics(
        float(correct[model.member].mean()),
        float(correct[~model.member].mean()),
        model.loss,
        share + model.watch.seconds,
        model.watch.seconds,
        epoch,
        model.watch.best_epoch,
    )
    losses = torch.stack(model.losses) if recipe.loss_trace else None
    return Trained(state, metrics, make_traces(model.watch, losses, recipe))
