"""Random changes of a batch, drawn for every record by itself and applied to the whole batch at once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memberscope.training.recipe import Augmentation


class Augmenter:
    """Shifts, mirrors or flips bits of loaded records; its random state is its own.

    Args:
        choice: what to do.
        seed: of the draws; they are made on the CPU, so that every device sees the same.
    """

    def __init__(self, choice: Augmentation, seed: int) -> None:
        self.choice = choice
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, batch: Tensor) -> Tensor:
        """A changed copy of ``batch`` ``(B, C, H, W)`` or ``(B, F)``, of the same type; bits stay 0 and 1."""
        choice = self.choice
        if choice.bit_flip:
            flips = torch.rand(batch.shape, generator=self.generator) < choice.bit_flip
            return torch.where(flips.to(batch.device), 1 - batch, batch)
        if choice.flip:
            mirrored = torch.rand(len(batch), generator=self.generator) < 0.5
            batch = torch.where(mirrored.to(batch.device)[:, None, None, None], batch.flip(3), batch)
        return self._shift(batch, choice.crop) if choice.crop else batch

    def _shift(self, batch: Tensor, reach: int) -> Tensor:
        count, _, height, width = batch.shape
        moves = torch.randint(0, 2 * reach + 1, (2, count), generator=self.generator).to(batch.device)
        channels_last = batch.is_contiguous(memory_format=torch.channels_last)
        padded = torch.nn.functional.pad(batch, (reach, reach, reach, reach))
        rows = (moves[0][:, None] + torch.arange(height, device=batch.device))[:, :, None]
        columns = (moves[1][:, None] + torch.arange(width, device=batch.device))[:, None, :]
        records = torch.arange(count, device=batch.device)[:, None, None]
        # Indexing the moved axes in one go gives (B, H, W, C): already the order of channels_last.
        moved = padded.permute(0, 2, 3, 1)[records, rows, columns].permute(0, 3, 1, 2)
        return moved if channels_last else moved.contiguous()


def mixed(
    inputs: Tensor, labels: Tensor, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, NDArray[np.int64], float]:
    """A batch and a shuffled copy of it in the proportion λ ~ Beta(α, α) (mixup; Zhang et al. 2018).

    Returns:
        The mixed inputs, the places of the partners in the batch, and λ.
    """
    share = float(rng.beta(alpha, alpha))
    partner = rng.permutation(len(labels))
    index = torch.from_numpy(partner).to(inputs.device)
    return share * inputs + (1 - share) * inputs[index], partner, share
