"""Scoring every row of a pool as target: LiRA and RMIA against plain loops, and at 60,000 records × 256 models.

The loops are what a researcher writes from the papers: for each target and each record the IN and OUT
models are picked out with a NumPy mask, their means and variances taken with NumPy, and for RMIA the share of the
population is one NumPy comparison a record. They leave the target and its complementary twin out, as ours do, and
give the same scores (checked before timing). ``lira_online vs scipy loop`` is the same loop with
scipy.stats.norm.logpdf, as the LiRA paper's published code has it. Both sides start from the same scaled logits.
A loop runs on some of the targets and records, and its time is scaled up linearly in the records scored; RMIA's
comparison is against the whole population, so that it is linear too.

Then the same arrays go to privacy-meter and to adversarial-robustness-toolbox (rivals/compare.py), each in an
environment of its own under runs/rivals.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np
from common import Peak, Result, absolute, alternate, compare, in_child, parser, seconds, show
from numpy.typing import NDArray
from rivals.compare import rivals
from scipy.stats import norm

from memberscope.attacks import LiraOnline, RmiaOffline, RmiaOnline
from memberscope.signals.derive import scaled_logits
from memberscope.types import Signals

CLASSES = 10
TEMPERATURE = 2.0
ATTACKS = {
    "lira_online": LiraOnline(),
    "rmia_online": RmiaOnline(temperature=TEMPERATURE),
    "rmia_online_tuned": RmiaOnline(),
    "rmia_offline_tuned": RmiaOffline(),
}


def pool(models: int, records: int) -> Signals:
    """A pool in complementary pairs whose members' logits rise a little."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, records)
    members = rng.random((models, records)) < 0.5
    members[1::2] = ~members[::2]
    outputs = []
    for row in members:
        logits = 2 * rng.standard_normal((records, CLASSES), np.float32)
        logits[np.arange(records), labels] += 3 + row
        outputs.append(logits[:, None, :])
    return Signals(tuple(outputs), "logits", members, labels)


def references(members: NDArray[np.bool_], target: int) -> NDArray[np.bool_]:
    keep = np.ones(len(members), np.bool_)
    keep[[target, target ^ 1]] = False
    return keep


def lira_loop(
    phi: NDArray[np.float64], members: NDArray[np.bool_], target: int, records: int, published: bool = False
) -> NDArray[np.float64]:
    """Carlini et al. 2022, algorithm 1, record by record."""
    keep = references(members, target)
    others, trained = phi[keep], members[keep]
    score = np.empty(records)
    for i in range(records):
        inside, outside = others[trained[:, i], i], others[~trained[:, i], i]
        x, mean_in, mean_out = phi[target, i], inside.mean(), outside.mean()
        var_in, var_out = inside.var(ddof=1), outside.var(ddof=1)
        if published:
            score[i] = norm.logpdf(x, mean_in, np.sqrt(var_in)) - norm.logpdf(x, mean_out, np.sqrt(var_out))
        else:
            score[i] = 0.5 * (
                (x - mean_out) ** 2 / var_out + np.log(var_out) - (x - mean_in) ** 2 / var_in - np.log(var_in)
            )
    return score


def rmia_loop(
    p: NDArray[np.float64], members: NDArray[np.bool_], target: int, records: int, gamma: float = 1.0
) -> NDArray[np.float64]:
    """Zarifzadeh et al. 2024, eq. 3, online: r(x) record by record, then every x against the whole population."""
    keep = references(members, target)
    others, trained = p[keep], members[keep]
    share = records / p.shape[1]
    r = np.empty(p.shape[1])
    for i in range(records):
        column, chosen = others[:, i], trained[:, i]
        r[i] = p[target, i] / (0.5 * (column[chosen].mean() + column[~chosen].mean()))
    if share < 1:
        # The records left out of the loop must still be there to compare with.
        rest = slice(records, None)
        n_in = trained[:, rest].sum(axis=0)
        mean_in = (others[:, rest] * trained[:, rest]).sum(axis=0) / n_in
        mean_out = (others[:, rest] * ~trained[:, rest]).sum(axis=0) / (len(others) - n_in)
        r[rest] = p[target, rest] / (0.5 * (mean_in + mean_out))
    return np.array([(r[i] > gamma * r).mean() for i in range(records)])


def all_targets(signals: Signals, name: str) -> None:
    rows = range(len(signals))
    ATTACKS[name].score_all(signals, rows, [np.random.default_rng(0) for _ in rows])


def forget(signals: Signals) -> None:
    """Drop everything but the scaled logits, which both sides start from."""
    for key in [key for key in signals.cache if key[0] != "phi"]:
        del signals.cache[key]


