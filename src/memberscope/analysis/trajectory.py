"""How leakage came about: the same attacks on the same records after chosen epochs of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memberscope.attacks import Attack, attack
from memberscope.errors import SignalsError
from memberscope.signals.references import design, targets_among_references
from memberscope.statistics.measure import Measured, Measurement, accuracies
from memberscope.text import percent
from memberscope.training.traces import Traces
from memberscope.types import Figure, Scores, Signals
from memberscope.types.analyses import Trajectory, TrajectoryPoint
from memberscope.types.base import Histogram

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BINS = 40
# φ has long tails; what lies beyond is counted in the outermost bins.
RANGE = (0.001, 0.999)
# More numbers than this tell the ends of the histograms no better.
_ENOUGH = 4_000_000
# Test accuracy within this of its highest is as good as reached.
AS_GOOD = 0.005


@dataclass(frozen=True, eq=False)
class _Moment:
    """One point of the trajectory: which of its kept epochs each row (with traces) stands at."""

    epoch: int
    place: dict[int, int]
    said: str


def trajectory(
    traces: Mapping[int, Traces],
    signals: Signals,
    targets: Sequence[int],
    *,
    seed: int = 0,
    reference: str | None = "bavaria",
) -> Trajectory | None:
    """Accuracy and leakage after each kept epoch (Khalil et al., arXiv 2511.16792, figure 1).

    Points stand at the epochs that all rows kept. Where early stopping ended the rows at different epochs, one more
    point shows each model as it ended, at the latest of these epochs. Population records are left out.

    Args:
        traces: by row, for all rows of the pool where possible: rows of the same epoch are the references there.
        signals: membership and records; their outputs are not read.
        targets: audited rows; those without traces are left out.
        seed: draws halves and bootstraps as the audit does, so that equal φ give equal figures.
        reference: an attack with reference models that reads nothing but φ; None for none. It is left out where it
            lacks references or cannot score nine records in ten.

    Returns:
        None if no epochs were kept for a target. Histograms hold shares of the records by bin, which sum to 1.

    Raises:
        SignalsError: traces of other records or rows.
        ConfigError: there is no attack of that name.
    """
    _check(traces, signals)
    rows = sorted(row for row, trace in traces.items() if len(trace.epochs))
    chosen = [rows.index(target) for target in targets if target in rows]
    if not chosen:
        return None
    moments = _moments({row: traces[row] for row in rows})
    wanted = attack(reference) if reference is not None else None
    edges = _edges(traces, [rows[place] for place in chosen], moments, ~signals.population)
    points = []
    for moment in moments:
        phi = np.stack([traces[row].phi[moment.place[row]] for row in rows]).astype(np.float64)
        correct = np.stack([traces[rows[place]].correct[moment.place[rows[place]]] for place in chosen])
        points.append(_point(moment.epoch, _signals_of(phi, signals, rows), chosen, correct, wanted, edges, seed))
    if any(point.reference_auc is None for point in points):
        points = [point.model_copy(update={"reference_auc": None, "reference_tpr_at_fpr": None}) for point in points]
        wanted = None
    return Trajectory(
        reference_attack=wanted.name if wanted else None,
        points=points,
        sentence=_sentence(points, [moment.said for moment in moments], wanted or attack("scaled_logit")),
    )


def loss_trace(traces: Mapping[int, Traces], members: Bools, rows: Iterable[int]) -> tuple[Floats, Floats]:
    """Interquartile range and mean of each record's loss over the epochs, as it was trained on.

    Both higher for records that a training learns late or never. NaN in a trace (the record was not drawn in that
    epoch) is left out; of a single epoch there is a mean and no range.

    Args:
        traces: by row.
        members: ``(M, N)``.
        rows: trainings to average over; those without losses are left out.

    Returns:
        (interquartile range, mean), ``(N,)`` both, in nats, mean over the rows that trained on the record; NaN where
        none did.

    Raises:
        SignalsError: a trace does not have one column a member.
    """
    totals, counts = np.zeros((2, members.shape[1])), np.zeros((2, members.shape[1]))
    for row in rows:
        loss = traces[row].loss if row in traces else None
        if loss is None:
            continue
        places = np.flatnonzero(members[row])
        if loss.ndim != 2 or loss.shape[1] != len(places):
            raise SignalsError(
                f"losses of the {len(places)} members of row {row}",
                f"shape {loss.shape}",
                "Pass the traces of these trainings.",
            )
        for number, values in enumerate(_range_and_mean(loss.astype(np.float64))):
            seen = ~np.isnan(values)
            totals[number, places[seen]] += values[seen]
            counts[number, places[seen]] += 1
    result = np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)
    return result[0], result[1]


def _range_and_mean(loss: Floats) -> tuple[Floats, Floats]:
    """Of each column ``(E, n)``, NaN left out; quartiles between order statistics as in ``numpy.quantile``."""
    known = ~np.isnan(loss)
    count = known.sum(axis=0)
    mean = np.where(count > 0, np.where(known, loss, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
    if len(loss) < 2:
        return np.full(loss.shape[1], np.nan), mean
    ordered = np.sort(loss, axis=0)
    columns = np.arange(loss.shape[1])
    quartiles = []
    for rate in (0.25, 0.75):
        position = rate * np.maximum(count - 1, 0)
        lower = position.astype(np.int64)
        upper = np.minimum(lower + 1, np.maximum(count - 1, 0))
        low, high = ordered[lower, columns], ordered[upper, columns]
        quartiles.append(low + (high - low) * (position - lower))
    return np.where(count > 1, quartiles[1] - quartiles[0], np.nan), mean


def _check(traces: Mapping[int, Traces], signals: Signals) -> None:
    for row, trace in traces.items():
        if not 0 <= row < len(signals) or {trace.phi.shape, trace.correct.shape} != {
            (len(trace.epochs), signals.records)
        }:
            raise SignalsError(
                f"traces of rows 0 to {len(signals) - 1}, each about the signals' {signals.records} records",
                f"row {row}: {len(trace.epochs)} epochs, φ of shape {trace.phi.shape}",
                "Pass the traces of the pool that the signals were collected from.",
            )


def _moments(traces: Mapping[int, Traces]) -> list[_Moment]:
    """Epochs that every row kept, and how the rows ended if they ended at different ones."""
    kept = {row: trace.epochs.tolist() for row, trace in traces.items()}
    common = sorted(set.intersection(*(set(epochs) for epochs in kept.values())))
    found = [
        _Moment(epoch, {row: epochs.index(epoch) for row, epochs in kept.items()}, f"after epoch {epoch}")
        for epoch in common
    ]
    ends = [epochs[-1] for epochs in kept.values()]
    if min(ends) < max(ends):
        last = {row: len(epochs) - 1 for row, epochs in kept.items()}
        found.append(_Moment(max(ends), last, f"at the end (epochs {min(ends)} to {max(ends)})"))
    return found


def _signals_of(phi: Floats, signals: Signals, rows: Sequence[int]) -> Signals:
    """Signals of which only φ is known: one logit of two classes is its own scaled logit where the label is 1."""
    return Signals(
        tuple(phi[:, :, None, None]),
        "logits",
        signals.members[list(rows)],
        np.ones(signals.records, np.int64),
        signals.ids,
        signals.population,
    )


def _point(
    epoch: int, signals: Signals, targets: list[int], correct: Bools, wanted: Attack | None, edges: Floats, seed: int
) -> TrajectoryPoint:
    threshold = _measurement(attack("scaled_logit"), signals, targets, seed)
    assert threshold is not None
    against = _measurement(wanted, signals, targets, seed) if wanted else None
    members = signals.members[targets]
    others = ~members & ~signals.population
    train, test = accuracies(correct, members, others, threshold.clusters)
    measured = threshold.pooled
    phi = threshold.scores.values
    return TrajectoryPoint(
        epoch=epoch,
        train_accuracy=train.figure(),
        test_accuracy=test.figure(),
        auc=measured.auc.figure(),
        advantage=measured.advantage.figure(),
        tpr_at_fpr=_rates(measured),
        reference_auc=against.pooled.auc.figure() if against else None,
        reference_tpr_at_fpr=_rates(against.pooled) if against else None,
        histogram=Histogram(
            attack="scaled_logit",
            edges=edges.tolist(),
            members=_shares(phi[members], edges),
            non_members=_shares(phi[others], edges),
        ),
    )


def _measurement(wanted: Attack, signals: Signals, targets: list[int], seed: int) -> Measurement | None:
    """The attack's figures as an audit measures them, or None where it lacks something."""
    if any(wanted.lacks(signals, target) for target in targets):
        return None
    values = np.stack([wanted(signals, target, np.random.default_rng([seed, 4, target])) for target in targets])
    if np.isnan(values[:, ~signals.population]).mean() > 0.1:
        return None
    scores = Scores(wanted.name, values, signals.members[targets], tuple(targets))
    sharing = targets_among_references(signals, targets) if wanted.contrasts else 0.0
    return Measurement(scores, design(signals).twin, seed, sharing)


