"""The paper's models, a few hundred steps each on CIFAR-10: train, signals, features, Grad-CAM, DP preflight, DP steps.

What the ``paper`` presets run on a GPU for hours runs here for minutes, through the same functions, so that a preset
does not fail there at what could have been seen here. Every figure is of this machine.

usage: python benchmarks/big_models.py --data FOLDER [--models densenet resnet vit] [--records 2048] [--epochs 13]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

import memberscope as ms
from memberscope.analysis.gradcam import attribution
from memberscope.signals.features import collect_features
from memberscope.training.dpsgd import preflight
from memberscope.training.pool import read_metrics

RATES = {"densenet": ("sgd", 0.1), "resnet": ("sgd", 0.1), "vit": ("adamw", 1e-3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["densenet", "resnet", "vit"], choices=sorted(RATES))
    parser.add_argument("--records", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=13)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = ms.load("cifar10", path=arguments.data, records=arguments.records, seed=arguments.seed)
    members = ms.membership.complementary_pairs(2, len(data), arguments.seed)[:1]
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(run(name, data, members, Path(folder), arguments)), flush=True)


def run(
    name: str, data: ms.Dataset, members: np.ndarray, folder: Path, arguments: argparse.Namespace
) -> dict[str, object]:
    """One model through everything; what came out, with seconds a step of the way."""
    optimizer, rate = RATES[name]
    base = {"model": name, "optimizer": optimizer, "learning_rate": rate, "batch_size": 64, "channels_last": True}
    recipe = ms.Recipe.parse({**base, "epochs": arguments.epochs, "precision": "bf16"})
    seconds: dict[str, float] = {}

    def timed(step: str, started: float) -> None:
        seconds[step] = round(time.perf_counter() - started, 1)

    started = time.perf_counter()
    pool = ms.train_pool(data, members, recipe, folder=folder / "pool", device=arguments.device, quiet=True)
    timed("train", started)
    metrics = read_metrics(pool)[0]
    started = time.perf_counter()
    signals = ms.collect(pool, data, folder=folder / "signals", device=arguments.device, quiet=True)
    timed("signals", started)
    started = time.perf_counter()
    features = collect_features(pool, data, [0], folder=folder / "features", device=arguments.device, quiet=True)[0]
    timed("features", started)
    chosen = np.random.default_rng(arguments.seed).permutation(np.flatnonzero(members[0]))
    kinds = np.zeros((2, len(data)), np.bool_)
    kinds[0, chosen[:60]], kinds[1, chosen[60:]] = True, True
    started = time.perf_counter()
    maps = attribution(pool, 0, data, *kinds, features, seed=arguments.seed, device=arguments.device)
    timed("gradcam", started)
    private = ms.Recipe.parse(
        {
            **base,
            **({} if name == "vit" else {"norm": "group"}),
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "epochs": 1,
            "privacy": {"noise_multiplier": 1.0, "physical_batch_size": 64},
        }
    )
    started = time.perf_counter()
    preflight(private, data.inputs.shape[1:], data.classes)
    timed("preflight", started)
    started = time.perf_counter()
    guarded = ms.train_pool(data, members, private, folder=folder / "private", device=arguments.device, quiet=True)
    timed("dp_epoch", started)
    said = read_metrics(guarded)[0].privacy
    assert said is not None
    size = int(members[0].sum())
    return {
        "model": name,
        "steps": metrics.epochs * (size // 64),
        "train_accuracy": round(metrics.train_accuracy, 4),
        "held_out_accuracy": round(metrics.held_out_accuracy, 4),
        "loss": round(metrics.loss, 4),
        "logits_finite": bool(np.isfinite(signals.outputs[0]).all()),
        "feature_width": features.shape[1],
        "map_cells": [len(maps.maps[0].map), len(maps.maps[0].map[0])],
        "layer": maps.layer,
        "dp": {key: said[key] for key in ("steps", "drawn_batches", "epsilon", "accountant", "mode")},
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
