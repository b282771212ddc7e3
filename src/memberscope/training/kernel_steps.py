"""Epochs of fully connected networks on the C kernel: a step is one call, one model after another.

``kernels/fcn.c`` says how a step is computed. What it needs beside memory is the records' places and labels, so a
stack of models gains nothing over one: models take turns by the epoch.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from memberscope.models.fcn import Fcn
from memberscope.training.augment import Augmenter
from memberscope.training.recipe import Recipe
from memberscope.training.schedule import learning_rate_at
from memberscope.training.stacked_model import linear_layers
from memberscope.training.stacked_optimizer import EPSILON
from memberscope.training.stacked_steps import Table
from memberscope.training.steps import batches

_KINDS = {"sgd": 0, "adam": 1, "adamw": 2}


class _Rule(ctypes.Structure):
    """``Rule`` of ``kernels/fcn.c``."""

    _fields_ = (
        *((name, ctypes.c_long) for name in ("kind", "nesterov", "average")),
        *(
            (name, ctypes.c_float)
            for name in ["rate", "decay", "momentum", "beta1", "beta2", "size", "root", "epsilon", "share", "clip"]
        ),
    )  # fmt: skip


class KernelFcn:
    """One network in the kernel's memory, with the optimiser's moments and the moving average.

    Args:
        library: of :func:`memberscope.training.native.fcn_kernels`.
        model: its weights are copied.
        recipe: optimiser, clipping, smoothing and average.

    Raises:
        MemoryError: no memory for it.
    """

    def __init__(self, library: ctypes.CDLL, model: Fcn, recipe: Recipe) -> None:
        self.recipe, layers = recipe, linear_layers(model)
        self.widths = [layers[0].in_features, *(layer.out_features for layer in layers)]
        moments = 2 if recipe.optimizer != "sgd" else 1 if recipe.momentum else 0
        self._average = 1 + moments if recipe.ema else 0
        self._steps = 0
        self._put, self._get, self._step = library.fcn_put, library.fcn_get, library.fcn_step
        self._step.restype = ctypes.c_double
        make = library.fcn_new
        make.restype = ctypes.c_void_p
        tanh = any(isinstance(module, nn.Tanh) for module in model.modules())
        # A last batch of one record joins the one before it.
        numbers = (recipe.batch_size + 1, tanh, 1 + moments + bool(recipe.ema), recipe.gradient_clip is not None)
        address = make(len(layers), (ctypes.c_int64 * len(self.widths))(*self.widths), *map(ctypes.c_long, numbers))
        if not address:
            raise MemoryError("no memory for a network; train fewer models at once")
        self._net = ctypes.c_void_p(address)
        weakref.finalize(self, library.fcn_free, self._net)
        for place, layer in enumerate(layers):
            weight, bias = layer.weight.detach().contiguous(), layer.bias.detach().contiguous()
            for field in {0, self._average}:
                self._put(self._net, ctypes.c_long(place), ctypes.c_long(field), _at(weight), _at(bias))

    def step(
        self,
        records: Tensor,
        index: Tensor,
        labels: Tensor,
        rate: float,
        *,
        constants: tuple[Tensor, Tensor] | None = None,
        masks: Sequence[Tensor] | None = None,
    ) -> tuple[float, Tensor]:
        """One step of the optimiser.

        Args:
            records: ``(N, F)`` uint8 or float32.
            index: ``(B,)`` int64, the batch's places in ``records``.
            labels: ``(B,)`` int64.
            rate: learning rate.
            constants: what the records are multiplied by, then what is added, ``(F,)`` float32 each; None for neither.
            masks: per hidden layer what its activations are multiplied by, ``(width, B)`` float32.

        Returns:
            The sum of the batch's losses as they are trained on, and each record's cross-entropy ``(B,)``.
        """
        own = torch.empty(len(index))
        pointers = (ctypes.c_void_p * len(masks))(*(mask.data_ptr() for mask in masks)) if masks else None
        scale, shift = (None, None) if constants is None else map(_at, constants)
        total: float = self._step(
            self._net, _at(records), ctypes.c_long(records.dtype == torch.uint8), _at(index), ctypes.c_long(len(index)),
            scale, shift, _at(labels), pointers, ctypes.c_double(self.recipe.label_smoothing),
            ctypes.byref(self._rule(rate)), _at(own),
        )  # fmt: skip
        return total, own

    def _rule(self, rate: float) -> _Rule:
        self._steps += 1
        recipe, (beta1, beta2) = self.recipe, self.recipe.betas
        root = 1 / math.sqrt(1 - beta2**self._steps)
        size, taken = rate / (1 - beta1**self._steps), self._steps
        share = 1 - min(recipe.ema, (1 + taken) / (10 + taken)) if recipe.ema else 0.0
        return _Rule(
            _KINDS[recipe.optimizer], recipe.nesterov, bool(recipe.ema), rate, recipe.weight_decay, recipe.momentum,
            beta1, beta2, size, root, EPSILON, share, recipe.gradient_clip or 0.0,
        )  # fmt: skip

    def read(self) -> tuple[list[Tensor], list[Tensor]]:
        """Weights ``(in, out)`` and biases ``(out,)`` layer by layer, averaged where there is an average; copies."""
        weights, biases = [], []
        for place in range(len(self.widths) - 1):
            left, right = self.widths[place : place + 2]
            weight, bias = torch.empty(right, left), torch.empty(right)
            self._get(self._net, ctypes.c_long(place), ctypes.c_long(self._average), _at(weight), _at(bias))
            weights.append(weight.t())
            biases.append(bias)
        return weights, biases


class KernelSteps:
    """Steps on shuffled batches of each model's own members; the interface of ``StackedSteps``, with its arguments.

    Args:
        models: networks of one shape at their start.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        models: Sequence[Fcn],
        table: Table,
        members: Sequence[Tensor],
        recipe: Recipe,
        *,
        orders: Sequence[int],
        drops: Sequence[torch.Generator],
        changes: Sequence[Augmenter],
    ) -> None:
        self.table, self.recipe, self.members = table, recipe, list(members)
        self.nets = [KernelFcn(library, model, recipe) for model in models]
        self.shuffles = [torch.Generator().manual_seed(seed) for seed in orders]
        self.drops, self.changes = list(drops), list(changes)
        self.epochs = 0
        # Bytes are read where they are, and become numbers in the kernel; else a batch is made first.
        loaded = None if self.changes or table.loaded is None else table.loaded
        self.records = None if loaded is None or loaded.dtype != torch.uint8 else loaded.flatten(1)
        self.constants = None if table.encode.neutral else _constants(table, self.nets[0].widths[0])

    @property
    def counts(self) -> list[int]:
        """Members of every model."""
        return [len(own) for own in self.members]

    @property
    def columns(self) -> int:
        """What a model's losses need: its members."""
        return max(self.counts)

    def epoch(self, losses: Tensor | None) -> list[float]:
        """Train every model through the next epoch; see ``StackedSteps.epoch``."""
        means = [self._epoch(place, None if losses is None else losses[place]) for place in range(len(self.nets))]
        self.epochs += 1
        return means

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with the models in ``rows`` alone."""
        for name in ("nets", "members", "shuffles", "drops", "changes"):
            if kept := getattr(self, name):
                setattr(self, name, [kept[row] for row in rows])

    def row(self, place: int) -> tuple[list[Tensor], list[Tensor]]:
        """Weights and biases of one model as it would be kept: the average, where there is one."""
        return self.nets[place].read()

    def _epoch(self, place: int, losses: Tensor | None) -> float:
        net, members, total = self.nets[place], self.members[place], 0.0
        order = batches(torch.randperm(len(members), generator=self.shuffles[place]), self.recipe.batch_size)
        for number, piece in enumerate(order):
            index = members[piece]
            records, where, constants = self._take(place, index)
            rate = learning_rate_at(self.recipe, self.epochs * len(order) + number, len(order))
            labels, masks = self.table.labels[index], self._masks(place, len(index))
            loss, own = net.step(records, where, labels, rate, constants=constants, masks=masks)
            total += loss
            if losses is not None:
                losses[piece] = own
        return total / len(members)

    def _take(self, place: int, index: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Records, the batch's places in them, and constants that are still to be applied."""
        if self.records is not None:
            return self.records, index, self.constants
        loaded = self.table.take(index)
        if self.changes:
            loaded = self.changes[place](loaded)
        return self.table.encode(loaded).flatten(1).contiguous(), torch.arange(len(index)), None

    def _masks(self, place: int, count: int) -> list[Tensor] | None:
        """Dropout's masks of every hidden layer, from the model's own generator."""
        kept = 1 - self.recipe.dropout
        if kept == 1:
            return None
        drawn = (torch.empty(count, width) for width in self.nets[place].widths[1:-1])
        return [mask.bernoulli_(kept, generator=self.drops[place]).div_(kept).t().contiguous() for mask in drawn]


def _constants(table: Table, features: int) -> tuple[Tensor, Tensor]:
    """Scale and shift of every feature, from those of every feature or channel."""
    mean, scale = table.encode.mean.flatten(), table.encode.scale.flatten()
    each = features // len(mean)
    return scale.repeat_interleave(each).float(), (-mean * scale).repeat_interleave(each).float()


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
