"""Real records, small: scikit-learn's digits."""

from __future__ import annotations

import numpy as np
import pytest
from ray_nodes import use_own_token

from memberscope.data.embedded import digits
from memberscope.types import Dataset

# Here, because it has to be before any test imports Ray.
use_own_token()


@pytest.fixture(scope="session")
def table() -> Dataset:
    """240 digits as a table of ink from 0 to 16, uint8."""
    return digits().take(np.arange(240))


@pytest.fixture(scope="session")
def images() -> Dataset:
    """The same digits as 1×8×8 images."""
    return digits(as_images=True).take(np.arange(240))


@pytest.fixture(scope="session")
def members() -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Six models in complementary pairs."""
    half = np.array([np.random.default_rng(pair).permutation(240) < 120 for pair in range(3)])
    return np.stack([half, ~half], axis=1).reshape(6, 240)
