"""Are the vulnerable records outliers of their class? Every outlier score against the vulnerable records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from memberscope.analysis.matched import Matched, matched_effect
from memberscope.analysis.outlier_scores import TITLES, ModelView, model_scores, nearest_centroids
from memberscope.analysis.outlier_verdict import LEAST as LEAST_MATCHED
from memberscope.analysis.outlier_verdict import judge
from memberscope.analysis.vulnerability import VulnerableSet
from memberscope.errors import SignalsError
from memberscope.statistics.intervals import Estimate, benjamini_hochberg, proportion
from memberscope.statistics.roc import auc_estimate
from memberscope.text import percent
from memberscope.types import Signals
from memberscope.types.analyses import OutlierRow, Outliers, OutlierScore

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]

LISTED = 60
SHARES = (0.01, 0.03, 0.05)
_Place = Literal["out", "target"]
# Fewer records at the top, or in a rank correlation, are no measurement.
LEAST_TOP = 5
LEAST_CORRELATED = 10


def outliers(
    views: Iterable[ModelView],
    signals: Signals,
    target: int,
    vulnerable: VulnerableSet,
    loss_trace_iqr: Floats | None,
    class_names: Sequence[str],
    *,
    seed: int = 0,
) -> Outliers:
    """Hold every outlier score against the vulnerable records, and say whether they are outliers.

    View ``out``: each score averaged over the viewed models that did not train on the record (where it is
    defined; a record that all of them trained on has none). View ``target``: the target's own scores of its
    members, as Khalil et al. (arXiv 2511.16792) take them, if it is among the views.

    Of each score, over the judged records that have one: AUROC for the vulnerable (DeLong), precision among the
    top 1, 3 and 5 % (ties in random order; Clopper–Pearson; not measured on fewer than five records), Spearman's
    correlation with the record's membership score (:func:`rank_correlation`), Cliff's delta against protected
    records of the same class with its p-value (:func:`~memberscope.analysis.matched.matched_effect`), and
    Benjamini–Hochberg over all scores of both views. Intervals treat records as independent, given the models.
    Where the viewed models also served as references, ``low_confidence`` shares the noise of their few OUT answers
    with the membership score, so that a part of their agreement is arithmetic: small where records differ by more
    than the models do about one record, as on real data.

    Args:
        views: one a model, each row once; taken one after the other, so that one model's features are held.
        signals: labels, ids and membership.
        target: row of the model whose own view is reported.
        vulnerable: which records are vulnerable, protected and judged.
        loss_trace_iqr: ``(N,)`` interquartile range of the record's loss over the epochs, NaN where unknown; one
            more score of view ``target``.
        class_names: names of the K classes.
        seed: orders ties, and draws the members among whom neighbours are sought where they are too many.

    Returns:
        Scores (view ``out`` first), verdict and sentence (:func:`~memberscope.analysis.outlier_verdict.judge`), and
        the most exposed records; ``nearest_class`` is empty for a record that all viewed models trained on.

    Raises:
        SignalsError: a view of another pool, twice the same row, or values that are not finite.
        MissingExtraError: cleanlab is not installed.
    """
    cases = vulnerable.vulnerable & vulnerable.judged
    controls = vulnerable.protected & vulnerable.judged & ~cases
    chosen = np.flatnonzero(cases)
    top = chosen[np.lexsort((chosen, -vulnerable.score[chosen], -vulnerable.support[chosen]))][:LISTED]
    found = _Collected(signals, target, top, seed)
    for view in views:
        found.add(view)
    scores: dict[_Place, dict[str, Floats]] = {"out": found.averages(), "target": dict(found.own)}
    if loss_trace_iqr is not None:
        scores["target"]["loss_trace_iqr"] = np.asarray(loss_trace_iqr, np.float64)
    sides = _Sides(vulnerable.judged, cases, controls, vulnerable.score, signals.labels)
    measured = {
        (place, name): _measure(place, name, values[name], sides, seed)
        for place, values in scores.items()
        for name in TITLES
        if name in values
    }
    listed = dict(zip(measured, _adjusted([score for score, _ in measured.values()]), strict=True))

    def primary(name: str) -> OutlierScore | None:
        effect = measured[("out", name)][1] if ("out", name) in measured else None
        enough = effect is not None and min(effect.cases, effect.controls) >= LEAST_MATCHED
        return listed[("out", name)] if enough else None

    labels = signals.labels
    paired = (
        int((cases & np.isin(labels, labels[controls])).sum()),
        int((controls & np.isin(labels, labels[cases])).sum()),
    )
    base_rate = len(chosen) / max(int(vulnerable.judged.sum()), 1)
    geometry = primary("feature_cosine" if ("out", "feature_cosine") in measured else "logit_cosine")
    verdict, sentence = judge(geometry, primary("low_confidence"), *paired, base_rate)
    return Outliers(
        vulnerable=len(chosen),
        controls=paired[1],
        base_rate=base_rate,
        models=len(found.rows),
        scores=list(listed.values()),
        top=_top_rows(top, found, scores["out"], vulnerable.judged, class_names),
        verdict=verdict,
        sentence=sentence,
    )


@dataclass(frozen=True, eq=False)
class _Sides:
    """Who is compared with whom, ``(N,)`` each."""

    judged: Bools
    cases: Bools
    controls: Bools
    membership: Floats
    labels: Integers


@dataclass(eq=False)
class _Collected:
    """Running sums over views, so that one model's scores are held at a time."""

    signals: Signals
    target: int
    top: Integers
    seed: int
    rows: list[int] = field(default_factory=list)
    own: dict[str, Floats] = field(default_factory=dict)
    _total: dict[str, Floats] = field(default_factory=dict)
    _count: dict[str, Integers] = field(default_factory=dict)
    _votes: Floats | float = 0.0

    def add(self, view: ModelView) -> None:
        """One more model."""
        signals = self.signals
        if not 0 <= view.row < len(signals) or view.row in self.rows or len(view.logits) != signals.records:
            raise SignalsError(
                f"views of different rows from 0 to {len(signals) - 1} on {signals.records} records",
                f"row {view.row} on {len(view.logits)} records, after rows {self.rows}",
                "Give each model of the pool once, on all records of the signals.",
            )
        self.rows.append(view.row)
        members = signals.members[view.row]
        for name, values in model_scores(view, signals.labels, members, seed=self.seed).items():
            use = ~members & np.isfinite(values)
            total = self._total.setdefault(name, np.zeros(signals.records))
            total[use] += values[use]
            self._count.setdefault(name, np.zeros(signals.records, np.int64))[use] += 1
            if view.row == self.target:
                self.own[name] = np.where(members, values, np.nan)
        cosine = nearest_centroids(view, signals.labels, members, self.top)
        seen = (~members[self.top] & np.isfinite(cosine).any(axis=1))[:, None]
        # A vote for the nearest class, and so little of its cosine that it only decides between equal votes.
        vote = (cosine == cosine.max(axis=1, keepdims=True)) + 1e-6 * np.where(np.isfinite(cosine), cosine, -1.0)
        self._votes = self._votes + np.where(seen, vote, 0.0)

    def averages(self) -> dict[str, Floats]:
        """Mean of each score over the models that did not train on the record, NaN where there is none."""
        return {
            name: np.where(count > 0, self._total[name] / np.maximum(count, 1), np.nan)
            for name, count in self._count.items()
        }

    def nearest(self) -> list[int | None]:
        """Class with the nearest centroid for each of ``top``, by most models that did not train on it."""
        if isinstance(self._votes, float):
            return [None] * len(self.top)
        return [int(row.argmax()) if row.any() else None for row in self._votes]


