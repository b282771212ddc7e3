"""One epoch of a stack: each model its own members in its own order, one step of the optimiser for all."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from memberscope.training.answers import TrainingData
from memberscope.training.augment import Augmenter
from memberscope.training.inputs import Encoder
from memberscope.training.recipe import Recipe
from memberscope.training.schedule import learning_rate_at
from memberscope.training.stacked_model import StackedFcn
from memberscope.training.stacked_optimizer import StackedOptimizer
from memberscope.training.steps import batches


class Table:
    """The records where they are: bytes stay in memory that processes share, and are numbers only as a batch."""

    def __init__(self, data: TrainingData, encode: Encoder, device: str) -> None:
        self.inputs, self.encode, self.device = data.inputs, encode, device
        self.labels = torch.from_numpy(data.labels.copy()).to(device)
        bytes_alone = data.inputs.dtype.itemsize == 1
        self.loaded: Tensor | None = None
        if bytes_alone or torch.device(device).type == "cuda":
            with warnings.catch_warnings():
                # A memory map is not writable, and nothing here writes to it.
                warnings.filterwarnings("ignore", "The given NumPy array is not writable")
                self.loaded = encode.load(data.inputs)

    def take(self, index: Tensor) -> Tensor:
        """The loaded records at ``index`` ``(n,)``, a copy."""
        if self.loaded is not None:
            return self.loaded.index_select(0, index)
        return self.encode.load(self.inputs[index.numpy()])


class StackedSteps:
    """Steps on shuffled batches of each model's own members.

    Args:
        model: trained in place.
        table: of all records.
        members: of each model, places in the table, ``(n_s,)``; as many batches an epoch for every model.
        recipe: batch, optimiser, schedule and what the batch goes through.
        orders: seeds of each model's order.
        drops: each model's generator of dropout, in the state in which its initial weights left it.
        changes: each model's augmentation; empty for none.
        device: where the tensors are.
    """

    def __init__(
        self,
        model: StackedFcn,
        table: Table,
        members: Sequence[Tensor],
        recipe: Recipe,
        *,
        orders: Sequence[int],
        drops: Sequence[torch.Generator],
        changes: Sequence[Augmenter],
        device: str,
    ) -> None:
        self.model, self.table, self.recipe, self.device = model, table, recipe, device
        self.counts = [len(own) for own in members]
        self.steps = len(batches(torch.arange(self.counts[0]), recipe.batch_size))
        if any(len(batches(torch.arange(count), recipe.batch_size)) != self.steps for count in self.counts):
            raise AssertionError("models of one stack take equally many steps an epoch")
        # One column more than members: where padding points, so that it can be filled and thrown away.
        self.places = torch.zeros(len(members), max(self.counts) + 1, dtype=torch.int64)
        for row, own in enumerate(members):
            self.places[row, : len(own)] = own
        self.shuffles = [torch.Generator().manual_seed(seed) for seed in orders]
        self.drops, self.changes = list(drops), list(changes)
        self.optimizer = StackedOptimizer(recipe, model.parameters, model.all_gradients)
        self.average = StackedAverage(model, recipe.ema) if recipe.ema else None
        self.step = 0

    @property
    def columns(self) -> int:
        """What a model's losses need: its members, and one more."""
        return self.places.shape[1]

    def epoch(self, losses: Tensor | None) -> list[float]:
        """Train through the next epoch.

        Args:
            losses: ``(S, columns)`` filled with each record's cross-entropy as it was trained on, the last column
                with rubbish; None keeps none.

        Returns:
            Each model's mean loss a record, as it was trained (smoothing and dropout included).
        """
        recipe, model = self.recipe, self.model
        total = torch.zeros(len(model), device=self.device)
        orders = [
            batches(torch.randperm(count, generator=shuffle), recipe.batch_size)
            for count, shuffle in zip(self.counts, self.shuffles, strict=True)
        ]
        for pieces in zip(*orders, strict=True):
            rate = learning_rate_at(recipe, self.step, self.steps)
            sizes = [len(piece) for piece in pieces]
            place = self._pad(pieces, max(sizes))
            batch, labels, weights = self._load(place, sizes)
            logits = model.forward(batch, self._masks(sizes))
            logarithms = F.log_softmax(logits, 2)
            own = -logarithms.gather(2, labels)[:, :, 0]
            if losses is not None:
                losses.scatter_(1, place.to(self.device), own)
            each, gradient = own, logarithms.exp_()
            if smooth := recipe.label_smoothing:
                # The mean of all classes' losses, before exp_ took the logarithms away: log Z less the mean logit.
                every = logits.logsumexp(2) - logits.mean(2)
                each = (1 - smooth) * own + smooth * every
                gradient -= smooth / gradient.shape[2]
            gradient.scatter_add_(2, labels, torch.full_like(own, smooth - 1)[:, :, None])
            total += (each * (weights[:, :, 0] > 0)).sum(1)
            model.backward(gradient.mul_(weights))
            if recipe.gradient_clip is not None:
                self._clip(recipe.gradient_clip)
            self.optimizer.step(rate)
            model.refresh()
            if self.average:
                self.average.update()
            self.step += 1
        return [loss / count for loss, count in zip(total.tolist(), self.counts, strict=True)]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with the models in ``rows`` alone: those of the stack that have not stopped."""
        chosen = torch.tensor(rows, device=self.device)
        self.model.keep(chosen)
        if self.average:
            self.average.keep(chosen)
        self.optimizer.keep(chosen, self.model.parameters, self.model.all_gradients)
        self.places = self.places[rows]
        for name in ("counts", "shuffles", "drops", "changes"):
            if kept := getattr(self, name):
                setattr(self, name, [kept[row] for row in rows])

    def row(self, place: int) -> tuple[list[Tensor], list[Tensor]]:
        """Weights and biases of one model as it would be kept: the average, where there is one."""
        return self.average.row(place) if self.average else self.model.row(place)

    def _pad(self, pieces: Sequence[Tensor], longest: int) -> Tensor:
        """``(S, B)`` places in each model's members; padding points behind the last."""
        return torch.stack(
            [F.pad(piece, (0, longest - len(piece)), value=self.places.shape[1] - 1) for piece in pieces]
        )

    def _load(self, place: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs ``(S, B, F)``, labels ``(S, B, 1)``, and each record's weight in its model's mean: 0 for padding."""
        stack, longest = place.shape
        index = self.places.gather(1, place).flatten().to(self.device)
        loaded = self.table.take(index)
        if self.changes:
            rows = loaded.view(stack, longest, *loaded.shape[1:])
            for row, (size, change) in enumerate(zip(sizes, self.changes, strict=True)):
                rows[row, :size] = change(rows[row, :size])
        batch = self.table.encode(loaded).flatten(1).to(self.model.dtype).view(stack, longest, -1)
        labels = self.table.labels[index].view(stack, longest, 1)
        if min(sizes) == longest:
            return batch, labels, torch.full((1, 1, 1), 1 / longest, device=self.device)
        length = torch.tensor(sizes)[:, None]
        return batch, labels, ((torch.arange(longest) < length) / length).to(self.device)[:, :, None]

    def _masks(self, sizes: Sequence[int]) -> list[Tensor | None]:
        """Dropout's masks of every hidden layer, each model's from its own generator."""
        kept, hidden = 1 - self.recipe.dropout, self.model.weights[:-1]
        if kept == 1:
            return [None] * len(hidden)
        masks: list[Tensor | None] = []
        for weight in hidden:
            mask = torch.zeros(len(weight), max(sizes), weight.shape[2], device=self.device)
            for row, (size, generator) in enumerate(zip(sizes, self.drops, strict=True)):
                mask[row, :size].bernoulli_(kept, generator=generator)
            masks.append(mask.div_(kept).to(self.model.dtype))
        return masks

    def _clip(self, largest: float) -> None:
        """Scale each model's gradient to a norm of at most ``largest``, as ``clip_grad_norm_`` does for one."""
        gradients = self.model.all_gradients
        norms = torch.stack([torch.linalg.vector_norm(part, dim=(1, 2)) for part in gradients])
        factor = (largest / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp_(max=1.0)[:, None, None]
        for part in gradients:
            part.mul_(factor)


class StackedAverage:
    """The moving average of :class:`~memberscope.training.watch.Average`, of every model of a stack."""

    def __init__(self, model: StackedFcn, decay: float) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        self.weights = [value.clone() for value in model.weights]
        self.biases = [value.clone() for value in model.biases]

    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_([*self.weights, *self.biases], [*self.model.weights, *self.model.biases], share)

    def keep(self, places: Tensor) -> None:
        """Go on with the models at ``places`` alone."""
        self.weights = [value[places] for value in self.weights]
        self.biases = [value[places] for value in self.biases]

    def row(self, place: int) -> tuple[list[Tensor], list[Tensor]]:
        """Averaged weights ``(in, out)`` and biases ``(out,)`` of one model; views."""
        return [value[place] for value in self.weights], [value[place, 0] for value in self.biases]
