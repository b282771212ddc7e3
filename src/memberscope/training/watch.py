"""What looks on while a model trains: the average of its weights, and questions between the epochs."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from memberscope.models.base import Classifier
from memberscope.training.answers import TrainingData, answers
from memberscope.training.inputs import Encoder
from memberscope.training.recipe import Recipe


class Average:
    """Exponential moving average of the weights (Polyak & Juditsky 1992); inside ``with`` the model has them.

    The decay is warmed up, min(decay, (1 + t)/(10 + t)), so that the initial weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        self.mean = {key: value.detach().clone() for key, value in model.state_dict().items()}
        self.held: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.mean[key].lerp_(value, 1 - decay)
            else:
                self.mean[key].copy_(value)

    def apply(self) -> None:
        """Give the model the averaged weights."""
        self.model.load_state_dict(self.mean)

    def __enter__(self) -> None:
        self.held = {key: value.detach().clone() for key, value in self.model.state_dict().items()}
        self.apply()

    def __exit__(self, *error: object) -> None:
        self.model.load_state_dict(self.held)


class Watch:
    """Asks the model between epochs: about every record at chosen epochs, about the validation split to stop."""

    def __init__(self, data: TrainingData, encode: Encoder, recipe: Recipe, device: str) -> None:
        self.data, self.encode, self.recipe, self.device = data, encode, recipe, device
        self.epochs: list[int] = []
        self.phi: list[NDArray[np.float32]] = []
        self.correct: list[NDArray[np.bool_]] = []
        self.best: dict[str, Tensor] | None = None
        self.best_epoch: int | None = None
        self.best_value = -math.inf
        self.stop = False
        self.seconds = 0.0

    def after(self, epoch: int, model: Classifier) -> None:
        """What is to be done after ``epoch`` (from 1)."""
        started = time.perf_counter()
        if epoch in self.recipe.trajectory:
            self._record(epoch, model)
        if self.recipe.early_stopping is not None:
            value = self._validate(model)
            if value > self.best_value:
                self.best_value, self.best_epoch = value, epoch
                self.best = copy.deepcopy(model.state_dict())
            elif self.best_epoch is not None and epoch - self.best_epoch >= self.recipe.early_stopping.patience:
                self.stop = True
        self.seconds += time.perf_counter() - started

    def last(self, epoch: int, model: Classifier) -> NDArray[np.bool_]:
        """``(N,)`` which records the finished model classifies correctly."""
        started = time.perf_counter()
        if self.epochs and self.epochs[-1] == epoch and self.best_epoch is None:
            return self.correct[-1]
        if self.recipe.trajectory and self.recipe.early_stopping is not None:
            # The kept epoch ends the trajectory: what came after it is not the audited model.
            kept = self.best_epoch or epoch
            upto = sum(number < kept for number in self.epochs)
            self.epochs, self.phi, self.correct = self.epochs[:upto], self.phi[:upto], self.correct[:upto]
            self._record(kept, model)
            correct = self.correct[-1]
        else:
            correct = answers(model, self.data, self.encode, self.recipe, self.device)[1]
        self.seconds += time.perf_counter() - started
        return correct

    def _record(self, epoch: int, model: Classifier) -> None:
        # In float32 like the audit's own questions, whatever the training's precision.
        plain = self.recipe.model_copy(update={"precision": "fp32"})
        phi, correct = answers(model, self.data, self.encode, plain, self.device)
        self.epochs.append(epoch)
        self.phi.append(phi)
        self.correct.append(correct)

    def _validate(self, model: Classifier) -> float:
        assert self.recipe.early_stopping is not None and self.data.validation is not None
        inputs, labels = self.data.validation
        data = replace(self.data, inputs=inputs, labels=labels)
        phi, correct = answers(model, data, self.encode, self.recipe, self.device)
        if self.recipe.early_stopping.metric == "accuracy":
            return float(correct.mean())
        return -float(np.logaddexp(0.0, -phi.astype(np.float64)).mean())
