"""The sections of the report, in order.

A new part is one function that turns findings into what its template shows (or None where the data are
absent), one file ``templates/sections/<key>.html`` that reads it as ``view``, and one line here. The heading,
the anchor and the entry in the contents come by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memberscope.report.views import (
    attacks,
    attribution,
    classes,
    context,
    embedding,
    outliers,
    records,
    references,
    scores,
    trajectory,
)
from memberscope.types import Dataset, Findings


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Args:
        key: name of the template and of the anchor.
        title: heading, in plain words.
        view: what the template shows, from the findings and the data set if there is one; None skips the section.
    """

    key: str
    title: str
    view: Callable[[Findings, Dataset | None], Any]


SECTIONS: tuple[Section, ...] = (
    Section("attacks", "What an attacker can do", attacks.view),
    Section("records", "Which records", records.view),
    Section("outliers", "Are they outliers?", outliers.view),
    Section("embedding", "Where they lie", embedding.view),
    Section("attribution", "Where the model looks", attribution.view),
    Section("classes", "Who is hit hardest", classes.view),
    Section("precision", "How far one accusation can be trusted", attacks.precision_view),
    Section("scores", "How far the scores separate", scores.view),
    Section("trajectory", "How it grew while training", trajectory.view),
    Section("references", "Would more reference models find more?", references.view),
    Section("threat", "What the attacker is assumed to have", context.threat_view),
    Section("populations", "What was compared", context.populations_view),
    Section("checks", "Checks on the audit itself", context.checks_view),
    Section("gates", "Limits that were set", context.gates_view),
    Section("cost", "What the audit cost", context.cost_view),
    Section("limits", "What this does not say", context.limits_view),
    Section("provenance", "Where the figures come from", context.provenance_view),
    Section("glossary", "Words used here", context.glossary_view),
)
