"""Trajectories of known leakage: the AUC of every epoch is known, the last epoch is the audit's, sentences are true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from memberscope.analysis.trajectory import loss_trace, trajectory
from memberscope.auditing import Plan, examine
from memberscope.errors import ConfigError, SignalsError
from memberscope.training.traces import Traces
from memberscope.types import Signals
from memberscope.types.analyses import Trajectory
from worlds import auc, gaussian_auc, membership

Floats = np.ndarray[Any, Any]


def world(
    shifts: Sequence[float],
    *,
    models: int = 8,
    records: int = 2000,
    spread: float = 0.0,
    accuracy: Sequence[float] | None = None,
    population: int = 0,
    seed: int = 0,
) -> tuple[dict[int, Traces], Signals]:
    """φ = record's own (SD ``spread``) + shift of the epoch for members + N(0, 1); epochs 1, 2, 3 …

    ``accuracy`` is the share of each target's non-members that it classifies right, to the record; all members are.
    The signals are those of the last epoch.
    """
    rng = np.random.default_rng(seed)
    members = membership(models, records, rng, "pairs")
    held = np.zeros(records, np.bool_)
    held[records - population :] = population > 0
    members &= ~held
    phi = spread * rng.normal(size=records) + rng.normal(size=(len(shifts), models, records))
    phi = (phi + np.array(shifts)[:, None, None] * members).astype(np.float32)
    correct = np.broadcast_to(members, phi.shape).copy()
    for right, share in zip(correct, accuracy or [0.5] * len(shifts), strict=True):
        for row in range(models):
            others = np.flatnonzero(~members[row] & ~held)
            right[row, others[: round(share * len(others))]] = True
    epochs = np.arange(1, len(shifts) + 1)
    traces = {row: Traces(None, "not kept", epochs, phi[:, row], correct[:, row]) for row in range(models)}
    labels = np.ones(records, np.int64)
    return traces, Signals(tuple(phi[-1][:, :, None, None]), "logits", members, labels, population=held)


def made(shifts: Sequence[float], **options: Any) -> Trajectory:
    found = trajectory(*world(shifts, **options), targets=range(options.get("models", 8)))
    assert found is not None
    return found


SHIFTS = (0.0, 0.5, 1.0, 2.0)


def test_auc_of_every_epoch_is_the_planted_one() -> None:
    points = made(SHIFTS).points
    assert [point.epoch for point in points] == [1, 2, 3, 4]
    for point, shift in zip(points, SHIFTS, strict=True):
        truth = norm.cdf(shift / np.sqrt(2))
        assert point.auc.value == pytest.approx(truth, abs=0.02)
        assert point.auc.low <= truth <= point.auc.high  # type: ignore[operator]
        rate = norm.sf(norm.isf(0.1) - shift)
        assert point.tpr_at_fpr["0.1"].low <= rate <= point.tpr_at_fpr["0.1"].high  # type: ignore[operator]
        best = 2 * norm.cdf(shift / 2) - 1
        assert point.advantage.low <= best <= point.advantage.high  # type: ignore[operator]
        assert set(point.tpr_at_fpr) == {"0.1", "0.01", "0.001"}


def test_reference_attack_sees_through_difficulty_in_every_epoch() -> None:
    """Records that differ far more than members do from non-members hide them from one threshold for all."""
    found = made(SHIFTS, spread=2.0, models=16, records=1500)
    assert found.reference_attack == "bavaria"
    for point, shift in zip(found.points, SHIFTS, strict=True):
        assert point.reference_auc is not None and point.reference_tpr_at_fpr is not None
        weak, strong = point.auc.value or 0, point.reference_auc.value or 0
        assert weak == pytest.approx(norm.cdf(shift / np.sqrt(2 * (1 + 2.0**2))), abs=0.03)
        # Fourteen references, seven on each side: whoever must estimate the shift too, falls short of this.
        best = gaussian_auc(shift, 7)
        assert strong == pytest.approx(best, abs=0.03) if shift in (0, 2) else weak + 0.01 < strong < best
        if shift > 0.5:
            assert point.reference_auc.low > (point.auc.high or 1)  # type: ignore[operator]


@pytest.mark.parametrize(("targets", "population"), [(None, 0), ([1, 2, 6], 0), (None, 300)])
def test_last_epoch_is_what_the_audit_measures(targets: list[int] | None, population: int) -> None:
    traces, signals = world(SHIFTS, spread=1.0, records=1500, population=population, accuracy=[0.4, 0.5, 0.6, 0.55])
    audit = examine(signals, Plan(targets=targets, attacks=["scaled_logit", "bavaria"], seed=7)).findings
    found = trajectory(traces, signals, targets or range(8), seed=7)
    assert found is not None
    last = found.points[-1]
    for name, ours in (
        ("scaled_logit", (last.auc, last.tpr_at_fpr)),
        ("bavaria", (last.reference_auc, last.reference_tpr_at_fpr)),
    ):
        theirs = audit.pooled(name)
        assert (theirs.auc, theirs.tpr_at_fpr) == ours
    assert last.advantage == audit.pooled("scaled_logit").advantage


def test_accuracies_are_counted_by_hand() -> None:
    traces, signals = world([0.0, 1.0], population=400, accuracy=[0.25, 0.625])
    found = trajectory(traces, signals, [0, 3, 5])
    assert found is not None
    for place, point in enumerate(found.points):
        right = total = 0
        for row in (0, 3, 5):
            for record in np.flatnonzero(~signals.population & ~signals.members[row]):
                right += bool(traces[row].correct[place, record])
                total += 1
        assert point.test_accuracy.value == pytest.approx(right / total, abs=1e-12)
        assert point.test_accuracy.low <= point.test_accuracy.value <= point.test_accuracy.high  # type: ignore[operator]
        assert point.train_accuracy.value == 1


def test_histograms_share_their_bins_and_lose_nobody() -> None:
    traces, signals = world([0.0, 1.0, 3.0], population=200, models=4, records=800)
    traces[1].phi[1, 5] = 1e6  # an outlier must not squeeze all others into one bar
    found = trajectory(traces, signals, [0, 1])
    assert found is not None
    everything = np.concatenate([traces[row].phi[place, :600] for row in (0, 1) for place in range(3)])
    low, high = np.percentile(everything.astype(np.float64), [0.1, 99.9])
    for place, point in enumerate(found.points):
        edges = point.histogram.edges
        assert edges[0] == pytest.approx(low) and edges[-1] == pytest.approx(high) and len(edges) == 41
        for shares, member in ((point.histogram.members, True), (point.histogram.non_members, False)):
            count = np.zeros(40)
            for row in (0, 1):
                for record in range(600):
                    if signals.members[row, record] == member:
                        place_in = sum(float(traces[row].phi[place, record]) >= edge for edge in edges) - 1
                        count[min(max(place_in, 0), 39)] += 1
            np.testing.assert_allclose(shares, count / count.sum(), atol=1e-12)


def test_population_counts_nowhere() -> None:
    traces, signals = world(SHIFTS, population=300)
    # A reference attack may calibrate itself on the population; nothing else may look at it.
    before = trajectory(traces, signals, range(8), reference=None)
    for trace in traces.values():
        trace.phi[:, signals.population] = 50.0
        trace.correct[:, signals.population] = True
    assert trajectory(traces, signals, range(8), reference=None) == before


def test_rows_that_stopped_at_different_epochs_meet_at_the_end() -> None:
    traces, signals = world(SHIFTS, models=6)
    ends = [3, 4, 3, 4, 4, 3]
    short = {
        row: Traces(None, "", trace.epochs[: ends[row]], trace.phi[: ends[row]], trace.correct[: ends[row]])
        for row, trace in traces.items()
    }
    found = trajectory(short, signals, range(6))
    assert found is not None and [point.epoch for point in found.points] == [1, 2, 3, 4]
    last = np.concatenate([short[row].phi[-1] for row in range(6)]).astype(np.float64)
    assert found.points[-1].auc.value == pytest.approx(auc(last, signals.members.ravel()), abs=1e-12)
    assert "at the end (epochs 3 to 4)" in found.sentence
    # No epoch in common at all: only the end can be shown.
    apart = {row: Traces(None, "", t.epochs[-1:] * 1, t.phi[-1:], t.correct[-1:]) for row, t in short.items()}
    found = trajectory(apart, signals, range(6))
    assert found is not None and [point.epoch for point in found.points] == [4] and "One moment" in found.sentence


def test_only_targets_with_traces_and_nothing_without_epochs() -> None:
    traces, signals = world(SHIFTS[2:], records=600)
    outside = {row: trace for row, trace in traces.items() if row > 0}
    assert trajectory(outside, signals, [0]) is None
    some, none = trajectory(outside, signals, [0, 1, 2]), trajectory(outside, signals, [1, 2])
    assert some == none != None  # noqa: E711
    empty = Traces(None, "", np.empty(0, np.int64), np.empty((0, 600), np.float32), np.empty((0, 600), np.bool_))
    assert trajectory(dict.fromkeys(range(8), empty), signals, range(8)) is None
    assert trajectory({}, signals, range(8)) is None


def test_reference_attack_is_left_out_where_there_are_no_references() -> None:
    traces, signals = world(SHIFTS, models=2)
    found = trajectory(traces, signals, [0, 1])
    assert found is not None and found.reference_attack is None
    assert all(point.reference_auc is None and point.reference_tpr_at_fpr is None for point in found.points)
    assert "Scaled-logit threshold" in found.sentence
    whole = trajectory(*world(SHIFTS), targets=range(8), reference=None)
    assert whole is not None and whole.reference_attack is None
    assert whole.points[-1].auc.value == pytest.approx(norm.cdf(np.sqrt(2)), abs=0.02)


def test_bad_input() -> None:
    traces, signals = world(SHIFTS)
    _, fewer = world(SHIFTS, records=1000)
    with pytest.raises(SignalsError, match="1000 records"):
        trajectory(traces, fewer, range(8))
    with pytest.raises(SignalsError, match="rows 0 to 7"):
        trajectory(traces | {8: traces[0]}, signals, range(8))
    with pytest.raises(ConfigError, match="did you mean 'bavaria'"):
        trajectory(traces, signals, range(8), reference="bavria")


def test_same_seed_same_trajectory() -> None:
    assert made(SHIFTS[2:], models=4, records=600) == made(SHIFTS[2:], models=4, records=600)


@pytest.mark.parametrize(
    ("shifts", "accuracy", "said", "unsaid"),
    [
        # The best accuracy comes long before the end.
        ([0.0, 0.4, 1.0, 2.0], [0.5, 0.7, 0.7, 0.69], ["grew", "after epoch 2", "bought no accuracy"], ["rising"]),
        # A gain too small to be worth it is told by its size.
        ([0.0, 0.4, 1.0, 2.0], [0.5, 0.7, 0.7, 0.703], ["grew", "bought only 0.30 points"], ["bought no"]),
        # Accuracy is bought to the last.
        ([0.0, 0.4, 1.0, 2.0], [0.5, 0.6, 0.7, 0.8], ["grew", "still rising", "50 % to 80 %"], ["bought"]),
        # Leakage grew while accuracy did, and no longer.
        ([0.0, 1.5, 1.5, 1.5], [0.5, 0.7, 0.7, 0.7], ["grew", "after epoch 2", "did not grow measurably"], ["bought"]),
        ([0.0, 0.0, 0.0, 0.0], [0.5, 0.6, 0.6, 0.6], ["did not change measurably", "50 % to 60 %"], ["grew", "fell"]),
        ([0.0, 1.5, 1.5, 0.0], [0.5, 0.6, 0.6, 0.6], ["did not change measurably", "though it was"], ["grew"]),
        ([2.0, 1.5, 1.0, 0.5], [0.5, 0.6, 0.6, 0.6], ["Leakage fell", "after epoch 4"], ["grew"]),
        ([1.0], [0.6], ["One moment was kept, after epoch 1", "60 % test accuracy"], ["grew", "went"]),
    ],
)
def test_sentences_are_true(shifts: list[float], accuracy: list[float], said: list[str], unsaid: list[str]) -> None:
    found = made(shifts, accuracy=accuracy, models=8, records=2000)
    text = found.sentence.replace("\u00a0", " ")
    assert all(part in text for part in said), text
    assert not any(part in text for part in unsaid), text
    assert text.endswith(".") and "BaVarIA" in text
    last = found.points[-1].reference_auc
    assert last is not None and f"{last.value:.3f}"[1:] in text


@pytest.mark.parametrize("models", [1, 4])
def test_growth_is_not_claimed_where_there_is_none(models: int) -> None:
    """The same AUC of .64 in both epochs: growth is claimed once in forty at most."""
    claims = 0
    for seed in range(40):
        traces, signals = world([0.5, 0.5], models=max(models, 2), records=300, seed=seed)
        found = trajectory(traces, signals, range(models), reference=None)
        assert found is not None
        claims += "grew" in found.sentence
    assert claims <= 40 * 0.025 + 3 * np.sqrt(40 * 0.025)


def losses(rng: np.random.Generator, members: Floats, epochs: int, missing: float) -> dict[int, Traces]:
    traces = {}
    for row, own in enumerate(members):
        loss = rng.exponential(size=(epochs, own.sum())).astype(np.float32)
        loss[rng.random(loss.shape) < missing] = np.nan
        nothing = np.empty((0, members.shape[1]))
        traces[row] = Traces(loss, "", np.empty(0, np.int64), nothing.astype(np.float32), nothing.astype(np.bool_))
    return traces


@pytest.mark.parametrize(("epochs", "missing"), [(7, 0.0), (12, 0.3), (3, 0.7), (2, 0.9)])
def test_loss_trace_equals_a_slow_loop(epochs: int, missing: float) -> None:
    rng = np.random.default_rng(3)
    members = membership(5, 200, rng, "bernoulli")
    traces = losses(rng, members, epochs, missing)
    iqr, mean = loss_trace(traces, members, [0, 2, 3])
    for record in range(200):
        ranges, means = [], []
        for row in (0, 2, 3):
            if members[row, record]:
                assert traces[row].loss is not None
                column = traces[row].loss[:, members[row, :record].sum()].astype(np.float64)  # type: ignore[index]
                known = column[~np.isnan(column)]
                means += [known.mean()] if len(known) else []
                ranges += [np.subtract(*np.percentile(known, [75, 25]))] if len(known) > 1 else []
        for got, expected in ((iqr[record], ranges), (mean[record], means)):
            assert got == pytest.approx(np.mean(expected), abs=1e-12) if expected else np.isnan(got)


def test_loss_trace_of_what_is_not_there() -> None:
    rng = np.random.default_rng(4)
    members = membership(4, 100, rng, "pairs")
    traces = losses(rng, members, 5, 0.0)
    traces[1] = Traces(None, "clipped", traces[1].epochs, traces[1].phi, traces[1].correct)
    iqr, mean = loss_trace(traces, members, [0, 1, 9])
    np.testing.assert_array_equal(~np.isnan(iqr), members[0])
    np.testing.assert_array_equal(~np.isnan(mean), members[0])
    one = losses(rng, members, 1, 0.0)
    iqr, mean = loss_trace(one, members, [0])
    assert np.isnan(iqr).all()
    np.testing.assert_allclose(mean[members[0]], one[0].loss[0])  # type: ignore[index]
    with pytest.raises(SignalsError, match="members of row 2"):
        loss_trace({2: traces[0]}, np.vstack([members[:2], ~members[:1], members[3:]]) & (np.arange(100) < 60), [2])
