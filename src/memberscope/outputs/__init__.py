"""Output policies: what a client sees instead of the model's own logits. NumPy alone; audited as they are served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memberscope.errors import ConfigError, nearest
from memberscope.outputs.apply import apply_policy
from memberscope.outputs.policy import OutputPolicy
from memberscope.outputs.reweighting import Reweighted, Reweighting

POLICIES: dict[str, type[OutputPolicy]] = {Reweighting.name: Reweighting}


def parse_policy(values: Mapping[str, Any]) -> OutputPolicy:
    """The policy that ``as_json`` described.

    Raises:
        ConfigError: no such policy, or values that it cannot have.
    """
    name = str(values.get("policy"))
    if name not in POLICIES:
        raise ConfigError(
            f"a policy among {', '.join(POLICIES)}", f"{name!r}{nearest(name, POLICIES)}", "Choose one of them."
        )
    return POLICIES[name].parse(values)


__all__ = ["POLICIES", "OutputPolicy", "Reweighted", "Reweighting", "apply_policy", "parse_policy"]
