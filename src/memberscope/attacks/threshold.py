"""Global-threshold attacks: one number of the target's own answer, the same threshold for every record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from memberscope.attacks.interface import Attack, Floats, mean_over_queries
from memberscope.signals import derive
from memberscope.types import Access, Signals


@dataclass(frozen=True)
class Loss(Attack):
    """−loss = log p_y (Yeom et al. 2018): members are fitted better."""

    name: ClassVar[str] = "loss"
    title: ClassVar[str] = "Loss threshold"
    source: ClassVar[str] = "Yeom et al. 2018"
    access: ClassVar[Access] = Access.ROUNDED

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        return -mean_over_queries(derive.loss(derive.scaled_logits_row(signals, target)))


@dataclass(frozen=True)
class Confidence(Attack):
    """Highest class probability, whatever the label (Salem et al. 2019), as log-odds so that it never saturates."""

    name: ClassVar[str] = "confidence"
    title: ClassVar[str] = "Confidence threshold"
    source: ClassVar[str] = "Salem et al. 2019"
    access: ClassVar[Access] = Access.ROUNDED

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        return mean_over_queries(derive.confidence_row(signals, target))


@dataclass(frozen=True)
class Entropy(Attack):
    """−entropy of the predicted distribution (Shokri et al. 2017; Song & Mittal 2021)."""

    name: ClassVar[str] = "entropy"
    title: ClassVar[str] = "Entropy threshold"
    source: ClassVar[str] = "Song & Mittal 2021"
    access: ClassVar[Access] = Access.ROUNDED

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        return -mean_over_queries(derive.entropy_row(signals, target))


@dataclass(frozen=True)
class ModifiedEntropy(Attack):
    """−modified entropy, which knows the label (Song & Mittal 2021, eq. 7)."""

    name: ClassVar[str] = "modified_entropy"
    title: ClassVar[str] = "Modified entropy threshold"
    source: ClassVar[str] = "Song & Mittal 2021"
    access: ClassVar[Access] = Access.ROUNDED

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        return -mean_over_queries(derive.modified_entropy_row(signals, target))


@dataclass(frozen=True)
class ScaledLogit(Attack):
    """φ, the label's logit against all others (Carlini et al. 2022, eq. 3), with one threshold for all records."""

    name: ClassVar[str] = "scaled_logit"
    title: ClassVar[str] = "Scaled-logit threshold"
    source: ClassVar[str] = "Carlini et al. 2022"
    access: ClassVar[Access] = Access.ROUNDED

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        return mean_over_queries(derive.scaled_logits_row(signals, target))
