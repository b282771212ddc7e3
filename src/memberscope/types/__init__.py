"""The core types: Dataset, Pool, Signals, Scores, Findings. Frozen; validated here and nowhere else."""

from memberscope.types.access import Access
from memberscope.types.base import Figure, NotRun
from memberscope.types.dataset import Dataset
from memberscope.types.findings import SCHEMA_VERSION, AttackResult, CheckResult, Findings, Gate, GateResult
from memberscope.types.pool import Pool
from memberscope.types.scores import Scores
from memberscope.types.signals import Signals

__all__ = [
    "SCHEMA_VERSION",
    "Access",
    "AttackResult",
    "CheckResult",
    "Dataset",
    "Figure",
    "Findings",
    "Gate",
    "GateResult",
    "NotRun",
    "Pool",
    "Scores",
    "Signals",
]
