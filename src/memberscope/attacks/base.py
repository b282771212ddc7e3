"""BASE: the target's probability against the mean over reference models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from memberscope.attacks.interface import Attack, Floats, mean_over_queries, settled
from memberscope.attacks.tuning import DECIMALS, TINY, expected_probability, tune
from memberscope.signals.derive import log_probability, scaled_logits
from memberscope.signals.references import means
from memberscope.types import Access, Signals


@dataclass(frozen=True)
class Base(Attack):
    """log p_T(θ) − log mean_k p_T(θ_k) over all reference models θ_k.

    Lassila et al. 2025, "Practical Bayes-Optimal Membership Inference Attacks".

    Args:
        temperature: T > 0; chosen on references that play target when None.
    """

    temperature: float | None = None

    name: ClassVar[str] = "base"
    title: ClassVar[str] = "BASE"
    source: ClassVar[str] = "Lassila et al. 2025"
    access: ClassVar[Access] = Access.ROUNDED
    minimum: ClassVar[int] = 1
    recommended: ClassVar[int] = 4

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        temperature = tune(signals, target, "base", temperature=self.temperature).temperature
        known = means(signals, target, "p", temperature)
        expected = np.maximum(expected_probability("base", known, 0.0), TINY)
        own = np.maximum(log_probability(scaled_logits(signals, temperature)[target]), np.log(TINY))
        return settled(mean_over_queries(own - np.log(expected)), DECIMALS)

    def parameters(self) -> Mapping[str, Any]:
        return {"temperature": self.temperature or "tuned on references"}
