"""Two runs side by side: what got worse is what was made worse."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

import audits
import memberscope as ms
from commands import command
from memberscope.auditing.compare import compare


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("compare")
    for name, leak, only in (("clean", 0.0, None), ("other", 0.0, None), ("leaky", 6.0, 1)):
        audits.run(base / name, leak, only=only, name=name, seed=len(name))
    return {path.name: path for path in base.iterdir() if path.is_dir()}


def test_the_leaking_class_and_its_attacks_got_worse(runs: dict[str, Path]) -> None:
    found = compare(ms.read_findings(runs["leaky"]), ms.read_findings(runs["clean"]))
    ways = {(one.name, one.figure): one.direction for one in found.attacks}
    assert {ways[name, "auc"] for name in audits.ATTACKS} == {"worse"} and ways["gap", "tpr@0.01"] == "unknown"
    rows = {one.name: one.direction for one in found.rows["class"] if one.figure == "auc"}
    assert rows == {"0": "unchanged", "1": "worse", "2": "unchanged"}
    back = compare(ms.read_findings(runs["clean"]), ms.read_findings(runs["leaky"]))
    assert {one.direction for one in back.attacks if one.figure == "auc"} == {"better"}
    for one, other in zip(found.attacks, back.attacks, strict=True):
        if one.difference.value is not None:
            assert one.difference.value == pytest.approx(-(other.difference.value or 0))
            assert one.difference.low == pytest.approx(-(other.difference.high or 0))


def test_two_audits_without_a_leak_do_not_differ(runs: dict[str, Path]) -> None:
    found = compare(ms.read_findings(runs["other"]), ms.read_findings(runs["clean"]))
    assert {one.direction for one in found.attacks} <= {"unchanged", "unknown"}
    assert found.sentence.startswith("No figure differs")


def test_compare_command_names_records_and_reads_old_runs(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # With so few references nothing is named; here the first records and one non-member are.
    leaky = Path(shutil.copytree(runs["leaky"], tmp_path / "leaky"))
    with (leaky / "records.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    members = [row for row in rows if row["member"] == "1"][:20]
    for row in [*members, next(row for row in rows if row["member"] == "0")]:
        row["flagged"] = "1"
    with (leaky / "records.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    status, out, err = command(["compare", str(runs["clean"]), str(leaky), "--json"], capsys)
    found = json.loads(out)["records"]
    assert (status, err) == (0, "") and (found["both"], found["newly"], found["no_longer"]) == (0, 20, 0)
    assert found["newly_named"] == [row["id"] for row in members]
    status, out, _ = command(["compare", str(runs["clean"]), str(runs["leaky"])], capsys)
    assert status == 0 and "More is found than before by" in " ".join(out.split()) and "worse" in out
    old = tmp_path / "old.json"
    old.write_text(audits.as_old(ms.read_findings(runs["clean"])).model_dump_json())
    assert command(["compare", str(old), str(runs["leaky"])], capsys)[0] == 0
    status, _, err = command(["compare", str(old), "nowhere"], capsys)
    assert status == 2 and "nowhere" in err
