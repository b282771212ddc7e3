"""What a training leaves beside the weights: the loss of its records in every epoch, answers at chosen epochs."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import PoolError


@dataclass(frozen=True, eq=False)
class Traces:
    """How one model came to know its records.

    Args:
        loss: ``(E, n)`` cross-entropy of each member (in the order of their places in the data set) in each
            epoch, as it was trained on, dropout included; None if it was not kept. NaN where a record was not
            drawn in an epoch.
        reason: why there is no loss, or an empty string.
        epochs: ``(C,)`` after how many epochs every record was asked about, rising.
        phi: ``(C, N)`` float32 scaled logits then.
        correct: ``(C, N)`` bool, whether the predicted class was the label.
    """

    loss: NDArray[np.float32] | None
    reason: str
    epochs: NDArray[np.int64]
    phi: NDArray[np.float32]
    correct: NDArray[np.bool_]

    def encode(self) -> bytes:
        """The bytes of an .npz; the same traces give the same bytes."""
        arrays: dict[str, NDArray[Any]] = {
            "epochs": self.epochs,
            "phi": self.phi,
            "correct": np.packbits(self.correct, axis=1),
        }
        arrays["shape"] = np.array(self.correct.shape, np.int64)
        if self.loss is None:
            arrays["reason"] = np.array(self.reason)
        else:
            # Half precision: a trace is read for its spread, and takes N x epochs numbers a model.
            arrays["loss"] = np.minimum(self.loss, np.finfo(np.float16).max).astype(np.float16)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def read(cls, path: Path) -> Traces:
        """Traces that a training wrote to ``path``.

        Raises:
            PoolError: missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            count, records = (int(length) for length in arrays["shape"])
            return cls(
                arrays["loss"].astype(np.float32) if "loss" in arrays else None,
                str(arrays.get("reason", "")),
                arrays["epochs"],
                arrays["phi"],
                np.unpackbits(arrays["correct"], axis=1, count=records).astype(np.bool_)[:count],
            )
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise PoolError(
                f"the trace of a training in {path}",
                str(error) or type(error).__name__,
                "Delete the model beside it and run the training again: only that model is trained anew.",
            ) from error
