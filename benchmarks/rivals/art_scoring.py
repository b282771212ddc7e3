"""adversarial-robustness-toolbox's rule-based attack on saved outputs; runs in its own environment and prints JSON.

Its black-box classifier answers with the saved logits, so that no model is asked. The rule (a record that is classified
correctly is a member) is its only attack that needs neither shadow models nor known members.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from art.attacks.inference.membership_inference import MembershipInferenceBlackBoxRuleBased
from art.estimators.classification import BlackBoxClassifier

folder = Path(sys.argv[1])
logits, labels = np.load(folder / "logits.npy"), np.load(folder / "labels.npy")
rows = np.arange(len(labels), dtype=np.float32)[:, None]
classifier = BlackBoxClassifier(lambda x: logits[x[:, 0].astype(np.int64)], (1,), logits.shape[1])
attack = MembershipInferenceBlackBoxRuleBased(classifier)
start = time.perf_counter()
found = attack.infer(rows, labels)
seconds = time.perf_counter() - start
np.save(folder / "art_members.npy", found)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
toolbox = version("adversarial-robustness-toolbox")
print(json.dumps({"seconds": seconds, "mb": peak, "version": toolbox, "records": len(labels)}))
