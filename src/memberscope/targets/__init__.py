"""Ways of asking a model, whatever it is; :func:`as_target` finds the right one."""

from __future__ import annotations

from memberscope.targets.choose import as_target
from memberscope.targets.interface import Answers, Target

__all__ = ["Answers", "Target", "as_target"]
