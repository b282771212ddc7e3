"""privacy-meter's reference attack on saved losses; runs in privacy-meter's own environment and prints JSON.

Its ``logit_rescale_threshold_func`` fits a normal distribution to each record's scaled logits over the models that did
not see it and gives the loss below which the record is called a member: LiRA offline with a variance a record.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from privacy_meter.hypothesis_test import logit_rescale_threshold_func

folder, rate = Path(sys.argv[1]), float(sys.argv[2])
losses = np.load(folder / "out_losses.npy")
start = time.perf_counter()
threshold = logit_rescale_threshold_func(losses, np.array([rate]))
seconds = time.perf_counter() - start
np.save(folder / "privacy_meter_thresholds.npy", threshold.ravel())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "mb": peak, "version": version("privacy-meter"), "records": len(losses)}))
