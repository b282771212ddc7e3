"""What every classifier here offers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor, nn


class Classifier(nn.Module, ABC):
    """A network whose last layer is linear: ``features`` (B, D) → ``dropout`` → ``classifier`` → logits (B, K).

    No module works in place, so that hooks (Grad-CAM) and per-sample gradients (DP-SGD) see every value.
    """

    classifier: nn.Linear
    dropout: nn.Dropout

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations ``(B, D)`` of inputs ``(B, …)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of inputs ``(B, …)``."""
        logits: Tensor = self.classifier(self.dropout(self.features(x)))
        return logits

    @property
    def gradcam_layer(self) -> nn.Module | None:
        """The last layer with a spatial map (the last convolution or transformer block), or None."""
        return None


def normalisation(kind: Literal["batch", "group"], channels: int) -> nn.Module:
    """BatchNorm2d, or GroupNorm with at most 16 groups (De et al. 2022), which DP-SGD can use."""
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(math.gcd(16, channels), channels)


def he_initialise(model: nn.Module) -> None:
    """He et al. 2015 for convolutions (fan out, as residual networks use it); other layers as they are."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
