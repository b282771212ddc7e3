"""One epoch of ordinary training, batch by batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from memberscope.models.base import Classifier
from memberscope.training.answers import autocast
from memberscope.training.augment import mixed
from memberscope.training.inputs import Encoder
from memberscope.training.recipe import Curriculum, Recipe
from memberscope.training.schedule import learning_rate_at


def batches(order: Tensor, size: int) -> list[Tensor]:
    """``order`` in pieces of ``size``; a last piece of one record joins the one before (batch norm needs two).

    >>> [len(batch) for batch in batches(torch.arange(9), 4)]
    [4, 5]
    """
    pieces = list(torch.split(order, size))
    if len(pieces) > 1 and len(pieces[-1]) == 1 < size:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces


def in_use(curriculum: Curriculum, epoch: int, epochs: int) -> float:
    """Share of the records, easiest first, that epoch ``epoch`` (from 0) of ``epochs`` trains on.

    >>> [round(in_use(Curriculum(start=0.2, until=0.5), epoch, 10), 2) for epoch in (0, 1, 4, 5, 9)]
    [0.2, 0.36, 0.84, 1.0, 1.0]
    """
    return min(1.0, curriculum.start + (1 - curriculum.start) * epoch / (curriculum.until * epochs))


class PlainSteps:
    """Steps on shuffled batches of all members, one permutation an epoch.

    Args:
        model: trained in place.
        inputs: ``(n, …)`` loaded members.
        labels: ``(n,)`` their classes.
        encode: loaded records to what the model takes.
        augment: changes loaded records, or None.
        difficulty: ``(n,)`` higher is harder, for a curriculum; None without one.
        recipe: batch, optimiser, schedule and what the batch goes through.
        optimizer: over the model's parameters.
        seeds: of the order and of mixup.
        device: where the tensors are.
        after_step: called after every step of the optimiser.
    """

    def __init__(
        self,
        model: Classifier,
        inputs: Tensor,
        labels: Tensor,
        encode: Encoder,
        augment: Callable[[Tensor], Tensor] | None,
        difficulty: NDArray[np.float64] | None,
        recipe: Recipe,
        optimizer: torch.optim.Optimizer,
        *,
        seeds: tuple[int, int],
        device: str,
        after_step: Callable[[], None],
    ) -> None:
        self.model, self.inputs, self.labels = model, inputs, labels
        self.encode, self.augment, self.recipe, self.optimizer = encode, augment, recipe, optimizer
        self.device, self.after_step = device, after_step
        self.shuffle = torch.Generator().manual_seed(seeds[0])
        self.mix = np.random.default_rng(seeds[1])
        self.easiest = None if difficulty is None else torch.from_numpy(np.argsort(difficulty, kind="stable"))
        self.step, self.steps = 0, len(batches(torch.arange(len(labels)), recipe.batch_size))

    def epoch(self, number: int, losses: Tensor | None) -> float:
        """Train through epoch ``number`` (from 0).

        Args:
            number: the epoch.
            losses: ``(n,)`` filled with each record's cross-entropy as it was trained on; None keeps none.

        Returns:
            The mean loss a record, as it was trained (smoothing, mixing and dropout included).
        """
        recipe = self.recipe
        total, seen = torch.zeros((), device=self.device), 0
        for index in batches(self._order(number), recipe.batch_size):
            # A curriculum takes fewer steps while it uses fewer records; the schedule goes by epochs all the same.
            self.step = max(self.step, number * self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate_at(recipe, self.step, self.steps)
            loaded = self.inputs[index]
            batch = self.encode(self.augment(loaded) if self.augment else loaded)
            labels = self.labels[index]
            if recipe.mixup:
                batch, partner, share = mixed(batch, labels, recipe.mixup, self.mix)
            with autocast(recipe, self.device):
                logits = self.model(batch)
            logits = logits.float()
            if recipe.mixup:
                other = labels[torch.from_numpy(partner).to(self.device)]
                loss = share * self._loss(logits, labels) + (1 - share) * self._loss(logits, other)
            elif losses is None or recipe.label_smoothing:
                loss = self._loss(logits, labels)
                if losses is not None:
                    losses[index] = F.cross_entropy(logits.detach(), labels, reduction="none")
            else:
                each = F.cross_entropy(logits, labels, reduction="none")
                losses[index] = each.detach()
                loss = each.mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if recipe.gradient_clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), recipe.gradient_clip)
            self.optimizer.step()
            self.after_step()
            total += loss.detach() * len(index)
            seen += len(index)
            self.step += 1
        # Once an epoch, because asking earlier makes an accelerator wait.
        return total.item() / seen

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)

    def _order(self, number: int) -> Tensor:
        """The records of this epoch in a fresh order, on the device."""
        recipe = self.recipe
        order = torch.randperm(len(self.labels), generator=self.shuffle)
        if recipe.curriculum is not None and self.easiest is not None:
            count = max(2, round(in_use(recipe.curriculum, number, recipe.epochs) * len(order)))
            chosen = torch.zeros(len(order), dtype=torch.bool)
            chosen[self.easiest[:count]] = True
            order = order[chosen[order]]
        return order.to(self.device)
