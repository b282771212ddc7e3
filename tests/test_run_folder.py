"""Sealed run folders: every tampering is named, and what is written officially is sealed again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import audits
import memberscope as ms
from commands import command
from memberscope.errors import ConfigError, PoolError
from memberscope.exports import Exported
from memberscope.files import sha256_file, sha256_json
from memberscope.run_folder import digest_of, export_run, report, seal, verify
from memberscope.run_folder.manifest import UNSEALED


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed") / "run"
    audits.run(folder, 1.5, gate={"metric": "auc", "limit": 0.6}, seed=1)
    export_run(folder, ms.read_findings(folder), [Exported(format="junit"), Exported(format="parquet")])
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def claim(folder: Path, **changes: object) -> None:
    """Change the manifest itself, and its digest with it if ``changes`` say so."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    again = changes.pop("again", False)
    manifest["files"] |= changes
    manifest["files"] = {name: value for name, value in manifest["files"].items() if value is not None}
    if again:
        manifest["digest"] = sha256_json({key: value for key, value in manifest.items() if key != "digest"})
    path.write_text(json.dumps(manifest, indent=1) + "\n")


def flip_verdict(folder: Path) -> None:
    edit(folder / "findings.json", '"verdict": "fail"', '"verdict": "pass"')


def findings_and_their_hash(folder: Path) -> None:
    flip_verdict(folder)
    claim(folder, **{"findings.json": sha256_file(folder / "findings.json")})


def findings_and_the_whole_manifest(folder: Path) -> None:
    flip_verdict(folder)
    claim(folder, again=True, **{"findings.json": sha256_file(folder / "findings.json")})


def a_record_taken_out(folder: Path) -> None:
    lines = (folder / "records.csv").read_text().splitlines(keepends=True)
    (folder / "records.csv").write_text("".join(lines[:5] + lines[6:]))


def scores_swapped(folder: Path) -> None:
    loss, gap = folder / "scores/loss.npy", folder / "scores/gap.npy"
    content = loss.read_bytes()
    loss.write_bytes(gap.read_bytes())
    gap.write_bytes(content)


def a_byte_of_scores(folder: Path) -> None:
    content = bytearray((folder / "scores/rmia_online.npy").read_bytes())
    content[-1] ^= 1
    (folder / "scores/rmia_online.npy").write_bytes(content)


def a_file_and_its_entry_removed(folder: Path) -> None:
    (folder / "scores/gap.npy").unlink()
    claim(folder, **{"scores/gap.npy": None})


def another_digest_in_the_report(folder: Path) -> None:
    edit(folder / "report.html", digest_of(folder), "a" * 64)


def another_digest_in_the_manifest(folder: Path) -> None:
    edit(folder / "manifest.json", digest_of(folder), "a" * 64)


class Tampering(NamedTuple):
    do: Callable[[Path], object]
    found: list[tuple[str, str]]


