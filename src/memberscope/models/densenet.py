"""DenseNet-BC (Huang et al. 2017) for 32×32 images; depth 100 and growth 12 have 769,162 parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memberscope.models.base import Classifier, he_initialise, normalisation
from memberscope.models.options import DensenetOptions


class Bottleneck(nn.Module):
    """Norm, ReLU, 1×1 convolution to 4 k channels; norm, ReLU, 3×3 convolution to k; appended to the input."""

    def __init__(self, channels: int, options: DensenetOptions) -> None:
        super().__init__()
        inner = 4 * options.growth
        self.new = nn.Sequential(
            normalisation(options.norm, channels),
            nn.ReLU(),
            nn.Conv2d(channels, inner, 1, bias=False),
            nn.Dropout(options.dropout),
            normalisation(options.norm, inner),
            nn.ReLU(),
            nn.Conv2d(inner, options.growth, 3, padding=1, bias=False),
            nn.Dropout(options.dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new(x)], 1)


class Densenet(Classifier):
    """Three dense blocks with transitions that halve channels and sides.

    Args:
        shape: ``(C, H, W)`` of one image; H and W at least 4.
        classes: number of classes K.
        options: depth, growth, norm, dropout (after every convolution but the first, as in the original).
    """

    def __init__(self, shape: tuple[int, ...], classes: int, options: DensenetOptions) -> None:
        super().__init__()
        channels = 2 * options.growth
        layers: list[nn.Module] = [nn.Conv2d(shape[0], channels, 3, padding=1, bias=False)]
        for block in range(3):
            for _ in range((options.depth - 4) // 6):
                layers.append(Bottleneck(channels, options))
                channels += options.growth
            layers += [normalisation(options.norm, channels), nn.ReLU()]
            if block < 2:
                layers += [
                    nn.Conv2d(channels, channels // 2, 1, bias=False),
                    nn.Dropout(options.dropout),
                    nn.AvgPool2d(2),
                ]
                channels //= 2
        self.body = nn.Sequential(*layers)
        # The original drops after convolutions only, so nothing stands before the classifier.
        self.dropout = nn.Dropout(0.0)
        self.classifier = nn.Linear(channels, classes)
        he_initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Channel means ``(B, D)`` after the last block."""
        maps: Tensor = self.body(x)
        return maps.mean((2, 3))

    @property
    def gradcam_layer(self) -> nn.Module:
        """The last convolution: the 3×3 one of the last bottleneck."""
        return [module for module in self.body.modules() if isinstance(module, nn.Conv2d)][-1]
