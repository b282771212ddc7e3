"""DP-SGD (Abadi et al. 2016): per-record clipping and noise on Poisson-sampled batches, with Opacus.

The noise comes from a seeded generator, so that a training can be repeated to the byte. That is right for an audit
and wrong for a release: whoever knows the seed can take the noise off again, and ε says nothing about them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memberscope.models import build
from memberscope.models.base import Classifier
from memberscope.training.accounting import (
    Ledger,
    delta_of,
    epsilon_of,
    noise_for,
    require_opacus,
    sample_rate_of,
)
from memberscope.training.clipping import Clipping, Sums
from memberscope.training.inputs import Encoder, Normalisation
from memberscope.training.loop import make_optimizer, reproducible
from memberscope.training.recipe import Privacy, Recipe
from memberscope.training.schedule import learning_rate_at
from memberscope.training.separable import check_model, privacy_of

__all__ = ["PrivateSteps", "check_model", "epsilon_of", "noise_for", "preflight"]


def _nothing() -> None:
    pass


class PrivateSteps:
    """Steps of DP-SGD on the members of one model.

    Each step draws every member with chance q = batch_size / n, clips each record's gradient to norm C, adds
    Gaussian noise of standard deviation σ C to the sum and divides by batch_size, the expected size, whatever the
    drawn one was. An empty batch is a step of noise alone. Batches are drawn by Opacus' sampler over the places of
    the members, noise comes from Opacus' optimiser, and its accountant is told of every step; the ledger checks
    that these steps used those batches.

    Args:
        model: trained in place; its parameters are the result.
        inputs: ``(n, …)`` loaded members, and no other record.
        labels: ``(n,)`` their classes.
        encode: loaded records to what the model takes.
        augment: changes loaded records; drawn anew for each of ``privacy.multiplicity`` copies. None: no change.
        recipe: with ``privacy``; ``batch_size`` is the expected batch.
        seed: of sampling and noise; see the warning of this module.
        device: where the tensors are.
        after_step: called after every step of the optimiser.

    Raises:
        ConfigError: batch_size or δ does not fit n, no noise reaches ε, or a layer has no per-record gradient.
        MissingExtraError: Opacus is not installed.
    """

    def __init__(
        self,
        model: Classifier,
        inputs: Tensor,
        labels: Tensor,
        encode: Encoder,
        augment: Callable[[Tensor], Tensor] | None,
        recipe: Recipe,
        *,
        seed: int,
        device: str,
        after_step: Callable[[], None] = _nothing,
    ) -> None:
        require_opacus()
        from opacus.accountants import create_accountant
        from opacus.optimizers import DPOptimizerFastGradientClipping
        from opacus.utils.uniform_sampler import UniformWithReplacementSampler

        privacy = privacy_of(recipe)
        self.model, self.inputs, self.labels = model, inputs, labels
        self.encode, self.augment, self.recipe, self.privacy = encode, augment, recipe, privacy
        self.device, self.after_step = device, after_step
        self.sample_rate = sample_rate_of(recipe.batch_size, len(labels))
        self.delta = delta_of(privacy.delta, len(labels))
        draws, noise = (int(word) for word in np.random.SeedSequence(seed).generate_state(2, np.uint64))
        self.sampler = UniformWithReplacementSampler(
            num_samples=len(labels),
            sample_rate=self.sample_rate,
            generator=torch.Generator().manual_seed(draws),
        )
        self.noise_multiplier = _noise(privacy, self.sample_rate, recipe.epochs * len(self.sampler), self.delta)
        self.clipping = Clipping(
            model, privacy.grad_sample_mode, privacy.clip, privacy.multiplicity, recipe.label_smoothing
        )
        self.ledger = Ledger()
        inner = make_optimizer(model.parameters(), recipe)
        inner.register_step_pre_hook(_same_strides)
        inner.register_step_post_hook(self._moved)
        # Opacus' optimiser for gradients that are already clipped and summed: it adds the noise and divides.
        self.optimizer = DPOptimizerFastGradientClipping(
            inner,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=privacy.clip,
            expected_batch_size=recipe.batch_size,
            generator=torch.Generator(device).manual_seed(noise),
        )
        self.accountant = create_accountant(privacy.accountant)
        self.optimizer.attach_step_hook(self.accountant.get_optimizer_hook_fn(self.sample_rate))

    def __len__(self) -> int:
        """Steps an epoch, ⌊1/q⌋."""
        return len(self.sampler)

    def batches(self) -> Iterator[Tensor]:
        """The drawn batches of one epoch, ``(B,)`` rising places of members on the CPU, each noted in the ledger."""
        for places in self.sampler:
            yield self.ledger.draw(torch.tensor(places, dtype=torch.int64))

    def epoch(self, number: int) -> float:
        """Train through one epoch of ``len(self)`` Poisson batches.

        Args:
            number: of the epoch; not used, for the learning rate follows the steps taken.

        Returns:
            The mean loss of a drawn record, as it was trained (smoothing and dropout included); 0 if none was drawn.
        """
        self.model.train()
        total, seen = torch.zeros((), device=self.device), 0
        for index in self.batches():
            total += self.step(index)
            seen += len(index)
        return total.item() / max(seen, 1)

    def step(self, index: Tensor) -> Tensor:
        """One step on the members at ``index`` ``(B,)``.

        Any places are trained on, but only batches of :meth:`batches`, each once, leave an ε in the statement.

        Returns:
            The sum of the records' losses, on the device.
        """
        self.ledger.use(index)
        index = index.to(self.device)
        rate = learning_rate_at(self.recipe, self.ledger.steps, len(self))
        total = torch.zeros((), device=self.device)
        clipped: Sums = {}
        copies = self.privacy.multiplicity
        for piece in torch.split(index, self.privacy.physical_batch_size // copies) if len(index) else ():
            loaded = self.inputs[piece.repeat_interleave(copies) if copies > 1 else piece]
            batch = self.encode(self.augment(loaded) if self.augment else loaded)
            sums, loss = self.clipping(batch, self.labels[piece])
            for parameter, value in sums.items():
                clipped[parameter] = clipped[parameter].add_(value) if parameter in clipped else value
            total += loss
        for parameter in self.model.parameters():
            parameter.grad = clipped[parameter] if parameter in clipped else torch.zeros_like(parameter)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.after_step()
        return total

    def statement(self) -> dict[str, Any]:
        """What was done and what it guarantees, in plain values.

        ``epsilon`` is None, with a ``reason``, unless noise was added and every step used the Poisson batch that
        was drawn for it. ``accountant`` is the one that gave it. Until the last epoch is over, ε is that of the
        steps so far.
        """
        history = self.accountant.history
        reason = self.ledger.objection(history, self.noise_multiplier, self.sample_rate)
        epsilon: float | None = None
        accountant: str = self.privacy.accountant
        if not reason:
            epsilon, accountant = epsilon_of(*history[0], self.delta, self.privacy.accountant)
        return {
            "mode": self.privacy.grad_sample_mode,
            "noise_multiplier": self.noise_multiplier,
            "clip": self.privacy.clip,
            "sample_rate": self.sample_rate,
            "expected_batch_size": self.recipe.batch_size,
            "steps": self.ledger.steps,
            "drawn_batches": self.ledger.drawn,
            "multiplicity": self.privacy.multiplicity,
            "delta": self.delta,
            "accountant": accountant,
            "epsilon": epsilon,
            "reason": reason,
        }

    def _moved(self, *_: Any) -> None:
        self.ledger.steps += 1


def preflight(recipe: Recipe, input_shape: tuple[int, ...], classes: int) -> None:
    """Find out in seconds, before any model of a long study trains, whether DP-SGD can train this one.

    Raises:
        ConfigError: what :func:`check_model` raises, or a physical batch below the multiplicity.
        MissingExtraError: Opacus is not installed.
    """
    require_opacus()
    privacy = privacy_of(recipe).model_copy(update={"noise_multiplier": 1.0, "epsilon": None, "delta": None})
    small = recipe.model_copy(update={"privacy": privacy, "batch_size": 2})
    with reproducible(recipe.threads, "cpu"):
        torch.manual_seed(0)
        model = build(recipe.model.name, input_shape, classes, **recipe.model_options())
        check_model(model, recipe, input_shape)
        model.float()
        records, encode = torch.rand(4, *input_shape), Encoder.of(Normalisation(), False, False, "cpu")
        steps = PrivateSteps(model, records, torch.arange(4) % 2, encode, None, small, seed=0, device="cpu")
        steps.step(torch.arange(2))


def _noise(privacy: Privacy, sample_rate: float, steps: int, delta: float) -> float:
    if privacy.noise_multiplier is not None:
        return privacy.noise_multiplier
    assert privacy.epsilon is not None
    return noise_for(privacy.epsilon, sample_rate, steps, delta, privacy.accountant)


def _same_strides(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Lay gradients out as their parameters: fused optimisers on the CPU read both as they lie in memory."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
