"""What a model sees of a record: numbers normalised with constants of the whole data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 4096


@dataclass(frozen=True)
class Normalisation:
    """``(x - mean) / std`` a channel (images) or a feature (tables); empty for 0/1 tables, left as they are.

    The constants come from every record, members or not, so they say nothing about membership.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def fit(cls, inputs: NDArray[Any]) -> Normalisation:
        """Constants of ``inputs`` ``(N, F)`` or ``(N, C, H, W)``, summed in float64 in fixed pieces.

        A constant feature keeps the scale 1.
        """
        axes = (0, 2, 3) if inputs.ndim == 4 else (0,)
        if inputs.ndim == 2 and all(((part == 0) | (part == 1)).all() for part in _pieces(inputs)):
            return cls()
        count = inputs.size // inputs.shape[1]
        mean = np.sum([part.sum(axes, dtype=np.float64) for part in _pieces(inputs)], axis=0) / count
        centre = mean[:, None, None] if inputs.ndim == 4 else mean
        variance = np.sum([np.square(part - centre).sum(axes) for part in _pieces(inputs)], axis=0) / count
        std = np.sqrt(variance)
        return cls(tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist()))

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Normalisation:
        """The constants as a manifest holds them."""
        return cls(tuple(values["mean"]), tuple(values["std"]))

    def as_json(self) -> dict[str, list[float]]:
        """The constants as a manifest holds them."""
        return {"mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True, eq=False)
class Encoder:
    """Records → float32 batches. Bytes stay bytes until they are a batch: a quarter of the memory.

    Other types are normalised in float64 once, so that large offsets (a year, a timestamp) keep their digits.
    """

    mean: Tensor
    scale: Tensor
    neutral: bool
    channels_last: bool

    @classmethod
    def of(
        cls, normalisation: Normalisation, images: bool, channels_last: bool | Literal["auto"], device: str
    ) -> Encoder:
        """The encoder for batches on ``device``; ``auto`` that nobody decided means the ordinary memory format."""
        shape = (-1, 1, 1) if images else (-1,)
        mean, std = (
            torch.tensor(values or neutral, dtype=torch.float64, device=device).reshape(shape)
            for values, neutral in ((normalisation.mean, (0.0,)), (normalisation.std, (1.0,)))
        )
        return cls(mean, 1 / std, not normalisation.mean, images and channels_last is True)

    def load(self, inputs: NDArray[Any]) -> Tensor:
        """``inputs`` (owned, writable) on the device, as bytes or as normalised float32."""
        if inputs.dtype == np.bool_:
            inputs = inputs.view(np.uint8)
        if inputs.dtype.itemsize == 1:
            loaded = torch.from_numpy(inputs).to(self.mean.device)
        else:
            loaded = torch.empty(inputs.shape, dtype=torch.float32, device=self.mean.device)
            for start in range(0, len(inputs), CHUNK):
                part = torch.from_numpy(inputs[start : start + CHUNK].astype(np.float64)).to(self.mean.device)
                loaded[start : start + CHUNK] = ((part - self.mean) * self.scale).float()
        return loaded.contiguous(memory_format=torch.channels_last) if self.channels_last else loaded

    def __call__(self, batch: Tensor) -> Tensor:
        """A batch of loaded records as the model takes it, float32."""
        if batch.is_floating_point():
            return batch
        if self.neutral:
            return batch.float()
        return (batch.float() - self.mean.float()) * self.scale.float()

    def stream(self, inputs: NDArray[Any], size: int) -> Iterator[tuple[slice, Tensor]]:
        """Every record in order, ``size`` at a time, with its place; a memory map is never held whole."""
        for start in range(0, len(inputs), size):
            place = slice(start, min(start + size, len(inputs)))
            yield place, self(self.load(np.array(inputs[place])))


def _pieces(inputs: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(inputs), CHUNK):
        yield inputs[start : start + CHUNK]
