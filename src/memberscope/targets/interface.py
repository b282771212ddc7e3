"""What a target is: something that can be asked about records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import SignalsError

AnswerKind = Literal["logits", "probabilities", "scores", "labels"]


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model said about N records.

    Args:
        kind: ``"scores"`` where the model does not say whether they are logits or probabilities.
        values: ``(N, K)`` floats, K = 1 for the score of the second of two classes; or ``(N,)`` predicted classes as
            the model names them.
    """

    kind: AnswerKind
    values: NDArray[Any]


@runtime_checkable
class Target(Protocol):
    """A model that can be asked."""

    @property
    def name(self) -> str:
        """What the report calls the model."""

    @property
    def asked(self) -> str:
        """How it is asked, for example ``"predict_proba"``."""

    @property
    def classes(self) -> tuple[Any, ...] | None:
        """Its classes in the order of its scores, None where it does not say."""

    def __call__(self, inputs: Any) -> Answers:
        """Its answers about records.

        Raises:
            MemberscopeError: records that it does not take, or answers that are none.
        """


def checked(values: NDArray[Any], records: int, name: str) -> Answers:
    """A model's answers, whatever they are, with their kind as far as their form tells it.

    Raises:
        SignalsError: another number of answers than records, another form, NaN or infinity.
    """
    if values.ndim not in (1, 2) or len(values) != records:
        raise SignalsError(
            f"an answer a record from {name}: scores of shape ({records}, classes), or ({records},) predicted classes",
            f"shape {values.shape}, type {values.dtype}",
            "Return one row of scores, or one class, for every record in the order given.",
        )
    if values.ndim == 1 and values.dtype.kind in "biuUSO":
        return Answers("labels", values)
    if values.ndim == 2 and values.dtype.kind in "iu" and values.shape[1] == 1:
        return Answers("labels", values[:, 0])
    if values.dtype.kind != "f":
        raise SignalsError(
            f"floating-point scores from {name}",
            f"type {values.dtype}, shape {values.shape}",
            "Return scores as floats.",
        )
    scores = values.reshape(records, -1)
    if scores.dtype.itemsize < 4:
        scores = scores.astype(np.float32)
    if not np.isfinite(scores).all():
        bad = int(np.argmax(~np.isfinite(scores).all(axis=1)))
        raise SignalsError(
            f"finite scores from {name}",
            f"NaN or infinity for record number {bad}",
            "A diverged model cannot be audited; log-probabilities of 0 are to be given as probabilities.",
        )
    whole = scores.shape[1] == 1 and records > 2 and bool((scores == np.floor(scores)).all()) and scores.max() > 1
    if whole:
        raise SignalsError(
            f"scores, or predicted classes as integers, from {name}",
            "whole numbers written as floats",
            "Return predicted classes as integers, or scores.",
        )
    return Answers("scores", scores)
