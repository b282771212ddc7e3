"""Does bfloat16 change the verdict? The same pool in fp32 and in bf16, the same members and seeds, audited alike.

    python benchmarks/precision.py [--run examples/location30.yaml] [--out runs/precision] [--models M] [--epochs E]

Without --run, a small pool on digits. Prints each attack's AUC and TPR at 1 % FPR over all targets in both precisions
with their 95 % intervals. Two figures agree when the interval of their difference holds 0, at 95 % over all rows
together (Bonferroni), the two taken as independent. Exit status 1 if some do not. Killed, it goes on when started
again with the same --out.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from scipy.stats import norm

from memberscope.config import AuditConfig
from memberscope.run import run
from memberscope.types import Findings

DIGITS: dict[str, Any] = {
    "name": "digits",
    "data": "digits",
    "recipe": {"model": {"name": "fcn", "widths": [256, 128]}, "epochs": 20, "batch_size": 32},
    "pool": {"models": 16},
    "seed": 1,
}


def audited(values: dict[str, Any], precision: str, out: Path, base: Path) -> Findings:
    """Findings of the pool trained in ``precision``, its analyses left out."""
    recipe = {**values["recipe"], "precision": precision}
    changed = {**values, "recipe": recipe, "analyses": "none", "out": str(out / precision)}
    return run(AuditConfig.parse(changed), base=base, quiet=False)


def compared(one: Findings, other: Findings) -> list[dict[str, Any]]:
    """A row for every figure that both have."""
    rows = []
    found = {item.name: item for item in other.attacks if item.target == "all"}
    for item in one.attacks:
        if item.target != "all" or item.name not in found:
            continue
        twin = found[item.name]
        for metric, left, right in (
            ("auc", item.auc, twin.auc),
            ("tpr@0.01", item.tpr_at_fpr["0.01"], twin.tpr_at_fpr["0.01"]),
        ):
            if left.value is not None and right.value is not None:
                rows.append({"attack": item.name, "metric": metric, "fp32": left, "bf16": right})
    spread = norm.ppf(1 - 0.025 / max(1, len(rows))) / norm.ppf(0.975)
    for row in rows:
        low, high = sorted((row["fp32"], row["bf16"]), key=lambda figure: figure.value)
        room = spread * math.hypot(low.high - low.value, high.value - high.low)
        row["difference"], row["allowed"] = row["bf16"].value - row["fp32"].value, room
        row["agree"] = abs(row["difference"]) <= room
    return rows


def main() -> int:
    """Print the comparison; 1 if a figure changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="an audit's configuration; default: a small pool on digits")
    parser.add_argument("--out", type=Path, default=Path("runs/precision"))
    parser.add_argument("--models", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    values = DIGITS if given.run is None else AuditConfig.read(given.run).model_dump()
    base = Path() if given.run is None else given.run.parent
    name = values.get("name") or (given.run.stem if given.run else "digits")
    values = {**values, "pool": {**values["pool"], **({"models": given.models} if given.models else {})}}
    values["recipe"] = {**values["recipe"], **({"epochs": given.epochs} if given.epochs else {})}
    found = [audited(values, precision, given.out / name, base) for precision in ("fp32", "bf16")]
    rows = compared(*found)
    if given.json:
        plain = [{key: getattr(value, "value", value) for key, value in row.items()} for row in rows]
        print(json.dumps(plain, indent=1))
    else:
        for precision, findings in zip(("fp32", "bf16"), found, strict=True):
            seconds = findings.run.get("seconds", {}).get("train_models", math.nan)
            print(f"{precision}: {findings.model.get('mode')}; {seconds:.1f} s of training")
        for row in rows:
            cells = [f"{row[key].value:.4f} ({row[key].low:.4f}–{row[key].high:.4f})" for key in ("fp32", "bf16")]
            verdict = "agree" if row["agree"] else "DIFFER"
            print(f"{row['attack']:22s} {row['metric']:9s} {cells[0]:26s} {cells[1]:26s} {verdict}")
    return 0 if rows and all(row["agree"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
