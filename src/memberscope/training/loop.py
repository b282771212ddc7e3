"""The training loop, from seed to weights, read from top to bottom.

Data stay on the device as tensors, no DataLoader stands between, and batches are drawn from a fresh
permutation every epoch. On one core of an AMX machine 5,000 CIFAR-10 images take the small CNN about 2 s (bf16,
channels last). Fully connected networks in bfloat16 take the C kernel there (:mod:`memberscope.training.kernel_steps`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from memberscope.errors import ConfigError, PoolError
from memberscope.models import build
from memberscope.training.answers import TrainingData
from memberscope.training.augment import Augmenter
from memberscope.training.compiled import fused
from memberscope.training.inputs import Encoder
from memberscope.training.mode import fits_kernels, resolve
from memberscope.training.native import fcn_kernels, require
from memberscope.training.recipe import Recipe
from memberscope.training.steps import PlainSteps
from memberscope.training.traces import Traces
from memberscope.training.watch import Average, Watch


@dataclass(frozen=True)
class Metrics:
    """How a training ended.

    Args:
        train_accuracy: share of the members classified correctly, in the recipe's precision.
        held_out_accuracy: the same of all other records.
        loss: mean over the last epoch, as it was trained (smoothing and dropout included).
        seconds: wall time of this model.
        evaluation_seconds: part of it that was spent on asking, for accuracies, trajectory and early stopping.
        epochs: that were trained.
        best_epoch: the one that was kept (from 1), with early stopping.
        privacy: what DP-SGD did and what it guarantees.
    """

    train_accuracy: float
    held_out_accuracy: float
    loss: float
    seconds: float
    evaluation_seconds: float = 0.0
    epochs: int = 0
    best_epoch: int | None = None
    privacy: dict[str, Any] | None = None

    @property
    def train_seconds(self) -> float:
        """Wall time of the training alone."""
        return self.seconds - self.evaluation_seconds


@dataclass(frozen=True, eq=False)
class Trained:
    """What comes out of :func:`train`: weights (CPU tensors), metrics and traces."""

    state: dict[str, Tensor]
    metrics: Metrics
    traces: Traces


def train(
    data: TrainingData,
    member: NDArray[np.bool_],
    recipe: Recipe,
    *,
    seed: Sequence[int],
    name: str,
    device: str = "cpu",
    kernels: str | None = None,
) -> Trained:
    """Train one model on the records where ``member`` ``(N,)`` is true.

    Args:
        seed: entropy of this model alone; initial weights, dropout, order, noise and augmentation follow from it.
        name: what errors call the model.
        device: ``"cpu"`` or ``"cuda"``.
        kernels: see :func:`memberscope.training.compiled.fused`.

    Returns:
        The state dict, the metrics and the traces. The same arguments give the same bytes.

    Raises:
        PoolError: the loss or a weight is no longer finite; other kernels here than ``kernels``.
        ConfigError: the model cannot take these inputs, or the recipe asks for what ``data`` lacks.
    """
    started = time.perf_counter()
    initial, order, changes, mixes, noise = seeds_of(seed)
    check_needs(data, recipe)
    recipe = resolve(recipe, data.inputs.shape[1:], data.classes, device)
    if fits_kernels(recipe, device) and require(kernels, fcn_kernels()) is not None:
        from memberscope.training.stacked import train_stack

        where: dict[str, Any] = {"device": device, "kernels": kernels}
        return train_stack(data, member[None], recipe, seeds=[seed], names=[name], **where)[0]
    with reproducible(recipe.threads, device):
        torch.manual_seed(initial)
        model = build(recipe.model.name, data.inputs.shape[1:], data.classes, **recipe.model_options()).to(device)
        images = data.inputs.ndim == 4
        if images and recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        encode = Encoder.of(data.normalisation, images, recipe.channels_last, device)
        inputs, labels = encode.load(data.inputs[member]), torch.from_numpy(data.labels[member]).to(device)
        augment = Augmenter(recipe.augmentation, changes) if recipe.augmentation else None
        average = Average(model, recipe.ema) if recipe.ema else None
        after_step = average.update if average else _nothing
        watch = Watch(data, encode, recipe, device)
        steps: Any
        if recipe.privacy is not None:
            from memberscope.training.dpsgd import PrivateSteps

            steps = PrivateSteps(
                model, inputs, labels, encode, augment, recipe, seed=noise, device=device, after_step=after_step
            )
        else:
            steps = PlainSteps(
                model, inputs, labels, encode, augment,
                None if data.difficulty is None else data.difficulty[member],
                recipe, make_optimizer(model.parameters(), recipe),
                seeds=(order, mixes), device=device, after_step=after_step,
            )  # fmt: skip
        keeps_loss = recipe.loss_trace and not no_loss_trace(recipe)
        losses: list[Tensor] = []
        loss, epoch = math.nan, 0
        for epoch in range(1, recipe.epochs + 1):
            model.train()
            if recipe.privacy is not None:
                loss = steps.epoch(epoch - 1)
            else:
                kept = torch.full((len(labels),), math.nan, device=device) if keeps_loss else None
                with fused(model, recipe, device, kernels):
                    loss = steps.epoch(epoch - 1, kept)
                losses += [] if kept is None else [kept]
            if not math.isfinite(loss):
                raise diverged(name, f"a loss of {loss} in epoch {epoch} of {recipe.epochs}")
            with average or contextlib.nullcontext():
                watch.after(epoch, model)
            if watch.stop:
                break
        if average:
            average.apply()
        if watch.best is not None:
            model.load_state_dict(watch.best)
        state = finished_state(model, name, epoch)
        correct = watch.last(epoch, model)
    traces = make_traces(watch, torch.stack(losses) if losses else None, recipe)
    metrics = Metrics(
        float(correct[member].mean()),
        float(correct[~member].mean()),
        loss,
        time.perf_counter() - started,
        watch.seconds,
        epoch,
        watch.best_epoch,
        steps.statement() if recipe.privacy is not None else None,
    )
    return Trained(state, metrics, traces)


def seeds_of(seed: Sequence[int]) -> list[int]:
    """Of initial weights and dropout, order, augmentation, mixup and noise, from the entropy of one model."""
    return [int(word) for word in np.random.SeedSequence(list(seed)).generate_state(5, np.uint64)]


def finished_state(model: nn.Module, name: str, epoch: int) -> dict[str, Tensor]:
    """The weights as CPU tensors; a PoolError if one of them is not finite after ``epoch``."""
    state = {key: value.detach().cpu().clone().contiguous() for key, value in model.state_dict().items()}
    if not all(bool(value.isfinite().all()) for value in state.values()):
        raise diverged(name, f"weights that are not finite after epoch {epoch}")
    return state


def make_traces(watch: Watch, losses: Tensor | None, recipe: Recipe) -> Traces:
    """What the training left beside the weights; ``losses`` ``(E, n)`` or None."""
    why = no_loss_trace(recipe) if recipe.loss_trace else "the recipe keeps no loss trace"
    records = len(watch.data.labels)
    return Traces(
        None if losses is None else losses.cpu().numpy(),
        why,
        np.array(watch.epochs, np.int64),
        np.array(watch.phi, np.float32).reshape(-1, records),
        np.array(watch.correct, np.bool_).reshape(-1, records),
    )


def no_loss_trace(recipe: Recipe) -> str:
    """Why this training cannot keep a loss for each record, or an empty string."""
    if recipe.privacy is not None:
        return (
            "training clips each record's gradient: the loss trace of a record no longer shows what the model "
            "learned from it, and reading it would spend privacy that ε does not count"
        )
    return "mixup trains on mixtures of two records, which have no loss of their own" if recipe.mixup else ""


def _nothing() -> None:
    pass


def check_needs(data: TrainingData, recipe: Recipe) -> None:
    if recipe.early_stopping is not None and data.validation is None:
        raise ConfigError("a validation split for early_stopping", "none", "Set pool.validation, or pass validation=.")
    if recipe.curriculum is not None and data.difficulty is None:
        raise ConfigError(
            "a difficulty for every record for curriculum", "none", "Pass difficulty=, scored by reference models."
        )


def make_optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over ``parameters``, in its fused form."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, rate, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=decay, fused=True
        )
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, rate, betas=recipe.betas, weight_decay=decay, fused=True)


@contextlib.contextmanager
def reproducible(threads: int, device: str) -> Iterator[None]:
    """Fixed threads, deterministic kernels and a private random state; the caller's are restored."""
    before = torch.get_num_threads()
    cuda = torch.device(device).type == "cuda"
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[torch.cuda.current_device()] if cuda else []))
        if cuda:
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True))
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def diverged(name: str, what: str) -> PoolError:
    return PoolError(
        f"the training of {name} to stay finite",
        what,
        "Lower learning_rate, add warmup or clip gradients; models that finished before are kept.",
    )
