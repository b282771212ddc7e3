"""Looking repeatedly costs no more errors than looking once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from memberscope.errors import ConfigError
from memberscope.statistics.looks import gain_bound, levels, sizes


@pytest.mark.parametrize("looks", [1, 2, 3, 4, 7])
def test_errors_of_all_looks_add_up_to_the_error_of_one(looks: int) -> None:
    assert sum(1 - level for level in levels(looks)) == pytest.approx(0.05)
    assert len(levels(looks)) == looks
    assert levels(looks)[-1] == min(levels(looks))


def test_no_look_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 look"):
        levels(0)


def test_a_true_figure_at_the_limit_is_judged_wrongly_no_more_often_than_with_one_look() -> None:
    """The mean of growing samples, looked at four times: uncorrected 13 % of runs go wrong, corrected at most 5 %."""
    rng = np.random.default_rng(0)
    ends = np.array([8, 16, 32, 64])
    draws = rng.standard_normal((20_000, 64))
    z = np.abs(np.stack([draws[:, :end].sum(axis=1) for end in ends])) / np.sqrt(ends)[:, None]
    corrected = norm.ppf(1 - (1 - np.array(levels(4))) / 2)
    assert (z > norm.ppf(0.975)).any(axis=0).mean() > 0.10
    assert 0.02 < (z > corrected[:, None]).any(axis=0).mean() <= 0.05


@pytest.mark.parametrize("models", [2, 9, 10, 14, 15, 16, 27, 28, 66, 200, 1000])
def test_looks_grow_and_end_with_all_models(models: int) -> None:
    found = sizes(models)
    assert found[-1] == models
    assert list(found) == sorted(set(found))
    assert all(size % 2 == 0 and size <= 2 * models / 3 for size in found[:-1])


def test_gain_bound_covers_the_gain_that_comes() -> None:
    """An attack that loses c/R: the gain to 64 references is bounded from the step of 4 to 8 in 95 % of pools."""
    rng = np.random.default_rng(1)
    loss, noise, bounds = 0.5, 0.03, []
    for _ in range(2_000):
        fewer = 0.3 - loss / 4 + noise * rng.standard_normal(10)
        more = 0.3 - loss / 8 + noise * rng.standard_normal(10)
        bounds.append(gain_bound(fewer, more, 3.0, 0.95))
    assert np.mean(np.array(bounds) >= loss / 8 - loss / 64) >= 0.95
    # For a constant gain a doubling the bound is tight: it fails as often as its level says.
    tight = [gain_bound(np.zeros(10), 0.02 + noise * rng.standard_normal(10), 1.0, 0.95) for _ in range(4_000)]
    assert np.mean(np.array(tight) >= 0.02) == pytest.approx(0.95, abs=0.012)


def test_one_target_bounds_no_gain() -> None:
    assert gain_bound([0.1], [0.2], 1.0, 0.95) == float("inf")
