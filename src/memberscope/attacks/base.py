"""BASE: the target's probability against the mean over reference models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from memberscope.attacks.interface import Attack, Floats
from memberscope.attacks.tuning import log_ratio, tune
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
        return log_ratio(signals, target, "base", temperature, 0.0)

    @property
    def tunes(self) -> bool:
        return self.temperature is None

    def temperatures(self, signals: Signals, target: int) -> Sequence[float]:
        return (tune(signals, target, "base", temperature=self.temperature).temperature,)

    def parameters(self) -> Mapping[str, Any]:
        return {"temperature": self.temperature or "tuned on references"}
