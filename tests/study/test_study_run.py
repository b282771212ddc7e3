"""A tiny study from records to page: its figures against oracles, its resume, its command."""

from __future__ import annotations

import csv
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
import yaml
from sklearn.metrics import roc_auc_score

from commands import command
from memberscope.defences import DEFENCES
from memberscope.defences.overhead import measure_overhead
from memberscope.errors import PoolError
from memberscope.files import sha256_arrays
from memberscope.outputs import Reweighting
from memberscope.run_folder import read_findings
from memberscope.signals.collect import load_collected
from memberscope.statistics.calibration import Confidences, calibration_error
from memberscope.study import StudyConfig, run_study
from memberscope.study.estimate import estimate
from memberscope.study.prepare import prepare
from memberscope.training.pool import load_pool
from memberscope.types import Figure
from memberscope.types.study import StudyResult, StudyRow

ROWS = ["original", "l2_5e-3", "curriculum", "early_stopping", "original+reweighting"]
TINY: dict[str, Any] = {
    "data": "digits",
    "records": 600,
    "validation": 100,
    "recipe": {"model": {"name": "fcn", "widths": [48]}, "epochs": 8, "batch_size": 16, "learning_rate": 0.01},
    "rows": ROWS,
    "strengths": {"early_stopping": {"early_stopping": {"patience": 2}}},
    "models": 6,
    "seed": 1,
    "engine": "serial",
    "published": "purchase100",
}
TITLES = {name: DEFENCES[name].title for name in ROWS}
TIMES = {"train_seconds", "overhead", "overhead_relative"}


