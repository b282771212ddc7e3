"""What is trained on, and what a model in training answers about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from memberscope.training.inputs import Encoder, Normalisation
from memberscope.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What models are trained on: the whole data set as arrays (or memory maps) and its constants.

    Args:
        inputs: ``(N, …)``.
        labels: ``(N,)``.
        classes: number of classes K.
        normalisation: of the inputs.
        validation: inputs and labels of other records, for early stopping; None without.
        difficulty: ``(N,)`` higher is harder, for a curriculum; None without.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    classes: int
    normalisation: Normalisation
    validation: tuple[NDArray[Any], NDArray[np.int64]] | None = None
    difficulty: NDArray[np.float64] | None = None


@torch.no_grad()
def answers(
    model: nn.Module, data: TrainingData, encode: Encoder, recipe: Recipe, device: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scaled logit φ and correctness of every record, ``(N,)`` both, in the recipe's precision."""
    model.eval()
    correct, phi = np.empty(len(data.labels), np.bool_), np.empty(len(data.labels), np.float32)
    for place, batch in encode.stream(data.inputs, recipe.evaluation_batch_size):
        with autocast(recipe, device):
            logits = model(batch).float()
        label = torch.tensor(data.labels[place]).to(device)[:, None]
        correct[place] = (logits.argmax(1) == label[:, 0]).cpu().numpy()
        own = logits.gather(1, label)[:, 0]
        rest = logits.scatter(1, label, -torch.inf).double().logsumexp(1)
        phi[place] = (own.double() - rest).float().cpu().numpy()
    return phi, correct


def autocast(recipe: Recipe, device: str) -> torch.autocast:
    """Matrix products and convolutions in bfloat16 where the recipe says so."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=recipe.precision == "bf16")
