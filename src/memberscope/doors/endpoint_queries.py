"""Where attacks that ask questions of their own plug in, and the first of them: robustness to perturbed copies.

A query attack gets an :class:`Asker`, which keeps to the budgets, asks nothing twice and writes everything down, and
returns an :class:`~memberscope.attacks.Attack` that stands beside those that only read answers. To add one: a class
with ``plan`` and ``attack``, and one line in :func:`query_attacks`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from memberscope.attacks import Attack
from memberscope.targets.http.config import Endpoint, Robustness
from memberscope.text import percent
from memberscope.types import Access, Dataset, Signals

Floats = NDArray[np.float64]
# As for every attack: scores of fewer records than this are not reported.
ENOUGH = 0.9

Pairs = Sequence[tuple[int, NDArray[Any]]]


class Asker(Protocol):
    """Asks about anything within the budgets; adaptive attacks call it again and again."""

    def __call__(self, pairs: Pairs) -> list[int | None]:
        """Predicted classes of inputs, each counted for a record (its row); None where the budget did not allow it."""


class QueryAttack(Protocol):
    """An attack that asks questions beside the one about the record itself."""

    def plan(self, dataset: Dataset, rows: Sequence[int]) -> Pairs:
        """The questions that are known beforehand, for the estimate of cost; empty for an adaptive attack."""

    def attack(self, ask: Asker, dataset: Dataset, rows: Sequence[int]) -> Callable[[NDArray[np.bool_]], Attack]:
        """Ask, and return what makes the attack once it is known which of the records ``(N,)`` were answered."""


def query_attacks(endpoint: Endpoint, seed: int) -> list[QueryAttack]:
    """The query attacks that the description asks for."""
    return [] if endpoint.robustness is None else [Perturbed(endpoint.robustness, seed)]


@dataclass(frozen=True)
class Perturbed:
    """Asks about perturbed copies of each record and counts how many are classified as the record's label."""

    how: Robustness
    seed: int

    def plan(self, dataset: Dataset, rows: Sequence[int]) -> Pairs:
        spread = _spread(dataset.inputs) if self.how.noise else np.zeros(1)
        return [(row, copy) for row in rows for copy in copies(dataset.inputs[row], self.how, spread, self.seed)]

    def attack(self, ask: Asker, dataset: Dataset, rows: Sequence[int]) -> Callable[[NDArray[np.bool_]], Attack]:
        right, count = np.zeros(len(dataset)), np.zeros(len(dataset))
        pairs = [*((row, dataset.inputs[row]) for row in rows), *self.plan(dataset, rows)]
        for (row, _), predicted in zip(pairs, ask(pairs), strict=True):
            if predicted is not None:
                right[row] += predicted == dataset.labels[row]
                count[row] += 1
        with np.errstate(invalid="ignore"):
            agreement = np.where(count > 1, right / count, np.nan)
        chosen = {key: value for key, value in self.how.model_dump().items() if value} | {"seed": self.seed}
        return lambda kept: NoiseRobustness(agreement[kept], chosen)


@dataclass(frozen=True, eq=False)
class NoiseRobustness(Attack):
    """Share of a record's perturbed copies, and of the record itself, that are classified as its label.

    Choquette-Choo et al. 2021, "Label-Only Membership Inference Attacks", §3.2 (robustness to augmentation and random
    noise), without shadow models: members lie further from the decision boundary.

    Args:
        values: ``(N,)`` agreement, NaN where the budget allowed no copy.
        how: the perturbation.
    """

    values: Floats
    how: Mapping[str, Any] = field(default_factory=dict)

    name: ClassVar[str] = "noise_robustness"
    title: ClassVar[str] = "Robustness to perturbed copies"
    source: ClassVar[str] = "Choquette-Choo et al. 2021"
    access: ClassVar[Access] = Access.LABEL

    def lacks(self, signals: Signals, target: int) -> str:
        answered = float(np.mean(~np.isnan(self.values[~signals.population])))
        if answered < ENOUGH:
            return f"the budget allowed copies of only {percent(answered)} of the records"
        return super().lacks(signals, target)

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        return self.values

    def parameters(self) -> Mapping[str, Any]:
        return dict(self.how)


def copies(inputs: NDArray[Any], how: Robustness, spread: Floats, seed: int) -> list[NDArray[Any]]:
    """Perturbed copies of one record: drawn from its content, so that a run that goes on asks about the same ones.

    Args:
        inputs: one record, ``(F,)`` or ``(C, H, W)``.
        how: many, and how.
        spread: standard deviations of the inputs, of the same shape or broadcast to it.
        seed: of the draw.
    """
    digest = hashlib.sha256(np.ascontiguousarray(inputs).tobytes()).digest()
    rng = np.random.default_rng([seed, 21, *np.frombuffer(digest[:16], np.uint32).tolist()])
    made = []
    for number in range(how.copies):
        copy = np.asarray(inputs, np.float64).copy()
        if how.mirror and copy.ndim == 3 and number % 2:
            copy = copy[..., ::-1]
        if how.shift and copy.ndim == 3:
            move = rng.integers(-how.shift, how.shift + 1, 2)
            copy = np.roll(copy, tuple(int(m) for m in move), axis=(1, 2))
        if how.flips:
            turned = (rng.random(copy.shape) < how.flips) & ((copy == 0) | (copy == 1))
            copy = np.where(turned, 1 - copy, copy)
        if how.noise:
            copy = copy + how.noise * spread * rng.normal(size=copy.shape)
        if inputs.dtype.kind in "iu":
            limits = np.iinfo(inputs.dtype)
            copy = np.clip(np.round(copy), limits.min, limits.max)
        made.append(copy.astype(inputs.dtype if inputs.dtype.kind in "iuf" else np.float64))
    return made


def _spread(inputs: NDArray[Any]) -> Floats:
    """Standard deviation of each feature, or over all pixels of images."""
    values = inputs.astype(np.float64)
    return np.asarray(values.std(axis=0) if inputs.ndim == 2 else values.std())
