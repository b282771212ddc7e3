"""My records are in a CSV file. How much would a network trained on them give away?

The file has a column of ids, a column of classes and numbers; here it is made from scikit-learn's wine data.
"""

import csv
from pathlib import Path

from sklearn.datasets import load_wine

import memberscope as ms

wine = load_wine()
with Path("wine.csv").open("w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["id", "cultivar", *(name.replace("/", "_") for name in wine.feature_names)])
    for number, (record, kind) in enumerate(zip(wine.data, wine.target, strict=True)):
        table.writerow([f"bottle-{number:03d}", wine.target_names[kind], *record])

findings = ms.audit(
    {
        "name": "wine",
        "data": {"path": "wine.csv", "label": "cultivar"},
        "recipe": {"model": {"name": "fcn", "widths": [32]}, "epochs": 20, "batch_size": 16},
        "pool": {"models": 12},
        "engine": "serial",
        "out": "runs/wine",
    }
)
print(findings.headline)
for check in findings.checks:
    print(check.code, check.level, check.message)
