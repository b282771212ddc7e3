"""Calibrated loss: the loss against what the record's difficulty explains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from memberscope.attacks.interface import Attack, Floats, by_piece, settled
from memberscope.signals.derive import loss, scaled_logits
from memberscope.signals.moments import means
from memberscope.types import Access, Signals


@dataclass(frozen=True)
class CalibratedLoss(Attack):
    """Mean loss of the models that did not train on the record, less the target's loss.

    Watson et al. 2022, "On the Importance of Difficulty Calibration in Membership Inference Attacks".
    """

    name: ClassVar[str] = "calibrated_loss"
    title: ClassVar[str] = "Calibrated loss"
    source: ClassVar[str] = "Watson et al. 2022"
    access: ClassVar[Access] = Access.ROUNDED
    minimum: ClassVar[int] = 1
    recommended: ClassVar[int] = 4

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        phi, expected = scaled_logits(signals)[target], means(signals, target, "loss").mean_out
        return settled(by_piece(signals, lambda at: expected[at] - loss(phi[at])), 12)
