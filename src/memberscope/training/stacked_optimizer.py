"""PyTorch's fused optimisers on stacked weights, called by themselves.

They are what ``torch.optim`` calls with ``fused=True``. Its classes load PyTorch's compiler, 1.6 s of a core in every
worker process, which for a small pool is more than its training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memberscope.training.recipe import Recipe

EPSILON = 1e-8


class StackedOptimizer:
    """SGD, Adam or AdamW, elementwise, so that the models of a stack do not meet.

    Args:
        recipe: which, and its constants; ``learning_rate`` is given anew at every step.
        parameters: updated in place.
        gradients: of the same shapes; the same tensors at every step.
    """

    def __init__(self, recipe: Recipe, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        self.recipe, self.parameters, self.gradients = recipe, list(parameters), list(gradients)
        count = 2 if recipe.optimizer != "sgd" else 1 if recipe.momentum else 0
        self.moments = [[torch.zeros_like(value) for value in self.parameters] for _ in range(count)]
        self.steps = torch.zeros((), device=self.parameters[0].device)

    def step(self, learning_rate: float) -> None:
        """Update the parameters from the gradients."""
        recipe = self.recipe
        if recipe.optimizer == "sgd":
            # The first step fills the momentum with the gradient; from zero, without dampening, that is the same.
            torch._fused_sgd_(
                self.parameters, self.gradients, self.moments[0] if self.moments else [],
                weight_decay=recipe.weight_decay, momentum=recipe.momentum, lr=learning_rate, dampening=0.0,
                nesterov=recipe.nesterov, maximize=False, is_first_step=False,
            )  # fmt: skip
            return
        self.steps += 1
        means, squares = self.moments
        update = torch._fused_adam_ if recipe.optimizer == "adam" else torch._fused_adamw_
        update(
            self.parameters, self.gradients, means, squares, [], [self.steps] * len(self.parameters),
            lr=learning_rate, beta1=recipe.betas[0], beta2=recipe.betas[1], weight_decay=recipe.weight_decay,
            eps=EPSILON, amsgrad=False, maximize=False,
        )  # fmt: skip

    def keep(self, places: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Go on with the models at ``places`` alone, whose weights are now ``parameters``."""
        self.parameters, self.gradients = list(parameters), list(gradients)
        self.moments = [[value[places] for value in moment] for moment in self.moments]
