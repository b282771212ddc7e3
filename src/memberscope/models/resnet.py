"""ResNet (He et al. 2016) for 32×32 images: 3×3 stem, no first pooling; ResNet-18 has 11,173,962 parameters."""

from __future__ import annotations

from torch import Tensor, nn

from memberscope.models.base import Classifier, he_initialise, normalisation
from memberscope.models.options import ResnetOptions


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with norm and ReLU, added to the input (projected where the shape changes)."""

    def __init__(self, channels: int, width: int, stride: int, options: ResnetOptions) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            normalisation(options.norm, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            normalisation(options.norm, width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), normalisation(options.norm, width)
            )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(self.residual(x) + self.shortcut(x))
        return result


class Resnet(Classifier):
    """Stages of basic blocks; each stage after the first doubles the channels and halves the sides.

    Args:
        shape: ``(C, H, W)`` of one image.
        classes: number of classes K.
        options: first width, blocks a stage, norm, dropout (before the classifier).
    """

    def __init__(self, shape: tuple[int, ...], classes: int, options: ResnetOptions) -> None:
        super().__init__()
        channels = options.width
        layers: list[nn.Module] = [
            nn.Conv2d(shape[0], channels, 3, padding=1, bias=False),
            normalisation(options.norm, channels),
            nn.ReLU(),
        ]
        for stage, blocks in enumerate(options.blocks):
            width = options.width * 2**stage
            for block in range(blocks):
                layers.append(BasicBlock(channels, width, 2 if stage and not block else 1, options))
                channels = width
        self.body = nn.Sequential(*layers)
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(channels, classes)
        he_initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Channel means ``(B, D)`` after the last stage."""
        maps: Tensor = self.body(x)
        return maps.mean((2, 3))

    @property
    def gradcam_layer(self) -> nn.Module:
        """The last 3×3 convolution."""
        return [
            module for module in self.body.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
        ][-1]