def _rates(measured: Measured) -> dict[str, Figure]:
    return {f"{fpr:g}": estimate.figure() for fpr, estimate in measured.tpr.items()}


def _edges(traces: Mapping[int, Traces], targets: Sequence[int], moments: Sequence[_Moment], audited: Bools) -> Floats:
    """Bin edges for all epochs, over nearly all scaled logits of the targets."""
    step = 1 + len(targets) * len(moments) * int(audited.sum()) // _ENOUGH
    values = np.concatenate(
        [traces[row].phi[moment.place[row]][audited][::step] for row in targets for moment in moments]
    ).astype(np.float64)
    low, high = np.quantile(values, RANGE)
    if not low < high:
        low, high = values.min() - 0.5, values.max() + 0.5
    return np.linspace(low, high, BINS + 1)


def _shares(values: Floats, edges: Floats) -> list[float]:
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return [float(share) for share in counts / max(len(values), 1)]


def _sentence(points: Sequence[TrajectoryPoint], said: Sequence[str], shown: Attack) -> str:
    """What the trajectory shows.

    Leakage is said to grow only where the two intervals do not meet, which is wrong at most once in twenty however
    the two figures depend on each other; to fall likewise.
    """
    leaks = [point.auc if point.reference_auc is None else point.reference_auc for point in points]
    tests = [point.test_accuracy for point in points]
    missing = next((figure.reason for figure in (*leaks, *tests) if figure.value is None), None)
    if missing:
        return f"How leakage came about cannot be said: {missing}."
    low, auc, high = np.array([(leak.low, leak.value, leak.high) for leak in leaks], np.float64).T
    accuracy = [float(test.value or 0.0) for test in tests]
    title = shown.title.split(" (")[0]
    if len(points) == 1:
        return (
            f"One moment was kept, {said[0]}: AUC {_decimals(auc[0])} ({_decimals(low[0])} to {_decimals(high[0])}, "
            f"{title}) at {percent(accuracy[0])} test accuracy; how leakage came about cannot be seen from it."
        )
    change = f"from AUC {_decimals(auc[0])} {said[0]} to {_decimals(auc[-1])} {said[-1]} ({title})"
    went = f"test accuracy went from {percent(accuracy[0])} to {percent(accuracy[-1])}"
    if low[-1] > high[0]:
        return f"Leakage grew {change}, while {_price(low, auc, high, accuracy, said)}."
    if high[-1] < low[0]:
        return f"Leakage fell {change}, while {went}."
    peak = int(np.argmax(auc))
    between = f", though it was {_decimals(auc[peak])} {said[peak]}"
    between = between if low[peak] > max(high[0], high[-1]) else ""
    return f"Leakage did not change measurably, {change}{between}, while {went}."


def _price(low: Floats, auc: Floats, high: Floats, accuracy: Sequence[float], said: Sequence[str]) -> str:
    """What the leakage was paid for: whether accuracy was already there before leakage stopped growing."""
    best = max(accuracy)
    reached = next(place for place, value in enumerate(accuracy) if value >= best - AS_GOOD)
    if reached == len(accuracy) - 1:
        return (
            f"test accuracy was still rising, from {percent(accuracy[0])} to {percent(accuracy[-1])}: "
            "no earlier epoch that was kept came within half a point"
        )
    if low[-1] > high[reached]:
        gain = accuracy[-1] - accuracy[reached]
        bought = f"only {100 * gain:.2f} points of accuracy" if gain > 0 else "no accuracy"
        return (
            f"test accuracy was {percent(accuracy[reached])} {said[reached]} and {percent(accuracy[-1])} {said[-1]}: "
            f"the epochs after that cost privacy (from AUC {_decimals(auc[reached])}) and bought {bought}"
        )
    return (
        f"test accuracy was {percent(accuracy[reached])} {said[reached]} and at most {percent(best)} later; "
        "from there on leakage did not grow measurably"
    )


def _decimals(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")
