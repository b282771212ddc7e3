"""Train the paper's FCN on the ``purchases`` generator and print what its population is calibrated to.

The paper's cell (METHODS §7, Purchase100, "original"): 97.76 % train, 87.54 % test, loss AUC 57.27 %,
advantage 13.86 %, after 200 epochs of Adam 5e-4 in batches of 32 on 157,859 records. The generator's figures
stand in memberscope/data/purchases.py; smaller batches overfit more at the same train accuracy (at 93.1
to 93.2 %: 88.2 % test and AUC 52.3 % in batches of 32, 88.8 % and 51.9 % in batches of 128).

usage: python benchmarks/calibrate_purchases.py [--train N] [--test N] [--epochs E] [--batch B] [--decay D]
           [--set basket=40 ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn

from memberscope.data.purchases import Shoppers, purchases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=40_000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--decay", type=float, default=0.0, help="weight decay (L2) of Adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--float32", action="store_true", help="no bf16; faster for small batches")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="fields of Shoppers")
    parser.add_argument("--out", type=Path, default=Path("runs/calibrate_purchases.jsonl"))
    arguments = parser.parse_args()
    changes = {name: float(value) for name, value in (item.split("=") for item in arguments.set)}
    whole = {"types", "staples"} & changes.keys()
    population = dataclasses.replace(Shoppers(), **(changes | {name: int(changes[name]) for name in whole}))
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    started = time.perf_counter()
    data = purchases(arguments.train + arguments.test, arguments.seed, population)
    seconds = time.perf_counter() - started
    counts = np.sort(np.bincount(data.labels, minlength=100))
    basket = data.inputs.sum(axis=1).mean()
    print(f"generated {len(data):,} in {seconds:.1f} s; mean basket {basket:.1f}; {population}")
    print(f"class sizes: smallest {counts[0]}, median {counts[50]}, largest {counts[-1]}")
    inputs, labels = torch.from_numpy(data.inputs).float(), torch.from_numpy(data.labels)
    order = np.random.default_rng(arguments.seed).permutation(len(data))
    train = torch.from_numpy(order[: arguments.train])
    odd = data.groups["oddity"][order]
    widths = (600, 1024, 512, 256, 128)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(128, 100))
    optimiser = torch.optim.Adam(model.parameters(), arguments.rate, weight_decay=arguments.decay, fused=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for epoch in range(1, arguments.epochs + 1):
        started = time.perf_counter()
        for rows in train[torch.randperm(len(train))].split(arguments.batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=not arguments.float32):
                logits = model(inputs[rows])
            loss = nn.functional.cross_entropy(logits.float(), labels[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        seconds = time.perf_counter() - started
        figures = measure(model, inputs[order], labels[order], arguments.train, odd) | {"epoch": epoch}
        line = "  ".join(f"{key} {value:.4f}" for key, value in figures.items())
        print(f"{line}  {seconds:.1f} s", flush=True)
        record = (
            figures
            | {"train": arguments.train, "batch": arguments.batch, "decay": arguments.decay}
            | dataclasses.asdict(population)
        )
        with arguments.out.open("a") as file:
            file.write(json.dumps(record) + "\n")


@torch.no_grad()
def measure(
    model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, n_train: int, odd: np.ndarray
) -> dict[str, float]:
    """Accuracies overall and by oddity, and the global loss attack's AUC and advantage."""
    losses, right = [], []
    for x, y in zip(inputs.split(4096), labels.split(4096), strict=True):
        logits = model(x)
        losses.append(nn.functional.cross_entropy(logits, y, reduction="none").double().numpy())
        right.append((logits.argmax(1) == y).numpy())
    loss, correct = np.concatenate(losses), np.concatenate(right)
    member = np.arange(len(loss)) < n_train
    false, true, _ = roc_curve(member, -loss)
    figures = {
        "train_accuracy": correct[member].mean(),
        "test_accuracy": correct[~member].mean(),
        "loss_auc": roc_auc_score(member, -loss),
        "advantage": (true - false).max(),
    }
    for kind in ("typical", "atypical", "mislabelled"):
        for name, rows in (("train", member), ("test", ~member)):
            figures[f"{kind}_{name}"] = correct[rows & (odd == kind)].mean()
    return {name: float(value) for name, value in figures.items()}


if __name__ == "__main__":
    main()
