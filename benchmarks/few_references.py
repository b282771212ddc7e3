"""How many references does each attack need? Draws of a target and of R/2 pairs of references from a finished pool.

Every attack scores the same targets with the same references, so that shares of LiRA's figure with the most
references are compared in pairs.

    python benchmarks/few_references.py runs/location30 --draws 33
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import Result, machine, parser, seconds

from memberscope.attacks import attack
from memberscope.signals.collect import load_collected
from memberscope.signals.references import design
from memberscope.signals.subset import subset
from memberscope.statistics.roc import auc, threshold_at
from memberscope.types import Signals

COUNTS = (2, 4, 8, 16, 32, 64)
ATTACKS = ("lira_online", "lira_online_pooled", "bavaria", "rmia_online", "lira_hierarchical", "lira_learned")
YARDSTICK = "lira_online"
FPRS = (0.01, 0.001)
# What issue 4 asks of the best attack on Location-30: share of LiRA's TPR at 1 % with 64 references.
TARGETS = {8: 1.0, 16: 1.05}


def draws(signals: Signals, references: int, count: int) -> Iterator[tuple[int, Signals]]:
    """A target, and the signals of it (row 0) and of its references."""
    twin = design(signals).twin
    order = np.random.default_rng(0).permutation(len(signals))
    everything = np.arange(signals.records)
    for number in range(count):
        target = int(order[number % len(order)])
        rng = np.random.default_rng([references, number])
        pairs = [row for row in range(len(signals)) if row < twin[row] and target not in (row, twin[row])]
        chosen = rng.permutation(pairs)[: references // 2]
        rows = np.array([target, *(row for first in chosen for row in (first, twin[first]))])
        yield target, subset(signals, rows, everything)


def figures(values: np.ndarray, members: np.ndarray) -> list[float]:
    """AUC and the TPR at each of :data:`FPRS`."""
    inside, outside = values[members], values[~members]
    return [auc(inside, outside), *(float(np.mean(inside >= threshold_at(outside, fpr))) for fpr in FPRS)]


def measure(
    signals: Signals, counts: list[int], names: tuple[str, ...], count: int
) -> dict[tuple[int, str], np.ndarray]:
    """``(draws, 4)`` by number of references and attack: the figures, and seconds."""
    found: dict[tuple[int, str], list[list[float]]] = {}
    for references in counts:
        for target, few in draws(signals, references, count):
            for name in names:
                kind = attack(name)
                if kind.lacks(few, 0):
                    continue
                values: list[np.ndarray] = []
                took = seconds(
                    lambda kind=kind, few=few, values=values: values.append(kind(few, 0, np.random.default_rng(0)))
                )
                row = [*figures(values[0], signals.members[target]), took]
                found.setdefault((references, name), []).append(row)
        print(f"{references} references: {count} draws", file=sys.stderr, flush=True)
    return {key: np.array(rows) for key, rows in found.items()}


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("run", nargs="?", default="runs/location30", help="folder of a finished run")
    arguments.add_argument("--draws", type=int, default=16)
    arguments.add_argument("--references", type=int, nargs="+", default=list(COUNTS))
    given = arguments.parse_args()
    signals = load_collected(Path(given.run) / "signals", verify=False)
    most = len(signals) - 2
    best = most - most % 2
    counts = sorted({r for r in given.references if r <= most})
    count = given.draws
    if given.quick:
        counts, count = [r for r in counts if r in (4, 8)], 4
    found = measure(signals, counts, ATTACKS, count)
    if best not in counts:
        found |= measure(signals, [best], (YARDSTICK,), count)
    yardstick = found[best, YARDSTICK].mean(axis=0)
    results, lines = [], []
    for (references, name), rows in found.items():
        mean, error = rows.mean(axis=0), rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
        share = mean[1] / yardstick[1]
        # Both sides see the same targets: the error of the ratio is that of the differences.
        paired = rows[:, 1] - share * found[best, YARDSTICK][:, 1]
        spread = float(paired.std(ddof=1) / np.sqrt(len(rows)) / yardstick[1])
        aim = TARGETS.get(references) if name == "lira_learned" and "location30" in str(given.run) else None
        note = (
            f"AUC {mean[0]:.4f} ± {error[0]:.4f}, TPR at 0.1 % {mean[2]:.4f} ± {error[2]:.4f}, {mean[3]:.2f} s a target"
        )
        results.append(
            Result(
                f"{references} references, {name}, TPR at 1 %",
                float(mean[1]),
                float(yardstick[1]),
                "TPR",
                float(share),
                float(share - 1.96 * spread),
                float(share + 1.96 * spread),
                aim,
                None,
                note,
            )
        )
        lines.append(
            f"{references:4d}  {name:20s} {mean[0]:.4f} ± {error[0]:.4f}   {mean[1]:.4f} ± {error[1]:.4f}   "
            f"{mean[2]:.4f} ± {error[2]:.4f}   {share:6.1%} ± {spread:.1%}   {mean[3]:7.2f}"
        )
    if given.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
        return
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"{given.run}: {count} draws of a target and its references; share of {YARDSTICK}'s with {best}")
    print(f"refs  {'attack':20s} {'AUC':17s}   {'TPR at 1 %':17s}   {'TPR at 0.1 %':17s}   share of TPR at 1 %     s")
    print("\n".join(lines))
    for result in results:
        if result.met is not None:
            print(f"{result.name}: {result.ratio:.1%} of the yardstick, target {result.target:.0%}")


if __name__ == "__main__":
    main()
