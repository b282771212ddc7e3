"""A small Vision Transformer (Dosovitskiy et al. 2021) for 32×32 images: patch 4, mean of the tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memberscope.models.base import Classifier
from memberscope.models.options import VitOptions


class Block(nn.Module):
    """Pre-norm self-attention and a four times wider GELU network, each added to its input."""

    def __init__(self, options: VitOptions) -> None:
        super().__init__()
        dim = options.dim
        self.heads = options.heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        # Plain linear layers, because DP-SGD has no per-sample gradient for nn.MultiheadAttention.
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(options.dropout)

    def attention(self, x: Tensor) -> Tensor:
        """Multi-head self-attention over tokens ``(B, T, dim)``."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        result: Tensor = x + self.dropout(self.mlp(self.norm2(x)))
        return result


class Vit(Classifier):
    """Patches as tokens, learned positions, transformer blocks, mean of the tokens.

    Args:
        shape: ``(C, H, W)`` of one image; H and W multiples of the patch.
        classes: number of classes K.
        options: patch, token width, blocks, heads, dropout.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, options: VitOptions) -> None:
        super().__init__()
        channels, height, width = shape
        self.patches = nn.Conv2d(channels, options.dim, options.patch, options.patch)
        # An embedding rather than a bare parameter: DP-SGD knows its per-sample gradient.
        self.positions = nn.Embedding((height // options.patch) * (width // options.patch), options.dim)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(options) for _ in range(options.blocks)))
        self.norm = nn.LayerNorm(options.dim)
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(options.dim, classes)

    def features(self, x: Tensor) -> Tensor:
        """Mean ``(B, dim)`` of the normalised tokens."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        places = torch.arange(tokens.shape[1], device=x.device).expand(len(tokens), -1)
        result: Tensor = self.norm(self.blocks(tokens + self.positions(places)))
        return result.mean(1)

    @property
    def gradcam_layer(self) -> nn.Module:
        """The last block, whose output is one token a patch, ``(B, H/p · W/p, dim)``, row by row."""
        return self.blocks[-1]
