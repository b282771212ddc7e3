"""Whether DP-SGD clips what a model learns from each record: found out before anything trains."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memberscope.errors import ConfigError
from memberscope.models.base import Classifier
from memberscope.training.accounting import require_opacus
from memberscope.training.clipping import TINY, Clipping, Sums, layers_of
from memberscope.training.recipe import Privacy, Recipe

RECORDS = 4
TOLERANCE = 1e-6


def privacy_of(recipe: Recipe) -> Privacy:
    """The recipe's privacy.

    Raises:
        ConfigError: it has none, or its physical batch does not hold the copies of one record.
    """
    privacy = recipe.privacy
    if privacy is None:
        raise ConfigError("a recipe with privacy", "none", "Set privacy.noise_multiplier or privacy.epsilon.")
    if privacy.physical_batch_size < privacy.multiplicity:
        raise ConfigError(
            "a privacy.physical_batch_size that holds all copies of a record",
            f"{privacy.physical_batch_size} for a multiplicity of {privacy.multiplicity}",
            f"Raise it to a multiple of {privacy.multiplicity}.",
        )
    return privacy


def check_model(model: Classifier, recipe: Recipe, input_shape: tuple[int, ...]) -> None:
    """Check that DP-SGD clips what ``model`` (freshly built, on the CPU; it is spoilt) learns from each record.

    Opacus' validator, names of layers that mix records or work in place, and then the proof: on four random
    records, the clipped sum is compared with gradients that autograd computes one record at a time.

    Raises:
        ConfigError: with the path and type of the layer that cannot be clipped.
    """
    require_opacus()
    from opacus.validators import ModuleValidator

    privacy = privacy_of(recipe)
    for name, module in model.named_modules():
        where = f"{name!r} ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError("layers that keep the records of a batch apart, for privacy", where, "Set norm to group.")
        if getattr(module, "inplace", False):
            raise ConfigError("no layer that works in place, for privacy", where, "Build it with inplace=False.")
        if type(module) in ModuleValidator.VALIDATORS and any(True for _ in module.parameters(recurse=False)):
            for error in ModuleValidator.VALIDATORS[type(module)](module):
                raise ConfigError("layers that Opacus accepts, for privacy", where, str(error)[:200])
        if isinstance(module, nn.modules.dropout._DropoutNd):
            # Dropout draws anew for every pass, so that two passes could not be compared.
            module.p = 0.0
    layers = layers_of(model)
    # In double precision, where rounding cannot be mistaken for a wrong formula.
    model.double().train()
    copies, smoothing = privacy.multiplicity, recipe.label_smoothing
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(RECORDS * copies, *input_shape, generator=generator, dtype=torch.float64)
    labels = torch.arange(RECORDS) % 2
    if recipe.channels_last and batch.ndim == 4:
        # A formula that is blind to strides is wrong here only.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        batch = batch.contiguous(memory_format=torch.channels_last)
    try:
        exact = _one_by_one(model, batch, labels, copies, smoothing)
        norms = torch.stack([torch.cat([part.flatten() for part in each.values()]).norm() for each in exact])
        # A bound that clips nothing shows which layer's gradient is wrong, the median which one's norm is.
        clips = [2 * float(norms.max()), float(norms.median())]
        sums = [Clipping(model, privacy.grad_sample_mode, clip, copies, smoothing)(batch, labels)[0] for clip in clips]
    except RuntimeError as error:
        raise ConfigError(
            f"a model whose gradients can be taken for each record alone (privacy, {recipe.model.name!r})",
            str(error).splitlines()[0][:200],
            "Use modules that do not work in place and do not mix the records of a batch.",
        ) from error
    for clip, got in zip(clips, sums, strict=True):
        factors = (clip / (norms + TINY)).clamp(max=1)
        for name, layer in layers.items():
            for parameter in layer.parameters(recurse=False):
                wanted = torch.tensordot(factors, torch.stack([each[parameter] for each in exact]), 1)
                off = float((got.get(parameter, torch.zeros_like(wanted)) - wanted).norm())
                if not off <= TOLERANCE * max(float(wanted.norm()), 1e-3 * clip):
                    raise ConfigError(
                        "clipped gradients that agree with gradients taken one record at a time, for privacy",
                        f"others at {name!r} ({type(layer).__name__}), by {off / clip:.2g} of the clipping norm",
                        "Replace the layer: it mixes the records of a batch, or its formula does not know its options.",
                    )


def _one_by_one(model: nn.Module, batch: Tensor, labels: Tensor, copies: int, label_smoothing: float) -> list[Sums]:
    """The gradient of each record, by autograd on that record (and its copies) alone."""
    parameters = list(model.parameters())
    found: list[Sums] = []
    for place, label in enumerate(labels):
        alone = batch[place * copies : (place + 1) * copies]
        loss = F.cross_entropy(model(alone), label.expand(copies), label_smoothing=label_smoothing)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        found.append({p: torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)})
    return found
