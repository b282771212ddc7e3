"""Audits of models that leak nothing, through the door of models with training code: how often do gates alarm?

Each audit: logistic regression, far more records than features, a few references by cloning. A gate set exactly at
chance must fail no more often than its interval allows: 2.5 % of audits (5 %, two-sided).

Two worlds. ``apart``: the model was trained on other records of the same source, so that the records called members
are none and nothing can leak; alarms are false. ``trained``: it was trained on the members. However many records there
are, that is not nothing: a record moves its own loss by about p/n (p parameters, n records), and the difference between
two models' losses, which attacks with references look at, is as small as the root of p/n. So their AUC lies above .5 by
about a third of the root of p/n, and the standard error is about .4 of the root of 1/n: alarms are true.

    python benchmarks/null_doors.py OUT.jsonl --first 0 --last 50      # a piece; pieces may run in any order
    python benchmarks/null_doors.py OUT.jsonl --summary
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

import memberscope as ms

RECORDS, FEATURES, REFERENCES = 6_000, 8, 8
GATES = (
    {"metric": "auc", "limit": 0.5},
    {"metric": "tpr", "fpr": 0.01, "limit": 0.01},
    {"metric": "advantage", "limit": 0.001, "attack": "loss"},
    {"metric": "auc", "limit": 0.5, "attack": "loss"},
    {"metric": "auc", "limit": 0.5, "attack": "lira_hierarchical"},
    {"metric": "auc", "limit": 0.5, "attack": "rmia_offline"},
    {"metric": "tpr", "fpr": 0.01, "limit": 0.01, "attack": "loss"},
    {"metric": "tpr", "fpr": 0.01, "limit": 0.01, "attack": "lira_hierarchical"},
    {"metric": "tpr", "fpr": 0.01, "limit": 0.05},
)


def one(seed: int, world: str) -> dict[str, object]:
    """One audit; its gates' verdicts."""
    rng = np.random.default_rng([seed, 77])
    half = RECORDS // 2
    x = rng.normal(size=(RECORDS + half, FEATURES))
    odds = x @ rng.normal(size=(FEATURES, 3)) + rng.gumbel(size=(RECORDS + half, 3))
    y = odds.argmax(axis=1)
    seen = slice(RECORDS, None) if world == "apart" else slice(0, half)
    started = time.perf_counter()
    findings = ms.audit_model(
        LogisticRegression().fit(x[seen], y[seen]),
        members=(x[:half], y[:half]),
        nonmembers=(x[half:RECORDS], y[half:RECORDS]),
        references=REFERENCES,
        workers=1,
        gate=list(GATES),
        analyses=(),
        seed=seed,
    )
    return {
        "seed": seed,
        "verdicts": [gate.verdict for gate in findings.gates],
        "auc": {each.name: each.auc.value for each in findings.attacks if each.target == "all"},
        "covered": {
            each.name: each.auc.low is not None and each.auc.high is not None and each.auc.low <= 0.5 <= each.auc.high
            for each in findings.attacks
            if each.target == "all"
        },
        "flagged": findings.records.flagged if findings.records else None,
        "seconds": round(time.perf_counter() - started, 2),
    }


def summary(rows: Sequence[dict[str, object]]) -> None:
    """False alarms of each gate with an exact 95 % interval."""
    n = len(rows)
    print(f"{n} audits of {RECORDS} records, {FEATURES} features, {REFERENCES} references")
    for place, gate in enumerate(GATES):
        verdicts = [row["verdicts"][place] for row in rows]  # type: ignore[index]
        fails = verdicts.count("fail")
        low, high = binomtest(fails, n).proportion_ci(0.95)
        label = f"{gate.get('attack', 'strongest')}: {gate['metric']}" + (f"@{gate['fpr']}" if "fpr" in gate else "")
        print(
            f"{label} < {gate['limit']}: {fails} fail ({100 * low:.1f} to {100 * high:.1f} %), "
            f"{verdicts.count('pass')} pass, {verdicts.count('inconclusive')} inconclusive"
        )
    names = rows[0]["auc"]
    for name in names:  # type: ignore[attr-defined]
        values = [row["auc"][name] for row in rows if name in row["auc"]]  # type: ignore[index,operator]
        covered = sum(row["covered"][name] for row in rows if name in row["covered"])  # type: ignore[index,operator]
        print(f"{name}: mean AUC {np.mean(values):.4f}, interval holds .5 in {covered} of {len(values)}")
    flagged = [row["flagged"] or 0 for row in rows]
    print(f"audits that name any record: {sum(each > 0 for each in flagged)}")  # type: ignore[operator]
    print(f"seconds an audit: {np.median([row['seconds'] for row in rows]):.1f}")  # type: ignore[arg-type]


def main() -> None:
    """Run a piece, or say what all pieces found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long; the next call goes on")
    parser.add_argument("--world", choices=("apart", "trained"), default="apart")
    parser.add_argument("--summary", action="store_true")
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    if given.summary:
        summary(rows)
        return
    known, started = {row["seed"] for row in rows}, time.perf_counter()
    for seed in range(given.first, given.last):
        if seed in known or time.perf_counter() - started > given.seconds:
            continue
        row = one(seed, given.world)
        with given.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