def timeless(result: StudyResult) -> dict[str, Any]:
    values = result.model_dump(mode="json", exclude={"run"})
    return values | {"rows": [{k: v for k, v in row.items() if k not in TIMES} for row in values["rows"]]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study") / "tiny"


@pytest.fixture(scope="module")
def tiny(folder: Path) -> StudyResult:
    return run_study(StudyConfig.parse(TINY), folder)


def test_every_method_has_a_row_a_target_and_one_of_all(tiny: StudyResult) -> None:
    assert [(row.method, row.seed) for row in tiny.rows] == [(name, seed) for name in ROWS for seed in (0, 1, 2, "all")]
    assert [row.target for row in tiny.of("original")] == [0, 2, 4]
    assert tiny.populations == {
        "models": 6, "targets": 6, "references": 4, "audit_records": 600, "members": 300, "non_members": 300,
        "validation": 100,
    }  # fmt: skip


def test_figures_are_those_of_the_models(tiny: StudyResult, folder: Path) -> None:
    """Accuracy, threshold AUC, calibration and gap of every target, straight from the collected logits."""
    for method in ("original", "l2_5e-3", "original+reweighting"):
        outputs = [np.load(path) for path in sorted((folder / "signals" / method / "logits").glob("*.npy"))]
        plain = load_collected(folder / "signals" / method.split("+")[0])
        for row in tiny.of(method):
            assert row.target is not None
            z, labels, member = outputs[row.target][:, 0].astype(float), plain.labels, plain.members[row.target]
            right = z.argmax(axis=1) == labels
            own = z[np.arange(len(z)), labels]
            others = np.where(np.arange(10) == labels[:, None], -np.inf, z)
            phi = own - np.log(np.exp(others - others.max(axis=1, keepdims=True)).sum(axis=1)) - others.max(axis=1)
            said = Confidences.of(z[~member].astype(np.float32), labels[~member])
            expected = {
                "train_accuracy": right[member].mean(),
                "test_accuracy": right[~member].mean(),
                "threshold_auc": roc_auc_score(member, phi),
                "gap_auc": roc_auc_score(member, right),
                "ece": calibration_error(said.confidence, said.correct),
            }
            for name, value in expected.items():
                figure: Figure = getattr(row, name)
                assert figure.value == pytest.approx(value, abs=1e-6), (method, row.seed, name)
                assert figure.low is not None and figure.high is not None and figure.low <= value <= figure.high


def test_reweighting_leaves_class_accuracy_and_gap_as_they_were(tiny: StudyResult) -> None:
    """Before and after come from the same models: only what a policy touches may differ."""
    for before, after in zip(
        [*tiny.of("original"), tiny.pooled("original")],
        [*tiny.of("original+reweighting"), tiny.pooled("original+reweighting")],
        strict=True,
    ):
        for name in ("train_accuracy", "test_accuracy", "gap_auc", "train_seconds", "epochs"):
            assert getattr(before, name) == getattr(after, name), name
        assert before.threshold_auc != after.threshold_auc and before.ece != after.ece
        assert before.overhead.value == 0 and before.shifted is None
        assert after.overhead.value and after.overhead.low and after.overhead.value > 0
        assert after.shifted is not None and after.shifted.value is not None


def test_every_model_has_its_own_centroids(tiny: StudyResult, folder: Path) -> None:
    plain, served = (load_collected(folder / "signals" / "original"), folder / "signals" / "original+reweighting")
    for row in (1, 4):
        member = plain.members[row]
        policy = Reweighting.fit(np.asarray(plain.outputs[row])[member, 0], plain.labels[member])
        np.testing.assert_array_equal(
            np.load(served / "logits" / f"{row:05d}.npy")[:, 0], policy(np.asarray(plain.outputs[row])[:, 0])
        )


def test_rows_share_memberships_and_the_curriculum_is_scored_by_others(tiny: StudyResult, folder: Path) -> None:
    pools = {path.name: load_pool(path) for path in (folder / "pools").iterdir()}
    assert set(pools) == {"original", "l2_5e-3", "curriculum", "early_stopping"}
    assert all((pool.members == pools["original"].members).all() for pool in pools.values())
    assert {pool.manifest["plan"]["seed"] for pool in pools.values()} == {1}
    signals = load_collected(folder / "signals" / "original")
    hard = np.zeros(600)
    for record in range(600):
        losses = []
        for row in range(6):
            if not signals.members[row, record]:
                z = np.asarray(signals.outputs[row])[record, 0].astype(np.float64)
                losses.append(np.log(np.exp(z - z.max()).sum()) + z.max() - z[signals.labels[record]])
        hard[record] = np.mean(losses)
    config = StudyConfig.parse(TINY)
    from memberscope.study.run import _Work

    work = _Work(prepare(config), folder, True)
    work.score("original")
    assert work.difficulty is not None
    np.testing.assert_allclose(work.difficulty, hard, rtol=1e-9, atol=1e-12)
    assert pools["curriculum"].manifest["plan"]["difficulty"] == sha256_arrays(work.difficulty)


def test_interval_of_the_strongest_allows_for_the_choice(tiny: StudyResult, folder: Path) -> None:
    row = tiny.pooled("original")
    assert row.reference_attack is not None
    plain = read_findings(folder / "rows" / "original.json").pooled(row.reference_attack)
    assert row.reference_auc.value == plain.auc.value
    assert row.reference_auc.low < plain.auc.low and row.reference_auc.high > plain.auc.high  # type: ignore[operator]
    # More is found with references than without, in a world that overfits.
    assert row.reference_auc.value > row.threshold_auc.value > row.gap_auc.value > 0.5  # type: ignore[operator]
    # All six models together have non-members enough for 1 %, none by itself; nothing is enough for 0.1 %.
    assert row.reference_tpr_at_fpr["0.01"].value is not None
    for figure in (row.reference_tpr_at_fpr["0.001"], tiny.of("original")[0].reference_tpr_at_fpr["0.01"]):
        assert figure.value is None and "non-members" in str(figure)


def test_early_stopping_says_which_epoch_it_kept(tiny: StudyResult) -> None:
    for row in tiny.of("early_stopping"):
        assert row.epochs is not None and row.kept_epoch is not None
        assert row.kept_epoch <= row.epochs <= min(8, row.kept_epoch + 2)
    assert tiny.pooled("original").epochs == 8 and tiny.pooled("original").kept_epoch is None


def test_published_figures_and_reasons_stand_beside(tiny: StudyResult) -> None:
    row = tiny.pooled("original")
    assert row.published is not None and row.published.threshold_auc == 0.5727
    assert row.differences[0].startswith("Ours less the published: ")
    said = " ".join(row.differences)
    assert "300 records, the paper's on 157,859" in said and "8 epochs in batches of 16" in said
    assert "not those of Purchase100" in said
    assert tiny.pooled("curriculum").published is None
    assert tiny.pooled("curriculum").differences == ["The paper's table has no such row."]
    assert "on a validation split of its own" in " ".join(tiny.pooled("early_stopping").differences)


def test_files_agree_with_each_other(tiny: StudyResult, folder: Path) -> None:
    text = (folder / "study.json").read_text()
    assert StudyResult.model_validate_json(text) == tiny
    with (folder / "study.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["method"], line["seed"]) for line in lines] == [(row.method, str(row.seed)) for row in tiny.rows]
    for line, row in zip(lines, tiny.rows, strict=True):
        for name in ("test_accuracy", "reference_auc", "ece", "train_seconds"):
            figure: Figure = getattr(row, name)
            assert [float(line[f"{name}{end}"]) for end in ("", "_low", "_high")] == [
                figure.value,
                figure.low,
                figure.high,
            ]
        assert line["reference_tpr_at_0.001"] == ""
        assert bool(line["reference_tpr_at_0.01"]) == (row.seed == "all")
    assert StudyConfig.read(folder / "study.yaml").resolved() == StudyConfig.parse(TINY | {"data": "digits"}).resolved()
    for name in ROWS:
        assert f"{TITLES[name]}</em>" in (folder / "rows" / f"{name}.html").read_text()
        assert read_findings(folder / "rows" / f"{name}.json").populations["targets"] == 6
    page = (folder / "index.html").read_text()
    for name in ROWS:
        assert f'href="rows/{name.replace("+", "%2B")}.html"' in page


def state(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in [*folder.rglob("*.safetensors"), *folder.rglob("*.npy"), *folder.glob("rows/*")]
    }


def test_second_run_trains_nothing_and_says_the_same(tiny: StudyResult, folder: Path) -> None:
    before = state(folder)
    again = run_study(StudyConfig.parse(TINY), folder)
    assert state(folder) == before
    assert again.rows == tiny.rows and timeless(again) == timeless(tiny)


def test_rows_may_be_added_but_not_changed(tiny: StudyResult, folder: Path) -> None:
    before = state(folder)
    few = run_study(StudyConfig.parse(TINY | {"rows": ["l2_5e-3"], "workers": 1}), folder)
    assert few.rows == [row for row in tiny.rows if row.method == "l2_5e-3"] and state(folder) == before
    for changes, said in (
        ({"seed": 2}, "seed is 2, was 1"),
        ({"records": 500}, "records is 500, was 600"),
        ({"strengths": {"l2_5e-3": {"epochs": 9}}}, r"recipes.l2_5e-3.epochs is 9, was 8"),
        ({"data": "purchases", "rows": ["original"]}, "data.choice"),
    ):
        with pytest.raises(PoolError, match=said):
            run_study(StudyConfig.parse(TINY | changes), folder)
    assert state(folder) == before


@pytest.mark.slow
def test_killed_study_goes_on_to_the_same_result(tiny: StudyResult, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(TINY | {"rows": ROWS[:2]}))
    run = [sys.executable, "-m", "memberscope", "study", str(path), "--out", str(tmp_path / "killed"), "-q"]
    child = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    models = tmp_path / "killed" / "pools" / "l2_5e-3"
    for _ in range(1200):
        if len(list(models.glob("*.safetensors"))) >= 2 or child.poll() is not None:
            break
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "pools").rglob("*.safetensors")}
    assert 8 <= len(kept) < 12
    result = run_study(StudyConfig.read(path).changed(name="study"), tmp_path / "killed")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    whole = [row for row in timeless(tiny)["rows"] if row["method"] in ROWS[:2]]
    assert timeless(result)["rows"] == whole


