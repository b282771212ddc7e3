"""Defences that stand behind a trained model and change its answers; they share the models of another row."""

from __future__ import annotations

from memberscope.defences.defence import Defence
from memberscope.defences.regularisation import PAPER, REGULARISATION

_BY_NAME = {defence.name: defence for defence in REGULARISATION}

RESPONSES = tuple(
    Defence(
        f"{base}+reweighting",
        f"{_BY_NAME[base].title} + reweighting",
        PAPER,
        "output",
        f"The models of {base}; every answer is drawn towards the mean training logits of the class that it names, "
        "which itself never changes (weight 0.1).",
        _BY_NAME[base].changes,
        policy="reweighting",
        base=base,
        in_paper=True,
    )
    for base in ("original", "regdrop_25")
)
