"""Does the audit keep its word where nothing leaks? Simulated null audits: coverage and false alarms.

Outputs do not depend on membership at all, so every AUC is 0.5, every advantage 0 and every true-positive rate
equals the false-positive rate. A 95 % interval should cover that value 19 times in 20, and a gate whose limit is
that value should fail at most once in 40 (and pass at most once in 40).

    python benchmarks/null_audits.py --audits 1000 --workers 2
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from memberscope.auditing import Plan, examine
from memberscope.data.membership import bernoulli, complementary_pairs
from memberscope.types import Figure, Gate, Signals

TRUTH = {"auc": 0.5, "advantage": 0.0, "tpr@0.1": 0.1, "tpr@0.01": 0.01}
GATED = ("loss", "lira_online_pooled", "rmia_online", "bavaria", "lira_hierarchical", "lira_learned", "strongest")


def null_signals(
    models: int, records: int, design: str, rng: np.random.Generator, classes: int = 10, digits: int | None = None
) -> Signals:
    """Models of differing skill on records of differing difficulty; membership is a coin nobody looked at.

    With ``digits`` probabilities rounded to so many decimals, most of them saturated.
    """
    labels = rng.integers(0, classes, records)
    logits = rng.normal(size=(models, records, classes))
    difficulty = rng.gumbel(3, 2, records)
    spread = rng.gamma(4, 0.25, records)
    logits[:, np.arange(records), labels] += difficulty + spread * rng.normal(size=(models, records))
    logits *= rng.uniform(0.8, 1.2, (models, 1, 1))
    seed = int(rng.integers(2**31))
    members = complementary_pairs(models, records, seed) if design == "pairs" else bernoulli(models, records, 0.5, seed)
    if digits is not None:
        p = np.exp(logits - logits.max(axis=2, keepdims=True))
        p = (p / p.sum(axis=2, keepdims=True)).round(digits)
        return Signals(tuple(p), "probabilities", members, labels)
    return Signals(tuple(logits.astype(np.float32)), "logits", members, labels)


def one_audit(job: tuple[int, str, int, int, int | None, tuple[str, ...]]) -> list[tuple[str, str, bool, bool, bool]]:
    """(attack, figure, covers, alarm, pass) of every figure of one null audit."""
    seed, kind, models, records, digits, attacks = job
    rng = np.random.default_rng([2026, seed])
    single = kind == "one target"
    signals = null_signals(models, records, "bernoulli" if single else "pairs", rng, digits=digits)
    gated = [name for name in GATED if not attacks or name in (*attacks, "strongest")]
    gates = [Gate(metric="auc", limit=0.5, attack=name) for name in gated]
    gates += [Gate(metric="tpr", fpr=0.01, limit=0.01, attack=name) for name in gated]
    gates += [Gate(metric="tpr", fpr=0.1, limit=0.1, attack=name) for name in gated]
    plan = Plan(targets=[0] if single else None, attacks=attacks or None, gates=gates, seed=seed, advise=False)
    found = examine(signals, plan).findings
    rows = []
    for result in found.attacks:
        if result.target != "all":
            continue
        figures: dict[str, Figure] = {"auc": result.auc, "advantage": result.advantage}
        figures |= {f"tpr@{key}": result.tpr_at_fpr[key] for key in ("0.1", "0.01")}
        for name, figure in figures.items():
            if figure.value is not None and figure.low is not None and figure.high is not None:
                truth = TRUTH[name]
                rows.append(
                    (result.name, name, figure.low <= truth <= figure.high, figure.low > truth, figure.high < truth)
                )
    for outcome in found.gates:
        what = f"gate {outcome.gate.metric}" + (f"@{outcome.gate.fpr:g}" if outcome.gate.metric == "tpr" else "")
        verdict = outcome.verdict
        rows.append((outcome.gate.attack, what, verdict == "inconclusive", verdict == "fail", verdict == "pass"))
    named = found.records
    if named is not None:
        rows.append((named.attack, "any record named", named.flagged == 0, named.flagged > 0, False))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audits", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--models", type=int, nargs="+", help="pools of so many, every model a target; 12 otherwise")
    parser.add_argument("--digits", type=int, help="probabilities rounded to so many decimals instead of logits")
    parser.add_argument("--attacks", nargs="+", default=[], help="only these")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    report = []
    settings = [("one target", 13), ("all targets", 12)]
    if arguments.models:
        settings = [("all targets", models) for models in arguments.models]
    for kind, models in settings:
        jobs = [
            (seed, kind, models, arguments.records, arguments.digits, tuple(arguments.attacks))
            for seed in range(arguments.audits)
        ]
        started = time.perf_counter()
        counts: dict[tuple[str, str], list[int]] = {}
        with ProcessPoolExecutor(arguments.workers) as pool:
            for done, rows in enumerate(pool.map(one_audit, jobs, chunksize=4), 1):
                for attack, figure, *outcome in rows:
                    total = counts.setdefault((figure, attack), [0, 0, 0, 0])
                    for column, value in enumerate([True, *outcome]):
                        total[column] += int(value)
                if done % 50 == 0:
                    print(f"{kind}: {done}/{len(jobs)}", file=sys.stderr, flush=True)
        seconds = time.perf_counter() - started
        for (figure, attack), (n, covers, alarms, passes) in sorted(counts.items()):
            report.append(
                {
                    "setting": f"{kind}, {models} models, {arguments.records} records",
                    "figure": figure,
                    "attack": attack,
                    "audits": n,
                    "covers": covers / n,
                    "alarms": alarms / n,
                    "passes": passes / n,
                    "error": (0.95 * 0.05 / n) ** 0.5,
                }
            )
        print(f"{kind}: {arguments.audits} audits in {seconds:.0f} s", file=sys.stderr)
    if arguments.json:
        print(json.dumps(report, indent=1))
        return
    print("nominal: covers >= .950; alarm and pass <= .025 each; 'any record named' alarm <= .050")
    print(
        f"{'setting':42s} {'figure':18s} {'attack':22s} {'n':>5s} {'covers':>7s} {'alarm':>6s} {'pass':>6s}  ± (1 s.e.)"
    )
    for row in report:
        print(
            f"{row['setting']:42s} {row['figure']:18s} {row['attack']:22s} {row['audits']:5d} {row['covers']:7.3f} "
            f"{row['alarms']:6.3f} {row['passes']:6.3f}  {row['error']:.3f}"
        )


if __name__ == "__main__":
    main()
