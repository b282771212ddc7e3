"""Which rows and which attacks: checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

from memberscope.attacks import ATTACKS, Attack, attack
from memberscope.errors import ConfigError, SignalsError
from memberscope.types import Signals


def checked_targets(signals: Signals, targets: Sequence[int] | None) -> tuple[int, ...]:
    """The rows to audit, all when None.

    Raises:
        SignalsError: a row does not exist, is named twice, or none is named.
    """
    if targets is None:
        return tuple(range(len(signals)))
    rows = tuple(int(row) for row in targets)
    wrong = [row for row in rows if not 0 <= row < len(signals)]
    if wrong or not rows or len(set(rows)) < len(rows):
        raise SignalsError(
            f"different target rows from 0 to {len(signals) - 1}",
            "none" if not rows else f"{wrong[0]}" if wrong else f"{rows}",
            "Name existing rows, each once.",
        )
    return rows


def chosen_attacks(names: Sequence[str | Attack] | None) -> tuple[Attack, ...]:
    """The attacks to run, every one when None.

    Raises:
        ConfigError: an unknown name, a repeated one, or none.
    """
    if names is None:
        return tuple(kind() for kind in ATTACKS)
    found = tuple(item if isinstance(item, Attack) else attack(item) for item in names)
    if not found or len({item.name for item in found}) < len(found):
        raise ConfigError(
            "different attacks, at least one",
            ", ".join(item.name for item in found) or "none",
            "Leave 'attacks' out to run every one.",
        )
    return found
