"""Models of every kind that can be asked: the same answers, whichever way; and training code that can be repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

import memberscope as ms
from commands import command
from memberscope.doors.references import design, seeds_of
from memberscope.targets.module import Module, load_weights
from memberscope.types import Findings

X, Y = make_classification(400, 12, n_informative=6, n_classes=3, flip_y=0.25, class_sep=0.7, random_state=0)
X = X.astype(np.float32)
IN, OUT = (X[:200], Y[:200]), (X[200:], Y[200:])
FAST: dict[str, Any] = {"analyses": (), "attacks": ["gap", "loss", "lira_hierarchical", "rmia_offline"], "workers": 1}
SIDES: dict[str, Any] = {"members": IN, "nonmembers": OUT}


def aucs(findings: Findings) -> dict[str, float | None]:
    return {result.name: result.auc.value for result in findings.attacks if result.target == "all"}


MODELS = {
    "tree": DecisionTreeClassifier(max_depth=8, random_state=0),
    "forest": RandomForestClassifier(30, random_state=0),
    "boosting": GradientBoostingClassifier(n_estimators=20, random_state=0),
    "histogram boosting": HistGradientBoostingClassifier(max_iter=20, random_state=0),
    "SVM": SVC(C=50),
    "linear SVM": LinearSVC(random_state=0),
    "logistic regression": LogisticRegression(max_iter=500),
    "pipeline": make_pipeline(StandardScaler(), SVC(C=20, random_state=0)),
    "neighbours": KNeighborsClassifier(3),
    "ridge": RidgeClassifier(),
}


@pytest.mark.parametrize("name", MODELS)
def test_estimators_are_audited_with_references_by_cloning(name: str) -> None:
    model = MODELS[name].fit(*IN)
    found = ms.audit_model(model, **SIDES, references=6, **FAST)
    assert found.populations["references"] == 6
    assert "clone of" in found.threat_model["assumptions"]
    expected = {"linear SVM": "logits", "SVM": "logits", "pipeline": "logits", "ridge": "logits"}
    assert found.data["outputs"] == expected.get(name, "probabilities")
    # SVC.predict counts votes between pairs of classes, which its scores do not always follow.
    scores = model.decision_function if expected.get(name) else model.predict_proba
    said = [scores(inputs).argmax(axis=1) for inputs in (IN[0], OUT[0])]
    gap = (said[0] == IN[1]).mean() - (said[1] == OUT[1]).mean()
    assert aucs(found)["gap"] == pytest.approx(0.5 + gap / 2)
    if name in ("tree", "forest", "SVM", "pipeline"):
        # They remember: references must see more than the gap between accuracies.
        assert max(aucs(found)["lira_hierarchical"] or 0, aucs(found)["rmia_offline"] or 0) > 0.7


def test_forests_answer_with_few_numbers_and_that_is_said() -> None:
    found = ms.audit_model(RandomForestClassifier(10, random_state=0).fit(*IN), **SIDES, **FAST)
    assert any("different scores" in said for said in found.summary)
    assert next(check for check in found.checks if check.code == "MS006").level == "warning"


def test_labels_alone_where_a_model_gives_no_more() -> None:
    class Votes:
        classes_ = np.array([0, 1, 2])

        def predict(self, inputs: np.ndarray) -> np.ndarray:
            return MODELS["tree"].predict(inputs)

    MODELS["tree"].fit(*IN)
    found = ms.audit_model(Votes(), **SIDES, analyses=())
    assert found.data["access"] == "label" and {result.name for result in found.attacks} == {"gap"}


class Linear(torch.nn.Module):
    def __init__(self, weights: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(weights.shape[1], weights.shape[0])
        self.dropout = torch.nn.Dropout(0.9)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor(weights))
            self.linear.bias.copy_(torch.tensor(bias))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.linear(self.dropout(batch))


def test_all_ways_of_asking_one_model_agree(tmp_path: Path) -> None:
    """A logistic regression as an estimator, a function, a module, ONNX, skops and saved weights."""
    skl2onnx = pytest.importorskip("skl2onnx")
    sio = pytest.importorskip("skops.io")
    model = LogisticRegression(max_iter=500).fit(*IN)
    expected = aucs(ms.audit_model(model, **SIDES, **FAST))
    network = Linear(model.coef_, model.intercept_).train()
    (tmp_path / "m.onnx").write_bytes(
        skl2onnx.to_onnx(model, X[:1], options={"zipmap": False}, target_opset=17).SerializeToString()
    )
    sio.dump(model, tmp_path / "m.skops")
    torch.save(network.state_dict(), tmp_path / "m.pt")
    empty = Linear(np.zeros_like(model.coef_), np.zeros_like(model.intercept_))
    ways = [
        model.predict_proba,
        model.decision_function,
        network,
        tmp_path / "m.onnx",
        tmp_path / "m.skops",
        Module(load_weights(tmp_path / "m.pt", empty), batch_size=7),
    ]
    for way in ways:
        assert aucs(ms.audit_model(way, **SIDES, **FAST)) == pytest.approx(expected, abs=2e-3), way
    # Asked in evaluation mode, and left as it was.
    assert network.training and network.dropout.training


def test_label_names_and_their_order_are_the_models() -> None:
    names = np.array(["red", "amber", "green"])
    model = LogisticRegression(max_iter=500).fit(X[:200], names[Y[:200]])
    found = ms.audit_model(model, members=(X[:200], names[Y[:200]]), nonmembers=(X[200:], names[Y[200:]]), **FAST)
    plain = ms.audit_model(LogisticRegression(max_iter=500).fit(*IN), **SIDES, **FAST)
    assert found.data["class_names"] == ["amber", "green", "red"]
    assert aucs(found) == pytest.approx(aucs(plain), abs=5e-3)
    swapped = ms.audit_model(
        lambda batch: model.predict_proba(batch)[:, ::-1],
        members=(X[:200], names[Y[:200]]), nonmembers=(X[200:], names[Y[200:]]),
        class_names=["red", "green", "amber"], **FAST,
    )  # fmt: skip
    assert aucs(swapped) == pytest.approx(aucs(found))


def test_ids_follow_records_and_frames_keep_their_columns() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=[f"f{k}" for k in range(12)])
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame[:200], Y[:200])
    ids = [f"patient-{k}" for k in range(400)]
    found = ms.audit_model(
        model, members=(frame[:200], Y[:200], ids[:200]), nonmembers=(frame[200:], Y[200:], ids[200:]),
        references=2, **FAST,
    )  # fmt: skip
    assert found.records is not None and all(row.id.startswith("patient-") for row in found.records.top)


def fit_forest(inputs: np.ndarray, labels: np.ndarray, seed: int) -> Any:
    return RandomForestClassifier(5, random_state=seed).fit(inputs, labels)


def test_engines_and_seeds_decide_nothing_but_what_they_should(tmp_path: Path) -> None:
    model = fit_forest(*IN, 0)
    options = {**FAST, "fit": fit_forest, "references": 4}
    serial = ms.audit_model(model, **SIDES, **options, out=tmp_path / "a")
    parallel = ms.audit_model(model, **SIDES, **{**options, "workers": 2}, out=tmp_path / "b")
    other = ms.audit_model(model, **SIDES, **options, seed=1)
    assert aucs(serial) == aucs(parallel) != aucs(other)
    for row in range(1, 5):
        name = f"references/{row:05d}.npy"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_references_train_on_half_of_the_candidates_or_on_as_many_as_the_target() -> None:
    halves = design(np.repeat([True, False], 100), 6, 0)
    np.testing.assert_array_equal(halves.sum(axis=0), 3)
    np.testing.assert_array_equal(halves[0], ~halves[1])
    most = design(np.repeat([True, False], [160, 40]), 6, 0)
    np.testing.assert_array_equal(most.sum(axis=1), 160)
    assert len(np.unique(most, axis=0)) == 6
    assert seeds_of(0, 9)[:4] == seeds_of(0, 4)


def test_what_is_finished_is_not_fitted_again(tmp_path: Path) -> None:
    count = tmp_path / "count"

    def fit(inputs: np.ndarray, labels: np.ndarray, seed: int) -> Any:
        with count.open("a") as file:
            file.write("x")
        return DecisionTreeClassifier(max_depth=4, random_state=seed).fit(inputs, labels)

    def run(**changes: Any) -> Findings:
        options = {**SIDES, "fit": fit, "references": 4, "out": tmp_path / "run", **FAST, **changes}
        return ms.audit_model(MODELS["tree"].fit(*IN), **options)

    first = run()
    assert count.read_text() == "xxxx" and aucs(run()) == aucs(first) and count.read_text() == "xxxx"
    # One answer damaged, one lost: these two are made again, and nothing else.
    folder = tmp_path / "run/references"
    (folder / "00002.npy").write_bytes(b"damaged")
    (folder / "00003.npy").unlink()
    assert aucs(run()) == aucs(first) and count.read_text() == "x" * 6
    # Four of six are there already; other records or another seed begin anew.
    run(references=6)
    assert count.read_text() == "x" * 8
    run(seed=1)
    assert count.read_text() == "x" * 12


SCRIPT = """
import sys, time
from pathlib import Path
import numpy as np
from sklearn.tree import DecisionTreeClassifier
import memberscope as ms
rng = np.random.default_rng(0)
x, y = rng.normal(size=(200, 4)), rng.integers(0, 2, 200)
folder = Path(sys.argv[1])
def fit(inputs, labels, seed):
    with (folder / "count").open("a") as file:
        file.write("x")
    time.sleep(float(sys.argv[2]))
    return DecisionTreeClassifier(random_state=seed).fit(inputs, labels)
