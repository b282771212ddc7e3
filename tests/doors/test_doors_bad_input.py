"""Bad input at the doors: a clear error, nothing lost, no silent wrong answer; the library and the command alike.

One table. A case makes what a user might bring; the library must refuse it with expected, got and a fix, and where a
command takes it, the command must leave with status 2, print all three on standard error, nothing on standard output
and no traceback.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved import world, write_long, write_wide
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

import memberscope as ms
from commands import command
from memberscope.errors import MemberscopeError

MADE = world(2)
QUICK: dict[str, Any] = {"analyses": (), "attacks": ["loss", "gap"]}


class Marker:
    """Unpickling this would make a folder: proof that nothing was executed."""

    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["MEMBERSCOPE_TEST_MARKER"],)


@dataclass(frozen=True)
class Case:
    """Files that a user brings, and what the error must say."""

    name: str
    make: Callable[[Path], Path]
    says: str
    references: Callable[[Path], Path] | None = None
    membership: Callable[[Path], Path] | None = None
    options: dict[str, Any] | None = None


def wide(change: Callable[[list[list[str]]], Any] | None = None, name: str = "p.csv", row: int = 0, **how: Any) -> Any:
    """A sound file, its cells changed (the header is row 0)."""

    def make(folder: Path) -> Path:
        path = write_wide(folder / name, MADE, row, **how)
        if change is not None:
            cells = [line.split(",") for line in path.read_text().splitlines()]
            cells = change(cells) or cells
            path.write_text("\n".join(",".join(line) for line in cells) + "\n")
        return path

    return make


def put(line: int, column: int, value: str) -> Callable[[list[list[str]]], None]:
    def change(cells: list[list[str]]) -> None:
        cells[line][column] = value

    return change


def every(column: int, value: str) -> Callable[[list[list[str]]], None]:
    def change(cells: list[list[str]]) -> None:
        for line in cells[1:]:
            line[column] = value

    return change


def drop(*columns: int) -> Callable[[list[list[str]]], list[list[str]]]:
    return lambda cells: [[c for k, c in enumerate(line) if k not in columns] for line in cells]


def raw(content: bytes, name: str = "p.csv") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def text(change: Callable[[str], str], **how: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write_wide(folder / "p.csv", MADE, **how)
        path.write_text(change(path.read_text()))
        return path

    return make


def npz(**changes: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        arrays: dict[str, Any] = {
            "logits": MADE["logits"][0], "labels": MADE["labels"], "members": MADE["members"][0], "ids": MADE["ids"],
        }  # fmt: skip
        arrays |= changes
        np.savez(folder / "p.npz", **{name: value for name, value in arrays.items() if value is not None})
        return folder / "p.npz"

    return make


def pickled(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        import pickle

        (folder / name).write_bytes(pickle.dumps(Marker()))
        return folder / name

    return make


def long(change: Callable[[list[str]], list[str]]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write_long(folder / "p.csv", MADE)
        path.write_text("\n".join(change(path.read_text().splitlines())))
        return path

    return make


def repeated(cells: list[list[str]]) -> list[list[str]]:
    return [*cells, cells[5]]


def per_cent(cells: list[list[str]]) -> None:
    for line in cells[1:]:
        line[3:] = [repr(100 * float(c)) for c in line[3:]]


def sigmoids(cells: list[list[str]]) -> None:
    for k, line in enumerate(cells[1:]):
        line[3:] = [repr(0.3 + 0.1 * ((k + j) % 5)) for j in range(4)]


def parquet_of_text(folder: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    columns = {"id": MADE["ids"], "label": MADE["labels"], "member": MADE["members"][0], "0": ["a"] * 240}
    parquet.write_table(pyarrow.table(columns), folder / "p.parquet")
    return folder / "p.parquet"


def other_ids(cells: list[list[str]]) -> None:
    for line in cells[1:]:
        line[0] = "s" + line[0]


GOOD_REFERENCE = wide(name="ref.csv", row=1)

CASES = [
    Case("no such file", lambda folder: folder / "none.csv", "no such file"),
    Case("a folder", lambda folder: folder, "a folder"),
    Case("empty file", raw(b""), "an empty file"),
    Case("blank lines only", raw(b"\n\n \n"), "an empty file"),
    Case("header only", wide(lambda cells: cells[:1]), "at least one record"),
    Case("no header", wide(lambda cells: cells[1:]), "column"),
    Case("numbers as header", raw(b"1,2,3\n4,5,6\n"), "a header row"),
    Case("one column", raw(b"id\na\nb\n"), "one column"),
    Case("column named twice", wide(put(0, 4, "0")), "twice"),
    Case("column without a name", wide(put(0, 4, "")), "an empty name"),
    Case("a pickle called CSV", pickled("p.csv"), "a pickle"),
    Case("a pickle called NPZ", pickled("p.npz"), ".npz archive"),
    Case("a workbook", raw(b"PK\x03\x04rest"), "Excel"),
    Case("gzip", raw(b"\x1f\x8b\x08rest"), "gzip"),
    Case("Parquet called CSV", raw(b"PAR1rest"), ".parquet"),
    Case("CSV called Parquet", wide(name="p.parquet"), "Parquet"),
    Case("Latin-1", text(lambda t: t.replace("r00003", "ré3")), "", options={"encoding": "ascii"}),
    Case("bytes of no encoding", raw(b"id,label,member,0,1\n\xe9,0,1,.5,.5\n"), "cp1252"),
    Case("UTF-16 without a mark", raw("id,label,member,0,1\na,0,1,.5,.5\n".encode("utf-16-le")), "utf-16-le"),
    Case("unknown encoding", wide(), "an encoding that Python knows", options={"encoding": "utf-99"}),
    Case("mixed delimiters", text(lambda t: t[:900] + t[900:].replace(",", ";")), "semicolons"),
    Case("mixed delimiters far down", text(lambda t: t[:9000] + t[9000:].replace(",", ";")), "fields in line"),
    Case("mixed delimiters in the header", text(lambda t: t.replace(",", ";", 3)), "one delimiter"),
    Case("decimal commas between commas", text(lambda t: t.replace("0.", "0,")), "fields"),
    Case("points and commas", text(lambda t: t.replace("0.", "0,", 9), delimiter=";"), "both"),
    Case("a line too short", wide(lambda cells: [*cells[:100], cells[100][:-1], *cells[101:]]), "line 101"),
    Case("a line too long", wide(lambda cells: [*cells[:100], [*cells[100], "1"], *cells[101:]]), "line 101"),
    Case("no ids", wide(drop(0)), "a column of ids"),
    Case("no labels", wide(drop(1)), "true labels"),
    Case("no members", wide(drop(2)), "was trained on"),
    Case("no scores", wide(drop(3, 4, 5, 6)), "a column a class"),
    Case("a column that is not there", wide(), "did you mean 'label'", options={"label": "labl"}),
    Case("ignoring what is not there", wide(), "'note'", options={"ignore": ["note"]}),
    Case("a column of text", wide(lambda cells: [[*line, "a"] for line in cells]), "numbers in column"),
    Case("a numeric column too many", wide(lambda c: [[*c[0], "age"], *([*x, "0.44"] for x in c[1:])]), "ignore="),
    Case("a class's column missing", wide(drop(5)), "'2'"),
    Case("an unseen class", wide(put(9, 1, "7")), "'7' for record 'r00008'"),
    Case("labels that name no column", wide(every(1, "cat")), "'cat'"),
    Case("a label missing", wide(put(9, 1, "")), "a label for every record"),
    Case("an id twice", wide(repeated), "'r00004' 2 times"),
    Case("an empty id", wide(put(9, 0, "")), "an empty one"),
    Case("everybody a member", wide(every(2, "1")), "only members"),
    Case("nobody a member", wide(every(2, "0")), "only non-members"),
    Case("a member that is maybe", wide(put(9, 2, "maybe")), "'maybe' for record 'r00008'"),
    Case("a member missing", wide(put(9, 2, "")), "'' for record 'r00008'"),
    Case("NaN", wide(put(9, 4, "nan")), "'nan' in line 10"),
    Case("infinity", wide(put(9, 4, "inf")), "'inf' in line 10"),
    Case("text for a number", wide(put(9, 4, "high")), "'high' in line 10"),
    Case("a record without scores", wide(lambda c: c[9].__setitem__(slice(3, 7), ["", "", "", ""])), "'r00008'"),
    Case("a sum of 1.2", wide(put(9, 3, "0.9")), "record 'r00008'"),
    Case("a negative probability", wide(put(9, 3, "-0.1")), "'r00008'"),
    Case("per cent", wide(per_cent), "Divide them by 100"),
    Case("independent sigmoids", wide(sigmoids), "no distributions"),
    Case("logits called probabilities", wide(what="logits"), "probabilities", options={"kind": "probabilities"}),
    Case("logits of some classes", wide(put(9, 4, ""), what="logits"), "every class"),
    Case("an unknown kind", wide(), "kind", options={"kind": "odds"}),
    Case("too few class names", wide(), "4 class_names", options={"class_names": ["a", "b"]}),
    Case("a score of which class", wide(drop(4, 5, 6)), "two classes"),
    Case("long: a pair twice", long(lambda lines: [*lines, lines[7]]), "one line a record and class"),
    Case("long: an empty value", long(lambda ls: [*ls[:9], ls[9][: ls[9].rindex(",") + 1], *ls[10:]]), "a value in"),
    Case("long: two labels", long(lambda ls: [*ls[:9], ls[9].replace(",", ",9", 1), *ls[10:]]), "one label a record"),
    Case("long: another column", long(lambda ls: [ls[0] + ",age", *(line + ",1" for line in ls[1:])]), "'age'"),
    Case("NPZ with two kinds", npz(probabilities=MADE["probabilities"][0]), "logits and probabilities"),
    Case("NPZ without scores", npz(logits=None), "none"),
    Case("NPZ with an unknown array", npz(member_ship=MADE["labels"]), "'member_ship'"),
    Case("NPZ with models", npz(logits=MADE["logits"]), "--signals"),
    Case("NPZ with too few labels", npz(labels=MADE["labels"][:9]), "labels of shape (240,)"),
    Case("NPZ with NaN", npz(logits=np.where(np.arange(240)[:, None] == 7, np.nan, MADE["logits"][0])), "'r00007'"),
    Case("NPZ with objects", npz(ids=np.array([Marker()] * 240, dtype=object)), "objects"),
    Case("NPZ of integers", npz(logits=MADE["logits"][0].astype(int)), "floating-point"),
    Case("Parquet with text for scores", parquet_of_text, "numbers in column '0'"),
    Case("a reference of other records", wide(), "the same 240 ids", wide(other_ids, "ref.csv", 1)),
    Case("a reference of fewer records", wide(), "missing", wide(lambda c: c[:-3], "ref.csv", 1)),
    Case("a reference of more records", wide(lambda c: c[:-3]), "3 more", GOOD_REFERENCE),
    Case("a reference with other labels", wide(), "the labels of", wide(put(9, 1, "0"), "ref.csv", 1)),
    Case("a reference without members", wide(), "'ref'", wide(drop(2), "ref.csv", 1)),
    Case("a reference with other classes", wide(), "the classes of", wide(put(0, 6, "9"), "ref.csv", 1)),
    Case("a reference of logits", wide(), "logits", wide(name="ref.csv", row=1, what="logits")),
    Case("a reference without ids", npz(), "an array 'ids'", None),
    Case("a membership table without the file", wide(drop(2)), "was trained on",
         membership=raw(b"id,other\n" + b"".join(f"r{k:05d},1\n".encode() for k in range(240)), "m.csv")),
    Case("a membership table without a record", wide(drop(2)), "none with id",
         membership=raw(b"id,p\n" + b"".join(f"r{k:05d},{k % 2}\n".encode() for k in range(239)), "m.csv")),
    Case("an unknown attack", wide(), "an attack among", options={"attacks": ["lira"]}),
]  # fmt: skip
CASES = [case for case in CASES if case.name != "a reference without ids"]


def said_by(error: MemberscopeError) -> str:
    assert error.expected and error.got and error.fix.rstrip().endswith((".", ")")), error
    return str(error)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_saved_predictions_are_refused(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMBERSCOPE_TEST_MARKER", str(tmp_path / "executed"))
    path = case.make(tmp_path)
    references = [] if case.references is None else [case.references(tmp_path)]
    membership = None if case.membership is None else case.membership(tmp_path)
    options = QUICK | (case.options or {})
    with pytest.raises(MemberscopeError) as refused:
        ms.audit_predictions(path, references, membership=membership, out=tmp_path / "run", **options)
    assert case.says in said_by(refused.value)
    assert not (tmp_path / "executed").exists() and not (tmp_path / "run/findings.json").exists()

    section: dict[str, Any] = {"path": str(path), "references": [str(each) for each in references]}
    section |= {key: value for key, value in (case.options or {}).items() if key != "attacks"}
    values: dict[str, Any] = {"predictions": section, "attacks": options["attacks"], "out": str(tmp_path / "cli")}
    if membership is not None:
        section["membership"] = str(membership)
    (tmp_path / "case.yaml").write_text(json.dumps(values))
    status, out, error = command(["audit", str(tmp_path / "case.yaml"), "--quiet"], capsys)
    assert status == 2 and out == "" and "Traceback" not in error, error
    assert error.startswith("memberscope: expected ") and "\n  got: " in error and "\n  do this: " in error
    assert "internal error" not in error


X = np.random.default_rng(0).normal(size=(120, 5))
Y = np.random.default_rng(1).integers(0, 3, 120)
IN, OUT = (X[:60], Y[:60]), (X[60:], Y[60:])
TREE = DecisionTreeClassifier(random_state=0).fit(*IN)
SIDES: dict[str, Any] = {"members": IN, "nonmembers": OUT}


def linear_fit(inputs: Any, labels: Any, seed: int) -> Any:
    return LogisticRegression().fit(inputs, labels)


def failing_fit(inputs: Any, labels: Any, seed: int) -> Any:
    raise RuntimeError("out of cheese")


class Multi:
    """Answers several outputs at once."""

    def predict_proba(self, inputs: Any) -> list[np.ndarray]:
        return [np.full((len(inputs), 3), 1 / 3)] * 2


MODELS: list[tuple[str, Any, dict[str, Any], str]] = [
    ("an unfitted estimator", DecisionTreeClassifier(), {}, "not fitted"),
    ("an estimator's class", DecisionTreeClassifier, {}, "an instance"),
    ("a regressor", LinearRegression().fit(*IN), {}, "the regressor"),
    ("several outputs", Multi(), {}, "one output"),
    ("one score a pair of classes", SVC(decision_function_shape="ovo", probability=False).fit(
        np.tile(X, (1, 1)), np.arange(120) % 4), {"members": (X[:60], np.arange(60) % 4),
        "nonmembers": (X[60:], np.arange(60) % 4)}, "decision_function_shape"),
    ("no model", 7, {}, "a model"),
    ("a method that is not there", TREE, {"ask": "decision_function"}, "decision_function"),
    ("an unknown method", TREE, {"ask": "predict_log"}, "ask among"),
    ("records of another width", TREE, {"nonmembers": (X[60:, :4], Y[60:])}, "alike"),
    ("records that the model does not take", TREE,
     {"members": (X[:60, :4], Y[:60]), "nonmembers": (X[60:, :4], Y[60:])},
     "records that DecisionTreeClassifier takes"),
    ("NaN in the records", LogisticRegression().fit(*IN), {"members": (np.where(X[:60] > 2, np.nan, X[:60]), Y[:60])},
     "NaN"),
    ("records without labels", TREE, {"members": X[:60]}, "as (X, y)"),
    ("too few labels", TREE, {"members": (X[:60], Y[:59])}, "a label and an id"),
    ("no non-members", TREE, {"nonmembers": (X[:0], Y[:0])}, "none"),
    ("a class that the model never saw", TREE, {"nonmembers": (X[60:], Y[60:] + 2)}, "labels among the model's"),
    ("labels as text for a model of numbers", TREE, {"members": (X[:60], Y[:60].astype(str)),
     "nonmembers": (X[60:], np.array(["cat"] * 60))}, "'cat'"),
    ("text on one side", TREE, {"members": (X[:60], np.array(["a"] * 60))}, "one kind"),
    ("labels that are not whole", TREE, {"members": (X[:60], X[:60, 0])}, "not whole"),
    ("a record on both sides", TREE, {"members": (*IN, [f"r{k}" for k in range(60)]),
     "nonmembers": (*OUT, [f"r{k + 59}" for k in range(60)])}, "'r59' 2 times"),
    ("a function that answers for half", lambda batch: np.ones((len(batch) // 2, 3)) / 3, {}, "an answer a record"),
    ("a function that fails", lambda batch: batch.nothing, {}, "AttributeError"),
    ("a function that returns nothing", lambda batch: None, {}, "NoneType"),
    ("a function that returns a dictionary", lambda batch: {"scores": batch}, {}, "dict"),
    ("a function that returns NaN", lambda batch: np.full((len(batch), 3), np.nan), {}, "NaN or infinity"),
    ("classes as floats", lambda batch: np.arange(len(batch)) % 3 * 1.0, {}, "whole numbers"),
    ("sums that are not 1", lambda batch: np.full((len(batch), 3), 0.5) + 0.001 * batch[:, :1] ** 2, {}, "sum"),
    ("too few scores for the labels", lambda batch: np.full((len(batch), 2), 0.5), {}, "'2'"),
    ("labels as text, classes unknown", lambda batch: np.full((len(batch), 3), 1 / 3), {
        "members": (X[:60], np.array(list("abc"))[Y[:60]]), "nonmembers": (X[60:], np.array(list("abc"))[Y[60:]])},
     "class_names"),
    ("too many class names", lambda batch: np.full((len(batch), 3), 1 / 3), {"class_names": list("abcd")},
     "3 class_names"),
    ("scores from labels", lambda batch: np.zeros(len(batch), int), {"kind": "logits"}, "predicted classes alone"),
    ("references without code", lambda batch: np.full((len(batch), 3), 1 / 3), {"references": 4}, "fit(X, y, seed)"),
    ("fewer than no references", TREE, {"references": -1}, "0 references"),
    ("a fit that is none", TREE, {"fit": 7}, "fit(X, y, seed)"),
    ("no fit in the list", TREE, {"fit": []}, "at least one fit"),
    ("a fit that returns the target", TREE, {"fit": lambda inputs, labels, seed: TREE}, "the target's own answers"),
    ("a fit that returns the same model", TREE, {
        "fit": lambda inputs, labels, seed: DecisionTreeClassifier(max_depth=1, random_state=0).fit(*IN)},
     "the same answers from all 4"),
    ("a fit that does not look at its records", TREE, {
        "fit": lambda inputs, labels, seed: DummyClassifier(strategy="constant", constant=1).fit(inputs, Y[:60])},
     "the same answers"),
    ("a fit that returns nothing", TREE, {"fit": lambda inputs, labels, seed: None}, "Return the model"),
    ("a fit that fails", TREE, {"fit": failing_fit}, "out of cheese"),
    ("a fit of labels where the target has scores", TREE, {
        "fit": lambda inputs, labels, seed: lambda batch: np.zeros(len(batch), int)}, "as from the target"),
    ("a fit that is not fitted", TREE, {"fit": lambda inputs, labels, seed: LogisticRegression()}, "not fitted"),
    ("stand-in records of other classes", TREE, {"fit": linear_fit, "stand_in": (X, Y + 3)}, "classes"),
    ("a file of no known kind", "model.h5", {}, "no such file"),
    ("a limit out of range", TREE, {"gate": {"metric": "auc", "limit": 7}}, "limit"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "model", "changes", "says"), MODELS, ids=[name for name, *_ in MODELS])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_models_are_refused(name: str, model: Any, changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    options = {**SIDES, **QUICK, "workers": 1, "out": tmp_path / "run", **changes}
    if "fit" in changes:
        options.setdefault("references", 4)
    with pytest.raises(MemberscopeError) as refused:
        ms.audit_model(model, **options)
    assert says in said_by(refused.value)
    assert not (tmp_path / "run/findings.json").exists()


def saved(folder: Path, name: str) -> str:
    """A model file that must not be loaded, or cannot be asked."""
    path = folder / name
    if name.endswith((".pkl", ".joblib")):
        import pickle

        path.write_bytes(pickle.dumps(Marker()))
    elif name.endswith(".skops"):
        sio = pytest.importorskip("skops.io")
        sio.dump(DecisionTreeClassifier().fit(*IN) if name == "good.skops" else Marker.__new__(Marker), path)
    elif name.endswith(".pt"):
        import torch

        torch.save(torch.nn.Linear(5, 3) if name == "whole.pt" else {"other": torch.zeros(2)}, path)
    elif name == "two.onnx":
        onnx = pytest.importorskip("onnx")
        helper, kind = onnx.helper, onnx.TensorProto.FLOAT
        values = [helper.make_tensor_value_info(n, kind, [None, 5]) for n in ("a", "b", "c")]
        graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "g", values[:2], values[2:])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    elif name == "wide.onnx":
        onnx = pytest.importorskip("onnx")
        helper, kind = onnx.helper, onnx.TensorProto.FLOAT
        values = [helper.make_tensor_value_info(n, kind, [None, 9]) for n in ("a", "c")]
        graph = helper.make_graph([helper.make_node("Identity", ["a"], ["c"])], "g", values[:1], values[1:])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    else:
        path.write_bytes(b"not a model")
    return name


SAVED = [
    ("a pickle", "m.pkl", "skops", {}, "a pickle"),
    ("a joblib file", "m.joblib", "skops", {}, "a pickle"),
    ("a skops file that is none", "text.skops", "skops", {}, "skops"),
    ("a skops file with an unknown type", "marker.skops", "skops", {}, "Marker"),
    ("an ONNX file that is none", "text.onnx", "onnx", {}, "an ONNX model"),
    ("an ONNX model with two inputs", "two.onnx", "onnx", {}, "2 inputs"),
    ("an ONNX model of another width", "wide.onnx", "onnx", {}, "records of shape (9,)"),
    ("an ONNX output that is not there", "wide.onnx", "onnx", {"ask": "d"}, "an output of"),
    ("a whole torch model", "whole.pt", "torch", {"module": "doors_network:build"}, "weights alone"),
    ("weights of another network", "other.pt", "torch", {"module": "doors_network:build"}, "weights of Linear"),
    ("no such module", "other.pt", "torch", {"module": "doors_nothing:build"}, "package.file:function"),
    ("torch without a module", "other.pt", "torch", {}, "module is for kind torch"),
    ("references of an ONNX file", "wide.onnx", "onnx", {"references": 4}, "training code"),
    ("an unknown key", "wide.onnx", "onnx", {"pth": "x"}, "did you mean 'path'"),
    ("no such model", "none.onnx", "onnx", {}, "no such file"),
    ("no such records", "wide.onnx", "onnx", {"members": "nobody.csv"}, "no such file"),
]


@pytest.mark.parametrize(("name", "file", "kind", "changes", "says"), SAVED, ids=[name for name, *_ in SAVED])
def test_saved_models_are_refused(
    name: str, file: str, kind: str, changes: dict[str, Any], says: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MEMBERSCOPE_TEST_MARKER", str(tmp_path / "executed"))
    if file != "none.onnx":
        if file.startswith("text."):
            (tmp_path / file).write_bytes(b"not a model")
        else:
            saved(tmp_path, file)
    (tmp_path / "doors_network.py").write_text("import torch\n\ndef build():\n    return torch.nn.Linear(5, 3)\n")
    for side, (inputs, labels) in (("in", IN), ("out", OUT)):
        rows = [",".join(map(repr, map(float, row))) + f",{label}" for row, label in zip(inputs, labels, strict=True)]
        (tmp_path / f"{side}.csv").write_text("\n".join(["a,b,c,d,e,label", *rows]))
    section = {"kind": kind, "path": file, "members": "in.csv", "nonmembers": "out.csv"} | changes
    (tmp_path / "m.yaml").write_text(json.dumps({"model": section, "attacks": ["loss"], "out": str(tmp_path / "run")}))
    status, out, error = command(["audit", str(tmp_path / "m.yaml"), "--quiet"], capsys)
    assert status == 2 and out == "" and "Traceback" not in error and "internal error" not in error, error
    assert says in error and "\n  do this: " in error
    assert not (tmp_path / "executed").exists()


COMMANDS = [
    (["audit", "--reference-predictions", "a.csv"], "--predictions"),
    (["audit", "--predictions", "a.csv", "--target", "0"], "--target"),
    (["audit", "--predictions", "a.csv", "--signals", "b.npz"], "--signals"),
    (["audit", "--predictions", "a.csv", "--shard", "1/2"], "--shard"),
    (["audit", "--membership", "a.csv"], "--predictions"),
    (["audit", "--predictions", "a.csv", "--gate", "auc"], "a gate such as"),
]


@pytest.mark.parametrize(("arguments", "says"), COMMANDS, ids=[" ".join(a[1:]) for a, _ in COMMANDS])
def test_commands_are_refused(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, error = command(arguments, capsys)
    assert status == 2 and out == "" and says in error and "Traceback" not in error


def test_there_are_at_least_sixty_cases() -> None:
    assert len(CASES) + len(MODELS) + len(SAVED) + len(COMMANDS) >= 140
