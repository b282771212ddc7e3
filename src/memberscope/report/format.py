"""Numbers and names as the report prints them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from memberscope.attacks import ATTACKS
from memberscope.types import Figure

# Narrow and unbreakable: "12.3 %" and "157 859" never fall apart at a line's end.
THIN = "\u202f"
DASH = "\u2013"
MINUS = "\u2212"

TITLES = {kind.name: kind.title for kind in ATTACKS}
SOURCES = {kind.name: kind.source for kind in ATTACKS}
# Attacks that make no use of reference models, however many there are.
UNAIDED = {kind.name for kind in ATTACKS if kind.minimum == 0}
ACCESS = {
    "label": "predicted label",
    "top_k": "top scores",
    "rounded": "rounded scores",
    "scores": "scores",
    "logits": "logits",
    "gradients": "gradients",
}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def attack_title(name: str) -> str:
    """The attack's title, or its name in words when it is not one of ours.

    >>> attack_title("gap"), attack_title("white_box")
    ('Gap (accuracy alone)', 'White box')
    """
    return TITLES.get(name) or words(name)


def short_title(name: str) -> str:
    """The attack's title without what stands in brackets, for labels inside a figure.

    >>> short_title("bavaria")
    'BaVarIA'
    """
    return attack_title(name).split(" (")[0]


def words(key: str) -> str:
    """A key as a label: ``"train_accuracy"`` becomes ``"Train accuracy"``."""
    text = key.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def access_label(key: str) -> str:
    """An access level in plain words; anything else unchanged."""
    return ACCESS.get(key, key.replace("_", " "))


def percent_number(value: float) -> str:
    """A share in [0, 1] as a percentage without its sign, with as many digits as mean something.

    >>> [percent_number(p) for p in (0, 0.00004, 0.0012, 0.014, 0.123, 0.9997, 1)]
    ['0', '0.0040', '0.12', '1.4', '12.3', '99.97', '100']
    """
    x = 100 * value
    size = abs(x)
    if size == 0 or size == 100:
        return f"{x:.0f}"
    if size > 99.9:
        text = f"{x:.2f}"
        return "> 99.99" if text == "100.00" else text
    decimals = 1 if size >= 1 else min(4, 1 - math.floor(math.log10(size)))
    return f"{x:.{decimals}f}".replace("-", MINUS)


def percent(value: float) -> str:
    """A share in [0, 1] as a percentage.

    >>> percent(0.123).replace(THIN, " ")
    '12.3 %'
    """
    return f"{percent_number(value)}{THIN}%"


def percentile(value: float) -> str:
    """A share that is surpassed, rounded down: "higher than 99.9 %" is never too much.

    >>> percentile(0.99998).replace(THIN, " "), percentile(0.5).replace(THIN, " ")
    ('99.9 %', '50.0 %')
    """
    return f"{math.floor(round(1000 * value, 6)) / 10:.1f}{THIN}%"


def rate(value: float) -> str:
    """A chosen share, such as a limit or a mark on an axis, without digits that nobody chose.

    >>> [rate(p).replace(THIN, " ") for p in (0.05, 0.001, 1)]
    ['5 %', '0.1 %', '100 %']
    """
    return f"{100 * value:.4g}{THIN}%"


def percent_range(low: float, high: float) -> str:
    """An interval of shares; it may break after the dash only.

    >>> percent_range(0.111, 0.136).replace(THIN, " ").replace("\\xa0", " ")
    '11.1 – 13.6 %'
    """
    return f"{percent_number(low)}\u00a0{DASH} {percent(high)}"


def decimal(value: float) -> str:
    """A figure between 0 and 1 such as an AUC, three decimals, no leading zero.

    >>> decimal(0.789), decimal(1.0), decimal(-0.02)
    ('.789', '1.000', '−.020')
    """
    text = f"{abs(value):.3f}"
    return (MINUS if value < 0 and float(text) else "") + (text[1:] if text.startswith("0") else text)


def decimal_range(low: float, high: float) -> str:
    """An interval of such figures: ``".780 – .798"``."""
    return f"{decimal(low)}\u00a0{DASH} {decimal(high)}"


def one_in(share: float) -> str:
    """A share as a phrase that needs no percentages.

    >>> [one_in(p).replace(THIN, " ") for p in (0, 0.123, 0.00043, 0.6667, 0.97)]
    ['none', '1 in 8', '1 in 2300', '2 in 3', 'nearly all']
    """
    if share <= 0:
        return "none"
    if share >= 0.95:
        return "all" if share >= 1 else "nearly all"
    if share > 0.35:
        ratio = Fraction(share).limit_denominator(10 if share > 0.7 else 4)
        return f"{ratio.numerator} in {ratio.denominator}"
    many = 1 / share
    if many >= 100:
        digits = 10 ** (math.floor(math.log10(many)) - 1)
        many = round(many / digits) * digits
    return f"1 in {grouped(round(many))}"


def grouped(value: int) -> str:
    """A whole number with narrow spaces between thousands.

    >>> grouped(157859).replace(THIN, " "), grouped(9999)
    ('157 859', '9999')
    """
    return f"{value:,}".replace(",", THIN) if abs(value) >= 10_000 else str(value)


def number(value: float) -> str:
    """Any number, three significant digits unless it is whole.

    >>> number(3.14159), number(12), number(-0.5)
    ('3.14', '12', '−0.5')
    """
    if float(value).is_integer() and abs(value) < 1e15:
        return grouped(int(value)).replace("-", MINUS)
    text = f"{value:.3g}" if abs(value) < 1000 else grouped(round(value))
    return _scientific(text) if "e" in text else text.replace("-", MINUS)


def p_value(value: float) -> str:
    """A p-value, two significant digits.

    >>> p_value(0.034), p_value(4.13e-7), p_value(0)
    ('.034', '4.1 × 10⁻⁷', '< 10⁻³⁰⁰')
    """
    if value <= 1e-300:
        return "< 10⁻³⁰⁰"
    if value >= 0.9995:
        return "1"
    if value < 0.001:
        return _scientific(f"{value:.1e}")
    return f"{value:.{max(2, 1 - math.floor(math.log10(value)))}f}"[1:]


def _scientific(text: str) -> str:
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa.replace('-', MINUS)} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def as_figure(value: Any) -> Figure | None:
    """A figure out of a free-form dictionary: a Figure, its JSON form, or a bare number; else None."""
    if isinstance(value, Figure):
        return value
    if isinstance(value, Mapping) and "value" in value:
        return Figure.model_validate(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Figure(value=float(value), low=float(value), high=float(value))
    return None


def text(value: Any) -> str:
    """A free-form value of the findings (run, cost, recipe) as text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = ", ".join(text(part) for part in value[:12])
        return f"{shown} … ({grouped(len(value))} in all)" if len(value) > 12 else shown or "none"
    return str(value)
