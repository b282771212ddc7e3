"""The right way of asking a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from memberscope.errors import ConfigError, DataError
from memberscope.targets.estimator import METHODS, Estimator, check_saved, load_skops
from memberscope.targets.function import Function
from memberscope.targets.interface import Target
from memberscope.targets.module import Module
from memberscope.targets.onnx_file import OnnxFile


def as_target(
    model: Any,
    *,
    ask: str | None = None,
    batch_size: int = 1024,
    device: str = "cpu",
    classes: tuple[Any, ...] | None = None,
) -> Target:
    """A way of asking ``model``.

    Args:
        model: a target; a fitted scikit-learn estimator or what answers like one; a ``torch.nn.Module``; a function of
            a batch of records; or the path of an ``.onnx`` or ``.skops`` file.
        ask: of an estimator: the method; of an ONNX file: the output; the one that tells most when None.
        batch_size: records at once, for functions, modules and ONNX files.
        device: of modules.
        classes: in the order of the scores, for what does not say so itself.

    Raises:
        MemberscopeError: nothing that can be asked, an estimator that is not fitted, a file that is refused.

    >>> as_target(lambda batch: batch).asked
    'call'
    """
    if isinstance(model, str | Path):
        return _from_file(Path(model), ask, batch_size)
    if isinstance(model, Function | Module | OnnxFile | Estimator):
        return model
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return Module(model, batch_size, device, classes=classes)
    if isinstance(model, type) and any(hasattr(model, method) for method in METHODS):
        return Estimator.of(model, ask)
    if any(hasattr(model, method) for method in METHODS):
        return Estimator.of(model, ask)
    if isinstance(model, Target):
        return model
    if callable(model):
        return Function(model, batch_size, classes)
    raise ConfigError(
        "a model: a fitted estimator, a torch.nn.Module, a function of a batch, or an .onnx or .skops file",
        type(model).__name__,
        "Wrap it in a function that takes records and returns scores.",
    )


def _from_file(path: Path, ask: str | None, batch_size: int) -> Target:
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return OnnxFile.of(path, output=ask, batch_size=batch_size)
    if suffix == ".skops":
        return Estimator.of(load_skops(path), ask)
    check_saved(path)
    raise DataError(
        "a model file of a kind that can be loaded by itself (.onnx, .skops)",
        str(path),
        "For PyTorch weights build the module first: targets.module.load_weights(path, module).",
    )
