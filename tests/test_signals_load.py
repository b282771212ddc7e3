"""Audit input from one .npz file: what is refused, why, and that nothing in it ever runs."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memberscope.errors import SignalsError
from memberscope.signals.load import load_signals
from worlds import membership

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 20, 3)).astype(np.float32)
MEMBERS = membership(4, 20, RNG)
LABELS = RNG.integers(0, 3, 20)
GOOD: dict[str, Any] = {"logits": LOGITS, "members": MEMBERS, "labels": LABELS}


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


def raw(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def truncated(path: Path, share: float) -> Path:
    content = save(path, **GOOD).read_bytes()
    return raw(path, content[: int(share * len(content))])


def flipped(path: Path) -> Path:
    content = bytearray(save(path, **GOOD).read_bytes())
    content[400] ^= 0xFF
    return raw(path, bytes(content))


def single(path: Path) -> Path:
    buffer = io.BytesIO()
    np.save(buffer, LOGITS)
    return raw(path, buffer.getvalue())


def zipped(path: Path, name: str, content: bytes) -> Path:
    save(path, **without("logits"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, content)
    return path


def header_that_lies(path: Path) -> Path:
    buffer = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 20, 1 << 20, 1 << 10)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return zipped(path, "logits.npy", buffer.getvalue())


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda p: p, "no such file"),
    "a folder": (lambda p: (p.mkdir(), p)[1], "a folder"),
    "empty": (lambda p: raw(p, b""), "an empty file"),
    "a single array": (single, r"a single array \(.npy\)"),
    "a table": (lambda p: raw(p, b"record,score\n1,0.5\n"), "another kind of file"),
    "a pickle": (lambda p: raw(p, pickle.dumps(GOOD)), "another kind of file"),
    "two bytes": (lambda p: raw(p, b"PK"), "whole .npz"),
    "half": (lambda p: truncated(p, 0.5), "whole .npz"),
    "all but the end": (lambda p: truncated(p, 0.98), "whole .npz"),
    "one byte changed": (flipped, "whole .npz"),
    "huge by its header": (header_that_lies, "whole .npz"),
    "text where an array should be": (lambda p: zipped(p, "logits.npy", b"0.5, 0.5"), "none|whole .npz"),
    "no array": (lambda p: save(p), "no array"),
    "no outputs": (lambda p: save(p, **without("logits")), "only labels, members"),
    "no members": (lambda p: save(p, **without("members")), "an array 'members'"),
    "no labels": (lambda p: save(p, **without("labels")), "an array 'labels'"),
    "two kinds": (lambda p: save(p, **GOOD, probabilities=LOGITS), "logits and probabilities"),
    "misspelt": (lambda p: save(p, **without("members"), membres=MEMBERS), "'membres' .did you mean 'members'"),
    "unknown": (lambda p: save(p, **GOOD, zzzz=LABELS), "got 'zzzz'. Rename"),
    "one model without its axis": (lambda p: save(p, **GOOD | {"logits": LOGITS[0]}), "3 or 4 axes"),
    "five axes": (lambda p: save(p, **GOOD | {"logits": LOGITS[None, None]}), "3 or 4 axes"),
    "labels with classes": (lambda p: save(p, **without("logits"), predicted_labels=LOGITS[0]), "4 models"),
    "scores as predicted labels": (
        lambda p: save(p, **without("logits"), predicted_labels=LOGITS[..., 0]),
        "as integers",
    ),
    "members as numbers": (lambda p: save(p, **GOOD | {"members": MEMBERS.astype(float)}), "booleans"),
    "members turned": (lambda p: save(p, **GOOD | {"members": MEMBERS.T}), "4 models|20 records|one column"),
    "one model too many": (lambda p: save(p, **GOOD | {"logits": LOGITS[:3]}), "4 models"),
    "a label too high": (lambda p: save(p, **GOOD | {"labels": LABELS + 1}), "labels from 0 to 2"),
    "ids twice": (lambda p: save(p, **GOOD, ids=np.array(["a"] * 20)), "different id"),
    "integers as logits": (lambda p: save(p, **GOOD | {"logits": LOGITS.astype(int)}), "floating-point"),
    "NaN": (lambda p: save(p, **GOOD | {"logits": np.where(LOGITS > 2, np.nan, LOGITS)}), "NaN or infinity"),
    "logits called probabilities": (lambda p: save(p, **without("logits"), probabilities=LOGITS), "name the array"),
    "a trained population": (lambda p: save(p, **GOOD, population=np.arange(20) < 3), "members of a model"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_get_an_error_that_says_why(case: str, tmp_path: Path) -> None:
    make, said = BAD[case]
    with pytest.raises(SignalsError, match=said) as caught:
        load_signals(make(tmp_path / "f.npz"))
    assert caught.value.expected and caught.value.fix


@pytest.mark.parametrize("name", ["logits", "members", "ids", "class_names"])
def test_objects_are_refused_and_never_run(name: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "it ran", tmp_path / "f.npz"
    np.savez(path, allow_pickle=True, **(GOOD | {name: np.array([Bomb(mark)], object)}))
    with pytest.raises(SignalsError, match="never loaded"):
        load_signals(path)
    assert not mark.exists()
    # The same file does harm where pickles are allowed: the test would see it.
    with np.load(path, allow_pickle=True) as archive:
        _ = archive[name]
    assert mark.exists()


def test_a_pickle_named_npz_never_runs(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    with pytest.raises(SignalsError):
        load_signals(raw(tmp_path / "f.npz", pickle.dumps(Bomb(mark))))
    assert not mark.exists()


def test_the_contract_without_queries(tmp_path: Path) -> None:
    signals = load_signals(save(tmp_path / "f.npz", **GOOD, ids=np.arange(20) + 100, class_names=["a", "b", "c"]))
    assert (len(signals), signals.records, signals.queries, signals.classes) == (4, 20, 1, 3)
    for row in range(4):
        np.testing.assert_array_equal(signals.outputs[row][:, 0], LOGITS[row])
    np.testing.assert_array_equal(signals.members, MEMBERS)
    assert signals.ids[7] == "107" and signals.class_names == ("a", "b", "c") and signals.kind == "logits"


def test_the_contract_with_queries(tmp_path: Path) -> None:
    logits = RNG.normal(size=(4, 20, 5, 3))
    signals = load_signals(save(tmp_path / "f.npz", **GOOD | {"logits": logits}))
    assert (signals.queries, signals.classes) == (5, 3)
    np.testing.assert_array_equal(signals.outputs[2], logits[2])


@pytest.mark.parametrize("queries", [(), (5,)])
def test_predicted_labels_and_one_column_of_probabilities(queries: tuple[int, ...], tmp_path: Path) -> None:
    given = RNG.integers(0, 3, (4, 20, *queries))
    signals = load_signals(save(tmp_path / "f.npz", **without("logits"), predicted_labels=given))
    assert signals.kind == "labels"
    np.testing.assert_array_equal(signals.outputs[1].reshape(given[1].shape), given[1])
    p = RNG.random((4, 20, *queries, 1))
    binary = load_signals(save(tmp_path / "g.npz", probabilities=p, members=MEMBERS, labels=LABELS % 2))
    assert binary.classes == 2
