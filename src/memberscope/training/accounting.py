"""What DP-SGD may claim: ε from what was done, noise for a wanted ε, and a ledger of the batches.

ε holds for neighbouring sets of members that differ in one record more or less, Poisson sampling, and noise that
nobody can predict. It is a guarantee about the mechanism; how exposed records are is what an audit measures.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memberscope.errors import ConfigError, MissingExtraError

EPSILON_ERROR = 0.01
# Points of the privacy loss grid; beyond it, PRV takes a minute and gigabytes to say that ε is in the hundreds.
LARGEST_GRID = 4_000_000
# Opacus' own orders and larger ones, without which much noise looks less private than it is.
ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(12, 64), 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512)
LARGEST_NOISE = 1e6


@dataclass
class Ledger:
    """Which batches were drawn, which of them were trained on, and how often the weights moved.

    Opacus' accountant counts optimiser steps and never sees a batch: a loop that makes the optimiser private and
    then walks through a permutation gets an ε that does not hold. Here ε needs every step to have used a batch
    that the Poisson sampler drew, each drawn batch once, and as many moves of the weights as batches.

    Args:
        drawn: batches that the sampler drew.
        used: drawn batches that a step trained on.
        foreign: steps on records that were not a drawn batch, or were one that had been used before.
        steps: moves of the weights, counted by the optimiser itself.

    >>> ledger = Ledger()
    >>> batch = ledger.draw(torch.tensor([2, 5]))
    >>> ledger.use(torch.tensor([2, 6]))
    >>> ledger.foreign, ledger.drawn - ledger.used
    (1, 1)
    """

    drawn: int = 0
    used: int = 0
    foreign: int = 0
    steps: int = 0
    _open: list[Tensor] = field(default_factory=list, repr=False)

    def draw(self, index: Tensor) -> Tensor:
        """Note a drawn batch ``(B,)`` of places; returns it."""
        self.drawn += 1
        # A copy, because the caller may change what it was given.
        self._open.append(index.clone())
        return index

    def use(self, index: Tensor) -> None:
        """Note that a step trains on ``index`` ``(B,)``."""
        given = index.cpu().to(torch.int64)
        for place, drawn in enumerate(self._open):
            if torch.equal(drawn, given):
                del self._open[place]
                self.used += 1
                return
        self.foreign += 1

    def objection(self, history: Sequence[tuple[float, float, int]], noise: float, sample_rate: float) -> str:
        """Why no ε holds, as a sentence's part; empty if ε holds.

        Args:
            history: (noise multiplier, sample rate, steps) as the accountant kept them.
            noise: the noise multiplier that was agreed on.
            sample_rate: the chance with which each member was to be drawn.
        """
        if noise == 0:
            return "no noise was added: clipping alone guarantees nothing"
        if self.foreign:
            return (
                f"{self.foreign} of {self.used + self.foreign} steps trained on records that the Poisson sampler "
                "had not drawn for them (batches of another loader, or a drawn batch used twice)"
            )
        if self.used != self.drawn:
            return f"{self.drawn - self.used} of {self.drawn} drawn batches were not trained on"
        if self.steps != self.drawn:
            return f"the weights moved {self.steps} times for {self.drawn} drawn batches"
        if not self.steps:
            return "no step was taken"
        if list(history) != [(noise, sample_rate, self.steps)]:
            return (
                f"the accountant saw {[tuple(entry) for entry in history]} (noise, sample rate, steps) "
                f"instead of {(noise, sample_rate, self.steps)}"
            )
        return ""


def sample_rate_of(batch_size: int, members: int) -> float:
    """Chance q with which each of ``members`` records is drawn into a batch of expected size ``batch_size``.

    Raises:
        ConfigError: the batch is not smaller than the set it is drawn from.
    """
    if batch_size >= members:
        raise ConfigError(
            f"a batch_size below the {members} members that privacy draws it from",
            f"batch_size {batch_size}",
            f"Lower batch_size to at most {members - 1}, better to a tenth of the members.",
        )
    return batch_size / members


def delta_of(delta: float | None, members: int) -> float:
    """``delta``, or the smaller of 1e-5 and 0.1/n.

    Raises:
        ConfigError: δ is 1/n or more, with which publishing one random record whole would count as private.
    """
    if delta is None:
        return min(1e-5, 0.1 / members)
    if delta >= 1 / members:
        raise ConfigError(
            f"privacy.delta below 1/n = {1 / members:.3g} (n = {members} members)",
            f"delta {delta:g}",
            "Lower delta, or leave it out.",
        )
    return delta


@functools.lru_cache(maxsize=256)
def epsilon_of(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float, accountant: str
) -> tuple[float, str]:
    """ε at δ of ``steps`` Gaussian steps on Poisson-sampled batches, an upper bound; lower = more private.

    Args:
        noise_multiplier: σ > 0, in units of the clipping norm.
        sample_rate: q in (0, 1).
        accountant: ``"prv"`` (Gopi et al. 2021; Opacus, at most 0.01 above the truth) or ``"rdp"`` (Mironov 2017).

    Returns:
        ε and the accountant that gave it: ``"rdp"`` too where PRV fails, would need more than 4 million points,
        or gives the larger bound.

    Raises:
        MissingExtraError: Opacus is not installed.
    """
    require_opacus()
    # Below 0 there is nothing to lose.
    bound = max(0.0, _rdp(noise_multiplier, sample_rate, steps, delta))
    tight = _prv(noise_multiplier, sample_rate, steps, delta) if accountant == "prv" else None
    return (bound, "rdp") if tight is None or not tight <= bound else (tight, "prv")


@functools.lru_cache(maxsize=256)
def noise_for(epsilon: float, sample_rate: float, steps: int, delta: float, accountant: str) -> float:
    """The noise multiplier σ whose ε by :func:`epsilon_of` is at most ``epsilon`` and above 0.99 of it where it can be.

    Raises:
        ConfigError: no σ up to a million reaches ``epsilon``.
        MissingExtraError: Opacus is not installed.
    """
    from scipy.optimize import brentq

    def excess(log_noise: float, by: str) -> float:
        reached = epsilon_of(math.exp(log_noise), sample_rate, steps, delta, by)[0]
        return math.log(max(reached, 1e-9 * epsilon) / epsilon)

    # RDP is quick and brackets the answer; PRV, which is slow, is asked a few times near it.
    low, high = math.log(1e-2), math.log(LARGEST_NOISE)
    if excess(high, "rdp") > 0:
        raise ConfigError(
            f"a privacy.epsilon that noise can reach in {steps} steps at sample rate {sample_rate:.3g}",
            f"epsilon {epsilon:g} at delta {delta:g}",
            "Raise epsilon, or train for fewer epochs on smaller batches.",
        )
    if excess(low, "rdp") <= 0:
        return math.exp(low)
    found = brentq(excess, low, high, args=("rdp",), xtol=1e-3)
    if accountant == "prv":
        low, high = found - 0.3, found + 0.01
        while excess(high, "prv") > 0:
            low, high = high, high + 0.05
        while excess(low, "prv") <= 0:
            low, high = low - 0.3, low
        found = brentq(excess, low, high, args=("prv",), xtol=1e-3)
    while excess(found, accountant) > 0:
        found += 1e-3
    return math.exp(found)


@functools.lru_cache(maxsize=256)
def _curve(noise_multiplier: float, sample_rate: float) -> NDArray[np.float64]:
    """Rényi divergence of one step at each of ``ORDERS``."""
    from opacus.accountants.analysis.rdp import compute_rdp

    curve: NDArray[np.float64] = compute_rdp(
        q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=list(ORDERS)
    )
    return curve


def _rdp(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    from opacus.accountants.analysis.rdp import get_privacy_spent

    with warnings.catch_warnings():
        # It warns where the best order is the smallest or the largest: the bound holds, it is not the tightest.
        warnings.simplefilter("ignore")
        epsilon, _ = get_privacy_spent(
            orders=list(ORDERS), rdp=_curve(noise_multiplier, sample_rate) * steps, delta=delta
        )
    return float(epsilon)


def _prv(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float | None:
    """PRV's upper bound, or None where it cannot be had.

    Opacus' own steps, put together here because its accountant computes the Rényi curve twice more, which takes
    longer than all the rest, and because a grid that is too large must be seen before it is laid out.
    """
    from opacus.accountants.analysis import prv

    error = delta / 1000
    reach = 3 + max(
        _rdp(noise_multiplier, sample_rate, steps, error / 4),
        _rdp(noise_multiplier, sample_rate, 1, error / (8 * steps)),
        EPSILON_ERROR,
    )
    mesh = EPSILON_ERROR / math.sqrt(steps * math.log(12 / error) / 2)
    if not 2 * reach / mesh <= LARGEST_GRID:
        return None
    try:
        with np.errstate(all="ignore"):
            domain = prv.Domain.create_aligned(-reach, reach, mesh)
            loss = prv.PoissonSubsampledGaussianPRV(sample_rate, noise_multiplier)
            cut = prv.TruncatedPrivacyRandomVariable(loss, domain.t_min, domain.t_max)
            composed = prv.compose_heterogeneous([prv.discretize(cut, domain)], [steps])
            value = float(composed.compute_epsilon(delta, error, EPSILON_ERROR)[2])
    except (ArithmeticError, ValueError, RuntimeError, MemoryError):
        return None
    return value if math.isfinite(value) else None


def require_opacus() -> None:
    """Import Opacus, without the handler that it would give everybody's root logger.

    Raises:
        MissingExtraError: it is not installed.
    """
    import logging

    handlers = list(logging.root.handlers)
    try:
        import opacus.utils.module_utils  # noqa: F401
    except ImportError as error:
        raise MissingExtraError.of("opacus", "dp", "privacy") from error
    finally:
        logging.root.handlers[:] = handlers
