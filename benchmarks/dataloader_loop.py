"""Pool training as the field writes it: TensorDataset, DataLoader with shuffle, fp32, one model after another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def train_one(
    model: nn.Module, inputs: NDArray[np.float32], labels: NDArray[np.int64], epochs: int, batch: int
) -> float:
    """Seconds that ``epochs`` of plain training take; data sets and optimiser are made before the clock starts."""
    dataset = TensorDataset(torch.from_numpy(inputs), torch.from_numpy(labels))
    loader = DataLoader(dataset, batch_size=batch, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    model.train()
    started = time.perf_counter()
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
    return time.perf_counter() - started


def paper_fcn() -> nn.Module:
    """The fully connected network of the paper."""
    widths = [600, 1024, 512, 256, 128]
    layers: list[nn.Module] = []
    for left, right in pairwise(widths):
        layers += [nn.Linear(left, right), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(128, 100))


def one_fcn(
    inputs: NDArray[np.uint8],
    labels: NDArray[np.int64],
    member: NDArray[np.bool_],
    epochs: int,
    batch: int,
    threads: int,
) -> float:
    """Train the FCN on the members; seconds of the training alone."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return train_one(paper_fcn(), inputs[member].astype(np.float32), labels[member], epochs, batch)


def pool_in_processes(
    inputs: NDArray[np.uint8],
    labels: NDArray[np.int64],
    members: NDArray[np.bool_],
    epochs: int,
    batch: int,
    workers: int,
) -> float:
    """Seconds for all models, one after another in each of ``workers`` processes of one thread."""
    queues: Sequence[NDArray[np.intp]] = np.array_split(np.arange(len(members)), workers)
    times = Parallel(n_jobs=workers, backend="loky")(
        delayed(_queue)(inputs, labels, members[queue], epochs, batch) for queue in queues
    )
    return max(times)


def _queue(
    inputs: NDArray[np.uint8], labels: NDArray[np.int64], members: NDArray[np.bool_], epochs: int, batch: int
) -> float:
    return sum(one_fcn(inputs, labels, member, epochs, batch, 1) for member in members)


def pool_in_threads(
    inputs: NDArray[np.uint8],
    labels: NDArray[np.int64],
    members: NDArray[np.bool_],
    epochs: int,
    batch: int,
    threads: int,
) -> float:
    """Seconds for all models, one after another in this process with ``threads`` threads."""
    return sum(one_fcn(inputs, labels, member, epochs, batch, threads) for member in members)
