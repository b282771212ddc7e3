"""Output policies: the formula against a slow oracle, the class that never changes, and what reaches an attacker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from memberscope.attacks import attack
from memberscope.data.membership import complementary_pairs
from memberscope.errors import ConfigError, SignalsError
from memberscope.outputs import POLICIES, OutputPolicy, Reweighting, apply_policy, parse_policy
from memberscope.signals.derive import scaled_logits
from memberscope.statistics.roc import auc
from memberscope.types import Signals


def oracle(z: np.ndarray, centroids: np.ndarray, weight: float) -> tuple[np.ndarray, bool]:
    """One answer by the formula; where the class would change, the share of z from a grid of a million."""
    c = int(np.argmax(z))
    mu = centroids[c]
    lengths = float(np.sqrt(sum(v * v for v in z)) * np.sqrt(sum(v * v for v in mu)))
    s = weight * (sum(a * b for a, b in zip(z, mu, strict=True)) / lengths if lengths else 0.0)
    mixed = s * z + (1 - s) * mu
    if np.argmax(mixed) == c:
        return mixed, False
    for shares in np.array_split(np.linspace(s, 1, 1_000_001), 100):
        tried = shares[:, None] * z + (1 - shares)[:, None] * mu
        if (tried.argmax(axis=1) == c).any():
            return tried[(tried.argmax(axis=1) == c).argmax()], True
    raise AssertionError("at a share of 1 the answer is z itself")


def test_answers_are_the_formulas() -> None:
    rng = np.random.default_rng(0)
    # Class 2's own records are mostly called class 0, so that its centroid would change an answer.
    centroids = rng.normal(size=(4, 4)) + 2.5 * np.eye(4)
    centroids[2, 0] = centroids[2, 2] + 1
    logits = 2 * rng.normal(size=(60, 4))
    found = Reweighting(centroids, 0.4).details(logits)
    expected = [oracle(z, centroids, 0.4) for z in logits]
    assert 5 < found.shifted.sum() < 30, "the world must hold both kinds"
    assert found.shifted.tolist() == [shifted for _, shifted in expected]
    np.testing.assert_allclose(found.outputs, [mixed for mixed, _ in expected], atol=2e-5)


def test_centroids_are_means_of_the_training_logits() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 300)
    logits = rng.normal(size=(300, 5)).astype(np.float32)
    policy = Reweighting.fit(logits, labels)
    for k in range(5):
        np.testing.assert_allclose(policy.centroids[k], logits[labels == k].astype(np.float64).mean(axis=0))
    assert policy.weight == 0.1 and policy.stand_ins == ()


def test_class_without_training_records_is_served_like_the_others() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 400)
    logits = rng.normal(size=(400, 4))
    logits[np.arange(400), labels] += 6
    policy = Reweighting.fit(logits, labels)
    assert policy.stand_ins == (3,)
    own = policy.centroids.diagonal()[:3]
    assert own.min() <= policy.centroids[3, 3] <= own.max()
    # Its own logits hardly show: two very different answers that name class 3 come out nearly alike.
    answers = policy(np.array([[0, 0, 0, 0.5], [5, -9, 2, 30.0]]))
    assert np.abs(answers[0] - answers[1]).max() < 0.2 * 30 and (answers.argmax(axis=1) == 3).all()


NUMBERS = (
    st.floats(-(2.0**99), 2.0**99, width=32) | st.floats(-30, 30, width=32) | st.sampled_from([0.0, -0.0, 1.0, 1e-45])
)


@st.composite
def worlds(draw: Any) -> tuple[np.ndarray, np.ndarray, float]:
    k = draw(st.integers(2, 6))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    logits = draw(arrays(dtype, (draw(st.integers(1, 5)), k), elements=NUMBERS))
    centroids = draw(arrays(np.float64, (k, k), elements=NUMBERS))
    return logits, centroids, draw(st.floats(0, 1))


@settings(max_examples=400, deadline=None)
@given(worlds())
def test_predicted_class_never_changes(world: tuple[np.ndarray, np.ndarray, float]) -> None:
    logits, centroids, weight = world
    outputs = Reweighting(centroids, weight)(logits)
    assert outputs.dtype == np.float32 and np.isfinite(outputs).all()
    np.testing.assert_array_equal(outputs.argmax(axis=1), logits.argmax(axis=1))


@pytest.mark.parametrize("gap", [0.0, 1e-16, 1e-9, 1e-7, 1e-5])
def test_predicted_class_survives_ties_and_rounding(gap: float) -> None:
    """Leads below float32 in both places of the tie, against centroids that name another class."""
    centroids = np.array([[0.0, 9, 0], [9, 0.0, 0], [0, 9, 0.0]])
    logits = np.array([[1.0 + gap, 1, 0], [1, 1.0 + gap, 0], [1, 0, 1.0 + gap], [1 / 3, 1 / 3, 1 / 3 + gap]])
    found = Reweighting(centroids)(logits)
    np.testing.assert_array_equal(found.argmax(axis=1), logits.argmax(axis=1))


def test_a_row_depends_on_itself_alone() -> None:
    rng = np.random.default_rng(3)
    policy = Reweighting(rng.normal(size=(7, 7)) + 2 * np.eye(7))
    logits = 4 * rng.normal(size=(500, 7)).astype(np.float32)
    alone = np.concatenate([policy(row[None]) for row in logits])
    np.testing.assert_array_equal(policy(logits), alone)


@pytest.mark.parametrize("name", POLICIES)
def test_policies_survive_writing_and_are_described(name: str) -> None:
    rng = np.random.default_rng(4)
    policy: OutputPolicy = Reweighting(rng.normal(size=(3, 3)), 0.25, (1,))
    again = parse_policy(policy.as_json())
    logits = rng.normal(size=(20, 3))
    assert again.as_json() == policy.as_json() and again.fingerprint == policy.fingerprint
    np.testing.assert_array_equal(again(logits), policy(logits))
    assert POLICIES[name].name == name and POLICIES[name].title and POLICIES[name].source and POLICIES[name].leaves


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Reweighting(np.zeros((2, 3))), "square|shape"),
        (lambda: Reweighting(np.full((2, 2), np.nan)), "finite"),
        (lambda: Reweighting(np.eye(2), 1.5), "weight"),
        (lambda: parse_policy({"policy": "reweigthing"}), "did you mean 'reweighting'"),
        (lambda: parse_policy({"policy": "reweighting", "weight": 0.1}), "centroids"),
    ],
)
def test_impossible_policies_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize("logits", [np.zeros((3, 4)), np.zeros(2), np.array([[np.nan, 0]]), np.array([[np.inf, 0]])])
def test_impossible_logits_are_refused(logits: np.ndarray) -> None:
    with pytest.raises(SignalsError):
        Reweighting(np.eye(2))(logits)


def world(models: int = 4, records: int = 3000, seed: int = 0) -> Signals:
    """Members' logits are larger: a global threshold tells them. Centroids differ from class to class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, records)
    members = complementary_pairs(models, records, seed)
    logits = rng.normal(size=(models, records, 5))
    logits[:, np.arange(records), labels] += 2.5 + rng.normal(0, 1, records) + 2.5 * members
    named = logits.argmax(axis=2)
    np.put_along_axis(logits, named[..., None], logits.max(axis=2)[..., None] + 1.0 * named[..., None], axis=2)
    return Signals(tuple(logits.astype(np.float32)), "logits", members, labels)


