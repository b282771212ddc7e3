"""Tables and arrays of the user's own: what comes in, and what is refused."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from memberscope.data import load
from memberscope.errors import DataError, MissingExtraError

TEXT = """id,age,income,city,label,region
p1,31,1.5e3,Bonn,good,north
p2,45,2000,"Köln, Deutz",bad,south
p3,28,-0.25,Bonn,good,north
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_columns_find_their_places(tmp_path: Path) -> None:
    data = load(write(tmp_path / "people.csv", TEXT), groups=["region"], drop=["city"])
    assert data.inputs.tolist() == [[31, 1500], [45, 2000], [28, -0.25]]
    assert data.feature_names == ("age", "income")
    assert data.ids.tolist() == ["p1", "p2", "p3"]
    assert data.class_names == ("bad", "good")
    assert data.labels.tolist() == [1, 0, 1]
    assert data.groups["region"].tolist() == ["north", "south", "north"]
    assert data.name == "people"
    ordered = load(tmp_path / "people.csv", groups=["region"], drop=["city"], class_names=["good", "bad"])
    assert ordered.labels.tolist() == [0, 1, 0]
    assert ordered.take([2, 0]).ids.tolist() == ["p3", "p1"]


def test_tsv_bom_other_label_and_no_id(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "\ufeffx\tkind\n0.5\t7\n\n1.5\t3\n2.5\t7\n")
    data = load(path, label="kind")
    assert data.inputs.tolist() == [[0.5], [1.5], [2.5]]
    assert data.class_names == ("3", "7")
    assert data.labels.tolist() == [1, 0, 1]
    assert data.ids.tolist() == ["0", "1", "2"]


def test_whole_number_labels_from_zero_stay_and_others_are_ordered_as_numbers(tmp_path: Path) -> None:
    zero = load(write(tmp_path / "a.csv", "x,y\n1,0\n2,3\n3,1\n"))
    assert zero.labels.tolist() == [0, 3, 1]
    assert zero.classes == 4
    tens = load(write(tmp_path / "b.csv", "x,target\n1,10\n2,9\n3,-1\n"))
    assert tens.class_names == ("-1", "9", "10")
    assert tens.labels.tolist() == [2, 1, 0]
    decimal = load(write(tmp_path / "c.csv", "x,Class\n1,1.0\n2,0.0\n"))
    assert decimal.labels.tolist() == [1, 0]


def test_semicolons_by_option(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", "x;label\n1;a\n2;b\n")
    assert load(path, delimiter=";").labels.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"give delimiter=|Give delimiter="):
        load(path)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "an empty file"),
        ("x,label\n", {}, "at least one record"),
        ("1,2\n3,4\n", {}, "header row of different column names"),
        ("x,x,label\n1,2,a\n", {}, "header row of different column names"),
        ("a,b\n1,2\n", {}, "a column named label, target, class, y.*columns a, b.*label="),
        ("a,label\n1,2\n", {"label": "labl"}, r"'labl'.*did you mean 'label'"),
        ("a,label\n1,2\n", {"groups": ["nope"]}, "a column 'nope'"),
        ("a,label\n1,2\n", {"id": "key"}, "a column 'key'"),
        ("label\n1\n", {}, "at least one feature column"),
        ("a,label\n1,x\nBonn,y\n", {}, "numbers in column 'a'.*'Bonn' in line 3.*groups= or drop="),
        ("a,label\n1,x\n,y\n", {}, "numbers in column 'a'.*'' in line 3"),
        ("a,label\n1,x\n2\n", {}, "2 fields in line 3.*got 1"),
        ("a,label\n1,x\n2,y,z\n", {}, "2 fields in line 3.*got 3"),
        ("a,label\n1,x\n2,\n", {}, "a label for every record.*record 2"),
        ("a,label\n1,x\nnan,y\n", {}, "finite inputs"),
        ("a,label\n1,x\ninf,y\n", {}, "finite inputs"),
        ("a,label\n1,x\n", {"class_names": ["y", "z"]}, "among the 2 class names; got 'x'"),
        ("id,a,label\n1,1,x\n1,2,y\n", {}, "a different id for every record.*'1'"),
    ],
)
def test_bad_tables_say_what_is_wrong(tmp_path: Path, text: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / "bad.csv", text), **options)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("größe,label\n1,a\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a table in UTF-8"):
        load(tmp_path / "latin.csv")


