"""One pass over the logits gives what each formula gives by itself; large arrays on disk change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memberscope import large
from memberscope.attacks import ATTACKS, AttackR
from memberscope.auditing import Plan, examine, scoring
from memberscope.signals import derive, once
from memberscope.training.native import kernels
from memberscope.types import Signals
from worlds import leak_world


def logits(classes: int, queries: int, scale: float, seed: int) -> Signals:
    rng = np.random.default_rng(seed)
    members = rng.random((3, 400)) < 0.5
    outputs = tuple((scale * rng.standard_normal((400, queries, classes))).astype(np.float32) for _ in members)
    return Signals(outputs, "logits", members, rng.integers(0, max(classes, 2), 400))


@pytest.mark.parametrize("classes", [1, 2, 3, 40])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1000.0])
def test_one_pass_equals_each_formula_alone(classes: int, scale: float) -> None:
    once, apart = logits(classes, 2, scale, 4), logits(classes, 2, scale, 4)
    derive.prepare(once, [1.0, 2.0, 4.0], [0, 2])
    for row in (0, 2):
        for name in ("confidence_row", "entropy_row", "modified_entropy_row"):
            ours, slow = (getattr(derive, name)(signals, row) for signals in (once, apart))
            np.testing.assert_allclose(ours, slow, rtol=1e-9, atol=1e-13)
        np.testing.assert_array_equal(derive.correct_row(once, row), derive.correct_row(apart, row))
        for temperature in (1.0, 2.0, 4.0):
            z = apart.outputs[row].astype(np.float64) / temperature
            z = np.concatenate([np.zeros_like(z), z], axis=2) if classes == 1 else z
            own = np.take_along_axis(z, apart.labels[:, None, None], axis=2)[..., 0]
            np.put_along_axis(z, apart.labels[:, None, None], -np.inf, axis=2)
            slow = own - np.logaddexp.reduce(z, axis=2)
            np.testing.assert_allclose(derive.scaled_logits(once, temperature)[row], slow, rtol=1e-12, atol=1e-12)


def test_a_scaled_logit_does_not_depend_on_what_else_is_asked() -> None:
    together, alone = logits(10, 1, 3.0, 5), logits(10, 1, 3.0, 5)
    derive.prepare(together, [1.0, 2.0, 4.0], [1])
    for temperature in (1.0, 2.0, 4.0):
        np.testing.assert_array_equal(
            derive.scaled_logits(together, temperature), derive.scaled_logits(alone, temperature)
        )
        np.testing.assert_array_equal(
            derive.scaled_logits_row(logits(10, 1, 3.0, 5), 2, temperature),
            derive.scaled_logits(alone, temperature)[2],
        )


@pytest.mark.parametrize("kind", ATTACKS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("options", [{}, {"kind": "probabilities", "digits": 2}], ids=["logits", "two decimals"])
def test_many_targets_are_scored_as_each_alone(
    kind: type, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "_WORTH_THREADS", 0)
    monkeypatch.setenv("MEMBERSCOPE_THREADS", "3")
    signals = leak_world(10, 60, 5, np.random.default_rng(6), 2.0, **options).signals
    alone = leak_world(10, 60, 5, np.random.default_rng(6), 2.0, **options).signals
    targets = [0, 1, 4, 7]
    values = kind().score_all(signals, targets, [np.random.default_rng(target) for target in targets])
    for row, target in zip(values, targets, strict=True):
        np.testing.assert_array_equal(row, kind()(alone, target, np.random.default_rng(target)))


@pytest.mark.parametrize("threads", ["1", "3"])
def test_findings_do_not_depend_on_memory_or_threads(
    threads: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ["gap", "entropy", "attack_p", "attack_r", "lira_online", "rmia_online", "bavaria", "lira_hierarchical"]
    plan = Plan(attacks=names)
    expected = examine(leak_world(6, 900, 5, np.random.default_rng(7), 2.0).signals, plan).findings
    # Everything on disk, in small pieces.
    monkeypatch.setattr(large, "IN_MEMORY", 0)
    monkeypatch.setattr(large, "_WORTH_THREADS", 0)
    monkeypatch.setenv("MEMBERSCOPE_THREADS", threads)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    found = examine(leak_world(6, 900, 5, np.random.default_rng(7), 2.0).signals, plan)
    assert any(isinstance(scores.values, np.memmap) for scores in found.scores.values())
    assert found.findings == expected


def test_quantiles_are_numpys() -> None:
    rng = np.random.default_rng(8)
    for values in (rng.normal(size=(4, 3000)), rng.integers(0, 3, (5, 400)).astype(float), rng.normal(size=(1, 2))):
        values[0, :: max(2, values.shape[1] // 3)] = np.nan
        known = values[~np.isnan(values)]
        np.testing.assert_allclose(
            large.quantiles(values, (0.002, 0.5, 0.998)), np.quantile(known, (0.002, 0.5, 0.998))
        )


def test_attack_r_compares_with_the_same_models_whichever_way() -> None:
    signals = leak_world(9, 80, 5, np.random.default_rng(9), 2.0, design="bernoulli").signals
    rngs = [np.random.default_rng(0)] * 9
    np.testing.assert_array_equal(
        AttackR().score_all(signals, range(9), rngs),
        np.stack([AttackR()(signals, target, rngs[0]) for target in range(9)]),
    )


@pytest.mark.parametrize("classes", [2, 3, 8, 40, 101])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_sums_are_numpys(
    classes: int, scale: float, dtype: type, monkeypatch: pytest.MonkeyPatch, compiled: None
) -> None:
    plain, fast = (logits(classes, 2, scale, 4) for _ in range(2))
    for signals in (plain, fast):
        object.__setattr__(signals, "outputs", tuple(row.astype(dtype) for row in signals.outputs))
    derive.prepare(plain, [1.0, 2.0, 3.0, 4.0], [0, 2])
    monkeypatch.setattr(once, "_WORTH_COMPILING", 0)
    assert once.compiled_sums(fast) is not None
    derive.prepare(fast, [1.0, 2.0, 3.0, 4.0], [0, 2])
    for row in (0, 2):
        for name in ("confidence_row", "entropy_row", "modified_entropy_row"):
            ours, slow = (getattr(derive, name)(signals, row) for signals in (fast, plain))
            np.testing.assert_allclose(ours, slow, rtol=1e-12, atol=1e-15)
        np.testing.assert_array_equal(derive.correct_row(fast, row), derive.correct_row(plain, row))
        for temperature in (1.0, 2.0, 3.0, 4.0):
            ours, slow = (derive.scaled_logits(signals, temperature)[row] for signals in (fast, plain))
            np.testing.assert_allclose(ours, slow, rtol=1e-13, atol=1e-14)


def test_a_compiled_scaled_logit_does_not_depend_on_what_else_is_asked(
    monkeypatch: pytest.MonkeyPatch, compiled: None
) -> None:
    monkeypatch.setattr(once, "_WORTH_COMPILING", 0)
    test_a_scaled_logit_does_not_depend_on_what_else_is_asked()
    test_one_pass_equals_each_formula_alone(40, 30.0)


@pytest.fixture
def compiled() -> None:
    if (found := kernels("scalars")).library is None:
        pytest.skip(found.reason)


def test_a_trend_is_numpys_interpolation() -> None:
    from memberscope.attacks.lira_hierarchical import Trend

    rng = np.random.default_rng(10)
    for size in (1, 2, 9):
        trend = Trend(np.sort(rng.normal(size=size)), rng.normal(size=size))
        x = np.concatenate([rng.normal(size=500, scale=2), trend.knots, [np.nan]])
        expected = np.where(np.isnan(x), np.nan, np.interp(x, trend.knots, trend.values))
        np.testing.assert_array_equal(trend(x), expected)


def test_phi_is_written_straight_into_the_file_that_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(large, "IN_MEMORY", 0)
    plain, kept = logits(5, 2, 3.0, 11), replace(logits(5, 2, 3.0, 11), folder=tmp_path)
    derive.prepare(kept, [1.0, 4.0], [1])
    files = sorted((tmp_path / "derived").iterdir())
    assert len(files) == 2 and not any(path.name.startswith(".") for path in files)
    again = replace(logits(5, 2, 3.0, 11), folder=tmp_path)
    for temperature in (1.0, 4.0):
        expected = derive.scaled_logits(plain, temperature)
        np.testing.assert_array_equal(derive.scaled_logits(kept, temperature), expected)
        np.testing.assert_array_equal(derive.scaled_logits(again, temperature), expected)
    assert sorted((tmp_path / "derived").iterdir()) == files


def test_outputs_read_once_give_the_same_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(attacks=["loss", "rmia_offline", "rmia_online", "base"])
    first, second = (leak_world(6, 900, 5, np.random.default_rng(7), 2.0).signals for _ in range(2))
    expected = examine(first, plan).findings
    monkeypatch.setattr(scoring, "_SCATTERED", 0)
    assert examine(second, plan).findings == expected
    assert {key[1] for key in second.cache if key[0] == "phi"} == {1.0, 2.0, 4.0}