def reweighted(signals: Signals, folder: Path | None = None) -> Signals:
    policies = [
        Reweighting.fit(signals.outputs[row][member, 0], signals.labels[member])
        for row, member in enumerate(signals.members)
    ]
    return apply_policy(signals, policies, folder=folder)


def area(signals: Signals, name: str, target: int = 0) -> float:
    scores = attack(name)(signals, target, np.random.default_rng(0))
    member = signals.members[target]
    return auc(scores[member], scores[~member])


def test_what_reweighting_takes_from_an_attacker_and_what_it_leaves() -> None:
    """The gap attack is untouched to the last digit; a global threshold finds less, a reference attack still much."""
    plain = world(models=10)
    defended = reweighted(plain)
    assert area(defended, "gap") == area(plain, "gap")
    assert area(defended, "scaled_logit") < area(plain, "scaled_logit") - 0.1
    assert area(defended, "bavaria") > area(defended, "scaled_logit") + 0.05


def test_signals_behind_policies_are_kept_and_told_apart(tmp_path: Path) -> None:
    plain = world(records=200)
    held, kept = reweighted(plain), reweighted(plain, tmp_path)
    assert held.fingerprint == kept.fingerprint != plain.fingerprint and kept.kind == "logits"
    other = apply_policy(plain, [Reweighting(np.eye(5), 0.5)] * 4)
    assert other.fingerprint != held.fingerprint
    for row in range(4):
        np.testing.assert_array_equal(held.outputs[row], kept.outputs[row])
    phi = scaled_logits(kept).copy()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert len(written) == 5, "four rows and their scaled logits"
    again = reweighted(plain, tmp_path)
    np.testing.assert_array_equal(scaled_logits(again), phi)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == written
    # Other signals in the same folder are answered anew.
    reweighted(world(records=200, seed=1), tmp_path)
    assert (np.load(tmp_path / "logits" / "00000.npy", allow_pickle=False) != held.outputs[0]).any()


def test_policies_must_fit_the_signals() -> None:
    with pytest.raises(SignalsError, match="4 policies"):
        apply_policy(world(records=50), [Reweighting(np.eye(5))])
    labels = Signals(np.zeros((2, 4), np.int64), "labels", complementary_pairs(2, 4), np.array([0, 0, 1, 1]))
    with pytest.raises(SignalsError, match="logits"):
        apply_policy(labels, [Reweighting(np.eye(2))] * 2)


def test_outputs_need_no_torch() -> None:
    code = "import memberscope.outputs, sys; print('torch' in sys.modules, 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
