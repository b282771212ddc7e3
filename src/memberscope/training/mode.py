"""How a pool is trained on this machine: in which precision, in which memory format, how many models at once.

Everything here is decided before the plan is made and written into it, from the model and the machine and never
from the number of workers, so that whoever runs a plan, the bytes are the same.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memberscope.models import parse_options
from memberscope.models.options import FcnOptions
from memberscope.training.recipe import Recipe

# Weights below which products are too small for bfloat16 to make up for its casts (measured: docs/speed.md).
SMALL = 200_000

# Weights of all models of a stack together: beyond, what a step reads and writes no longer stays in the cache.
STACKED = 6_000_000

# Models of a stack at most: beyond, nothing is gained, and a kill or an idle core costs more.
LARGEST = 8


def resolve(recipe: Recipe, input_shape: tuple[int, ...], classes: int, device: str) -> Recipe:
    """``recipe`` with every ``auto`` replaced by what this machine computes faster.

    ``precision``: bfloat16 where the processor multiplies in it natively and the model is large enough to gain,
    never under privacy. ``channels_last``: with convolutions in bfloat16.
    """
    changes: dict[str, object] = {}
    precision = recipe.precision
    if precision == "auto":
        small = recipe.model.name == "fcn" and fcn_weights(recipe, input_shape, classes) < SMALL
        fast = recipe.privacy is None and native_bf16(device) and (not small or has_kernels(recipe, device))
        precision = changes["precision"] = "bf16" if fast else "fp32"
    if recipe.channels_last == "auto":
        changes["channels_last"] = precision == "bf16" and recipe.model.name in ("cnn", "densenet", "resnet")
    return recipe.model_copy(update=changes) if changes else recipe


def fits_kernels(recipe: Recipe, device: str) -> bool:
    """Whether models of this recipe can be trained by ``kernels/fcn.c``, on a machine that has it."""
    return _fits_but_for_precision(recipe, device) and recipe.precision == "bf16"


def has_kernels(recipe: Recipe, device: str) -> bool:
    """Whether this machine trains fully connected networks of this recipe, in bfloat16, by ``kernels/fcn.c``."""
    from memberscope.training.native import fcn_kernels

    return _fits_but_for_precision(recipe, device) and fcn_kernels().library is not None


def _fits_but_for_precision(recipe: Recipe, device: str) -> bool:
    return not why_not_stacked(recipe) and recipe.threads == 1 and device == "cpu"


def native_bf16(device: str) -> bool:
    """Whether ``device`` multiplies matrices in bfloat16 by itself (AMX, AVX-512 BF16, a GPU from Ampere on)."""
    import torch

    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


def fcn_weights(recipe: Recipe, input_shape: tuple[int, ...], classes: int) -> int:
    """Number of weights of the fully connected network of ``recipe``, biases aside."""
    options = parse_options("fcn", recipe.model_options())
    assert isinstance(options, FcnOptions)
    widths = [math.prod(input_shape), *options.widths, classes]
    return sum(left * right for left, right in itertools.pairwise(widths))


def why_not_stacked(recipe: Recipe) -> str:
    """Why models of this recipe are trained one at a time, or an empty string."""
    if recipe.model.name != "fcn":
        return f"only fully connected networks are stacked, not {recipe.model.name}"
    for name in ("mixup", "curriculum", "privacy"):
        if getattr(recipe, name):
            return f"{name} is not stacked"
    return ""


def stack_size(recipe: Recipe, input_shape: tuple[int, ...], classes: int, models: int, device: str = "cpu") -> int:
    """How many models train in one stack, from model and machine; 1 where stacking does not pay or is not possible."""
    if why_not_stacked(recipe) or (recipe.precision == "bf16" and has_kernels(recipe, device)):
        return 1
    room = STACKED // fcn_weights(recipe, input_shape, classes)
    return max(1, min(LARGEST, room, math.ceil(models / 2)))


def make_tasks(members: NDArray[np.bool_], recipe: Recipe, size: int) -> list[list[int]]:
    """Rows that are trained together: at most ``size``, all with as many batches an epoch.

    Stacks of one kind differ by one model at most, and are even in number where that leaves two in each, because
    machines have an even number of cores.

    >>> half = np.arange(12) % 2 == 0
    >>> make_tasks(np.stack([half] * 10), Recipe(batch_size=4), 4)
    [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    """
    if size == 1:
        return [[row] for row in range(len(members))]
    alike: dict[int, list[int]] = defaultdict(list)
    for row, count in enumerate(members.sum(axis=1).tolist()):
        alike[batches_an_epoch(count, recipe.batch_size)].append(row)
    tasks = []
    for rows in alike.values():
        stacks = math.ceil(len(rows) / size)
        stacks += stacks % 2 if len(rows) >= 2 * (stacks + 1) else 0
        tasks += [part.tolist() for part in np.array_split(rows, stacks)]
    return sorted(tasks)


def batches_an_epoch(records: int, size: int) -> int:
    """How many batches :func:`memberscope.training.steps.batches` makes; a last one of one record joins another.

    >>> [batches_an_epoch(records, 4) for records in (1, 4, 5, 6, 8, 9)]
    [1, 1, 1, 2, 2, 2]
    """
    return math.ceil(records / size) - (records % size == 1 and records > size > 1)


def describe(recipe: Recipe, tasks: Sequence[Sequence[int]]) -> str:
    """The mode in a few words, for people.

    >>> describe(Recipe(precision="bf16"), [[0, 1, 2], [3, 4]])
    'bf16, stacks of 2 to 3, one thread a process'
    """
    sizes = sorted({len(task) for task in tasks})
    if sizes[-1] == 1:
        together = "one model at a time"
        if why := why_not_stacked(recipe):
            together += f" ({why})"
    else:
        together = f"stacks of {sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"stacks of {sizes[0]}"
    threads = "one thread" if recipe.threads == 1 else f"{recipe.threads} threads"
    layout = ", channels last" if recipe.channels_last is True else ""
    return f"{recipe.precision}{layout}, {together}, {threads} a process"
