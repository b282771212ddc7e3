"""Gap attack: a record that is classified correctly is called a member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from memberscope.attacks.interface import Attack, Floats, mean_over_queries
from memberscope.signals.derive import correct_row
from memberscope.types import Access, Signals


@dataclass(frozen=True)
class Gap(Attack):
    """1[predicted class = label]: the floor that every other attack is read against.

    Yeom et al. 2018, "Privacy Risk in Machine Learning". Its AUC is ½ + (train − test accuracy)/2.
    """

    name: ClassVar[str] = "gap"
    title: ClassVar[str] = "Gap (accuracy alone)"
    source: ClassVar[str] = "Yeom et al. 2018"
    access: ClassVar[Access] = Access.LABEL

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        return mean_over_queries(correct_row(signals, target).astype(np.float64))