def test_parquet_reads_as_the_csv_does(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    read = pytest.importorskip("pyarrow.csv").read_csv
    csv = write(tmp_path / "people.csv", TEXT)
    parquet.write_table(read(csv), tmp_path / "people.parquet")
    options = {"groups": ["region"], "drop": ["city"]}
    one, two = load(csv, **options), load(tmp_path / "people.parquet", **options)
    assert one.fingerprint == two.fingerprint
    assert (one.class_names, one.feature_names) == (two.class_names, two.feature_names)
    with pytest.raises(DataError, match=r"numbers in column 'city'.*string"):
        load(tmp_path / "people.parquet", groups=["region"])
    hole = pyarrow.table({"a": [1.0, None], "label": ["x", "y"]})
    parquet.write_table(hole, tmp_path / "hole.parquet")
    with pytest.raises(DataError, match=r"finite inputs"):
        load(tmp_path / "hole.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "people.parquet").read_bytes()[:-50])
    with pytest.raises(DataError, match=r"whole Parquet file"):
        load(tmp_path / "cut.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules is Python's own way to make an import fail.
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtraError, match=r"pip install 'memberscope\[parquet\]'"):
        load(tmp_path / "x.parquet")


def test_npz_keeps_every_part(tmp_path: Path) -> None:
    inputs = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.savez(
        tmp_path / "a.npz",
        X=inputs,
        y=np.array(["b", "a", "b"]),
        ids=np.array(["r7", "r8", "r9"]),
        feature_names=np.array(list("wxyz")),
        group_site=np.array([1, 1, 2]),
    )
    data = load(tmp_path / "a.npz")
    assert (data.inputs == inputs).all()
    assert data.inputs.dtype == np.float32
    assert data.labels.tolist() == [1, 0, 1]
    assert data.class_names == ("a", "b")
    assert data.ids.tolist() == ["r7", "r8", "r9"]
    assert data.feature_names == ("w", "x", "y", "z")
    assert data.groups["site"].tolist() == [1, 1, 2]
    np.savez_compressed(tmp_path / "b.npz", inputs=inputs, labels=[0, 1, 0], class_names=["no", "yes", "maybe"])
    assert load(tmp_path / "b.npz").class_names == ("no", "yes", "maybe")


class Trap:
    """Unpickling this creates a file: the tests look for it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_objects_and_pickles_in_an_npz_are_refused_and_never_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    objects = np.empty(2, object)
    objects[:] = [Trap(sprung), Trap(sprung)]
    np.savez(tmp_path / "objects.npz", inputs=np.eye(2), labels=objects)
    with pytest.raises(DataError, match=r"Python objects, which are refused"):
        load(tmp_path / "objects.npz")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(DataError, match=r"an .npz archive"):
        load(tmp_path / "pickle.npz")
    with zipfile.ZipFile(tmp_path / "member.npz", "w") as archive:
        archive.writestr("inputs.npy", pickle.dumps(Trap(sprung)))
    with pytest.raises(DataError):
        load(tmp_path / "member.npz")
    assert not sprung.exists()


def test_bad_npz_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=np.eye(3), labels=np.arange(3))
    whole = (tmp_path / "a.npz").read_bytes()
    for size in (0, 10, len(whole) - 30):
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"an .npz archive"):
            load(tmp_path / "cut.npz")
    flipped = bytearray(whole)
    flipped[len(whole) // 4] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(bytes(flipped))
    with pytest.raises(DataError):
        load(tmp_path / "flipped.npz")
    np.savez(tmp_path / "b.npz", inputs=np.eye(3))
    with pytest.raises(DataError, match=r"an array named labels or y .*got inputs"):
        load(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", inputs=np.eye(3), labels=np.arange(3), feature_name=np.arange(3))
    with pytest.raises(DataError, match=r"did you mean 'feature_names'"):
        load(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", inputs=np.full((2, 2), np.nan), labels=[0, 1])
    with pytest.raises(DataError, match=r"finite inputs"):
        load(tmp_path / "d.npz")
