"""Which records are exposed: calibrated p-values, false-discovery control, support over targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memberscope.statistics.cluster import ratio
from memberscope.statistics.intervals import benjamini_hochberg, proportion
from memberscope.types import Scores, Signals
from memberscope.types.findings import RecordRow, Records

Floats = NDArray[np.float64]

# The attack whose evidence names records is fixed in advance, not chosen by its result: the first that ran.
EVIDENCE = (
    "bavaria",
    "lira_online",
    "lira_offline_pooled",
    "rmia_online",
    "rmia_offline",
    "base",
    "calibrated_loss",
    "attack_p",
    "scaled_logit",
    "gap",
)
FALSE_DISCOVERIES = 0.05
LISTED = 200


@dataclass(frozen=True, eq=False)
class Evidence:
    """Per record and target: how surprising its score is if it was not a member.

    Args:
        attack: whose scores.
        p_values: ``(T, N)`` NaN where not scored.
        adjusted: ``(T, N)`` after Benjamini-Hochberg over the records of each target.
        flagged: ``(T, N)`` adjusted p-value at most :data:`FALSE_DISCOVERIES`.
    """

    attack: str
    p_values: Floats
    adjusted: Floats
    flagged: NDArray[np.bool_]


def p_values(scores: Scores) -> Floats:
    """Share of non-members' scores at or above each record's, ``(T, N)``; right at any sample size.

    The non-members of all targets form the null sample; a member's score joins it (conformal p-value), a
    non-member's is in it already. P(p <= u) <= u for a record that leaves no trace.
    """
    null = np.sort(scores.values[~scores.members & ~np.isnan(scores.values)])
    above = len(null) - np.searchsorted(null, scores.values, "left")
    values = np.where(scores.members, (above + 1) / (len(null) + 1), above / max(len(null), 1))
    return np.where(np.isnan(scores.values), np.nan, values)


def evidence(scores: dict[str, Scores]) -> Evidence | None:
    """Evidence under the first attack of :data:`EVIDENCE` that was run; None without any."""
    name = next((name for name in EVIDENCE if name in scores), None)
    if name is None:
        return None
    p = p_values(scores[name])
    adjusted = np.full(p.shape, np.nan)
    for row, values in enumerate(p):
        scored = ~np.isnan(values)
        adjusted[row, scored] = benjamini_hochberg(values[scored])
    return Evidence(name, p, adjusted, np.nan_to_num(adjusted, nan=1.0) <= FALSE_DISCOVERIES)


def exposed_records(
    signals: Signals, scores: Scores, found: Evidence, clusters: NDArray[np.int64], class_names: tuple[str, ...]
) -> Records:
    """The most exposed records, with their support: flagged by how many targets that did and did not train on them.

    Sorted by the share of the targets trained on the record that flag it, then by its median p-value there.
    """
    members, flagged = scores.members, found.flagged
    audited = ~np.isnan(scores.values)
    inside, outside = members & audited, ~members & audited
    support_in, targets_in = (flagged & inside).sum(axis=0), inside.sum(axis=0)
    support_out, targets_out = (flagged & outside).sum(axis=0), outside.sum(axis=0)
    candidates = np.flatnonzero(targets_in > 0)
    p, adjusted, score = (
        np.nanmedian(np.where(inside, values, np.nan)[:, candidates], axis=0)
        for values in (found.p_values, found.adjusted, scores.values)
    )
    share = support_in[candidates] / targets_in[candidates]
    order = np.lexsort((candidates, -score, p, -share))[:LISTED]
    rows = [
        RecordRow(
            id=str(signals.ids[candidates[i]]),
            label=int(signals.labels[candidates[i]]),
            label_name=class_names[signals.labels[candidates[i]]],
            score=float(score[i]),
            p_value=float(p[i]),
            adjusted_p_value=float(adjusted[i]),
            support_in=int(support_in[candidates[i]]),
            targets_in=int(targets_in[candidates[i]]),
            support_out=int(support_out[candidates[i]]),
            targets_out=int(targets_out[candidates[i]]),
        )
        for i in order
        if share[i] > 0
    ]
    hits, total = np.zeros((2, int(clusters.max()) + 1), np.int64)
    np.add.at(hits, clusters, (flagged & inside).sum(axis=1))
    np.add.at(total, clusters, inside.sum(axis=1))
    figure = proportion(int(hits[0]), int(total[0])) if len(hits) == 1 else ratio(hits, total)
    return Records(
        attack=scores.attack,
        q=FALSE_DISCOVERIES,
        flagged=round(float((flagged & inside).sum(axis=1).mean())),
        members=round(float(inside.sum(axis=1).mean())),
        share=figure.figure(),
        always=int(((support_in == targets_in) & (targets_in > 1)).sum()),
        top=rows,
    )
