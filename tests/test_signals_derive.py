"""Scalars of model outputs against 60-digit arithmetic, at sizes and temperatures where float32 gives up."""

from __future__ import annotations

from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memberscope.errors import SignalsError
from memberscope.signals import derive, distributions
from memberscope.types import Access, Signals
from worlds import membership

Floats = NDArray[np.float64]


def exact(values: Floats, label: int, temperature: float = 1.0) -> dict[str, Decimal]:
    """φ, loss, entropy, modified entropy and log-odds of the top class of one record, from its logits."""
    with localcontext() as context:
        context.prec = 60
        context.Emin, context.Emax = -(10**8), 10**8
        z = [Decimal(float(v)) / Decimal(temperature) for v in values]
        z = z if len(z) > 1 else [Decimal(0), z[0]]
        weights = [(v - max(z)).exp() for v in z]
        total = sum(weights)
        p = [w / total for w in weights]
        top = max(range(len(z)), key=lambda k: z[k])
        rest = [1 - v for v in p]
        rest[top] = sum(w for k, w in enumerate(weights) if k != top) / total
        return {
            "phi": p[label].ln() - rest[label].ln(),
            "loss": -p[label].ln(),
            "entropy": -sum(v * v.ln() for v in p),
            "modified_entropy": -rest[label] * p[label].ln()
            - sum((p[k] * rest[k].ln() for k in range(len(z)) if k != label), Decimal(0)),
            "confidence": p[top].ln() - rest[top].ln(),
        }


def alone(outputs: Any, labels: Any, kind: Any = "logits", **more: Any) -> Signals:
    """One model on N records, ``outputs (N, K)`` or ``(N, Q, K)``."""
    outputs = np.asarray(outputs)
    members = np.zeros((1, len(outputs)), np.bool_)
    members[0, ::2] = True
    return Signals((outputs,), kind, members, np.asarray(labels), **more)


FUNCTIONS = {
    "phi": derive.scaled_logits_row,
    "loss": lambda signals, row: derive.loss(derive.scaled_logits_row(signals, row)),
    "entropy": derive.entropy_row,
    "modified_entropy": derive.modified_entropy_row,
    "confidence": derive.confidence_row,
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("classes", [1, 2, 3, 10])
def test_scalars_of_logits_to_the_last_digits(classes: int, scale: float, dtype: Any) -> None:
    rng = np.random.default_rng(classes)
    z = rng.normal(0, scale, (40, classes)).astype(dtype)
    labels = rng.integers(0, max(2, classes), 40)
    signals = alone(z, labels)
    truth = [exact(row, y) for row, y in zip(z, labels, strict=True)]
    for name, function in FUNCTIONS.items():
        ours = function(signals, 0)[:, 0]
        # Relative: a confidence of 1 − 1e-30 is told from 1 − 1e-31.
        np.testing.assert_allclose(
            ours, [float(t[name]) for t in truth], rtol=1e-12, atol=1e-13 if name in ("phi", "confidence") else 0
        )


@pytest.mark.parametrize("classes", [2, 1000])
def test_huge_logits_and_a_thousand_classes(classes: int) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 3, (8, classes))
    z[0, 0], z[1, 1], z[2] = 1e4, -1e4, -1e4
    z[3, 0], z[4, -1] = 60.0, 800.0
    labels = np.array([0, 0, 1, 0, 0, 1, *rng.integers(0, classes, 2)])
    labels[1] = 1
    truth = [exact(row, y) for row, y in zip(z, labels, strict=True)]
    signals = alone(z, labels)
    for name in FUNCTIONS:
        ours = FUNCTIONS[name](signals, 0)[:, 0]
        expected = np.array([float(t[name]) for t in truth])
        assert np.isfinite(ours).all()
        # Entropies below 1e-300 are 0 for every purpose.
        np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-12 if name in ("phi", "confidence") else 1e-300)
    assert derive.scaled_logits_row(signals, 0)[0, 0] == pytest.approx(1e4, rel=1e-2)


