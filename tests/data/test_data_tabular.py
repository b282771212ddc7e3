"""Purchase100, Texas100 and Location-30: the official formats, against a slow reader, and broken ones."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memberscope.data import load
from memberscope.data.binary_csv import read_binary_csv
from memberscope.data.tabular import LOCATION30, PURCHASE100, TEXAS100, Table, read_table
from memberscope.errors import DataError

SMALL = dataclasses.replace(
    LOCATION30, archive=dataclasses.replace(LOCATION30.archive, checksum=""), records=40, features=7
)


def small(seed: int = 0, n: int = 40, features: int = 7, classes: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (n, features), np.uint8), rng.integers(1, classes + 1, n)


def slow_reader(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    rows = [row for row in csv.reader(io.StringIO(content.decode())) if row]
    return np.array([[int(v) for v in row[1:]] for row in rows]), np.array([int(row[0]) for row in rows])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 30),
    st.integers(1, 9),
    st.sampled_from(['"', ""]),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
    st.booleans(),
    st.integers(1, 200),
)
def test_every_writing_of_rows_reads_as_the_slow_reader_does(
    seed: int, n: int, features: int, quote: str, end: str, last: bool, chunk: int
) -> None:
    inputs, labels = small(seed, n, features, 100)
    lines = [",".join([f"{quote}{y}{quote}", *map(str, x)]) for x, y in zip(inputs, labels, strict=True)]
    content = (end.join(lines) + (end if last else "")).encode()
    got = read_binary_csv(io.BytesIO(content), features, "rows", chunk=chunk)
    wanted = slow_reader(content)
    assert (got[0] == wanted[0]).all()
    assert got[1].tolist() == wanted[1].tolist() == labels.tolist()
    assert got[0].dtype == np.uint8


def test_other_writings_go_through_the_general_parser() -> None:
    content = b'"13", 0, 1\n14,1.0,"0"\n15,0,1\n'
    inputs, labels = read_binary_csv(io.BytesIO(content), 2, "rows")
    assert inputs.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert labels.tolist() == [13, 14, 15]
    unlabelled, none = read_binary_csv(io.BytesIO(b"0,1\n1,1\n"), 2, "rows", labelled=False)
    assert unlabelled.tolist() == [[0, 1], [1, 1]]
    assert len(none) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least one row in rows; got 0"),
        (b"\n\n", "at least one row"),
        (b"1,0,1\n2,0\n", "3 fields in row 2 of rows; got 2"),
        (b"1,0,1\n2,0,1,1\n", "3 fields in row 2 of rows; got 4"),
        (b"1,0,1\n2,0,2\n", "features of 0 or 1 in rows; got 2 in row 2, feature 2"),
        (b"1,0,1\n2,0,-1\n", "got -1 in row 2, feature 2"),
        (b"1,0,1\n2,0,nan\n", "got nan in row 2, feature 2"),
        (b"1,0,1\n2,0,x\n", "numbers in rows"),
        (b"1,0,1\nx,0,1\n", "whole number as label in row 2 of rows; got 'x'"),
        (b"1,0,1\n1.5, 0,1\n", "whole number as label in row 2"),
        (b",0,1\n", "numbers in rows"),
        (b"1;0;1\n", "3 fields in row 1"),
    ],
)
@pytest.mark.parametrize("chunk", [4, 1 << 20])
def test_wrong_rows_are_named(content: bytes, message: str, chunk: int) -> None:
    with pytest.raises(DataError, match=message):
        read_binary_csv(io.BytesIO(content), 2, "rows", chunk=chunk)


def test_number_of_rows_is_checked(rows_of: Callable[..., bytes]) -> None:
    content = rows_of(*small(0, 5, 2))
    for rows in (4, 6):
        with pytest.raises(DataError, match=f"{rows} rows in rows; got (more|5)"):
            read_binary_csv(io.BytesIO(content), 2, "rows", rows=rows, chunk=9)


def test_location_archive_keeps_row_numbers_and_labels(
    tmp_path: Path, write_tar: Callable[..., Path], rows_of: Callable[..., bytes]
) -> None:
    inputs, labels = small()
    archive = write_tar(tmp_path / "dataset_location.tgz", {"bangkok": rows_of(inputs, labels)})
    data = read_table(archive, SMALL)
    assert (data.inputs == inputs).all()
    assert data.labels.tolist() == (labels - 1).tolist()
    assert data.ids[[0, 39]].tolist() == ["location30-00001", "location30-00040"]
    assert data.class_names == tuple(str(k) for k in range(1, 31))
    loose = tmp_path / "bangkok"
    loose.write_bytes(rows_of(inputs, labels, quote=""))
    assert read_table(loose, SMALL).fingerprint == data.fingerprint


def test_parsed_tables_are_cached_by_content_and_damaged_caches_are_not_believed(
    tmp_path: Path, home: Path, write_tar: Callable[..., Path], rows_of: Callable[..., bytes]
) -> None:
    archive = tmp_path / "dataset_location.tgz"
    first, second = small(1), small(2)
    write_tar(archive, {"bangkok": rows_of(*first)})
    assert (read_table(archive, SMALL).inputs == first[0]).all()
    (cached,) = (home / "cache").glob("location30-*-inputs.npy")
    np.save(cached, 1 - first[0])
    assert (read_table(archive, SMALL).inputs == 1 - first[0]).all(), "the cache was not used"
    cached.write_bytes(cached.read_bytes()[:-5])
    assert (read_table(archive, SMALL).inputs == first[0]).all()
    # Another file at the same path is another key.
    write_tar(archive, {"bangkok": rows_of(*second)})
    assert (read_table(archive, SMALL).inputs == second[0]).all()
    assert len(list((home / "cache").glob("*-inputs.npy"))) == 2


def test_a_home_that_cannot_be_written_costs_only_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_of: Callable[..., bytes]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MEMBERSCOPE_DATA", str(tmp_path / "file"))
    inputs, labels = small()
    (tmp_path / "rows").write_bytes(rows_of(inputs, labels))
    assert (read_table(tmp_path / "rows", SMALL).inputs == inputs).all()


def test_texas_layout_in_archive_and_folder_and_label_first(
    tmp_path: Path, write_tar: Callable[..., Path], rows_of: Callable[..., bytes]
) -> None:
    texas = dataclasses.replace(TEXAS100, records=40, features=7)
    inputs, labels = small(3, classes=100)
    rows = rows_of(inputs, labels, quote="").decode().splitlines()
    feats = "".join(row.split(",", 1)[1] + "\n" for row in rows).encode()
    names = "".join(f"{label}\n" for label in labels).encode()
    other = {"texas/10/feats": b"0,1\n", "texas/10/labels": b"3\n"}
    archive = write_tar(tmp_path / "dataset_texas.tgz", other | {"texas/100/labels": names, "texas/100/feats": feats})
    data = read_table(archive, texas)
    assert (data.inputs == inputs).all()
    assert data.labels.tolist() == (labels - 1).tolist()
    assert data.ids[1] == "texas100-00002"
    folder = tmp_path / "out" / "texas" / "100"
    folder.mkdir(parents=True)
    (folder / "feats").write_bytes(feats)
    (folder / "labels").write_bytes(names)
    for place in (tmp_path / "out", folder):
        assert read_table(place, texas).fingerprint == data.fingerprint
    single = write_tar(tmp_path / "single.tgz", {"texas100": rows_of(inputs, labels, quote="")})
    assert read_table(single, texas).fingerprint == data.fingerprint

    (folder / "labels").write_bytes(names + b"5\n")
    with pytest.raises(DataError, match=r"40 labels in .*got 41"):
        read_table(folder, texas)
    (folder / "labels").write_bytes(b"five\n")
    with pytest.raises(DataError, match=r"one whole number a line"):
        read_table(folder, texas)
    (folder / "labels").unlink()
    with pytest.raises(DataError, match=r"files 'feats' and 'labels'"):
        read_table(folder, texas)
    with pytest.raises(DataError, match=r"an archive without them"):
        read_table(write_tar(tmp_path / "half.tgz", {"texas/100/feats": feats}), texas)


def test_broken_archives_and_labels_are_refused(
    tmp_path: Path, write_tar: Callable[..., Path], rows_of: Callable[..., bytes]
) -> None:
    inputs, labels = small()
    archive = write_tar(tmp_path / "dataset_location.tgz", {"bangkok": rows_of(inputs, labels)})
    with pytest.raises(DataError, match=r"SHA256 927203f8"):
        load("location30", path=archive)
    with pytest.raises(DataError, match=r"SHA256 927203f8"):
        load("location30", path=tmp_path)
    whole = archive.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 4):
        archive.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"whole archive|rows in|fields in"):
            read_table(archive, SMALL)
    labels[3] = 31
    with pytest.raises(DataError, match=r"labels from 1 to 30 .*got 31 in row 4"):
        read_table(write_tar(archive, {"bangkok": rows_of(inputs, labels)}), SMALL)
    labels[3] = 0
    with pytest.raises(DataError, match=r"labels from 1 to 30 .*got 0 in row 4"):
        read_table(write_tar(archive, {"bangkok": rows_of(inputs, labels)}), SMALL)
    with pytest.raises(DataError, match=r"an archive without them"):
        read_table(write_tar(archive, {}), SMALL)
    with pytest.raises(DataError, match=r"dataset_purchase.tgz, or its folder, at .*no such file"):
        load("purchase100", path=tmp_path / "nowhere")


def test_official_shapes_are_demanded(
    tmp_path: Path, write_tar: Callable[..., Path], rows_of: Callable[..., bytes]
) -> None:
    tables: tuple[Table, ...] = (PURCHASE100, TEXAS100, LOCATION30)
    assert [(t.records, t.features, t.classes) for t in tables] == [
        (197_324, 600, 100),
        (67_330, 6_169, 100),
        (5_010, 446, 30),
    ]
    assert [t.archive.checksum for t in tables[:2]] == ["", ""]
    archive = write_tar(tmp_path / "dataset_purchase.tgz", {"dataset_purchase": rows_of(*small(0, 30, 600))})
    with pytest.raises(DataError, match=r"197,324 rows in dataset_purchase of .*got 30"):
        load("purchase100", path=archive)
    archive = write_tar(tmp_path / "dataset_purchase.tgz", {"dataset_purchase": rows_of(*small(0, 30, 599))})
    with pytest.raises(DataError, match=r"601 fields in row 1 of .*got 600"):
        load("purchase100", path=archive)


@pytest.mark.realdata
def test_real_location30(shared: Path) -> None:
    data = load("location30", path=shared)
    assert data.inputs.shape == (5010, 446)
    assert data.classes == 30
    assert np.bincount(data.labels).min() > 0
    assert data.ids[[0, -1]].tolist() == ["location30-00001", "location30-05010"]
    # The first row of the official file: label "13", then 0,1,0,1,0,0,…
    assert data.class_names[data.labels[0]] == "13"
    assert data.inputs[0, :6].tolist() == [0, 1, 0, 1, 0, 0]
    import tarfile

    with tarfile.open(shared / "dataset_location.tgz") as tar:
        stream = tar.extractfile("bangkok")
        assert stream is not None
        inputs, labels = slow_reader(stream.read())
    assert (data.inputs == inputs).all()
    assert (data.labels == labels - 1).all()
