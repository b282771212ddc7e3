"""A function of yours that answers for a batch of records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from memberscope.errors import MemberscopeError, SignalsError
from memberscope.targets.inputs import batches, count, plain
from memberscope.targets.interface import Answers, checked


@dataclass(frozen=True, eq=False)
class Function:
    """``function(batch)`` gives scores ``(n, K)`` or predicted classes ``(n,)``.

    Args:
        function: of yours.
        batch_size: records a call.
        classes: in the order of the scores, None for 0 … K − 1.
    """

    function: Callable[[Any], Any]
    batch_size: int = 1024
    classes: tuple[Any, ...] | None = None
    asked: str = "call"

    @property
    def name(self) -> str:
        """See :class:`~memberscope.targets.interface.Target`."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, inputs: Any) -> Answers:
        """See :class:`~memberscope.targets.interface.Target`."""
        parts = []
        for batch in batches(inputs, self.batch_size):
            try:
                answer = self.function(batch)
            except MemberscopeError:
                raise
            except Exception as error:
                raise SignalsError(
                    f"{self.name} to answer for {count(batch)} records of shape {tuple(batch.shape[1:])}",
                    f"{type(error).__name__}: {error}",
                    "Make it take a batch of records as you gave them.",
                ) from error
            if isinstance(answer, dict | tuple) or answer is None:
                raise SignalsError(
                    f"an array of answers from {self.name}", type(answer).__name__, "Return the scores alone."
                )
            parts.append(checked(plain(answer), count(batch), self.name).values)
        if len({part.shape[1:] for part in parts}) > 1:
            raise SignalsError(
                f"the same number of scores in every batch from {self.name}",
                " and ".join(str(part.shape[1:]) for part in parts[:2]),
                "Return a score for every class, whatever the batch.",
            )
        return checked(np.concatenate(parts), count(inputs), self.name)
