"""Sums of clipped per-record gradients, Σ min(1, C/‖g‖) g, without keeping a gradient for every record."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from memberscope.errors import ConfigError
from memberscope.training.accounting import require_opacus

Mode = Literal["ghost", "hooks"]
Sums = dict[Tensor, Tensor]
# What a layer adds: squared norms (B,) of its gradients, and their sum once every record has its factor (B,).
_Term = tuple[Tensor, Callable[[Tensor], Sums]]
# Opacus divides by the norm plus this, so that a gradient of zero has a factor.
TINY = 1e-6


class Clipping:
    """Clipped gradient sums of one model.

    ``ghost`` needs one forward and one backward pass: the gradients that reach the layers' outputs give each
    record's norm, and, weighted by its factor, the sum itself (Bu et al. 2023, "book-keeping"). So the norm that is
    clipped is the norm of the very terms that are summed. Linear layers and convolutions never form a record's
    gradient where products of activations are smaller; for other layers Opacus' formulas give it. ``hooks`` keeps
    every record's gradient as Opacus' ``GradSampleHooks`` computes it: slow, large, and independent of ``ghost``.

    Args:
        model: in training mode; it keeps no hook between calls.
        mode: see above.
        clip: largest norm C of a record's gradient.
        copies: augmented copies of each record, averaged before clipping (De et al. 2022).
        label_smoothing: of the cross-entropy.

    Raises:
        ConfigError: a layer has no per-record gradient.
        MissingExtraError: Opacus is not installed.
    """

    def __init__(
        self, model: nn.Module, mode: Mode, clip: float, copies: int = 1, label_smoothing: float = 0.0
    ) -> None:
        require_opacus()
        self.model, self.mode, self.clip, self.copies = model, mode, clip, copies
        self.label_smoothing = label_smoothing
        self.layers = layers_of(model)

    def __call__(self, batch: Tensor, labels: Tensor) -> tuple[Sums, Tensor]:
        """Clip and add.

        Args:
            batch: ``(B · copies, …)`` records, the copies of one side by side; B at least 1.
            labels: ``(B,)`` classes.

        Returns:
            The sum for each parameter, and the sum of the records' losses (means over their copies).
        """
        return self._ghost(batch, labels) if self.mode == "ghost" else self._hooks(batch, labels)

    def _loss(self, batch: Tensor, labels: Tensor) -> Tensor:
        targets = labels.repeat_interleave(self.copies) if self.copies > 1 else labels
        total = F.cross_entropy(self.model(batch), targets, reduction="sum", label_smoothing=self.label_smoothing)
        return total / self.copies

    def _factor(self, squares: Tensor) -> Tensor:
        return (self.clip / (squares.sqrt() + TINY)).clamp(max=1)

    def _ghost(self, batch: Tensor, labels: Tensor) -> tuple[Sums, Tensor]:
        calls: list[tuple[nn.Module, Tensor, Tensor]] = []

        def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            calls.append((module, given[0].detach(), output))

        handles = [layer.register_forward_hook(keep) for layer in self.layers.values()]
        try:
            loss = self._loss(batch, labels)
        finally:
            for handle in handles:
                handle.remove()
        self._once([module for module, _, _ in calls])
        gradients = torch.autograd.grad(loss, [output for _, _, output in calls], allow_unused=True)
        terms = [
            _term(module, given, gradient, len(labels))
            for (module, given, _), gradient in zip(calls, gradients, strict=True)
            if gradient is not None
        ]
        factor = self._factor(torch.stack([squares for squares, _ in terms]).sum(0))
        return {parameter: value for _, add in terms for parameter, value in add(factor).items()}, loss.detach()

    def _hooks(self, batch: Tensor, labels: Tensor) -> tuple[Sums, Tensor]:
        from opacus.grad_sample import GradSampleHooks

        class Hooks(GradSampleHooks):  # type: ignore[misc]
            def capture_activations_hook(self, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
                # Opacus 1.6 cuts patches as if every image were contiguous: channels_last comes out garbled.
                super().capture_activations_hook(module, [part.contiguous() for part in given], output)

        with warnings.catch_warnings():
            # The first layer's input needs no gradient; what the hook then gets is what it needs.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            hooks = Hooks(self.model, loss_reduction="sum")
            try:
                loss = self._loss(batch, labels)
                loss.backward()  # type: ignore[no-untyped-call]
                samples = {
                    parameter: _per_record(parameter.grad_sample, len(labels))  # type: ignore[attr-defined]
                    for parameter in self.model.parameters()
                    if parameter.grad_sample is not None  # type: ignore[attr-defined]
                }
            finally:
                hooks.cleanup()
                for parameter in self.model.parameters():
                    parameter.grad = None
        factor = self._factor(torch.stack([each.flatten(1).square().sum(1) for each in samples.values()]).sum(0))
        return {parameter: torch.tensordot(factor, each, 1) for parameter, each in samples.items()}, loss.detach()

    def _once(self, called: list[nn.Module]) -> None:
        if len(called) == len(set(called)):
            return
        name, layer = next((name, layer) for name, layer in self.layers.items() if called.count(layer) > 1)
        raise ConfigError(
            "every layer to be used once a pass, so that a record has one gradient for it (privacy, mode ghost)",
            f"{name!r} ({type(layer).__name__}), used {called.count(layer)} times",
            "Set privacy.grad_sample_mode to hooks, or give every use a layer of its own.",
        )


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that hold the parameters, by path.

    Raises:
        ConfigError: one of them has no per-record gradient in Opacus, or shares a parameter, or is frozen.
    """
    from opacus.grad_sample import GradSampleHooks

    layers: dict[str, nn.Module] = {}
    owners: dict[nn.Parameter, str] = {}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own:
            continue
        where = f"{name or 'the model itself'!r} ({type(module).__name__})"
        if type(module) not in GradSampleHooks.GRAD_SAMPLERS:
            known = sorted(kind.__name__ for kind in GradSampleHooks.GRAD_SAMPLERS)
            raise ConfigError(
                "layers whose gradient can be told apart by record, for privacy",
                f"{where}, which has none",
                f"Choose a model of these layers: {', '.join(known)}.",
            )
        for parameter in own:
            if parameter in owners:
                raise ConfigError(
                    "parameters that belong to one layer, for privacy",
                    f"{where}, which shares one with {owners[parameter]}",
                    "Give every layer its own parameters.",
                )
            owners[parameter] = where
        if not all(parameter.requires_grad for parameter in own):
            raise ConfigError(
                "parameters that are all trained, for privacy", f"{where}, which is frozen", "Unfreeze it."
            )
        layers[name] = module
    return layers


