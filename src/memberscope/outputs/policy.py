"""What an output policy is: a frozen function from a model's logits to what a client sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import SignalsError
from memberscope.files import sha256_json

# Far beyond any logit that a sound model gives, and far from the end of float32.
LARGEST = 1e30


class OutputPolicy(ABC):
    """Base of every policy; a subclass is a frozen dataclass, so that what was audited is what is served.

    Class attributes: ``name``; ``title``; ``source``, the paper; ``leaves``, what remains for an attacker who knows
    the policy.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    leaves: ClassVar[str]

    @abstractmethod
    def __call__(self, logits: NDArray[Any]) -> NDArray[np.float32]:
        """What a client sees instead of ``logits`` ``(N, K)``: float32 ``(N, K)``, to be read as logits.

        A row depends on its own logits alone: neither on the other rows nor on who asks.

        Raises:
            SignalsError: another number of classes, or logits that are not finite.
        """

    @abstractmethod
    def as_json(self) -> dict[str, Any]:
        """The policy as plain JSON values; the key ``policy`` names it."""

    @classmethod
    @abstractmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """The policy that :meth:`as_json` described.

        Raises:
            ConfigError: values that it cannot have.
        """

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the answers."""
        return sha256_json(self.as_json())


def checked_logits(logits: NDArray[Any], classes: int) -> NDArray[Any]:
    """``logits`` as an array ``(N, classes)`` of finite numbers.

    Raises:
        SignalsError: another shape, NaN, infinity, or numbers beyond ±1e30.
    """
    array = np.asarray(logits)
    if array.ndim != 2 or array.shape[1] != classes:
        raise SignalsError(
            f"logits of shape (N, {classes}), one column a class of the policy",
            f"shape {array.shape}",
            "Use the policy that was fitted to this model.",
        )
    # NaN compares as false, so that it is caught as well.
    if not (np.abs(array) <= LARGEST).all():
        raise SignalsError(
            f"finite logits between -{LARGEST:g} and {LARGEST:g}",
            "NaN, infinity or larger numbers",
            "A diverged model cannot be served: train it again with a lower learning rate.",
        )
    return array
