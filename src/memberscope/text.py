"""Numbers in sentences."""

from __future__ import annotations

# A number and its sign never fall apart at a line's end.
SPACE = "\u00a0"


def percent(rate: float) -> str:
    """A rate in per cent with the digits that its size deserves, and no more.

    >>> [percent(rate).replace(SPACE, " ") for rate in (0.1234, 0.00123, 0.01, 0)]
    ['12.3 %', '0.12 %', '1 %', '0 %']
    """
    value = 100 * rate
    digits = 2 if abs(value) < 1 else 1
    text = f"{value:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if float(text) == round(value, 6) else text) + SPACE + "%"