def _term(module: nn.Module, given: Tensor, gradient: Tensor, records: int) -> _Term:
    """What ``module`` adds, from its input and the gradient at its output, each ``(B · copies, …)``."""
    if type(module) is nn.Linear:
        return _linear(module, given, gradient, records)
    if type(module) is nn.Conv2d and module.groups == 1:
        # Opacus forms the gradient where patches are not simply cut from the input.
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            return _formed(module, given, gradient, records)
        return _convolution(module, given, gradient, records)
    return _formed(module, given, gradient, records)


def _linear(module: nn.Linear, given: Tensor, gradient: Tensor, records: int) -> _Term:
    # (B, T, features): the tokens and the copies of a record are summed over alike.
    inputs = given.reshape(records, -1, module.in_features)
    outputs = gradient.reshape(records, -1, module.out_features)
    squares = _squares(outputs, inputs)
    if module.bias is not None:
        squares = squares + outputs.sum(1).square().sum(1)

    def add(factor: Tensor) -> Sums:
        scaled = (outputs * factor[:, None, None]).flatten(0, 1)
        sums = {module.weight: scaled.T @ inputs.flatten(0, 1)}
        return sums if module.bias is None else sums | {module.bias: scaled.sum(0)}

    return squares, add


def _convolution(module: nn.Conv2d, given: Tensor, gradient: Tensor, records: int) -> _Term:
    from opacus.utils.tensor_utils import unfold2d

    places: dict[str, Any] = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
    # Twice as fast as PyTorch's own, but blind to strides.
    patches = unfold2d(given.contiguous(), kernel_size=module.kernel_size, **places)
    # (B · copies, features, places) → (B, copies · places, features)
    inputs, outputs = (maps.mT.reshape(records, -1, maps.shape[1]) for maps in (patches, gradient.flatten(2)))
    squares = _squares(outputs, inputs)
    if module.bias is not None:
        squares = squares + outputs.sum(1).square().sum(1)
    del patches, inputs, outputs

    def add(factor: Tensor) -> Sums:
        scaled = gradient * factor.repeat_interleave(len(given) // records)[:, None, None, None]
        sums = {module.weight: conv2d_weight(given, module.weight.shape, scaled, **places)}  # type: ignore[no-untyped-call]
        return sums if module.bias is None else sums | {module.bias: scaled.sum((0, 2, 3))}

    return squares, add


def _formed(module: nn.Module, given: Tensor, gradient: Tensor, records: int) -> _Term:
    from opacus.grad_sample import GradSampleHooks

    formed = {
        parameter: _per_record(sample, records)
        for parameter, sample in GradSampleHooks.GRAD_SAMPLERS[type(module)](
            module, [given.contiguous()], gradient
        ).items()
    }
    squares = torch.stack([each.flatten(1).square().sum(1) for each in formed.values()]).sum(0)
    return squares, lambda factor: {parameter: torch.tensordot(factor, each, 1) for parameter, each in formed.items()}


def _squares(outputs: Tensor, inputs: Tensor) -> Tensor:
    """``(B,)`` ‖Σ_t outputs_t ⊗ inputs_t‖² of ``(B, T, O)`` and ``(B, T, I)``."""
    places, rows, columns = outputs.shape[1], outputs.shape[2], inputs.shape[2]
    if places == 1:
        return outputs.square().sum((1, 2)) * inputs.square().sum((1, 2))
    if places * (rows + columns) < rows * columns:
        # ‖ΣT‖² as a sum over pairs of places (Li et al. 2022); rounding may take it below 0.
        return ((outputs @ outputs.mT) * (inputs @ inputs.mT)).sum((1, 2)).clamp(min=0)
    return (outputs.mT @ inputs).square().sum((1, 2))


def _per_record(sample: Tensor, records: int) -> Tensor:
    """``(B, …)`` sums over the copies in ``(B · copies, …)``."""
    return sample if len(sample) == records else sample.reshape(records, -1, *sample.shape[1:]).sum(1)
