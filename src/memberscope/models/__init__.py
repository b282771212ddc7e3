"""Classifiers by name. PyTorch is loaded when one is built, not when this package is imported."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memberscope.errors import ConfigError
from memberscope.models.options import OPTIONS, Options, VitOptions, parse_options

if TYPE_CHECKING:
    from memberscope.models.base import Classifier

_CLASSES = {"cnn": "Cnn", "densenet": "Densenet", "fcn": "Fcn", "resnet": "Resnet", "vit": "Vit"}

MODELS = tuple(sorted(OPTIONS))


def build(name: str, input_shape: tuple[int, ...], classes: int, **options: Any) -> Classifier:
    """A freshly initialised classifier; initial weights come from PyTorch's current random state.

    Args:
        name: one of ``MODELS``.
        input_shape: of one input: ``(F,)`` for tables, ``(C, H, W)`` for images.
        classes: number of classes K.
        options: see the model's class in ``memberscope.models.options``.

    Returns:
        A module with ``forward(x) -> (B, K)``, ``features(x) -> (B, D)`` and ``gradcam_layer``.

    Raises:
        ConfigError: no such model or option, a value out of range, or inputs that the model cannot take.
    """
    parsed = parse_options(name, options)
    check_shape(name, input_shape, classes, parsed)
    made: Classifier = getattr(import_module(f"memberscope.models.{name}"), _CLASSES[name])(
        input_shape, classes, parsed
    )
    return made


def check_shape(name: str, input_shape: tuple[int, ...], classes: int, options: Options) -> None:
    """Raise a ConfigError if the model ``name`` cannot take such inputs or classes; needs no PyTorch."""
    if classes < 2:
        raise ConfigError("at least 2 classes", str(classes), "A model of one class has nothing to learn.")
    if name == "fcn":
        return
    if len(input_shape) != 3:
        raise ConfigError(
            f"images of shape (C, H, W) for the model {name!r}",
            f"inputs of shape {input_shape}",
            "Use the model 'fcn' for tables.",
        )
    side = min(input_shape[1:])
    needed = {"cnn": 2 ** len(getattr(options, "widths", ())), "densenet": 4}.get(name, 1)
    if side < needed:
        raise ConfigError(
            f"images of at least {needed}×{needed} pixels for this {name!r}",
            f"shape {input_shape}",
            "Enlarge the images, or give fewer widths.",
        )
    if isinstance(options, VitOptions):
        if any(length % options.patch for length in input_shape[1:]):
            raise ConfigError(
                "sides that are multiples of the patch",
                f"shape {input_shape}, patch {options.patch}",
                "Choose another patch.",
            )
        if options.dim % options.heads:
            raise ConfigError(
                "a token width that is a multiple of heads",
                f"dim {options.dim}, heads {options.heads}",
                "Change one of them.",
            )


__all__ = ["MODELS", "build", "check_shape", "parse_options"]
