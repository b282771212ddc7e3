"""Attack R: how unusual is the target's answer among models that never saw the record?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from memberscope.attacks.interface import Attack, Floats, mean_over_queries
from memberscope.signals.derive import scaled_logits
from memberscope.signals.references import usable
from memberscope.types import Access, Signals


@dataclass(frozen=True)
class AttackR(Attack):
    """Share of the record's OUT reference models that fit it worse than the target; ties count one half.

    Ye et al. 2022, "Enhanced Membership Inference Attacks", attack R. With n OUT models it takes at most
    2n + 1 values, so that low false-alarm rates cannot be reached with few of them.
    """

    name: ClassVar[str] = "attack_r"
    title: ClassVar[str] = "Attack R (reference percentile)"
    source: ClassVar[str] = "Ye et al. 2022"
    access: ClassVar[Access] = Access.ROUNDED
    minimum: ClassVar[int] = 4
    recommended: ClassVar[int] = 64

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        phi = scaled_logits(signals)
        out = usable(signals, target) & ~signals.members
        below = np.zeros(phi.shape[1:])
        for row in np.flatnonzero(out.any(axis=1)):
            below += np.where(out[row][:, None], (phi[row] < phi[target]) + 0.5 * (phi[row] == phi[target]), 0.0)
        count = out.sum(axis=0)
        with np.errstate(invalid="ignore"):
            return mean_over_queries(below) / np.where(count > 0, count, np.nan)