def _measure(place: _Place, name: str, values: Floats, sides: _Sides, seed: int) -> tuple[OutlierScore, Matched]:
    """One score against the vulnerable records, and its effect with its counts; no adjusted p-value yet."""
    use = sides.judged & np.isfinite(values)
    score, case = values[use], sides.cases[use]
    effect = matched_effect(values, sides.cases & use, sides.controls & use, sides.labels)
    rng = np.random.default_rng([seed, list(TITLES).index(name), place == "target"])
    order = np.lexsort((rng.random(len(score)), -score))
    result = OutlierScore(
        name=name,
        title=TITLES[name],
        view=place,
        auroc=_auroc(score[case], score[~case]).figure(),
        precision={f"{share:g}": _precision(case[order], share).figure() for share in SHARES},
        spearman=rank_correlation(score, sides.membership[use]).figure(),
        effect=effect.delta.figure(),
        p_value=effect.p_value,
        adjusted_p_value=None,
    )
    return result, effect


def _auroc(cases: Floats, others: Floats) -> Estimate:
    if len(cases) < 2 or len(others) < 2:
        return Estimate.missing(f"needs 2 vulnerable records and 2 others, has {len(cases)} and {len(others)}")
    if np.ptp(np.concatenate([cases, others])) == 0:
        return Estimate.missing("all records have the same score")
    return auc_estimate(cases, others)


