"""Records of any kind that models take: arrays, data frames, sparse matrices, lists of texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import DataError
from memberscope.files import sha256_arrays


def as_inputs(inputs: Any) -> Any:
    """Records as something that :func:`count` and :func:`take` know.

    Raises:
        DataError: a single number, or none.
    """
    if hasattr(inputs, "iloc") or _is_sparse(inputs):
        return inputs
    if hasattr(inputs, "detach"):
        inputs = inputs.detach().cpu().numpy()
    array = np.asarray(inputs)
    if array.ndim == 0:
        raise DataError("records, one a row", f"{type(inputs).__name__}", "Give an array, a data frame or a list.")
    return array


def count(inputs: Any) -> int:
    """Number of records."""
    return int(inputs.shape[0])


def take(inputs: Any, index: Any) -> Any:
    """The records at ``index``, of the same kind."""
    return inputs.iloc[index] if hasattr(inputs, "iloc") else inputs[index]


def joined(first: Any, second: Any) -> Any:
    """Both, one after the other.

    Raises:
        DataError: of different kinds or shapes.
    """
    if first.shape[1:] != second.shape[1:] or hasattr(first, "iloc") != hasattr(second, "iloc"):
        raise DataError(
            f"members and non-members alike, records of shape {tuple(first.shape[1:])}",
            f"{type(second).__name__} of shape {tuple(second.shape)}",
            "Prepare both in the same way.",
        )
    if hasattr(first, "iloc"):
        import pandas

        if list(first.columns) != list(second.columns):
            raise DataError(
                f"the columns {', '.join(map(str, list(first.columns)[:8]))}",
                ", ".join(map(str, list(second.columns)[:8])),
                "Give members and non-members the same columns in the same order.",
            )
        return pandas.concat([first, second], ignore_index=True)
    if _is_sparse(first):
        from scipy import sparse

        return sparse.vstack([first, second], format="csr")
    return np.concatenate([first, second])


def batches(inputs: Any, size: int) -> Iterator[Any]:
    """The records, ``size`` at a time."""
    for start in range(0, count(inputs), size):
        yield take(inputs, slice(start, start + size))


def fingerprint(*parts: Any) -> str:
    """A hash of records' content, whatever they are."""
    if all(isinstance(part, np.ndarray) and not part.dtype.hasobject for part in parts):
        return sha256_arrays(*parts)
    from joblib import hash as content_hash

    return str(content_hash(parts, hash_name="sha1"))


def _is_sparse(inputs: Any) -> bool:
    from scipy import sparse

    return bool(sparse.issparse(inputs))


def plain(values: Any) -> NDArray[Any]:
    """What a model answered, as an array of NumPy's."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)