def test_command_prints_the_document_and_nothing_else(
    folder: Path, tiny: StudyResult, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(TINY))
    status, out, err = command(["study", str(path), "--out", str(folder), "--json"], capsys)
    assert status == 0 and StudyResult.model_validate_json(out).rows == tiny.rows
    assert "Every model is trained already." in err
    chosen = ["study", str(path), "--rows", "original", "l2_5e-3", "--out", str(folder), "-q"]
    status, out, err = command(chosen, capsys)
    assert status == 0 and err == "" and "original" in out and f"Page: {folder / 'index.html'}" in out
    assert "curriculum" not in out
    auc = tiny.pooled("original").threshold_auc.value
    assert auc is not None and f"{100 * auc:.2f}" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["purchase10"], "did you mean 'purchase100'"),
        (["purchase100", "--scale", "lapdog"], "did you mean 'laptop'"),
        (["purchase100", "--rows", "original", "dpsgd"], "did you mean 'dp_sgd'"),
        (["cifar10", "--data", "nowhere/archive.tar.gz"], "no such file or folder"),
        (["cifar10", "--data", "digit"], "did you mean 'digits'"),
        (["missing.yaml"], "a study file missing.yaml"),
    ],
)
def test_wrong_use_of_the_command(arguments: list[str], said: str, capsys: Any) -> None:
    status, out, err = command(["study", *arguments], capsys)
    assert status == 2 and out == "" and said in err and "Traceback" not in err


