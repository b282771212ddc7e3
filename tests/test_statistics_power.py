"""The growth curve is found again where it is known, and advice follows from it."""

from __future__ import annotations

import numpy as np
import pytest

from memberscope.statistics.power import Growth, clusters_needed


@pytest.mark.parametrize(("exponent", "enough"), [(1.0, 32), (0.75, 128)])
def test_a_known_curve_is_found_again(exponent: float, enough: int) -> None:
    references = [2, 4, 8, 16]
    found = Growth.fit(references, [0.4 - 0.5 / r**exponent for r in references], [0.01] * 4, 0.01)
    assert found.ceiling == pytest.approx(0.4)
    assert found.loss == pytest.approx(0.5)
    assert found.exponent == exponent
    # (0.39 - 0.5/R^e)/0.39 reaches .95 at R = 25.6 and 75.6.
    assert found.enough() == enough
    assert found.share(enough) >= 0.95 > found.share(enough // 2)


def test_few_points_take_the_slower_law() -> None:
    """Three points of a fast law: what is recommended is rather too much than too little."""
    found = Growth.fit([2, 4, 8], [0.4 - 0.5 / r for r in (2, 4, 8)], [0.01] * 3, 0.01)
    assert found.exponent == 0.5
    assert found.ceiling > 0.4


def test_weights_follow_the_errors() -> None:
    """A wild point with a large error moves the fit little."""
    references, values = [2, 4, 8, 16], [0.4 - 0.3 / r for r in (2, 4, 8, 16)]
    values[0] = 0.9
    assert Growth.fit(references, values, [10.0, 0.01, 0.01, 0.01], 0.01).ceiling == pytest.approx(0.4, abs=1e-3)


def test_a_falling_curve_is_constant_and_needs_no_more_references() -> None:
    found = Growth.fit([2, 4, 8], [0.03, 0.025, 0.02], [0.01] * 3, 0.01)
    assert found.loss == 0
    assert found.enough() == 2


def test_nothing_to_find_needs_no_references() -> None:
    assert Growth(0.01, 0.0, 0.01).enough() == 2
    assert Growth(0.009, 0.1, 0.01).share(4) == 1.0


@pytest.mark.parametrize(("value", "limit"), [(0.02, 0.03), (0.03, 0.02)])
def test_targets_needed_put_the_limit_at_the_bound(value: float, limit: float) -> None:
    """With intervals that shrink with the root of the targets, so many are just enough."""
    width = 0.02
    needed = clusters_needed(value, value - width, value + width, 4, limit)
    assert needed is not None
    assert width * np.sqrt(4 / needed) <= 0.01 + 1e-9 < width * np.sqrt(4 / (needed - 1))


def test_a_figure_at_the_limit_is_never_decided() -> None:
    assert clusters_needed(0.02, 0.01, 0.03, 5, 0.02) is None
