"""I have my model's answers and those of some models trained like it. Does mine leak, and may it be released?

Row 0 is the model to be released; the other rows are its references. Here the answers are made up, and the model
remembers the first 100 of its records far too well.
"""

import numpy as np

import memberscope as ms

rng = np.random.default_rng(1)
members = rng.random((17, 4000)) < 0.5
labels = rng.integers(0, 10, 4000)
logits = rng.normal(size=(17, 4000, 10))
logits[:, np.arange(4000), labels] += 3 + rng.normal(0, 2, 4000)
logits[:, np.arange(100), labels[:100]] += 8 * members[:, :100]

np.savez("outputs.npz", logits=logits, members=members, labels=labels, ids=[f"patient-{i}" for i in range(4000)])

findings = ms.audit(
    "outputs.npz", targets=[0], gate={"metric": "tpr", "fpr": 0.01, "limit": 0.02}, out="runs/saved_outputs"
)
print(findings.verdict, "-", findings.headline)
assert findings.records is not None
print("most exposed:", ", ".join(row.id for row in findings.records.top[:5]))
