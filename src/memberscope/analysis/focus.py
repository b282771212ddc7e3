"""How wide and how central the maps of vulnerable records are, in numbers, against controls of the same class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memberscope.analysis.means import mean_of_shares, paired
from memberscope.statistics.intervals import Estimate, benjamini_hochberg
from memberscope.text import SPACE, percent
from memberscope.types.analyses import Focus

Floats = NDArray[np.float64]
Name = Literal["centre_mass", "border_mass", "entropy", "top_mass"]

TITLES: dict[Name, str] = {
    "centre_mass": "Share of the map in the middle quarter of the image",
    "border_mass": "Share of the map in the outer eighth on each side",
    "entropy": "Spread of the map (entropy): 0 one place, 1 everywhere alike",
    "top_mass": "Share of the attribution on the 10 strongest features",
}
TOP = 10
LEAST_PAIRS = 4
ALPHA = 0.05

_LESS_MORE: dict[Name, tuple[str, str]] = {
    "centre_mass": ("looks less at the centre", "looks more at the centre"),
    "border_mass": ("looks less at the border", "looks more at the border"),
    "entropy": ("looks at a narrower area", "looks at a wider area"),
    "top_mass": ("leans less on a few features", "leans more on a few features"),
}
_TABLE_ENTROPY = (
    "Spread of the attribution (entropy): 0 one feature, 1 all alike",
    ("draws on fewer features", "draws on more features"),
)
_NOUNS: dict[Name, tuple[str, str]] = {
    "centre_mass": ("of the map's mass", " at the centre"),
    "border_mass": ("of the map's mass", " at the border"),
    "top_mass": (f"of the attribution on the {TOP} strongest", ""),
}


def map_focus(maps: NDArray[Any]) -> dict[Name, Floats]:
    """Focus of maps ``(n, H, W)`` of values at least 0; NaN for blank maps and where maps are too coarse.

    - ``centre_mass``: share of the map's mass in the middle square of half the sides, 0 to 1; 0.25 for a map that is
      the same everywhere. Cells that the square's edge cuts count by the part inside. Higher = more central.
    - ``border_mass``: share in the outer ring of an eighth of the sides, 0 to 1; 0.4375 for an even map.
    - ``entropy``: of the map as a distribution over its cells, divided by the logarithm of their number: 0 for one
      cell, 1 for an even map. Higher = wider.

    A map of 1×1 cells has no focus, one of 2×2 cells only an entropy: its cells lie alike to centre and border.
    """
    values = np.asarray(maps, np.float64)
    n, height, width = values.shape
    mass = _distribution(values.reshape(n, -1))

    def share(edge: float) -> Floats:
        inside = np.outer(_inside(height, edge), _inside(width, edge)).ravel()
        return mass @ inside if np.ptp(inside) > 1e-9 else np.full(n, np.nan)

    return {"centre_mass": share(0.25), "border_mass": 1 - share(0.125), "entropy": _entropy(mass)}


def feature_focus(attributions: NDArray[Any]) -> dict[Name, Floats]:
    """Focus of a table's attributions ``(n, F)`` by their size, sign aside; NaN where all are 0.

    - ``top_mass``: share on the 10 strongest features, 0 to 1; not defined (NaN) for 10 features or fewer.
    - ``entropy``: as in :func:`map_focus`, over features.
    """
    mass = _distribution(np.abs(np.asarray(attributions, np.float64)))
    n, features = mass.shape
    top = np.full(n, np.nan)
    if features > TOP:
        top = np.partition(mass, features - TOP, axis=1)[:, -TOP:].sum(axis=1)
    return {"top_mass": top, "entropy": _entropy(mass)}


def compare(vulnerable: Mapping[Name, Floats], controls: Mapping[Name, Floats]) -> list[Focus]:
    """Each focus number of vulnerable records against the controls that they are paired with.

    Figures are means over the pairs in which both are known, with t intervals; the p-value is that of the paired t
    test, adjusted (Benjamini-Hochberg) over the numbers compared.

    Args:
        vulnerable: ``(n,)`` by name, from :func:`map_focus` or :func:`feature_focus`.
        controls: likewise, in the order of the pairs.
    """
    measured: list[tuple[Name, Estimate, Estimate, Estimate, float | None]] = []
    for name, first in vulnerable.items():
        known = ~np.isnan(first) & ~np.isnan(controls[name])
        n = int(known.sum())
        if n < LEAST_PAIRS:
            missing = Estimate.missing(_why_missing(name, first, n))
            measured.append((name, missing, missing, missing, None))
            continue
        a, b = first[known], controls[name][known]
        difference, p = paired(a - b)
        measured.append((name, mean_of_shares(a, "maps"), mean_of_shares(b, "maps"), difference, p))
    adjusted = iter(benjamini_hochberg([p for *_, p in measured if p is not None]).tolist())
    return [
        Focus(
            name=name,
            title=_TABLE_ENTROPY[0] if name == "entropy" and "top_mass" in vulnerable else TITLES[name],
            vulnerable=a.figure(),
            controls=b.figure(),
            difference=difference.figure(),
            p_value=p,
            adjusted_p_value=None if p is None else next(adjusted),
        )
        for name, a, b, difference, p in measured
    ]


def sentence(focus: list[Focus], pairs: int, blank: tuple[float, float]) -> str:
    """What the focus numbers say, in plain words.

    Args:
        focus: from :func:`compare`.
        pairs: pairs that were compared.
        blank: shares of the vulnerable and of the control maps that are 0 everywhere.
    """
    known = [item for item in focus if item.difference.value is not None]
    table = any(item.name == "top_mass" for item in focus)
    if not known:
        text = (
            f"Whether the model looks elsewhere on vulnerable records was not measured: {focus[0].difference.reason}."
        )
    elif found := [item for item in known if (item.adjusted_p_value or 0.0) <= ALPHA]:
        clauses = [_clause(item, table, not position) for position, item in enumerate(found)]
        text = f"On vulnerable records the model {_and(clauses)}."
    else:
        what = "how many features decide" if table else "where the model looks"
        text = f"No difference was found in {what} between vulnerable and protected records of the same class"
        text += f" ({_figures(known[0], False, alone=True)})."
    if known:
        text += f" Compared were {pairs} pairs of a vulnerable and a protected record of the same class."
    if max(blank) > 0:
        what = "Attributions of 0 throughout" if table else "Maps without any evidence for the label"
        text += f" {what}, {percent(blank[0])} of the vulnerable and {percent(blank[1])} of the protected ones,"
        text += " are left out."
    return text


def _clause(item: Focus, table: bool, first: bool) -> str:
    less, more = _TABLE_ENTROPY[1] if table and item.name == "entropy" else _LESS_MORE[item.name]
    verb = more if (item.difference.value or 0.0) > 0 else less
    return f"{verb} ({_figures(item, first)})"


def _figures(item: Focus, first: bool, *, alone: bool = False) -> str:
    """``31 % of the map's mass against 38 % on protected records of the same class; difference −7 points, …``."""
    a, b, d = (figure.value or 0.0 for figure in (item.vulnerable, item.controls, item.difference))
    low, high = item.difference.low or 0.0, item.difference.high or 0.0
    against = " on protected records of the same class" if first else ""
    if item.name == "entropy":
        numbers = [_signed(value, 2) for value in (d, low, high)]
        return f"entropy {a:.2f} against {b:.2f}{against}; difference {numbers[0]}, {numbers[1]} to {numbers[2]}"
    noun, where = _NOUNS[item.name]
    noun += where if alone else ""
    digits = 0 if min(abs(d), abs(low), abs(high)) >= 0.01 else 1
    numbers = [_signed(100 * value, digits) for value in (d, low, high)]
    return (
        f"{_round(a)} {noun} against {_round(b)}{against}; "
        f"difference {numbers[0]}{SPACE}points, {numbers[1]} to {numbers[2]}"
    )


