"""memberscope: which training records does a model give away?

>>> import memberscope as ms
>>> data = ms.load("digits")
>>> len(data), data.classes
(1797, 10)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names are resolved on first use: importing memberscope costs nothing, and neither PyTorch nor
# scikit-learn is loaded before something needs it.
_HOMES = {
    "Access": "memberscope.types",
    "Dataset": "memberscope.types",
    "Findings": "memberscope.types",
    "Gate": "memberscope.types",
    "Pool": "memberscope.types",
    "Scores": "memberscope.types",
    "Signals": "memberscope.types",
    "MemberscopeError": "memberscope.errors",
    "Recipe": "memberscope.training.recipe",
    "Material": "memberscope.auditing.why",
    "analyse": "memberscope.auditing.why",
    "attack_endpoint": "memberscope.doors.endpoint",
    "audit": "memberscope.run",
    "audit_model": "memberscope.doors.model",
    "audit_predictions": "memberscope.doors.predictions",
    "as_target": "memberscope.targets",
    "collect": "memberscope.signals.collect",
    "load": "memberscope.data",
    "load_signals": "memberscope.signals.load",
    "membership": "memberscope.data.membership",
    "read_findings": "memberscope.run_folder",
    "run_study": "memberscope.study.run",
    "StudyConfig": "memberscope.study.config",
    "train_pool": "memberscope.training.pool",
    "write_run": "memberscope.run_folder",
}

__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from memberscope.auditing.why import Material as Material
    from memberscope.auditing.why import analyse as analyse
    from memberscope.data import load as load
    from memberscope.data import membership as membership
    from memberscope.doors.endpoint import attack_endpoint as attack_endpoint
    from memberscope.doors.model import audit_model as audit_model
    from memberscope.doors.predictions import audit_predictions as audit_predictions
    from memberscope.errors import MemberscopeError as MemberscopeError
    from memberscope.run import audit as audit
    from memberscope.run_folder import read_findings as read_findings
    from memberscope.run_folder import write_run as write_run
    from memberscope.signals.collect import collect as collect
    from memberscope.signals.load import load_signals as load_signals
    from memberscope.study.config import StudyConfig as StudyConfig
    from memberscope.study.run import run_study as run_study
    from memberscope.targets import as_target as as_target
    from memberscope.training.pool import train_pool as train_pool
    from memberscope.training.recipe import Recipe as Recipe
    from memberscope.types import Access as Access
    from memberscope.types import Dataset as Dataset
    from memberscope.types import Findings as Findings
    from memberscope.types import Gate as Gate
    from memberscope.types import Pool as Pool
    from memberscope.types import Scores as Scores
    from memberscope.types import Signals as Signals


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        home = import_module(_HOMES[name])
        return home if name == "membership" else getattr(home, name)
    raise AttributeError(f"module 'memberscope' has no attribute {name!r}")
