"""What an attacker sees of the model."""

from __future__ import annotations

from enum import IntEnum


class Access(IntEnum):
    """Access to a model, from the least to the most; a higher level includes every lower one.

    >>> Access.SCORES > Access.LABEL, Access.LOGITS.label
    (True, 'logits')
    """

    LABEL = 0
    TOP_K = 1
    ROUNDED = 2
    SCORES = 3
    LOGITS = 4
    GRADIENTS = 5

    @property
    def label(self) -> str:
        """The name used in findings and reports."""
        return self.name.lower()