TAMPERINGS = {
    "a verdict in the findings": Tampering(flip_verdict, [("changed", "findings.json")]),
    "a record taken out": Tampering(a_record_taken_out, [("changed", "records.csv")]),
    "one bit of the scores": Tampering(a_byte_of_scores, [("changed", "scores/rmia_online.npy")]),
    "two scores swapped": Tampering(scores_swapped, [("changed", "scores/gap.npy"), ("changed", "scores/loss.npy")]),
    "the configuration": Tampering(
        lambda folder: edit(folder / "config.yaml", "limit: 0.6", "limit: 0.9"), [("changed", "config.yaml")]
    ),
    "a sentence of the report": Tampering(
        lambda folder: edit(folder / "report.html", "Fail: the AUC", "Pass: the AUC"), [("changed", "report.html")]
    ),
    "the digest in the report": Tampering(another_digest_in_the_report, [("changed", "report.html")]),
    "a file missing": Tampering(lambda folder: (folder / "scores/loss.npy").unlink(), [("missing", "scores/loss.npy")]),
    "a file added": Tampering(
        lambda folder: (folder / "scores/better.npy").write_bytes(b"x"), [("added", "scores/better.npy")]
    ),
    "a hidden file added": Tampering(lambda folder: (folder / ".note").write_text("x"), [("added", ".note")]),
    "an export": Tampering(
        lambda folder: edit(folder / "exports/junit.xml", "<failure", "<skipped"), [("changed", "exports/junit.xml")]
    ),
    "findings and their hash": Tampering(findings_and_their_hash, [("manifest", "manifest.json")]),
    "a file and its entry": Tampering(a_file_and_its_entry_removed, [("manifest", "manifest.json")]),
    "the manifest's digest": Tampering(another_digest_in_the_manifest, [("manifest", "manifest.json")]),
    # The manifest agrees with itself again; the report and the export still show the digest that was.
    "findings and the whole manifest": Tampering(
        findings_and_the_whole_manifest, [("changed", "exports/junit.xml"), ("changed", "report.html")]
    ),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_every_tampering_is_named(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(folder).ok
    TAMPERINGS[name].do(folder)
    found = verify(folder)
    assert [(problem.kind, problem.path) for problem in found.problems] == TAMPERINGS[name].found
    status, out, err = command(["verify", str(folder)], capsys)
    assert (status, err) == (1, "") and all(path in out for _, path in TAMPERINGS[name].found)


def test_who_seals_everything_anew_is_told_by_a_digest_kept_elsewhere(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = digest_of(folder)
    assert command(["verify", str(folder), "--digest", kept[:12]], capsys)[0] == 0
    flip_verdict(folder)
    edit(folder / "report.html", kept, UNSEALED)
    seal(folder, sealed=[folder / "report.html"])
    # Nothing inside can tell.
    assert verify(folder).ok
    status, out, _ = command(["verify", str(folder), "--digest", kept[:12], "--json"], capsys)
    found = json.loads(out)
    assert status == 1 and [problem["kind"] for problem in found["problems"]] == ["digest"]
    for wrong in ("abc", "g" * 64):
        with pytest.raises(ConfigError, match="hexadecimal"):
            verify(folder, wrong)


def test_the_audit_prints_the_digest_that_the_report_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = audits.save(tmp_path / "saved.npz", audits.signals(0.0, models=4, records=300))
    out = tmp_path / "run"
    arguments = ["audit", "--signals", str(path), "--attack", "loss", "--out", str(out), "--quiet"]
    status, said, _ = command(arguments, capsys)
    digest = digest_of(out)
    assert status == 0 and f"Digest: {digest}" in said
    assert digest in (out / "report.html").read_text() and len(digest) == 64
    status, said, err = command([*arguments, "--json"], capsys)
    assert json.loads(said)["verdict"] == "no_gate" and f"Digest: {digest_of(out)}" in err
    assert verify(out).ok


def test_writing_the_report_again_blesses_nothing_else(folder: Path) -> None:
    before = digest_of(folder)
    report(folder)
    assert verify(folder).ok and digest_of(folder) == before
    a_byte_of_scores(folder)
    report(folder)
    assert [problem.path for problem in verify(folder).problems] == ["scores/rmia_online.npy"]


def test_links_are_followed_and_not_for_ever(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    shutil.move(folder / "scores", elsewhere)
    (folder / "scores").symlink_to(elsewhere)
    assert verify(folder).ok
    (elsewhere / "again").symlink_to(folder)
    assert verify(folder).ok
    (elsewhere / "loss.npy").write_bytes(b"")
    assert [problem.path for problem in verify(folder).problems] == ["scores/loss.npy"]


def test_a_manifest_of_before_says_what_it_does_not_cover_and_is_completed_by_a_report(folder: Path) -> None:
    path = folder / "manifest.json"
    names = ["config.yaml", "findings.json", "report.html", "scores/loss.npy"]
    files = {name: sha256_file(folder / name) for name in names}
    path.write_text(json.dumps({"schema_version": "1.0", "memberscope": "0.1.0", "files": files}))
    found = verify(folder)
    assert {problem.kind for problem in found.problems} == {"uncovered"} and not found.digest and found.status == 3
    assert "records.csv" in {problem.path for problem in found.problems}
    edit(folder / "config.yaml", "limit: 0.6", "limit: 0.9")
    report(folder)
    assert [(one.kind, one.path) for one in verify(folder).problems] == [("changed", "config.yaml")]


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_a_manifest_cannot_lead_out_of_its_folder(name: str, folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sealed"].append(name)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for act in (verify, report):
        with pytest.raises(PoolError, match="another document"):
            act(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": {"a": 1}}', '{"files": []}'])
def test_a_damaged_manifest_is_named_without_a_traceback(
    content: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "manifest.json").write_text(content)
    status, out, err = command(["verify", str(folder)], capsys)
    assert (status, out) == (2, "") and "manifest.json" in err and "internal error" not in err
    assert command(["verify", str(folder.parent / "nowhere")], capsys)[0] == 2