def _round(share: float) -> str:
    return percent(round(share, 2 if share >= 0.1 else 3))


def _signed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.replace("-", "" if float(text) == 0 else "−")


def _and(clauses: list[str]) -> str:
    return clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])} and {clauses[-1]}"


def _why_missing(name: Name, values: Floats, pairs: int) -> str:
    if len(values) < LEAST_PAIRS:
        return f"{len(values)} pairs of a vulnerable and a protected record of the same class, needs {LEAST_PAIRS}"
    if np.isnan(values).all():
        few = f"the table has at most {TOP} features" if name == "top_mass" else "the maps have too few cells"
        return f"{few}, or none has any evidence for the label"
    return f"{pairs} pairs with evidence for the label in both maps, needs {LEAST_PAIRS}"


def _distribution(values: Floats) -> Floats:
    """Rows that sum to 1; NaN for rows of zeros."""
    largest = values.max(axis=1, keepdims=True)
    scaled = np.divide(values, largest, out=np.full(values.shape, np.nan), where=largest > 0)
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))


def _entropy(mass: Floats) -> Floats:
    cells = mass.shape[1]
    if cells < 2:
        return np.full(len(mass), np.nan)
    logarithm = np.log(mass, out=np.zeros(mass.shape), where=mass > 0)
    entropy = np.abs((mass * logarithm).sum(axis=1)) / np.log(cells)
    return np.asarray(np.minimum(entropy, 1.0))


def _inside(cells: int, edge: float) -> Floats:
    """The part of each of ``cells`` equal pieces of [0, 1] that lies in [edge, 1 − edge]."""
    ends = np.clip(np.linspace(0, 1, cells + 1), edge, 1 - edge)
    return np.diff(ends) * cells
