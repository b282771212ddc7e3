"""Ours against other packages on the same arrays, each in a virtual environment of its own, in turn."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import Peak, Result, compare
from scipy.special import ndtri

from memberscope.attacks import Gap, LiraOffline
from memberscope.signals.derive import loss, scaled_logits
from memberscope.signals.references import counts, reference_rows
from memberscope.types import Signals

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent.parent / "runs" / "rivals"
RATE = 0.01

# What each needs beside itself to score saved outputs; their other requirements are frameworks that train models.
NEEDS = {
    "privacy-meter": ["numpy", "scipy"],
    "adversarial-robustness-toolbox": ["numpy", "scipy", "scikit-learn", "six", "tqdm", "packaging"],
}
# The parts of another package that are imported, to see whether an environment is whole.
PROBES = {
    "privacy-meter": "import privacy_meter.hypothesis_test",
    "adversarial-robustness-toolbox": "import art.estimators.classification",
}


def environment(package: str) -> tuple[Path, str]:
    """The Python of the package's environment, made where it is missing, and why there is none."""
    folder = FOLDER / package
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    probe = [str(python), "-c", PROBES[package]]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        for arguments in (["--no-deps", package], NEEDS[package]):
            done = subprocess.run(
                [str(python), "-m", "pip", "install", "--quiet", *arguments],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                return python, f"{package} could not be installed: {done.stderr.strip().splitlines()[-1]}"
        done = subprocess.run(probe, capture_output=True, text=True, check=False)
        if done.returncode:
            return python, f"{package} cannot be imported: {done.stderr.strip().splitlines()[-1]}"
    return python, ""


def _theirs(python: Path, script: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run([str(python), str(HERE / script), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{script} failed:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _times(
    ours: Callable[[], Any], theirs: Callable[[], dict[str, Any]], rounds: int, scale: float
) -> tuple[tuple[list[float], list[float]], dict[str, Any], float]:
    left, right, said, memory = [], [], {}, 0.0
    for _ in range(rounds):
        with Peak() as peak:
            start = time.perf_counter()
            ours()
            left.append(time.perf_counter() - start)
        memory = max(memory, peak.mb)
        said = theirs()
        right.append(scale * said["seconds"])
    return (left, right), said, memory


def rivals(signals: Signals, looped: int, rounds: int) -> list[Result]:
    """LiRA offline against privacy-meter's reference attack, the gap attack against the toolbox's rule.

    Args:
        signals: a pool in complementary pairs.
        looped: records of one target that privacy-meter scores; its time is scaled up to all.
        rounds: repetitions.
    """
    folder = FOLDER / "arrays"
    folder.mkdir(parents=True, exist_ok=True)
    targets, records = range(len(signals)), signals.records
    rng = np.random.default_rng(0)
    size = f"{records} × {len(signals)}"
    results = []

    python, reason = environment("privacy-meter")
    if reason:
        results.append(_skipped(f"lira_offline vs privacy-meter, {size}", reason))
    else:
        phi = scaled_logits(signals)[:, :, 0]
        rows = reference_rows(signals, 0)
        out = ~signals.members[rows][:, :looped]
        models = int(counts(signals, 0)[1][0])
        np.save(folder / "out_losses.npy", loss(phi[rows][:, :looped]).T[out.T].reshape(looped, models))
        attack = LiraOffline(variance_floor=0.0)

        def every() -> None:
            signals.cache.pop(("moments",), None)
            attack.score_all(signals, targets, [rng] * len(targets))

        times, said, memory = _times(
            every,
            lambda: _theirs(python, "privacy_meter_scoring.py", str(folder), str(RATE)),
            rounds,
            len(targets) * records / looped,
        )
        # Theirs divides by n, ours by n − 1; the decisions at one rate are then the same.
        z = attack(signals, 0, rng)[:looped] * np.sqrt(models / (models - 1))
        same = (z >= -ndtri(RATE)) == (loss(phi[0, :looped]) <= np.load(folder / "privacy_meter_thresholds.npy"))
        if same.mean() < 0.999:
            raise RuntimeError(f"privacy-meter decides otherwise on {1 - same.mean():.2%} of the records")
        note = (
            f"privacy-meter {said['version']}, logit_rescale_threshold_func on {looped} records of one target, "
            "scaled up; "
            f"same decisions on {same.mean():.2%}; its process took {said['mb']:.0f} MB"
        )
        results.append(compare(f"lira_offline vs privacy-meter, {size}", times, None, memory, note))

    python, reason = environment("adversarial-robustness-toolbox")
    name = f"gap vs adversarial-robustness-toolbox, {size}"
    if reason:
        return [*results, _skipped(name, reason)]
    np.save(folder / "logits.npy", signals.outputs[0][:, 0])
    np.save(folder / "labels.npy", signals.labels)
    times, said, memory = _times(
        lambda: [Gap()(signals, target, rng) for target in targets],
        lambda: _theirs(python, "art_scoring.py", str(folder)),
        rounds,
        len(targets),
    )
    np.testing.assert_array_equal(Gap()(signals, 0, rng), np.load(folder / "art_members.npy"))
    note = (
        f"adversarial-robustness-toolbox {said['version']}, rule-based attack on one target, scaled up; same scores; "
        f"its process took {said['mb']:.0f} MB"
    )
    return [*results, compare(name, times, None, memory, note)]


def _skipped(name: str, reason: str) -> Result:
    return Result(name, 0.0, None, "s", None, 0.0, 0.0, None, note=f"skipped: {reason}")