def test_where_a_float32_softmax_sees_no_difference_phi_does() -> None:
    z = np.array([[30, 0, 0], [40, 0, 0], [50, 0, 0]], np.float32)
    phi = derive.scaled_logits_row(alone(z, [0, 0, 0]), 0)[:, 0]
    np.testing.assert_allclose(np.diff(phi), 10, rtol=1e-12)
    softmax = np.exp(z - z.max(axis=1, keepdims=True))
    assert (softmax / softmax.sum(axis=1, keepdims=True))[:, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("temperature", [0.25, 1.0, 2.0, 7.5])
@pytest.mark.parametrize("classes", [1, 2, 10])
def test_temperature_divides_the_logits(classes: int, temperature: float) -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(0, 5, (20, classes))
    labels = rng.integers(0, max(2, classes), 20)
    truth = [float(exact(row, y, temperature)["phi"]) for row, y in zip(z, labels, strict=True)]
    np.testing.assert_allclose(derive.scaled_logits_row(alone(z, labels), 0, temperature)[:, 0], truth, rtol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("classes", [1, 2, 10])
def test_probabilities_give_the_phi_of_their_logits(classes: int, temperature: float) -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(0, 3, (50, classes))
    labels = rng.integers(0, max(2, classes), 50)
    p = 1 / (1 + np.exp(-z)) if classes == 1 else np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    from_p = derive.scaled_logits_row(alone(p, labels, "probabilities"), 0, temperature)
    np.testing.assert_allclose(from_p, derive.scaled_logits_row(alone(z, labels), 0, temperature), atol=1e-11)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.inf, np.nan])
def test_temperatures_that_are_none(temperature: float) -> None:
    with pytest.raises(SignalsError, match="temperature"):
        derive.scaled_logits_row(alone(np.zeros((4, 2)), [0, 1, 0, 1]), 0, temperature)


def test_chosen_records_equal_the_same_of_all() -> None:
    rng = np.random.default_rng(3)
    signals = alone(rng.normal(0, 3, (60, 3, 5)), rng.integers(0, 5, 60))
    some = np.array([41, 3, 3, 59])
    for temperature in (1.0, 3.0):
        every = derive.scaled_logits_row(signals, 0, temperature)
        np.testing.assert_array_equal(derive.scaled_logits_row(signals, 0, temperature, some), every[some, :1])


def test_pieces_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    signals = alone(rng.normal(0, 3, (101, 2, 7)).astype(np.float32), rng.integers(0, 7, 101))
    whole = {name: function(signals, 0) for name, function in FUNCTIONS.items()}
    monkeypatch.setattr(distributions, "_PIECE", 100)
    for name, function in FUNCTIONS.items():
        np.testing.assert_allclose(function(signals, 0), whole[name], rtol=1e-14)


def test_saturated_probabilities_are_clipped_at_their_resolution() -> None:
    third = 1 / 3
    p = np.array([[1.0, 0.0], [1 - 1e-9, 1e-9], [0.0, 1.0], [third, 1 - third]])
    signals = alone(p, [0, 0, 0, 0], "probabilities")
    # 1e-9 is the least that these numbers tell from 0, and half of it is where they are clipped.
    assert distributions.resolution(signals) == 5e-10
    phi = derive.scaled_logits_row(signals, 0)[:, 0]
    np.testing.assert_allclose(
        phi, [-np.log(5e-10), np.log(1 - 1e-9) - np.log(1e-9), np.log(5e-10), -np.log(2)], rtol=1e-12
    )
    assert distributions.saturated_share(signals, 0) == 0.5
    np.testing.assert_allclose(derive.scaled_logits_row(signals, 0, 2.0)[:, 0], phi / 2, rtol=1e-9)


def test_one_column_is_clipped_where_its_own_numbers_end() -> None:
    # Next to 1 a float64 resolves 1e-16, next to 0 it resolves 1e-300: a saturated 1 must not outrank everything.
    p = np.array([[1.0], [1 - 1e-10], [1e-200], [0.5], [0.25], [0.1234567]])
    signals = alone(p, [1, 1, 0, 0, 1, 1], "probabilities")
    phi = derive.scaled_logits_row(signals, 0)[:, 0]
    np.testing.assert_allclose(phi[0], -np.log(np.finfo(np.float64).epsneg / 2), rtol=1e-12)
    np.testing.assert_allclose(phi[1:4], [np.log((1 - 1e-10) / 1e-10), 200 * np.log(10), 0], rtol=1e-6, atol=1e-12)
    assert distributions.saturated_share(signals, 0) == pytest.approx(1 / 6)