def _precision(case: Bools, share: float) -> Estimate:
    """Share of vulnerable records among the top ``share`` of ``case``, highest score first."""
    count = int(np.floor(share * len(case) + 1e-9))
    if count < LEAST_TOP:
        return Estimate.missing(
            f"the top {percent(share)} of {len(case):,} records are {count}; at least {LEAST_TOP} are needed"
        )
    return proportion(int(case[:count].sum()), count)


def rank_correlation(a: Floats, b: Floats) -> Estimate:
    """Spearman's correlation, −1 to 1, with Bonett & Wright's interval (2000): Fisher's z, variance (1 + r²/2)/(n − 3).

    A perfect correlation has the interval of the nearest one that is not, so that it has a width.

    Args:
        a: ``(N,)``, NaN where unknown.
        b: ``(N,)`` likewise.
    """
    both = np.isfinite(a) & np.isfinite(b)
    n = int(both.sum())
    if n < LEAST_CORRELATED:
        return Estimate.missing(f"needs {LEAST_CORRELATED} records with both scores, has {n}")
    if np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return Estimate.missing("all records have the same score")
    value = float(np.clip(np.corrcoef(rankdata(a[both]), rankdata(b[both]))[0, 1], -1, 1))
    most = 1 - 12 / (n**3 - n)
    centre = float(np.arctanh(np.clip(value, -most, most)))
    deviation = float(np.sqrt((1 + value**2 / 2) / (n - 3)))

    def interval(level: float) -> tuple[float, float]:
        reach = -float(ndtri((1 - level) / 2)) * deviation
        return float(np.tanh(centre - reach)), float(np.tanh(centre + reach))

    return Estimate(value, interval)


def _adjusted(scores: list[OutlierScore]) -> list[OutlierScore]:
    known = [i for i, score in enumerate(scores) if score.p_value is not None]
    adjusted = benjamini_hochberg([scores[i].p_value or 0.0 for i in known])
    for i, value in zip(known, adjusted, strict=True):
        scores[i] = scores[i].model_copy(update={"adjusted_p_value": float(value)})
    return scores


def _top_rows(
    top: Integers, found: _Collected, out: dict[str, Floats], judged: Bools, class_names: Sequence[str]
) -> list[OutlierRow]:
    def name(label: int | None) -> str:
        return "" if label is None else class_names[label]

    shares: list[dict[str, float]] = [{} for _ in top]
    for key in TITLES:
        if key in out:
            known = np.sort(out[key][judged & np.isfinite(out[key])])
            for share, value in zip(shares, out[key][top], strict=True):
                if np.isfinite(value):
                    share[key] = float(np.searchsorted(known, value, "left") / len(known))
    labels, ids = found.signals.labels, found.signals.ids
    return [
        OutlierRow(
            id=str(ids[record]), label_name=name(int(labels[record])), nearest_class=name(nearest), percentiles=share
        )
        for record, nearest, share in zip(top, found.nearest(), shares, strict=True)
    ]
