"""How much the attacks gain from more references, seen on the models that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from memberscope.attacks import Attack
from memberscope.signals.references import by_id, design, reference_rows
from memberscope.signals.subset import subset
from memberscope.statistics import roc
from memberscope.statistics.intervals import LEVEL
from memberscope.statistics.measure import FPRS, OPERATING_FPR
from memberscope.statistics.power import ENOUGH, Growth, clusters_needed
from memberscope.text import percent
from memberscope.types import Figure, GateResult, Signals
from memberscope.types.findings import ReferenceAdvice, ReferencePoint

Floats = NDArray[np.float64]

# Enough to tell 5 % of a leak of one member in ten from nothing; beyond, the study of an audit takes longer than it.
PLAYERS = 12
RECORDS = 10_000


@dataclass(frozen=True, eq=False)
class Gained:
    """An attack's figures with growing numbers of references.

    Args:
        references: ``(K,)`` rising numbers.
        figures: ``(K, P)`` of P independent targets, by :func:`key`; NaN where a figure is not measurable.
    """

    references: tuple[int, ...]
    figures: Mapping[str, Floats]

    def measurable(self, figure: str) -> bool:
        """Whether every target has this figure."""
        return not bool(np.isnan(self.figures[figure]).any())


def key(metric: str, fpr: float = OPERATING_FPR) -> str:
    """Name of a gate's figure: ``auc``, ``advantage`` or ``tpr@0.01``."""
    return f"tpr@{fpr:g}" if metric == "tpr" else metric


def gained(signals: Signals, attack: Attack, targets: Sequence[int], sizes: Sequence[int], seed: int) -> Gained | None:
    """Attack independent targets with some of their references: whole twin pairs where there are pairs.

    Args:
        signals: the pool's outputs.
        attack: one that uses references.
        targets: rows that may play.
        sizes: numbers of references to try; those that a target does not have are left out.
        seed: draws records, targets and references.

    Returns:
        None with fewer than two sizes or two independent targets.
    """
    rng = np.random.default_rng([seed, 11])
    twin = design(signals).twin
    players = _players(twin, targets, rng)
    most = min((len(reference_rows(signals, target)) for target in players), default=0)
    sizes = sorted({size for size in sizes if max(2, attack.minimum) <= size <= most})
    if len(players) < 2 or len(sizes) < 2:
        return None
    # Drawn by id, so that the order of the records does not matter.
    chosen = rng.permutation(signals.records)[:RECORDS]
    records = np.sort(by_id(signals)[0][chosen])
    names = ["auc", "advantage", *(key("tpr", fpr) for fpr in FPRS)]
    figures = {name: np.full((len(sizes), len(players)), np.nan) for name in names}
    for place, target in enumerate(players):
        order = _order(twin, reference_rows(signals, target), rng)
        for row, size in enumerate(sizes):
            part = subset(signals, np.concatenate([[target], order[:size]]), records)
            if attack.lacks(part, 0):
                return None
            scores = attack(part, 0, np.random.default_rng([seed, 12, target]))
            audited = ~part.population & ~np.isnan(scores)
            inside, outside = scores[audited & part.members[0]], scores[audited & ~part.members[0]]
            for name, value in _figures(inside, outside).items():
                figures[name][row, place] = value
    return Gained(tuple(sizes), figures)


def _figures(inside: Floats, outside: Floats) -> dict[str, float]:
    threshold = roc.best_threshold(inside, outside)
    found = {
        "auc": roc.auc(inside, outside),
        "advantage": float(np.mean(inside >= threshold) - np.mean(outside >= threshold)),
    }
    for fpr in FPRS:
        value = roc.tpr_estimate(inside, outside, fpr).value
        found[key("tpr", fpr)] = float("nan") if value is None else value
    return found


def _players(twin: NDArray[np.int64], targets: Sequence[int], rng: np.random.Generator) -> list[int]:
    """At most so many targets of which none is another's twin."""
    order = [int(row) for row in rng.permutation(np.asarray(targets))]
    found: list[int] = []
    for row in order:
        if twin[row] < 0 or int(twin[row]) not in found:
            found.append(row)
    return sorted(found[:PLAYERS])


