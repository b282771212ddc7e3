"""The same signals with fewer models and fewer records, for studying what references add."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memberscope.large import release
from memberscope.types import Signals


def subset(signals: Signals, rows: NDArray[np.int64], records: NDArray[np.int64]) -> Signals:
    """What the models ``rows`` said about ``records``.

    Args:
        signals: outputs of M models on N records.
        rows: ``(m,)`` models, in the order that they shall have.
        records: ``(n,)`` records, rising, so that files are read forwards.

    Returns:
        Signals of their own; the outputs are copied, nothing derived is kept.
    """
    outputs = []
    for row in rows:
        outputs.append(np.ascontiguousarray(signals.outputs[row][records]))
        # Scattered records map nearly a whole file, and the map would stay.
        release(signals.outputs[row])
    return Signals(
        tuple(outputs),
        signals.kind,
        signals.members[np.ix_(rows, records)],
        signals.labels[records],
        signals.ids[records],
        signals.population[records],
        signals.class_names,
    )
