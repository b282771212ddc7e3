"""Text tables are read the same with and without pyarrow, in pieces, however they were written."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memberscope.data import delimited
from memberscope.data.delimited import Dialect, read_header, read_pieces, sniff
from memberscope.errors import DataError


def slow(
    path: Path, dialect: Dialect, texts: list[str], numbers: list[str]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    pieces = list(delimited._with_csv(path, dialect, texts, numbers))
    return {name: np.concatenate([p[0][name] for p in pieces]) for name in texts}, np.concatenate(
        [p[1] for p in pieces]
    )


def fast(
    path: Path, dialect: Dialect, texts: list[str], numbers: list[str]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    pieces = list(delimited._with_pyarrow(path, dialect, texts, numbers))
    return {name: np.concatenate([p[0][name] for p in pieces]) for name in texts}, np.concatenate(
        [p[1] for p in pieces]
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("decimal", [".", ","])
def test_both_readers_agree(tmp_path: Path, delimiter: str, encoding: str, decimal: str) -> None:
    pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, 3)).round(6)
    lines = [delimiter.join(["id", "kind", "a", "b", "c"])]
    for k, row in enumerate(values):
        cells = [f"{v!s}".replace(".", decimal) for v in row.tolist()]
        cells = [f'"{c}"' if delimiter in c else c for c in cells]
        lines.append(delimiter.join([f" é{k}", "x y" if k % 2 else "", *cells[:2], "" if k == 7 else cells[2]]))
    path = tmp_path / "t.csv"
    path.write_bytes("\r\n".join(lines).encode(encoding))
    dialect = sniff(path, encoding="latin-1" if encoding == "latin-1" else None)
    assert (dialect.delimiter, dialect.decimal) == (delimiter, decimal)
    assert read_header(path, dialect) == ["id", "kind", "a", "b", "c"]
    texts, numbers = ["id", "kind"], ["a", "b", "c"]
    expected = values.copy()
    expected[7, 2] = np.nan
    for found in (slow(path, dialect, texts, numbers), fast(path, dialect, texts, numbers)):
        np.testing.assert_array_equal(found[1], expected)
        assert found[0]["id"][:2].tolist() == ["é0", "é1"] and found[0]["kind"][:2].tolist() == ["", "x y"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=1, max_size=30))
def test_every_float_survives(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    path = tmp_path_factory.mktemp("floats") / "t.csv"
    path.write_text("id,v\n" + "".join(f"r{k},{v!r}\n" for k, v in enumerate(values)))
    dialect = Dialect("utf-8", ",", ".")
    _, numbers = slow(path, dialect, ["id"], ["v"])
    assert numbers[:, 0].tolist() == values
    got = [piece[1][:, 0] for piece in read_pieces(path, dialect, ["id"], ["v"])]
    np.testing.assert_array_equal(np.concatenate(got), values)


def test_a_fault_far_into_the_file_is_named_by_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces before the fault were handed out by the fast reader; the slow one says where it is."""
    monkeypatch.setattr(delimited, "_BLOCK", 4096)
    path = tmp_path / "t.csv"
    path.write_text("id,v\n" + "".join(f"r{k},{'oops' if k == 3000 else k}\n" for k in range(4000)))
    count = 0
    with pytest.raises(DataError, match="'oops' in line 3002"):
        for _, values in read_pieces(path, Dialect("utf-8", ",", "."), ["id"], ["v"]):
            count += len(values)
    assert count <= 3000


def test_fields_that_only_the_csv_module_reads_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line break inside a quoted field stops pyarrow; what it had handed out is not handed out again."""
    monkeypatch.setattr(delimited, "_BLOCK", 4096)
    path = tmp_path / "t.csv"
    path.write_text("id,v\n" + "".join(f'"r{k}{chr(10) if k == 2000 else ""}",{k}\n' for k in range(3000)))
    values = np.concatenate([piece[1][:, 0] for piece in read_pieces(path, Dialect("utf-8", ",", "."), ["id"], ["v"])])
    np.testing.assert_array_equal(values, np.arange(3000))


@pytest.mark.parametrize("reader", [delimited._with_pyarrow, delimited._with_csv])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, reader: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "_BLOCK", 1 << 16)
    monkeypatch.setattr(delimited, "_ROWS", 500)
    peaks = []
    for rows in (3_000, 30_000):
        path = tmp_path / f"{rows}.csv"
        path.write_text(
            "id," + ",".join("abcdefgh") + "\n" + "".join(f"r{k}" + ",0.125" * 8 + "\n" for k in range(rows))
        )
        tracemalloc.start()
        for _ in reader(path, Dialect("utf-8", ",", "."), ["id"], list("abcdefgh")):  # type: ignore[operator]
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 200_000
