"""Several fully connected networks as one: weights (S, in, out), batched products, derivatives by hand.

The derivatives of a linear layer, tanh, ReLU and dropout fit on a page, and writing them down keeps every buffer
from step to step: nothing is recorded, allocated or cast twice. Each model's numbers depend on its own row alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from memberscope.models.fcn import Fcn

Masks = Sequence[Tensor | None]


class StackedFcn:
    """S networks of one shape; weights are float32 whatever the products are computed in.

    Args:
        models: freshly initialised, on the device; their weights are copied.
        dtype: of the products: float32 or bfloat16, with a working copy of the weights beside the float32 one.

    Attributes:
        weights: per layer ``(S, in, out)``.
        biases: per layer ``(S, 1, out)``.
    """

    def __init__(self, models: Sequence[Fcn], dtype: torch.dtype) -> None:
        layers = [linear_layers(model) for model in models]
        depth = range(len(layers[0]))
        self.dtype = dtype
        self.tanh = any(isinstance(module, nn.Tanh) for module in models[0].modules())
        self.weights = [torch.stack([each[place].weight.detach().t() for each in layers]) for place in depth]
        self.biases = [torch.stack([each[place].bias.detach()[None] for each in layers]) for place in depth]
        self._prepare()

    def _prepare(self) -> None:
        """Gradients and working copies for the weights as they are now."""
        low = self.dtype != torch.float32
        self.gradients = [torch.zeros_like(weight) for weight in self.weights]
        self.bias_gradients = [torch.zeros_like(bias) for bias in self.biases]
        self._working = [weight.to(self.dtype) for weight in self.weights] if low else self.weights
        self._products = [torch.empty_like(weight) for weight in self._working] if low else self.gradients
        self._buffers: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}

    def __len__(self) -> int:
        return len(self.weights[0])

    @property
    def parameters(self) -> list[Tensor]:
        """Weights, then biases."""
        return [*self.weights, *self.biases]

    @property
    def all_gradients(self) -> list[Tensor]:
        """Of the parameters, in their order."""
        return [*self.gradients, *self.bias_gradients]

    def keep(self, places: Tensor) -> None:
        """Go on with the models at ``places`` alone."""
        self.weights = [weight[places] for weight in self.weights]
        self.biases = [bias[places] for bias in self.biases]
        self._prepare()

    def forward(self, batch: Tensor, masks: Masks) -> Tensor:
        """Logits ``(S, B, K)`` in float32 of inputs ``(S, B, F)``; what the derivatives need is kept.

        Args:
            batch: in the products' type.
            masks: per hidden layer ``(S, B, out)``: 0 where a unit is dropped, else 1 / (1 - p); None drops none.
        """
        self._masks = masks
        self._inputs, self._activations = [batch], []
        layers = zip(self._working, self.biases, self._room(batch.shape[1]), strict=True)
        for place, (weight, bias, (product, wide, active)) in enumerate(layers):
            last = place == len(self.weights) - 1
            if self.dtype == torch.float32:
                torch.baddbmm(bias, self._inputs[-1], weight, out=wide)
            else:
                torch.bmm(self._inputs[-1], weight, out=product)
                wide.copy_(product).add_(bias)
            if last:
                return wide
            # In float32: the vectorised tanh of bfloat16 is six times slower than both casts and this.
            _ = wide.tanh_() if self.tanh else wide.relu_()
            if active is not wide:
                active.copy_(wide)
            self._activations.append(active)
            mask = masks[place]
            self._inputs.append(active if mask is None else active * mask)
        raise AssertionError("a network has at least one layer")

    def backward(self, gradient: Tensor) -> None:
        """Fill the gradients from that of the logits, ``(S, B, K)`` float32."""
        signal = gradient.to(self.dtype)
        for place in reversed(range(len(self.weights))):
            torch.bmm(self._inputs[place].transpose(1, 2), signal, out=self._products[place])
            if self._products[place] is not self.gradients[place]:
                self.gradients[place].copy_(self._products[place])
            torch.sum(signal, 1, keepdim=True, dtype=torch.float32, out=self.bias_gradients[place])
            if not place:
                return
            signal = torch.bmm(signal, self._working[place].transpose(1, 2))
            active, mask = self._activations[place - 1], self._masks[place - 1]
            if mask is not None:
                signal *= mask
            if self.tanh:
                signal = torch.ops.aten.tanh_backward(signal, active)
            else:
                signal *= active > 0

    def refresh(self) -> None:
        """Bring the working copies up to date after a step of the optimiser."""
        if self._working is not self.weights:
            torch._foreach_copy_(self._working, self.weights)

    def row(self, place: int) -> tuple[list[Tensor], list[Tensor]]:
        """Weights ``(in, out)`` and biases ``(out,)`` of one model, layer by layer; views."""
        return [weight[place] for weight in self.weights], [bias[place, 0] for bias in self.biases]

    def _room(self, batch: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Per layer the product, its float32 copy and the activation; kept for the next batch of this size."""
        if batch not in self._buffers:
            rooms = []
            for weight in self.weights:
                wide = torch.empty(len(weight), batch, weight.shape[2], device=weight.device)
                low = self.dtype != torch.float32
                product = torch.empty_like(wide, dtype=self.dtype) if low else wide
                rooms.append((product, wide, torch.empty_like(product) if low else wide))
            self._buffers[batch] = rooms
        return self._buffers[batch]


def linear_layers(model: Fcn) -> list[nn.Linear]:
    """The linear layers of ``model``, first to last."""
    return [module for module in model.hidden if isinstance(module, nn.Linear)] + [model.classifier]


@torch.no_grad()
def fill(model: Fcn, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
    """Give ``model`` the weights ``(in, out)`` and biases ``(out,)`` of one row of a stack."""
    for layer, weight, bias in zip(linear_layers(model), weights, biases, strict=True):
        layer.weight.copy_(weight.t())
        layer.bias.copy_(bias)
