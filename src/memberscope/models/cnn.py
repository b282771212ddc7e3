"""A small convolution network that one core trains on a few thousand images in well under a minute."""

from __future__ import annotations

import math

from torch import Tensor, nn

from memberscope.models.base import Classifier, normalisation
from memberscope.models.options import CnnOptions


class Cnn(Classifier):
    """3×3 convolution, 2×2 max pooling, norm, ReLU and dropout for each width; then one hidden layer.

    Pooling comes before norm and ReLU, which then cost a quarter. The hidden layer sees every place of the
    last maps, so the network memorises within some fifteen epochs what a mean over places would not.

    Args:
        shape: ``(C, H, W)`` of one image; H and W at least 2 to the number of widths.
        classes: number of classes K.
        options: channels a stage, hidden units, norm, dropout.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, options: CnnOptions) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = shape[0]
        for width in options.widths:
            if layers and options.dropout:
                layers.append(nn.Dropout(options.dropout))
            convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            layers += [convolution, nn.MaxPool2d(2), normalisation(options.norm, width), nn.ReLU()]
            channels = width
        self.stages = nn.Sequential(*layers)
        places = math.prod(side // 2 ** len(options.widths) for side in shape[1:])
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(channels * places, options.hidden), nn.ReLU())
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(options.hidden, classes)

    def features(self, x: Tensor) -> Tensor:
        """Activations ``(B, D)`` of the hidden layer."""
        hidden: Tensor = self.hidden(self.stages(x))
        return hidden

    @property
    def gradcam_layer(self) -> nn.Module:
        """The last convolution."""
        return next(m for m in reversed(self.stages) if isinstance(m, nn.Conv2d))
