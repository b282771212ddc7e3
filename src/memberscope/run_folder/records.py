"""Scores and records.csv of a run, a target or some records at a time."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.auditing import Examination
from memberscope.files import atomic
from memberscope.large import pieces, release
from memberscope.types import Signals

# Rows of records.csv; beyond them only the first targets are written (all scores are in scores/*.npy).
MOST_ROWS = 500_000


def write_scores(path: Path, values: NDArray[np.float64]) -> None:
    """A target at a time: scores may be a memory map larger than memory."""
    with atomic(path) as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": values.dtype.str, "fortran_order": False, "shape": values.shape}
        )
        for row in values:
            file.write(np.ascontiguousarray(row).data)
            release(row)


def write_records(path: Path, found: Examination, signals: Signals) -> None:
    """records.csv: one line a target and record, scores with six digits, empty where not scored."""
    targets = next(iter(found.scores.values())).targets
    audited = np.flatnonzero(~signals.population)
    shown = max(1, min(len(targets), MOST_ROWS // max(len(audited), 1)))
    names = list(found.scores)
    with atomic(path) as binary:
        file = io.TextIOWrapper(binary, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(file)
        writer.writerow(["target", "id", "label", "member", *names, "p_value", "adjusted_p_value", "flagged"])
        for position, target in enumerate(targets[:shown]):
            for where in pieces(len(audited), 10_000):
                writer.writerows(_lines(found, signals, position, target, audited[where]))
        file.detach()


def _lines(
    found: Examination, signals: Signals, position: int, target: int, records: NDArray[np.int64]
) -> Iterator[tuple[object, ...]]:
    """Lines of records.csv about some records of one target."""
    columns: list[list[Any]] = [_texts(scores.values[position][records]) for scores in found.scores.values()]
    proof = found.evidence
    if proof is None:
        columns += [[""] * len(records)] * 3
    else:
        columns += [_texts(proof.p_values[position][records]), _texts(proof.adjusted[position][records])]
        columns.append(proof.flagged[position][records].astype(int).tolist())
    ids, labels = signals.ids[records].tolist(), signals.labels[records].tolist()
    member = signals.members[target][records].astype(int).tolist()
    return zip([target] * len(records), ids, labels, member, *columns, strict=True)


def _texts(values: NDArray[np.float64]) -> list[str]:
    return ["" if value != value else f"{value:.6g}" for value in values.tolist()]