def test_scale_belongs_to_presets(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(TINY))
    status, _, err = command(["study", str(tmp_path / "study.yaml"), "--scale", "smoke"], capsys)
    assert status == 2 and "Leave --scale out" in err


def test_help_is_quick_and_has_examples() -> None:
    code = (
        "import sys\nfrom memberscope.cli import main\n"
        "try:\n    main(['study', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('numpy', 'torch', 'yaml', 'sklearn') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and "memberscope study purchase100 --scale smoke" in done.stdout


def test_private_rows_say_what_they_guarantee(tmp_path: Path) -> None:
    rows = ["dp_sgd", "clip_only"]
    strengths = {name: {"batch_size": 40, "learning_rate": 0.5, "epochs": 3} for name in rows}
    result = run_study(StudyConfig.parse(TINY | {"rows": rows, "strengths": strengths}), tmp_path / "private")
    private, clipped = result.pooled("dp_sgd"), result.pooled("clip_only")
    assert private.epsilon is not None and private.epsilon > 0 and private.epsilon_reason is None
    assert private.dp is not None and private.dp.noise_multiplier == 1 and private.dp.steps == 3 * int(300 / 40)
    assert private.dp.sample_rate == pytest.approx(40 / 300) and private.dp.delta < 1 / 300
    assert private.dp.drawn_batches == private.dp.steps and private.dp.accountant in ("prv", "rdp")
    assert clipped.epsilon is None and "no noise" in str(clipped.epsilon_reason) and clipped.dp is not None
    document = json.loads((tmp_path / "private" / "study.json").read_text())
    assert [row["dp"] is not None for row in document["rows"]] == [True] * 8


def test_overhead_of_a_slow_policy_is_measured(tiny: StudyResult, folder: Path) -> None:
    """A policy that sleeps a millisecond costs a millisecond."""

    class Slow(Reweighting):
        def __call__(self, logits: Any) -> Any:
            time.sleep(0.001)
            return super().__call__(logits)

    pool = load_pool(folder / "pools" / "original")
    dataset = prepare(StudyConfig.parse(TINY)).dataset
    found = measure_overhead(pool, 0, dataset, Slow(np.eye(10)))
    assert found.policy.value is not None and found.model.value is not None and found.relative.value is not None
    assert 0.001 <= found.policy.value < 0.02
    assert found.relative.low <= found.policy.value / found.model.value * 2  # type: ignore[operator]


def test_estimate_counts_what_is_missing(tiny: StudyResult, folder: Path, tmp_path: Path) -> None:
    prepared = prepare(StudyConfig.parse(TINY | {"rows": ["original", "mixup"]}))
    known, new = estimate(prepared, folder), estimate(prepared, tmp_path)
    assert (known.models, new.models) == (6, 12) and 0 < known.seconds < new.seconds
    assert str(new).startswith("12 models to train, about ")
    # A thousand times the epochs take far longer, whatever the machine is doing and a model's start costs.
    own, longer = (
        prepare(StudyConfig.parse(TINY | {"rows": ["original"], "recipe": TINY["recipe"] | {"epochs": epochs}}))
        for epochs in (TINY["recipe"]["epochs"], 8000)
    )
    assert estimate(longer, tmp_path).seconds > 10 * estimate(own, tmp_path).seconds


def test_rows_know_their_names(tiny: StudyResult) -> None:
    assert isinstance(tiny.pooled("original"), StudyRow)
    with pytest.raises(KeyError):
        tiny.pooled("mixup")
