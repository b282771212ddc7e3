"""Penultimate features of chosen models, in streams, into memory-mapped files beside the signals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import DataError, PoolError, SignalsError
from memberscope.files import read_npy, writer_lock
from memberscope.signals.ask import Question, answers_path, ask_models, check_pool, clear_leftovers
from memberscope.training.engines import Engine, get_engine
from memberscope.training.store import ModelPlan
from memberscope.types import Dataset, Pool


def collect_features(
    pool: Pool,
    dataset: Dataset,
    rows: Sequence[int],
    *,
    folder: Path | str,
    engine: str | Engine = "serial",
    workers: int | None = None,
    device: str = "cpu",
    quiet: bool = False,
) -> dict[int, NDArray[np.float32]]:
    """What the models of ``rows`` hand to their last layer for every record, without noise, dropout or augmentation.

    Features are in float32 whatever the recipe's training precision. A row that is there and still right (same
    model file, same records) is kept, so a killed collection goes on and a second call costs nothing. Disk and page
    cache hold 4 N D bytes a row (CIFAR-10 through ResNet-18: 123 MB), memory one batch a worker: name the few rows
    that an analysis reads, not the whole pool.

    Args:
        pool: a finished pool.
        dataset: the very records that the pool's membership speaks of.
        rows: different rows of the pool, in any order; the files of other rows are left alone.
        folder: where ``NNNNN.npy`` (one ``(N, D)`` float32 a model) and what describes them go; not ``collect``'s.
        engine: as in ``train_pool``.
        workers: processes at once.
        device: ``"cpu"`` or ``"cuda"``.
        quiet: show no progress.

    Returns:
        Row to features ``(N, D)``, read-only memory maps, in the order of ``rows``.

    Raises:
        PoolError: other records than the pool was trained on, an unfinished pool, no such row, a model file that is
            missing or altered, a folder that cannot be written.
        SignalsError: features that are not finite.
    """
    folder, runner = Path(folder), get_engine(engine, workers)
    check_pool(pool, dataset, "collect_features")
    if len(set(rows)) < len(rows):
        raise PoolError("different rows of the pool", f"{list(rows)}", "Name every row once.")
    question = Question("features", dataset.inputs, ModelPlan.of(pool), folder, dataset.fingerprint, device)
    with writer_lock(folder):
        clear_leftovers(folder)
        ask_models(question, pool, rows, runner, quiet=quiet)
    return load_features(folder, rows)


def load_features(folder: Path | str, rows: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """Features that :func:`collect_features` wrote, as memory maps; needs no PyTorch and checks no hash.

    Raises:
        SignalsError: a row that is missing or cut short.
    """
    folder = Path(folder)
    try:
        return {row: read_npy(answers_path(folder, row), mmap=True) for row in rows}
    except DataError as error:
        raise SignalsError(
            f"whole features in {folder}", error.got, "Run collect_features again: it writes what is missing."
        ) from error
