"""Which records each model of a study trains on, and which models play target: the same for every row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memberscope.data.membership import complementary_pairs


def fold_members(models: int, records: int, folds: int, seed: int) -> NDArray[np.bool_]:
    """Membership ``(M, N)`` in groups of ``folds`` rows: each row of a group leaves out another part of the records.

    With 2 folds these are complementary pairs. With k every record is in k − 1 of each k models, so that a model
    trains on a share (k − 1)/k of the records, as the paper's do on four fifths.

    >>> fold_members(6, 9, 3, 0).sum(axis=0).tolist() == [4] * 9
    True
    """
    if folds == 2:
        return complementary_pairs(models, records, seed)
    rng = np.random.default_rng(seed)
    members = np.ones((models, records), np.bool_)
    for group in range(0, models, folds):
        for row, part in enumerate(np.array_split(rng.permutation(records), folds)):
            members[group + row, part] = False
    return members


def target_rows(seeds: int, folds: int, models: int) -> list[int]:
    """Every row, since each may play target for one training bill; those that are listed one by one come first.

    These are the first row of each of the first groups, so that no two of them follow from one draw.

    >>> target_rows(3, 2, 8)
    [0, 2, 4, 1, 3, 5, 6, 7]
    """
    listed = [seed * folds for seed in range(seeds)]
    return listed + [row for row in range(models) if row not in listed]