def test_logits_are_never_saturated() -> None:
    assert distributions.saturated_share(alone(np.array([[1e4, 0.0], [0.0, 1e4]]), [0, 0]), 0) == 0


@pytest.mark.parametrize("digits", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_is_noticed_and_sets_the_resolution(digits: int, dtype: Any) -> None:
    rng = np.random.default_rng(digits)
    p = rng.random((500, 1)).round(digits).astype(dtype)
    signals = alone(p, rng.integers(0, 2, 500), "probabilities")
    assert signals.digits == digits
    assert signals.access == Access.ROUNDED
    assert distributions.resolution(signals) == pytest.approx(0.5 * 10.0**-digits)
    assert np.abs(derive.scaled_logits_row(signals, 0)).max() <= -np.log(0.5 * 10.0**-digits) + 1e-9


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_scores_that_were_not_rounded(classes: int, dtype: Any) -> None:
    rng = np.random.default_rng(classes)
    z = rng.normal(0, 2, (50, classes))
    p = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)).astype(dtype)
    signals = alone(p, rng.integers(0, classes, 50), "probabilities")
    assert signals.digits is None
    assert signals.access == Access.SCORES


def test_confident_scores_are_not_taken_for_rounded_ones() -> None:
    q = np.array([1e-8, 1e-9, 1e-10, 1e-12])
    signals = alone(np.stack([1 - q, q], axis=1), [0, 0, 0, 0], "probabilities")
    assert signals.digits is None
    np.testing.assert_allclose(derive.scaled_logits_row(signals, 0)[:, 0], np.log((1 - q) / q), rtol=1e-9)


def test_rounded_scores_of_many_classes_are_accepted() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, (50, 100))
    p = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)).round(3)
    assert alone(p, rng.integers(0, 100, 50), "probabilities").digits == 3


def test_correct_by_any_kind_of_output() -> None:
    labels = [0, 1, 1, 0]
    assert derive.correct_row(alone([[2.0, 1], [2, 1], [1, 2], [1, 1]], labels), 0)[:, 0].tolist() == [1, 0, 1, 1]
    assert derive.correct_row(alone([[-1.0], [-1], [1], [0]], labels), 0)[:, 0].tolist() == [1, 0, 1, 1]
    p = [[0.2], [0.2], [0.9], [0.5]]
    assert derive.correct_row(alone(p, labels, "probabilities"), 0)[:, 0].tolist() == [1, 0, 1, 1]
    given = np.array([[0, 1, 1, 1], [1, 0, 0, 0]])
    signals = Signals(tuple(given), "labels", membership(2, 4, np.random.default_rng(5)), np.array(labels))
    assert derive.correct_row(signals, 0)[:, 0].tolist() == [1, 1, 1, 0]
    with pytest.raises(SignalsError, match="scores or logits"):
        derive.scaled_logits_row(signals, 0)
    with pytest.raises(SignalsError, match="scores or logits"):
        derive.entropy_row(signals, 0)


def test_derived_scalars_on_disk_follow_the_content(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    z, labels, members = rng.normal(size=(2, 30, 3)), rng.integers(0, 3, 30), membership(2, 30, rng)

    def phi(outputs: Floats) -> Floats:
        return derive.scaled_logits(Signals(tuple(outputs), "logits", members, labels, folder=tmp_path))

    first = phi(z)
    files = sorted((tmp_path / "derived").iterdir())
    np.testing.assert_array_equal(phi(z), first)
    assert sorted((tmp_path / "derived").iterdir()) == files
    changed = z.copy()
    changed[1, 7, 2] += 1e-9
    assert (phi(changed) != first).sum() == 1
    assert len(list((tmp_path / "derived").iterdir())) == len(files) + 1