found = ms.audit_model(DecisionTreeClassifier(random_state=0).fit(x[:100], y[:100]), members=(x[:100], y[:100]),
    nonmembers=(x[100:], y[100:]), fit=fit, references=6, workers=1, analyses=(), attacks=["loss", "attack_r"],
    out=folder / "run")
print(found.pooled("attack_r").auc.value)
"""


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)

    def start(wait: float, folder: Path) -> subprocess.Popen[str]:
        folder.mkdir(exist_ok=True)
        arguments = [sys.executable, str(tmp_path / "script.py"), str(folder), str(wait)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(0.4, killed)
    deadline = time.monotonic() + 60
    while not (killed / "run/references/00002.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    begun = len((killed / "count").read_text())
    finished = len(list((killed / "run/references").glob("*.json")))
    assert 2 <= finished < 6
    again, straight = start(0.0, killed), start(0.0, whole)
    answer, error = again.communicate(timeout=120)
    assert again.returncode == 0, error
    assert answer == straight.communicate(timeout=120)[0]
    # Nothing that was finished is fitted again; at most one fit was cut short.
    assert len((killed / "count").read_text()) == begun + 6 - finished


def test_unknown_training_is_said_and_stand_in_records_are_used() -> None:
    seen: list[int] = []

    def tree(inputs: np.ndarray, labels: np.ndarray, seed: int) -> Any:
        seen.append(len(labels))
        return DecisionTreeClassifier(random_state=seed).fit(inputs, labels)

    stand_in = (X[:100] + 0.01, Y[:100])
    found = ms.audit_model(
        MODELS["forest"].fit(*IN).predict_proba, **SIDES, fit=[tree, LogisticRegression(max_iter=500)], references=4,
        stand_in=stand_in, **FAST,
    )  # fmt: skip
    assert seen == [250, 250]
    assumed = found.threat_model["assumptions"]
    assert "taken as unknown" in assumed and "stand-in records" in assumed
    assert "tree, clone of LogisticRegression" in found.threat_model["knowledge"]


def test_a_reference_that_never_saw_a_class_still_answers() -> None:
    labels = Y.copy()
    labels[[3, 250]] = 3
    model = RandomForestClassifier(10, random_state=0).fit(X[:200], labels[:200])
    found = ms.audit_model(
        model, members=(X[:200], labels[:200]), nonmembers=(X[200:], labels[200:]), references=4, **FAST
    )
    assert found.data["classes"] == 4


def test_a_saved_model_is_audited_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sio = pytest.importorskip("skops.io")
    model = DecisionTreeClassifier(random_state=0).fit(*IN)
    sio.dump(model, tmp_path / "tree.skops")
    for name, (inputs, labels) in (("members", IN), ("nonmembers", OUT)):
        rows = [",".join(map(repr, map(float, row))) + f",{label}" for row, label in zip(inputs, labels, strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join([",".join(f"f{k}" for k in range(12)) + ",label", *rows]))
    config = {
        "model": {
            "kind": "skops", "path": "tree.skops", "members": "members.csv", "nonmembers": "nonmembers.csv",
            "references": 4,
        },
        "attacks": ["loss", "attack_r"], "analyses": "none", "workers": 1,
    }  # fmt: skip
    (tmp_path / "m.yaml").write_text(json.dumps(config))
    status, said, error = command(["audit", str(tmp_path / "m.yaml"), "--json", "--quiet"], capsys)
    assert status == 0, error
    direct = ms.audit_model(model, **SIDES, references=4, **{**FAST, "attacks": ["loss", "attack_r"]})
    assert json.loads(said)["attacks"][0]["auc"] == direct.attacks[0].auc.model_dump()


@pytest.mark.parametrize("by_name", [False, True])
def test_a_data_sets_classes_are_told_from_their_numbers(by_name: bool) -> None:
    """Classes called 1, 2 and 3 are numbered 0, 1 and 2: a model may have been trained on either."""
    data = ms.Dataset(X, Y, class_names=("1", "2", "3"))
    taught = np.array([1, 2, 3])[Y] if by_name else Y
    model = LogisticRegression(max_iter=500).fit(X[:200], taught[:200])
    found = ms.audit_model(
        model, members=data.take(np.arange(200)), nonmembers=data.take(np.arange(200, 400)), references=2, **FAST
    )
    plain = ms.audit_model(LogisticRegression(max_iter=500).fit(*IN), **SIDES, **FAST)
    assert aucs(found)["loss"] == pytest.approx(aucs(plain)["loss"])
