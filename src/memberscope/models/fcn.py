"""The paper's fully connected network: 600-1024-512-256-128-100 with tanh (Purchase100)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from memberscope.models.base import Classifier
from memberscope.models.options import FcnOptions


class Fcn(Classifier):
    """Linear layers with tanh (or ReLU) and dropout between; inputs of any shape are flattened.

    Args:
        shape: of one input, without the batch.
        classes: number of classes K.
        options: hidden widths, activation, dropout.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, options: FcnOptions) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = math.prod(shape)
        for hidden in options.widths:
            # Dropout stands between hidden layers; the one before the classifier is ``forward``'s.
            if layers and options.dropout:
                layers.append(nn.Dropout(options.dropout))
            layers += [nn.Linear(width, hidden), nn.Tanh() if options.activation == "tanh" else nn.ReLU()]
            width = hidden
        self.hidden = nn.Sequential(*layers)
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """Activations ``(B, D)`` of the last hidden layer."""
        hidden: Tensor = self.hidden(x.flatten(1))
        return hidden
