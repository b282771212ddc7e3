"""What the scores in a file are: logits, probabilities, or the highest of them; checked record by record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import ConfigError, SignalsError
from memberscope.large import pieces, release, working_array
from memberscope.types.signals import SUM_TOLERANCE

Floats = NDArray[np.float64]
Kind = Literal["auto", "logits", "probabilities", "labels"]
KINDS = ("auto", "logits", "probabilities", "labels")

# Of a file in which most records are distributions, the others are mistakes and not logits.
_MOST = 0.9


def check_kind(kind: str) -> None:
    """Raise a ConfigError unless ``kind`` is one of :data:`KINDS`."""
    if kind not in KINDS:
        raise ConfigError(f"kind among {', '.join(KINDS)}", repr(kind), "Leave it out to have it found.")


def decimals(values: NDArray[np.floating]) -> int | None:
    """Decimals to which all of a sample were rounded, at most 8, or None."""
    sample = np.asarray(values[:4096], np.float64)
    sample = sample[~np.isnan(sample)]
    return next((d for d in range(9) if (np.abs(sample - np.round(sample, d)) < 1e-12).all()), None)


def kind_of(values: NDArray[np.floating], ids: NDArray[np.str_], what: str) -> Literal["logits", "probabilities"]:
    """Whether scores are logits or probabilities.

    Args:
        values: ``(N, K)``, NaN where a class was not given.
        ids: ``(N,)``.
        what: what errors call them.

    Raises:
        SignalsError: neither: percentages, or numbers in [0, 1] that are no distributions; a record is named.
    """
    if values.shape[1] == 1:
        inside = all(bool(((part >= 0) & (part <= 1)).all()) for _, part in _parts(values))
        return "probabilities" if inside else "logits"
    tolerance = _tolerance(values)
    good, within, hundred, bad = 0, True, 0, -1
    for start, part in _parts(values):
        total = np.nansum(part, axis=1)
        partial = np.isnan(part).any(axis=1)
        low, high = np.nanmin(part, axis=1), np.nanmax(part, axis=1)
        fits = (
            (low >= 0) & (high <= 1 + SUM_TOLERANCE) & (total <= 1 + tolerance) & (partial | (total >= 1 - tolerance))
        )
        good += int(fits.sum())
        hundred += int(((low >= 0) & (np.abs(total - 100) < 1)).sum())
        within &= bool((low.min() >= 0) & (high.max() <= 1 + SUM_TOLERANCE))
        if bad < 0 and not fits.all():
            bad = start + int(np.argmin(fits))
    if good == len(values):
        return "probabilities"
    row = np.asarray(values[bad], np.float64)
    low, high, total = np.nanmin(row), np.nanmax(row), np.nansum(row)
    said = f"record {str(ids[bad])!r} with scores from {low:.4g} to {high:.4g}, sum {total:.4g}"
    if hundred > _MOST * len(values):
        raise SignalsError(f"probabilities that sum to 1 in {what}", f"{said}: per cent", "Divide them by 100.")
    if good >= _MOST * len(values):
        raise SignalsError(f"probabilities that sum to 1 in {what}", said, "Mend or drop such records.")
    if within:
        raise SignalsError(
            f"logits, or probabilities that sum to 1, in {what}",
            f"{said}; {len(values) - good:,} of {len(values):,} records are no distributions",
            "Drop columns that are no scores (ignore=), add missing classes, or give kind='logits' if they are logits.",
        )
    return "logits"


def check_probabilities(values: NDArray[np.floating], ids: NDArray[np.str_], what: str) -> None:
    """Raise a SignalsError unless every record's scores are a distribution, or a part of one."""
    if kind_of(values, ids, what) != "probabilities":
        raise SignalsError(
            f"probabilities in {what}", "numbers outside [0, 1]", "Give kind='logits' if they are logits."
        )


def most_given(values: NDArray[np.floating]) -> int | None:
    """The largest number of scores that a record has where some lack classes; None if all are there."""
    most, some = 0, False
    for _, part in _parts(values):
        there = (~np.isnan(part)).sum(axis=1)
        some |= bool((there < values.shape[1]).any())
        most = max(most, int(there.max()))
    return most if some else None


def filled(values: NDArray[np.floating], folder: Path | None) -> Floats:
    """Distributions from their highest probabilities: the rest is spread evenly over the classes not given.

    No class that was not given gets more than the lowest that was.
    """
    result = working_array(values.shape, np.float64, folder)
    for start, part in _parts(values):
        missing = np.isnan(part)
        rest = np.maximum(1 - np.nansum(part, axis=1), 0)
        share = np.minimum(rest / np.maximum(missing.sum(axis=1), 1), np.nanmin(part, axis=1))
        result[start : start + len(part)] = np.where(missing, share[:, None], part)
    return result


def _tolerance(values: NDArray[np.floating]) -> float:
    digits = decimals(values)
    return SUM_TOLERANCE + (0.0 if digits is None else 0.5 * 10.0**-digits * values.shape[1])


def _parts(values: NDArray[np.floating]) -> Iterator[tuple[int, Floats]]:
    for where in pieces(len(values), max(1, (1 << 21) // values.shape[1])):
        yield where.start, np.asarray(values[where], np.float64)
        release(values[where])
