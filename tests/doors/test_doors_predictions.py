"""Saved predictions: whatever the form of the file, the audit is that of the outputs themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved import softmax, world, write_long, write_wide

import memberscope as ms
from commands import command
from memberscope.doors.outputs import filled
from memberscope.doors.predictions import load_predictions
from memberscope.types import Access, Findings

FAST: dict[str, Any] = {"analyses": (), "attacks": ["gap", "loss", "lira_hierarchical"]}


def aucs(findings: Findings) -> dict[str, float | None]:
    return {result.name: result.auc.value for result in findings.attacks if result.target == "all"}


def truth(made: dict[str, Any], what: str = "probabilities", rows: int | None = None) -> Findings:
    count = rows or len(made["members"])
    kind = "logits" if what == "logits" else "probabilities"
    signals = ms.Signals(
        tuple(made[what][:count]),
        kind,
        made["members"][:count],
        made["labels"],
        made["ids"],  # type: ignore[arg-type]
    )
    return ms.audit(signals, targets=[0], attacks=FAST["attacks"])


@pytest.mark.parametrize("what", ["probabilities", "logits"])
def test_files_in_any_order_give_the_audit_of_the_outputs(tmp_path: Path, what: str) -> None:
    made = world(6)
    rng = np.random.default_rng(1)
    paths = [write_wide(tmp_path / f"m{row}.csv", made, row, what=what, order=rng.permutation(240)) for row in range(6)]
    found = ms.audit_predictions(paths[0], paths[1:], **FAST)
    assert aucs(found) == pytest.approx(aucs(truth(made, what)))
    assert found.data["access"] == ("logits" if what == "logits" else "scores")
    assert min(value or 0 for value in aucs(found).values()) > 0.55


def form(tmp_path: Path, name: str, made: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    path = tmp_path / "p.csv"
    if name == "long":
        return write_long(path, made), {}
    if name == "semicolon and decimal comma":
        return write_wide(path, made, delimiter=";", decimal=","), {}
    if name == "tabs, UTF-16":
        return write_wide(path, made, delimiter="\t", encoding="utf-16"), {}
    if name == "byte-order mark":
        return write_wide(path, made, encoding="utf-8-sig"), {}
    if name == "prefixed columns":
        return write_wide(path, made, header=["ID", "y_true", "is_member", *(f"prob_class_{k}" for k in range(4))]), {}
    if name == "text classes in another order":
        named = made | {"labels": np.array(["cat", "ant", "dog", "bee"])[made["labels"]]}
        return write_wide(path, named, header=["id", "label", "member", "cat", "ant", "dog", "bee"]), {}
    if name == "other column names":
        header = ["patient", "diagnosis", "seen", "note", *map(str, range(4))]
        write_wide(path, made)
        lines = path.read_text().splitlines()
        text = [",".join(header)] + [",".join([*(c := line.split(","))[:3], "7", *c[3:]]) for line in lines[1:]]
        path.write_text("\n".join(text))
        return path, {"id": "patient", "label": "diagnosis", "member": "seen", "ignore": ["note"]}
    if name == "npz":
        path = tmp_path / "p.npz"
        np.savez(
            path,
            probabilities=made["probabilities"][0],
            labels=made["labels"],
            members=made["members"][0],
            ids=made["ids"],
        )
        return path, {}
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns: dict[str, Any] = {"id": made["ids"], "label": made["labels"], "member": made["members"][0]}
    columns |= {str(k): made["probabilities"][0][:, k] for k in range(4)}
    parquet.write_table(pyarrow.table(columns), tmp_path / "p.parquet")
    return tmp_path / "p.parquet", {}


FORMS = (
    "long", "semicolon and decimal comma", "tabs, UTF-16", "byte-order mark", "prefixed columns",
    "text classes in another order", "other column names", "npz", "parquet",
)  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_the_file_gives_the_same_figures(tmp_path: Path, name: str) -> None:
    made = world(1)
    path, options = form(tmp_path, name, made)
    assert aucs(ms.audit_predictions(path, **options, **FAST)) == pytest.approx(aucs(truth(made)))


def test_access_is_found_and_decides_the_attacks(tmp_path: Path) -> None:
    made = world(1)
    rounded = ms.audit_predictions(write_wide(tmp_path / "a.csv", made, digits=2), analyses=())
    assert rounded.data["access"] == "rounded" and "rounded to 2 decimals" in rounded.threat_model["access"]
    top = ms.audit_predictions(write_long(tmp_path / "b.csv", made, top=2), analyses=())
    assert top.data["access"] == "top_k" and "the 2 highest" in top.threat_model["access"]
    predicted = made["logits"][0].argmax(axis=1)
    lines = [
        f"{i},{y},{int(m)},{p}"
        for i, y, m, p in zip(made["ids"], made["labels"], made["members"][0], predicted, strict=True)
    ]
    (tmp_path / "c.csv").write_text("\n".join(["id,label,member,predicted", *lines]))
    labels = ms.audit_predictions(tmp_path / "c.csv", analyses=())
    assert labels.data["access"] == "label" and "loss" in {missing.name for missing in labels.not_run}
    assert {missing.name for missing in top.not_run}.isdisjoint({"loss"})
    assert any("access level label" in said for said in labels.summary)
    correct = predicted == made["labels"]
    inside, outside = correct[made["members"][0]].mean(), correct[~made["members"][0]].mean()
    assert aucs(labels)["gap"] == pytest.approx(0.5 + (inside - outside) / 2)


def test_what_top_k_leaves_is_spread_evenly_and_never_above_what_was_given() -> None:
    p = np.array([[0.6, 0.3, np.nan, np.nan], [0.4, np.nan, np.nan, 0.4], [0.97, np.nan, np.nan, np.nan]])
    np.testing.assert_allclose(
        filled(p, None), [[0.6, 0.3, 0.05, 0.05], [0.4, 0.1, 0.1, 0.4], [0.97, 0.01, 0.01, 0.01]]
    )


def test_a_single_score_is_that_of_the_second_class(tmp_path: Path) -> None:
    made = world(1, classes=2)
    p = made["probabilities"][0]
    lines = [f"{i},{'ill' if y else 'well'},{'train' if m else 'test'},{float(q[1])!r}" for i, y, m, q in zip(
        made["ids"], made["labels"], made["members"][0], p, strict=True)]  # fmt: skip
    path = tmp_path / "p.csv"
    path.write_text("\n".join(["id,label,split,p_ill", *lines]))
    assert aucs(ms.audit_predictions(path, **FAST)) == pytest.approx(aucs(truth(made)), abs=1e-9)


def test_membership_from_a_table(tmp_path: Path) -> None:
    made = world(3)
    paths = []
    for row in range(3):
        path = write_wide(tmp_path / f"m{row}.csv", made, row)
        cut = [line.split(",") for line in path.read_text().splitlines()]
        path.write_text("\n".join(",".join([*c[:2], *c[3:]]) for c in cut))
        paths.append(path)
    order = np.random.default_rng(3).permutation(240)
    lines = [",".join([made["ids"][k], *("yes" if m else "no" for m in made["members"][:, k])]) for k in order]
    (tmp_path / "members.csv").write_text("\n".join(["id,m0,m1,m2", *lines]))
    loaded = load_predictions(paths[0], paths[1:], tmp_path / "members.csv")
    np.testing.assert_array_equal(loaded.signals.members, made["members"])


def test_large_scores_lie_on_disk_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(2)
    paths = [
        write_wide(tmp_path / f"m{row}.csv", made, row, order=np.arange(240)[::-1] if row else None) for row in range(2)
    ]
    whole = load_predictions(paths[0], paths[1:])
    for place in ("memberscope.targets.predictions.IN_MEMORY", "memberscope.large.IN_MEMORY"):
        monkeypatch.setattr(place, 64)
    mapped = load_predictions(paths[0], paths[1:], folder=tmp_path / "run")
    assert all(isinstance(row, np.memmap) for row in mapped.signals.outputs)
    for left, right in zip(whole.signals.outputs, mapped.signals.outputs, strict=True):
        np.testing.assert_array_equal(left, right)
    assert whole.signals.access == Access.SCORES


def test_the_command_writes_a_run_folder_and_gates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = world(4, records=2400, strength=4.0)
    paths = [str(write_wide(tmp_path / f"m{row}.csv", made, row)) for row in range(4)]
    out = tmp_path / "run"
    arguments = ["audit", "--predictions", paths[0], "--reference-predictions", *paths[1:], "--gate", "auc<0.6"]
    status, said, _ = command([*arguments, "--attack", "loss", "--out", str(out), "--quiet"], capsys)
    assert status == 1 and said.startswith("\nFAIL") and "access level scores" in " ".join(said.split())
    for name in ("config.yaml", "findings.json", "records.csv", "report.html", "manifest.json", "signals/members.npy"):
        assert (out / name).exists(), name
    manifest = json.loads((out / "signals/manifest.json").read_text())
    kept = np.load(out / "signals" / manifest["kind"] / "00002.npy")
    np.testing.assert_allclose(kept[:, 0], made["probabilities"][2])
    # The same as a configuration.
    section = {"path": "m0.csv", "references": ["m1.csv", "m2.csv", "m3.csv"]}
    config = {"predictions": section, "attacks": ["loss"], "analyses": "none", "gate": {"metric": "auc", "limit": 0.6}}
    (tmp_path / "door.yaml").write_text(json.dumps(config))
    again, text, _ = command(["audit", str(tmp_path / "door.yaml"), "--json", "--quiet"], capsys)
    figures = json.loads(text)["attacks"][0]["auc"]
    assert again == 1 and figures == ms.read_findings(out).attacks[0].auc.model_dump()


def test_another_models_answers_are_said(tmp_path: Path) -> None:
    made = world(1)
    swapped = made | {"probabilities": softmax(-made["logits"])}
    found = ms.audit_predictions(write_wide(tmp_path / "p.csv", swapped), **FAST)
    assert any("another model's answers" in said for said in found.summary)
