"""Data that need no network: scikit-learn's handwritten digits, and the ``purchases`` generator."""

from __future__ import annotations

import numpy as np

from memberscope.data.purchases import Shoppers, purchases
from memberscope.types import Dataset

__all__ = ["Shoppers", "digits", "purchases"]


def digits(*, as_images: bool = False) -> Dataset:
    """The 1,797 handwritten digits that come with scikit-learn (Alpaydin & Kaynak 1998, UCI, CC BY 4.0).

    Args:
        as_images: shape (1797, 1, 8, 8) instead of a table (1797, 64).

    Returns:
        Ink from 0 to 16 as uint8, ten classes, ids ``digits-0001`` … in scikit-learn's order.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = np.asarray(bunch.data, np.uint8)
    n = len(inputs)
    ids = np.array([f"digits-{i:04d}" for i in range(1, n + 1)])
    names = tuple(str(k) for k in range(10))
    labels = np.asarray(bunch.target, np.int64)
    if as_images:
        return Dataset(inputs.reshape(n, 1, 8, 8), labels, ids, names, name="digits")
    pixels = tuple(f"row {i} column {j}" for i in range(1, 9) for j in range(1, 9))
    return Dataset(inputs, labels, ids, names, pixels, name="digits")
