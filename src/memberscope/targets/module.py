"""A torch.nn.Module; from disk as weights alone, into a module that you give."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memberscope.errors import ConfigError, DataError, MissingExtraError, SignalsError
from memberscope.targets.inputs import batches, count
from memberscope.targets.interface import Answers, checked


@dataclass(frozen=True, eq=False)
class Module:
    """A network that maps a batch of float32 records to scores ``(n, K)``, asked in evaluation mode.

    Args:
        module: on any device.
        batch_size: records at once.
        device: where it is asked; it is put back afterwards.
    """

    module: Any
    batch_size: int = 256
    device: str = "cpu"
    asked: str = "forward"
    classes: tuple[Any, ...] | None = None

    @property
    def name(self) -> str:
        """See :class:`~memberscope.targets.interface.Target`."""
        return type(self.module).__name__

    def __call__(self, inputs: Any) -> Answers:
        """See :class:`~memberscope.targets.interface.Target`."""
        import torch

        parts = []
        with _evaluating(self.module, self.device), torch.no_grad():
            for batch in batches(inputs, self.batch_size):
                array = np.asarray(batch.to_numpy() if hasattr(batch, "to_numpy") else batch)
                tensor = torch.as_tensor(np.ascontiguousarray(array), device=self.device)
                try:
                    answer = self.module(tensor if tensor.dtype == torch.int64 else tensor.float())
                except (RuntimeError, ValueError, TypeError, IndexError) as error:
                    raise DataError(
                        f"records that {self.name} takes",
                        f"shape {tuple(array.shape[1:])}: {str(error).splitlines()[0]}",
                        "Prepare the records as for training: same axes, same scale.",
                    ) from error
                if not isinstance(answer, torch.Tensor):
                    raise SignalsError(
                        f"a tensor of scores from {self.name}",
                        type(answer).__name__,
                        "Wrap the module in one that returns the scores alone.",
                    )
                parts.append(checked(answer.float().cpu().numpy(), len(array), self.name).values)
        return checked(np.concatenate(parts), count(inputs), self.name)


@contextmanager
def _evaluating(module: Any, device: str) -> Iterator[None]:
    """In evaluation mode on ``device``, and as it was before afterwards, submodule by submodule."""
    modes = [(part, part.training) for part in module.modules()]
    home = next((parameter.device for parameter in module.parameters()), None)
    module.eval()
    module.to(device)
    try:
        yield
    finally:
        if home is not None:
            module.to(home)
        for part, mode in modes:
            part.training = mode


def load_weights(path: Path, module: Any) -> Any:
    """``module`` with the weights in ``path``; nothing but tensors is ever loaded.

    Args:
        path: ``.safetensors``, or a file of ``torch.save(module.state_dict())``.
        module: of the very architecture.

    Raises:
        MissingExtraError: PyTorch is not installed.
        DataError: no such file, objects other than tensors, or weights of another architecture.
    """
    if not path.is_file():
        raise DataError(f"a file of weights {path}", "no such file", "Check the path.")
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError.of("torch", "torch", f"loading {path.name}") from error
    if not isinstance(module, torch.nn.Module):
        raise ConfigError("a torch.nn.Module to load weights into", type(module).__name__, "Build the architecture.")
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(weights, dict) or not all(isinstance(each, torch.Tensor) for each in weights.values()):
            raise DataError(
                f"weights alone in {path}",
                type(weights).__name__,
                "Save model.state_dict(), or use safetensors.",
            )
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"weights alone in {path}",
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            "Save model.state_dict(), best as safetensors: whole models are pickles and are never loaded.",
        ) from error
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(
            f"weights of {type(module).__name__} in {path}",
            " ".join(str(error).split())[:200],
            "Build the module exactly as it was trained.",
        ) from error
    return module
