"""One door to all data: names, paths, options, and what importing costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memberscope.data import REGISTRY, data_dir, info, load
from memberscope.errors import ConfigError, DataError


def test_importing_loads_neither_pytorch_nor_scikit_learn() -> None:
    code = (
        "import sys, memberscope, memberscope.data, memberscope.data.checks, memberscope.data.membership;"
        "print([m for m in ('torch', 'sklearn', 'PIL', 'pyarrow', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_registry_names_what_is_needed(home: Path) -> None:
    assert list(REGISTRY) == [
        "digits",
        "purchases",
        "cifar10",
        "cifar100",
        "purchase100",
        "texas100",
        "location30",
    ]
    for name, entry in REGISTRY.items():
        known = info(name)
        json.dumps(known)
        assert known["name"] == name
        assert known["embedded"] == (name in ("digits", "purchases"))
        assert known["available"] == known["embedded"]
        if not entry.embedded:
            assert known["place"].startswith(str(home / name))
            assert known["url"].startswith("https://")
    assert data_dir() == home
    assert info("purchase100")["checksum"] is None
    assert info("cifar100")["checksum"] == "md5:03b5dce01913d631647c71ecec9e9cb8"


def test_an_archive_in_its_place_is_found(home: Path) -> None:
    place = Path(info("location30")["place"])
    place.parent.mkdir(parents=True)
    place.write_bytes(b"damaged")
    assert info("location30")["available"]
    with pytest.raises(DataError, match=r"SHA256 .*remove it and download it again"):
        load("location30")


def test_data_dir_without_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MEMBERSCOPE_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_dir() == tmp_path / ".cache" / "memberscope"


def test_info_of_a_path_describes_what_is_in_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=np.eye(3), labels=[0, 2, 2], ids=["a", "b", "c"], group_site=[1, 1, 2])
    known = info(tmp_path / "a.npz")
    json.dumps(known)
    assert known["shape"] == [3, 3]
    assert known["class_counts"] == [1, 0, 2]
    assert known["groups"] == ["site"]
    assert known["first_ids"] == ["a", "b", "c"]
    assert known["fingerprint"] == load(tmp_path / "a.npz").fingerprint


def test_a_draw_keeps_order_ids_and_nests(tmp_path: Path) -> None:
    whole, few, more = load("digits"), load("digits", records=50, seed=4), load("digits", n=80, seed=4)
    place = {identity: row for row, identity in enumerate(whole.ids.tolist())}
    rows = [place[identity] for identity in few.ids.tolist()]
    assert rows == sorted(rows)
    assert (few.inputs == whole.inputs[rows]).all()
    assert set(few.ids) < set(more.ids)
    assert set(few.ids) != set(load("digits", records=50, seed=5).ids)
    assert load("digits", records=1797).fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("cifar1O", {}, ConfigError, r"a known data set \(digits, .*did you mean 'cifar10'"),
        ("puchases", {}, ConfigError, r"did you mean 'purchases'"),
        ("", {}, DataError, r"one folder a class|known"),
        ("nowhere/data.csv", {}, DataError, r"no such file or folder.*\.parquet"),
        ("data.csv", {}, DataError, r"no such file or folder"),
        ("digits", {"as_image": True}, ConfigError, r"'as_image' \(did you mean 'as_images'\?\)"),
        ("digits", {"records": 1798}, ConfigError, r"at most 1,797 records"),
        ("digits", {"records": -1}, ConfigError, r"at least 1 record"),
        ("cifar10", {}, DataError, r"memberscope data fetch cifar10.*cifar-10-binary.tar.gz.*path="),
        ("texas100", {}, DataError, r"dataset_texas.tgz at .*no such file"),
        ("cifar10", {"label": "x"}, ConfigError, r"options of cifar10: path, records, seed"),
    ],
)
def test_mistakes_get_an_answer(
    name: str,
    options: dict[str, object],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        load(name, **options)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    for name in ("model.pkl", "data.xlsx", "noend"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(DataError, match=r"a file of a known kind"):
            load(tmp_path / name)
    (tmp_path / "a.csv").write_text("x,label\n1,a\n")
    with pytest.raises(ConfigError, match=r"did you mean 'label'"):
        load(tmp_path / "a.csv", labels="label")