def ratios(models: int, records: int, looped: int, rounds: int) -> list[Result]:
    signals = pool(models, records)
    phi = scaled_logits(signals)[:, :, 0]
    p = 1 / (1 + np.exp(-scaled_logits(signals, TEMPERATURE)[:, :, 0]))
    size = f"{records} × {models}"
    scale = models * records / looped
    note = f"loop on {looped} records of one target, × {scale:.0f}"
    results = []
    loops: dict[str, tuple[str, Callable[[], NDArray[np.float64]], float]] = {
        f"lira_online vs loop, {size}": ("lira_online", lambda: lira_loop(phi, signals.members, 0, looped), 1000),
        f"lira_online vs scipy loop, {size}": (
            "lira_online",
            lambda: lira_loop(phi, signals.members, 0, looped, published=True),
            1000,
        ),
        f"rmia_online vs loop, {size}": ("rmia_online", lambda: rmia_loop(p, signals.members, 0, looped), 300),
    }
    for name, (attack, loop, target) in loops.items():
        ours = ATTACKS[attack](signals, 0, np.random.default_rng(0))[:looped]
        np.testing.assert_allclose(ours, loop(), rtol=1e-6, atol=1e-6)

        def work(attack: str = attack) -> None:
            forget(signals)
            all_targets(signals, attack)

        results.append(compare(name, alternate(work, loop, rounds, 1.0, scale), target, note=note))
    return results


def child(name: str, models: int, records: int) -> None:
    """Time and peak memory of one attack on every target, from logits in memory; printed as JSON."""
    signals = pool(models, records)
    if name == "scaled_logits":
        with Peak() as peak:
            busy = time.process_time()
            derived = seconds(lambda: scaled_logits(signals))
            busy = time.process_time() - busy
        print(json.dumps({"seconds": derived, "derive": derived, "cpu": busy, "mb": peak.mb}))
        return
    temperature = TEMPERATURE if name == "rmia_online" else 1.0
    with Peak() as peak:
        derive = 0.0 if name.endswith("tuned") else seconds(lambda: scaled_logits(signals, temperature))
        busy = time.process_time()
        score = seconds(lambda: all_targets(signals, name))
        busy = time.process_time() - busy
    print(json.dumps({"seconds": score, "derive": derive, "cpu": busy, "mb": peak.mb}))


def absolutes(models: int, records: int, rounds: int) -> list[Result]:
    results = []
    aims = {"scaled_logits": None, "lira_online": 1.0, "rmia_online": 2.0, "rmia_online_tuned": None}
    for name, aim in (aims | {"rmia_offline_tuned": None}).items():
        runs = [in_child(__file__, "--child", name, str(models), str(records)) for _ in range(rounds)]
        derive = max(run["derive"] for run in runs)
        note = {
            "scaled_logits": "once a pool, shared by all attacks",
            "lira_online": f"deriving φ apart ({derive:.2f} s)",
            "rmia_online": f"T = 2 given; deriving φ at T apart ({derive:.2f} s)",
        }.get(name, "choosing T (and a) and deriving φ at every chosen T included")
        results.append(
            absolute(
                f"{name}, {records} × {models}, every row a target",
                [run["seconds"] for run in runs],
                aim if (records, models) == (60_000, 256) else None,
                max(run["mb"] for run in runs),
                # On a busy machine the wall clock counts the neighbours too.
                f"{min(run['cpu'] for run in runs):.2f} s of processor time; {note}",
            )
        )
    return results


def scaling(sizes: list[tuple[int, int]]) -> list[Result]:
    """LiRA and RMIA (T given) on every row, over records and models; deriving φ apart."""
    results = []
    for records, models in sizes:
        for name in ("lira_online", "rmia_online"):
            run = in_child(__file__, "--child", name, str(models), str(records))
            each = 1e9 * run["cpu"] / (records * models)
            note = f"{run['cpu']:.2f} s of processor time, {each:.0f} ns a score"
            results.append(absolute(f"scaling: {name}, {records} × {models}", [run["seconds"]], None, run["mb"], note))
    return results


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return
    arguments = parser(__doc__.splitlines()[0]).parse_args()
    if arguments.quick:
        results = ratios(32, 20_000, 500, 3) + absolutes(64, 60_000, 1) + rivals(pool(16, 10_000), 500, 1)
    else:
        results = ratios(128, 60_000, 2_000, 5) + absolutes(256, 60_000, 3)
        results += scaling([(15_000, 64), (60_000, 64), (240_000, 64), (60_000, 16), (60_000, 128)])
        results += rivals(pool(64, 60_000), 2_000, 3)
    show(results, as_json=arguments.json)


if __name__ == "__main__":
    main()
