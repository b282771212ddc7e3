"""Which models may speak about which record, and moments over them, against brute force."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, chisquare

from memberscope.signals.derive import scaled_logits
from memberscope.signals.moments import means, moments
from memberscope.signals.references import by_pair, counts, design, partner, reference_rows, usable
from memberscope.types import Signals
from worlds import difficulty, leak_world, membership, null_world, signals_of

Bools = NDArray[np.bool_]


def bare(members: Bools, population: int = 0) -> Signals:
    """Signals of which only the membership matters."""
    return signals_of(np.zeros((*members.shape, 1)), members, 1, np.random.default_rng(0), population=population)


def twin_of(members: Bools, target: int) -> list[int]:
    return [m for m in range(len(members)) if all(a != b for a, b in zip(members[m], members[target], strict=True))]


@pytest.mark.parametrize("models", [2, 4, 16, 33])
def test_in_pairs_the_twin_is_left_out_with_the_target(models: int) -> None:
    members = membership(models, 60, np.random.default_rng(models), "pairs")
    signals = bare(members)
    for target in range(models):
        gone = [target, *twin_of(members, target)]
        assert len(gone) == (1 if models % 2 and target == models - 1 else 2)
        rows = [m for m in range(models) if m not in gone]
        assert reference_rows(signals, target).tolist() == rows
        assert (usable(signals, target) == np.isin(np.arange(models), rows)[:, None]).all()


@pytest.mark.parametrize("models", [4, 5, 33])
def test_in_a_bernoulli_design_only_the_target_is_left_out(models: int) -> None:
    signals = bare(membership(models, 60, np.random.default_rng(models), "bernoulli"))
    for target in range(models):
        assert partner(signals, target) is None
        assert usable(signals, target).sum() == 60 * (models - 1)
        assert not usable(signals, target)[target].any()


@pytest.mark.parametrize("models", [4, 7, 12])
def test_in_a_balanced_design_one_of_opposite_membership_goes_too(models: int) -> None:
    members = membership(models, 200, np.random.default_rng(models), "balanced")
    signals = bare(members)
    inside = models // 2
    for target in range(models):
        allowed = usable(signals, target)
        assert not allowed[target].any()
        for i in range(200):
            (gone,) = (m for m in range(models) if m != target and not allowed[m, i])
            assert members[gone, i] != members[target, i]
        # What is left counts the same for members and non-members.
        assert set((members & allowed).sum(axis=0).tolist()) == {inside - 1}
        assert set((~members & allowed).sum(axis=0).tolist()) == {models - inside - 1}
        assert (reference_rows(signals, target) == np.delete(np.arange(models), target)).all()


def test_a_block_of_pairs_beside_a_balanced_block_keeps_to_itself() -> None:
    rng = np.random.default_rng(0)
    members = np.concatenate([membership(4, 300, rng, "pairs"), membership(5, 300, rng, "balanced")])
    signals = bare(members)
    assert design(signals).balanced
    for target in range(9):
        rows = partner(signals, target)
        assert rows is not None
        assert (rows >= 4).all() if target >= 4 else (rows == target ^ 1).all()
        assert (members[rows, np.arange(300)] != members[target]).all()


def test_population_records_have_no_partner_and_keep_all_other_models() -> None:
    for kind in ("pairs", "balanced"):
        signals = bare(membership(6, 80, np.random.default_rng(1), kind), population=20)  # type: ignore[arg-type]
        rows = partner(signals, 2)
        assert rows is not None
        assert (rows[60:] == -1).all() and (rows[:60] >= 0).all()
        assert (usable(signals, 2)[:, 60:].sum(axis=0) == 5).all()


@pytest.mark.parametrize("kind", ["pairs", "bernoulli", "balanced"])
@pytest.mark.parametrize("population", [0, 20])
def test_counts_are_those_of_the_usable_models(kind: Any, population: int) -> None:
    signals = bare(membership(8, 80, np.random.default_rng(2), kind), population=population)
    for target in range(8):
        allowed = usable(signals, target)
        inside, outside = counts(signals, target)
        assert (inside == (allowed & signals.members).sum(axis=0)).all()
        assert (outside == (allowed & ~signals.members).sum(axis=0)).all()


def next_row(members: Bools, target: int) -> NDArray[np.int64]:
    """The tempting rule: the next row of opposite membership."""
    models, records = members.shape
    result = np.full(records, -1)
    for step in range(1, models):
        row = (target + step) % models
        result[(result < 0) & (members[row] != members[target])] = row
    return result


def told_by_what_is_left(members: Bools, target: int, gone: NDArray[np.int64]) -> float:
    """p-value of: membership in the target is independent of which rows are left and whether they are IN."""
    table: dict[tuple[Any, ...], Counter[bool]] = {}
    for i, absent in enumerate(gone):
        left = tuple((m, bool(members[m, i])) for m in range(len(members)) if m not in (target, absent))
        table.setdefault(left, Counter())[bool(members[target, i])] += 1
    counts = [(seen[True], seen[False]) for seen in table.values()]
    return float(chi2_contingency(np.array(counts)).pvalue)


@pytest.mark.parametrize("models", [4, 5, 6])
def test_what_is_left_of_a_balanced_design_tells_nothing_of_the_target(models: int) -> None:
    members = membership(models, 20_000, np.random.default_rng(models), "balanced")
    signals = bare(members)
    for target in (0, models - 1):
        rows = partner(signals, target)
        assert rows is not None
        assert told_by_what_is_left(members, target, rows) > 1e-4
        # The same test sees that a rule by position gives the target away.
        assert told_by_what_is_left(members, target, next_row(members, target)) < 1e-100
        for member in (False, True):
            chosen = Counter(rows[members[target] == member].tolist())
            assert chisquare([chosen[m] for m in range(models) if m != target]).pvalue > 1e-4


def test_the_partner_follows_the_record_not_its_place() -> None:
    rng = np.random.default_rng(2)
    members = membership(7, 100, rng, "balanced")
    ids = np.array([f"id {i}" for i in rng.permutation(100)])
    order = rng.permutation(100)

    def rows(index: NDArray[np.int64]) -> NDArray[np.int64]:
        zeros = tuple(np.zeros((7, 100, 1)))
        signals = Signals(zeros, "logits", members[:, index], np.zeros(100, np.int64), ids[index])
        result = partner(signals, 3)
        assert result is not None
        return result

    np.testing.assert_array_equal(rows(np.arange(100))[order], rows(order))


WORLDS: dict[str, tuple[int, dict[str, Any]]] = {
    "pairs": (8, {"design": "pairs"}),
    "pairs and one": (9, {"design": "pairs", "queries": 3}),
    "bernoulli": (7, {"design": "bernoulli", "queries": 2}),
    "few models": (4, {"design": "bernoulli"}),
    "balanced": (9, {"design": "balanced", "queries": 3}),
    "population": (8, {"design": "pairs", "population": 15}),
    "population, balanced": (7, {"design": "balanced", "population": 15}),
    "population, bernoulli": (7, {"design": "bernoulli", "population": 15}),
}


@pytest.mark.parametrize("name", WORLDS)
def test_moments_equal_numpys_for_every_target(name: str) -> None:
    models, options = WORLDS[name]
    signals = null_world(models, 60, 4, np.random.default_rng(3), **options)
    phi = scaled_logits(signals)
    single = 0
    for target in range(models):
        ours, allowed = moments(signals, target), usable(signals, target)
        p, losses = means(signals, target, "p", 2.0), means(signals, target, "loss")
        for i in range(60):
            for count, mean, variance, p_mean, loss_mean, wanted in (
                (ours.n_in, ours.mean_in, ours.var_in, p.mean_in, losses.mean_in, True),
                (ours.n_out, ours.mean_out, ours.var_out, p.mean_out, losses.mean_out, False),
            ):
                rows = np.flatnonzero(allowed[:, i] & (signals.members[:, i] == wanted))
                assert count[i] == len(rows)
                single += len(rows) < 2
                if not len(rows):
                    assert np.isnan(mean[i]).all() and np.isnan(p_mean[i]).all() and np.isnan(loss_mean[i]).all()
                    continue
                np.testing.assert_allclose(mean[i], phi[rows, i].mean(axis=0), rtol=1e-12, atol=1e-12)
                np.testing.assert_allclose(loss_mean[i], np.logaddexp(0, -phi[rows, i]).mean(axis=0), rtol=1e-11)
                half = scaled_logits(signals, 2.0)[rows, i]
                np.testing.assert_allclose(p_mean[i], (1 / (1 + np.exp(-half))).mean(axis=0), rtol=1e-11)
                if len(rows) < 2:
                    assert np.isnan(variance[i]).all()
                else:
                    np.testing.assert_allclose(variance[i], phi[rows, i].var(axis=0, ddof=1), rtol=1e-9)
    assert single > 0 or models > 7


def test_means_of_probabilities_do_not_drown_in_what_was_taken_from_them() -> None:
    rng = np.random.default_rng(4)
    members = membership(10, 300, rng, "pairs")
    # Some models are certain, the others are certain of the opposite: p from 1e-150 to 1.
    phi = np.where(rng.random((10, 300, 1)) < 0.2, 40.0, -rng.uniform(5, 350, (10, 300, 1)))
    signals = signals_of(phi, members, 1, rng)
    for target in range(10):
        ours, allowed = means(signals, target, "p"), usable(signals, target)
        for mean, side in ((ours.mean_in, members), (ours.mean_out, ~members)):
            rows = allowed & side
            truth = np.array([np.exp(-np.logaddexp(0, -phi[rows[:, i], i, 0])).mean() for i in range(300)])
            np.testing.assert_allclose(mean[:, 0], truth, rtol=1e-9)


def test_equal_answers_have_no_variance_at_all() -> None:
    rng = np.random.default_rng(5)
    members = membership(9, 200, rng, "balanced")
    phi = np.broadcast_to(rng.normal(3, 1, (1, 200, 1)), (9, 200, 1)).copy()
    phi[0] += 7.3  # one model differs: left out, its traces must go too
    ours = moments(signals_of(phi, members, 1, rng), 0)
    assert (ours.var_in == 0).all() and (ours.var_out == 0).all()
    np.testing.assert_allclose(ours.mean_in, phi[1], rtol=1e-12)


def test_moments_survive_an_outlier_that_leaves() -> None:
    rng = np.random.default_rng(6)
    members = membership(12, 100, rng, "bernoulli")
    phi = difficulty(12, 100, 1, rng)
    phi[4] += 1e4
    signals = signals_of(phi, members, 1, rng)
    ours = moments(signals, 4)
    for i in range(100):
        rest = np.array([phi[m, i, 0] for m in range(12) if m != 4 and members[m, i]])
        if len(rest) > 1:
            assert ours.mean_in[i, 0] == pytest.approx(rest.mean(), rel=1e-10, abs=1e-10)
            assert ours.var_in[i, 0] == pytest.approx(rest.var(ddof=1), rel=1e-5)


def test_moments_handed_out_cannot_be_overwritten() -> None:
    signals = null_world(6, 30, 2, np.random.default_rng(7))
    with pytest.raises(ValueError, match="read-only"):
        moments(signals, 0).mean_in[0] = 1.0


def test_a_target_and_its_twin_are_scored_together() -> None:
    signals = leak_world(6, 40, 3, np.random.default_rng(3), 1.0).signals
    twin = design(signals).twin
    targets = [3, 0, int(twin[3]), 5]
    together = by_pair(signals, targets)
    assert sorted(position for group in together for position in group) == [0, 1, 2, 3]
    assert [0, 2] in together
