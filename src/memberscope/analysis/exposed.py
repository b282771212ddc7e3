"""Which records are exposed: calibrated p-values, false-discovery control, support over targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memberscope.large import in_threads, pieces, release, threads, working_array
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
    null = _null(scores)
    result = working_array(scores.values.shape)

    def work(row: int) -> None:
        values, members = scores.values[row], scores.members[row]
        order = np.argsort(values)
        # In order, the searches walk through the null sample once.
        above = len(null) - np.searchsorted(null, values[order], "left")
        own = np.where(members[order], (above + 1) / (len(null) + 1), above / max(len(null), 1))
        result[row, order] = np.where(np.isnan(values[order]), np.nan, own)
        release(values)
        release(result[row])

    for _ in in_threads(work, range(len(result)), threads(result.size)):
        pass
    return result


def _null(scores: Scores) -> Floats:
    """Non-members' scores of all targets, in order."""
    count = sum(int((~members & ~np.isnan(row)).sum()) for row, members in _rows(scores))
    null, filled = np.empty(count), 0
    for row, members in _rows(scores):
        own = row[~members & ~np.isnan(row)]
        null[filled : filled + len(own)] = own
        filled += len(own)
    null.sort()
    return null


def _rows(scores: Scores) -> Iterator[tuple[Floats, NDArray[np.bool_]]]:
    """Each target's scores and members; memory of a mapped row is given back after it."""
    for row, members in zip(scores.values, scores.members, strict=True):
        yield row, members
        release(row)


def evidence(scores: Mapping[str, Scores]) -> Evidence | None:
    """Evidence under the first attack of :data:`EVIDENCE` that was run; None without any."""
    name = next((name for name in EVIDENCE if name in scores), None)
    if name is None:
        return None
    p = p_values(scores[name])
    adjusted, flagged = working_array(p.shape), working_array(p.shape, np.bool_)

    def work(row: int) -> None:
        values, own = p[row], np.full(p.shape[1], np.nan)
        scored = ~np.isnan(values)
        own[scored] = benjamini_hochberg(values[scored])
        adjusted[row] = own
        flagged[row] = np.nan_to_num(own, nan=1.0) <= FALSE_DISCOVERIES
        for array in (p, adjusted, flagged):
            release(array[row])

    for _ in in_threads(work, range(len(p)), threads(p.size)):
        pass
    return Evidence(name, p, adjusted, flagged)


def exposed_records(
    signals: Signals, scores: Scores, found: Evidence, clusters: NDArray[np.int64], class_names: tuple[str, ...]
) -> Records:
    """The most exposed records, with their support: flagged by how many targets that did and did not train on them.

    Sorted by the share of the targets trained on the record that flag it, then by its median p-value there.
    """
    count = scores.values.shape[1]
    support_in, targets_in, support_out, targets_out = np.zeros((4, count), np.int64)
    hits, total = np.zeros((2, int(clusters.max()) + 1), np.int64)
    for (row, members), flagged, c in zip(_rows(scores), found.flagged, clusters, strict=True):
        audited = ~np.isnan(row)
        inside, outside = members & audited, ~members & audited
        support_in += flagged & inside
        targets_in += inside
        support_out += flagged & outside
        targets_out += outside
        hits[c] += int((flagged & inside).sum())
        total[c] += int(inside.sum())
        release(flagged)
    candidates = np.flatnonzero(targets_in > 0)
    share = support_in[candidates] / targets_in[candidates]
    chosen = candidates[_first(-share)]
    p = _median(found.p_values, scores, chosen)
    # Only what may be listed is looked at more closely.
    near = np.lexsort((chosen, p, -support_in[chosen] / targets_in[chosen]))
    last = near[min(LISTED, len(near)) - 1] if len(near) else 0
    flags = support_in[chosen] / targets_in[chosen]
    kept = (flags > flags[last]) | ((flags == flags[last]) & (p <= p[last])) if len(near) else np.zeros(0, np.bool_)
    candidates, p = chosen[kept], p[kept]
    adjusted, score = (_median(values, scores, candidates) for values in (found.adjusted, scores.values))
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
    figure = proportion(int(hits[0]), int(total[0])) if len(hits) == 1 else ratio(hits, total)
    return Records(
        attack=scores.attack,
        q=FALSE_DISCOVERIES,
        flagged=round(float(hits.sum() / len(clusters))),
        members=round(float(total.sum() / len(clusters))),
        share=figure.figure(),
        always=int(((support_in == targets_in) & (targets_in > 1)).sum()),
        top=rows,
    )


def _first(values: Floats) -> NDArray[np.int64]:
    """Places of the lowest values, so many as are listed, with all that equal the last of them."""
    if len(values) <= LISTED:
        return np.arange(len(values))
    return np.flatnonzero(values <= np.partition(values, LISTED - 1)[LISTED - 1])


def _median(values: Floats, scores: Scores, records: NDArray[np.int64]) -> Floats:
    """Median over the targets trained on each of these records that score it, ``(n,)``."""
    result = np.empty(len(records))
    for where in pieces(len(records)):
        index = records[where]
        inside = scores.members[:, index] & ~np.isnan(_columns(scores.values, index))
        part = np.sort(np.where(inside, _columns(values, index), np.nan), axis=0)
        count = inside.sum(axis=0)
        column = np.arange(len(index))
        result[where] = (part[(count - 1) // 2, column] + part[count // 2, column]) / 2
    return result


def _columns(values: Floats, index: NDArray[np.int64]) -> Floats:
    """``values[:, index]``, a row at a time: scattered reads of a mapped file bring most of it into memory."""
    result = np.empty((len(values), len(index)))
    for own, row in zip(result, values, strict=True):
        own[:] = row[index]
        release(row)
    return result