def _order(twin: NDArray[np.int64], rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """References in random order, twins side by side."""
    first = [int(row) for row in rng.permutation(rows) if twin[row] < 0 or row < twin[row] or twin[row] not in rows]
    pairs = [[row] if twin[row] < 0 or twin[row] not in rows else [row, int(twin[row])] for row in first]
    return np.array([row for pair in pairs for row in pair], np.int64)


def advise(
    signals: Signals, attack: Attack, targets: Sequence[int], gates: Sequence[GateResult], clusters: int, seed: int
) -> ReferenceAdvice | None:
    """How many references are enough, and how many models would decide the gates that are not decided.

    Args:
        signals: the pool's outputs.
        attack: the one to judge by.
        targets: audited rows.
        gates: as they were judged.
        clusters: independent targets that judged them.
        seed: see :func:`gained`.

    Returns:
        None where too few models are there to tell.
    """
    available = max((len(reference_rows(signals, target)) for target in targets), default=0)
    sizes = [2**power for power in range(1, 9) if 2**power < available]
    found = gained(signals, attack, targets, [*sizes, available], seed)
    if found is None:
        return None
    metric: Literal["tpr", "auc"] = "tpr" if found.measurable(key("tpr")) else "auc"
    values = found.figures[key(metric)]
    chance = OPERATING_FPR if metric == "tpr" else 0.5
    count = values.shape[1]
    middle, error = values.mean(axis=1), values.std(axis=1, ddof=1) / np.sqrt(count)
    reach = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * error
    growth = Growth.fit(found.references, middle, np.maximum(error, 1e-4), chance)
    leaks = bool(middle[-1] - reach[-1] > chance)
    enough = growth.enough() if leaks else found.references[-1]
    models = _models(gates, clusters, bool((design(signals).twin >= 0).any()), len(signals))
    return ReferenceAdvice(
        attack=attack.name,
        metric=metric,
        targets=count,
        points=[
            ReferencePoint(
                references=size, value=Figure(value=value, low=max(0.0, value - by), high=min(1.0, value + by))
            )
            for size, value, by in zip(found.references, middle.tolist(), reach.tolist(), strict=True)
        ],
        share=growth.share(available) if leaks else None,
        recommended=enough,
        models=models,
        sentence=_sentence(attack, metric, growth, found.references, enough, leaks, models),
    )


def _models(gates: Sequence[GateResult], clusters: int, pairs: bool, present: int) -> int | None:
    """Models with which every gate would be decided if its figure stays; None if all are, or one never would be."""
    undecided = [gate for gate in gates if gate.verdict == "inconclusive"]
    if not undecided or clusters < 2:
        return None
    needed = 0
    for gate in undecided:
        figure = gate.figure
        if gate.gate.kind != "limit" or gate.gate.limit is None:
            # Rows of a group and a baseline's own interval do not shrink with this pool alone.
            return None
        if figure.value is None or figure.low is None or figure.high is None:
            return None
        more = clusters_needed(figure.value, figure.low, figure.high, clusters, gate.gate.limit)
        if more is None:
            return None
        needed = max(needed, more)
    return max((2 if pairs else 1) * needed, present + 2)


def _sentence(
    attack: Attack, metric: str, growth: Growth, references: Sequence[int], enough: int, leaks: bool, models: int | None
) -> str:
    last = references[-1]
    what = "members at 1 % false alarms" if metric == "tpr" else "area above chance"
    more = f" About {models:,} models would decide the gate, if its figure stays." if models is not None else ""
    if not leaks:
        return (
            f"With {references[0]} to {last} references {attack.title} finds nothing beyond chance: more of them are "
            f"unlikely to change that.{more}"
        )
    share = percent(round(growth.share(last), 2))
    said = f"With {last} references {attack.title} finds about {share} of the {what} that any number would find"
    if enough > last:
        return f"{said}; {enough} would find {percent(round(growth.share(enough), 2))}.{more}"
    if growth.share(last) >= ENOUGH and enough < last:
        return f"{said}; {enough} are enough for {percent(ENOUGH)}.{more}"
    return f"{said}.{more}"
