"""Analyses in the audit: made where there is what they need, else left out with the reason, never a crash."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import memberscope as ms
from memberscope.run_folder import read_findings
from memberscope.types.analyses import Analyses


def leaky(
    seed: int = 0, classes: int = 4, records: int = 600, models: int = 12, kind: str = "logits", single: bool = False
) -> ms.Signals:
    """Logits of a paired pool that knows thirty odd records by heart, and nothing else."""
    rng = np.random.default_rng(seed)
    members = ms.membership.complementary_pairs(models, records, seed)
    labels = rng.integers(0, classes, records)
    if single:
        labels = np.where(labels == classes - 1, 0, labels)
        labels[5] = classes - 1
    odd = np.arange(records) < 30
    logits = 0.3 * rng.normal(size=(models, records, classes)) + rng.normal(size=(records, classes))
    logits[:, np.arange(records), labels] += np.where(odd, -4.0 + 9 * members, 4.0)
    if kind == "probabilities":
        values: NDArray[Any] = np.exp(logits)
        values /= values.sum(axis=2, keepdims=True)
    elif kind == "labels":
        values = logits.argmax(axis=2)
    elif kind == "one":
        values = (logits[:, :, 1] - logits[:, :, 0])[:, :, None]
    else:
        values = logits
    return ms.Signals(tuple(values), "logits" if kind == "one" else kind, members, labels)  # type: ignore[arg-type]


def analysed(signals: ms.Signals, **more: Any) -> Analyses:
    found = ms.audit(signals, **more).analyses
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_outputs_alone_tell_who_is_vulnerable_and_odd(kind: str) -> None:
    found = analysed(leaky(kind=kind))
    assert found.vulnerability is not None and found.outliers is not None
    assert found.vulnerability.vulnerable == pytest.approx(30, abs=2)
    assert found.outliers.verdict in ("yes", "partly")
    assert {score.name for score in found.outliers.scores} >= {"logit_cosine", "low_confidence", "label_error"}
    assert not any(score.name.startswith("feature") for score in found.outliers.scores)
    assert {row.id for row in found.outliers.top} <= {str(number) for number in range(30)} | {
        row.id for row in found.outliers.top[28:]
    }
    assert [part.of for part in found.embeddings] == ["logits"]
    missing = {part.name: part.reason for part in found.not_done}
    assert set(missing) == {"leakage over the epochs", "where the model looks"}
    assert "not trained here" in missing["leakage over the epochs"]
    assert "outputs alone" in missing["where the model looks"]


def test_predicted_classes_are_not_enough_for_geometry() -> None:
    found = analysed(leaky(kind="labels"))
    assert found.outliers is None and not found.embeddings
    assert {part.name for part in found.not_done} >= {"whether they are outliers", "t-SNE map"}
    assert all(part.reason for part in found.not_done)


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param(lambda: leaky(classes=2), id="two classes"),
        pytest.param(lambda: leaky(classes=2, kind="one"), id="one column"),
        pytest.param(lambda: leaky(single=True), id="a class of one record"),
        pytest.param(lambda: leaky(records=24, models=4), id="24 records"),
        pytest.param(lambda: leaky(models=2), id="one pair"),
    ],
)
def test_awkward_outputs_never_crash_an_audit(signals: Callable[[], ms.Signals]) -> None:
    found = analysed(signals())
    assert found.vulnerability is not None
    for part in found.not_done:
        assert part.reason.startswith("expected ")


@pytest.mark.parametrize(("package", "lost"), [("openTSNE", "t-SNE map"), ("cleanlab", "whether they are outliers")])
def test_a_missing_extra_leaves_out_its_analysis_and_names_the_extra(
    package: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == package or name.startswith(f"{package}."):
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *rest, **more)

    for name in [name for name in __import__("sys").modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(__import__("sys").modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    found = analysed(leaky(), attacks=["bavaria", "gap"])
    missing = {part.name: part.reason for part in found.not_done}
    assert package in missing[lost] and "analysis" in missing[lost]
    assert found.vulnerability is not None


def test_a_trained_audit_makes_every_analysis_and_keeps_it(tmp_path: Path) -> None:
    # One label in ten is wrong: those records can only be learned by heart.
    digits = ms.load("digits", as_images=True).take(np.arange(600))
    rng = np.random.default_rng(0)
    wrong = rng.random(600) < 0.1
    labels = np.where(wrong, (digits.labels + rng.integers(1, 10, 600)) % 10, digits.labels)
    np.savez(tmp_path / "digits.npz", inputs=digits.inputs, labels=labels)
    findings = ms.audit(
        {
            "name": "odd digits",
            "data": {"path": str(tmp_path / "digits.npz")},
            "recipe": {"model": {"name": "cnn", "widths": [16, 32], "hidden": 64}, "epochs": 14, "batch_size": 32,
                       "learning_rate": 4e-3},
            "pool": {"models": 10, "validation": 60},
            "engine": "serial",
            "seed": 3,
        },
        out=tmp_path,
    )  # fmt: skip
    found = findings.analyses
    assert found is not None and not found.not_done
    assert found.trajectory is not None and found.vulnerability is not None and found.outliers is not None
    assert findings.populations["audit_records"] == 540
    last = found.trajectory.points[-1]
    assert last.epoch == 14
    # The end of the trajectory is the audited model itself.
    assert last.auc.value == pytest.approx(findings.pooled("scaled_logit").auc.value, abs=2e-4)
    assert last.test_accuracy.value == pytest.approx(findings.model["test_accuracy"]["value"], abs=2e-3)
    assert [part.of for part in found.embeddings] == ["features", "logits"]
    assert {score.name for score in found.vulnerability.triage} == {"loss_trace_iqr", "loss_trace_mean"}
    assert found.attribution is not None and found.attribution.method == "gradcam"
    assert read_findings(tmp_path) == findings
    page = (tmp_path / "report.html").read_text()
    assert found.outliers.sentence.split(":")[0] in page
    # Made again from what was kept: the same, and no model is asked twice.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.npy")}
    again = ms.audit(tmp_path / "config.yaml", name="odd digits", out=tmp_path)
    assert again.model_copy(update={"run": {}}) == findings.model_copy(update={"run": {}})
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.npy")}


def test_analyses_can_be_chosen_and_left_out(tmp_path: Path) -> None:
    signals = leaky()
    np.savez(
        tmp_path / "outputs.npz",
        logits=np.stack(signals.outputs)[:, :, 0],
        members=signals.members,
        labels=signals.labels,
    )
    config = {"signals": str(tmp_path / "outputs.npz"), "attacks": ["bavaria"]}
    assert ms.audit({**config, "analyses": "none"}).analyses is None
    only = ms.audit({**config, "analyses": ["vulnerability"]}).analyses
    assert only is not None and only.vulnerability is not None and only.outliers is None and not only.not_done
    with pytest.raises(ms.MemberscopeError, match="analyses"):
        ms.audit({**config, "analyses": ["outlier"]})


def test_under_clipped_training_the_triage_is_off_with_its_reason(tmp_path: Path) -> None:
    pytest.importorskip("opacus")
    findings = ms.audit(
        {
            "data": {"name": "digits", "records": 400},
            "recipe": {"model": {"name": "fcn", "widths": [16]}, "epochs": 3, "batch_size": 20,
                       "privacy": {"epsilon": 1.0}, "optimizer": "sgd", "learning_rate": 0.5},
            "pool": {"models": 6},
            "engine": "serial",
            "attacks": ["bavaria", "scaled_logit"],
            "analyses": ["vulnerability", "trajectory"],
        },
        out=tmp_path,
    )  # fmt: skip
    found = findings.analyses
    assert found is not None and found.vulnerability is not None and found.trajectory is not None
    assert not found.vulnerability.triage
    assert "clips each record's gradient" in found.vulnerability.triage_reason
