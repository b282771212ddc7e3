"""BASE: the target's probability against the mean over reference models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from memberscope.attacks.interface import Attack, Floats, mean_over_queries
from memberscope.attacks.tuning import tune
from memberscope.signals.derive import scaled_logits
from memberscope.signals.references import moments
from memberscope.types import Access, Signals

_TINY = np.finfo(np.float64).tiny


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
        known = moments(signals, target, "p", temperature)
        n_in, n_out = known.n_in[:, None], known.n_out[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (n_in * np.nan_to_num(known.mean_in) + n_out * np.nan_to_num(known.mean_out)) / (n_in + n_out)
        own = -np.logaddexp(0.0, -scaled_logits(signals, temperature)[target])
        return mean_over_queries(own - np.log(np.maximum(mean, _TINY)))

    def parameters(self) -> Mapping[str, Any]:
        return {"temperature": self.temperature or "tuned on references"}
