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


def short_power(value: float) -> str:
    """A small number such as a δ, two digits at most.

    >>> short_power(1e-5), short_power(6.3e-7)
    ('1e-5', '6.3e-7')
    """
    return f"{value:.2g}".replace("e-0", "e-")
