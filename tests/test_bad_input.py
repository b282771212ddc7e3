"""Bad input: a clear error, nothing lost, no silent wrong answer; the library and the command alike.

One table. A case is made in a temporary folder, handed to the library and, where a command takes it, to the
command, which must leave with status 2, print expected/got/do this on standard error, nothing on standard output
and no traceback.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from commands import command
from memberscope.errors import MemberscopeError
from memberscope.run import audit

M, N, K = 6, 240, 4


def arrays(**changes: Any) -> dict[str, Any]:
    """A sound audit input, changed."""
    rng = np.random.default_rng(0)
    members = np.zeros((M, N), bool)
    for row in range(0, M, 2):
        members[row] = rng.permutation(N) < N // 2
        members[row + 1] = ~members[row]
    labels = rng.integers(0, K, N)
    logits = rng.normal(size=(M, N, K))
    logits[:, np.arange(N), labels] += 2 + members
    made: dict[str, Any] = {"logits": logits, "members": members, "labels": labels}
    for name, value in changes.items():
        made[name] = value(made[name]) if callable(value) else value
        if value is None:
            del made[name]
    return made


def put(index: Any, value: Any) -> Callable[[Any], Any]:
    """A copy with one entry changed."""

    def change(array: Any) -> Any:
        array = array.copy()
        array[index] = value
        return array

    return change


def softmax(z: np.ndarray) -> np.ndarray:
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


class Marker:
    """Unpickling this would write a file: proof that nothing was executed."""

    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["MEMBERSCOPE_TEST_MARKER"],)


@dataclass(frozen=True)
class Case:
    """A bad input and what the error must say."""

    name: str
    make: Callable[[Path], Path]
    says: str
    options: tuple[str, ...] = ()


def npz(**changes: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.savez(folder / "signals.npz", **arrays(**changes))
        return folder / "signals.npz"

    return make


def raw(content: bytes, name: str = "signals.npz") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def truncated(folder: Path) -> Path:
    path = npz()(folder)
    path.write_bytes(path.read_bytes()[:5000])
    return path


def flipped_byte(folder: Path) -> Path:
    path = npz()(folder)
    content = bytearray(path.read_bytes())
    content[4000] ^= 0xFF
    path.write_bytes(bytes(content))
    return path


def object_array(folder: Path) -> Path:
    made = arrays()
    made["labels"] = np.array([Marker()] * N, dtype=object)
    np.savez(folder / "signals.npz", **made)
    return folder / "signals.npz"


def pickled(folder: Path) -> Path:
    import pickle

    (folder / "signals.npz").write_bytes(pickle.dumps(Marker()))
    return folder / "signals.npz"


def zip_of_text(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "signals.npz", "w") as archive:
        archive.writestr("logits.npy", "not an array")
    return folder / "signals.npz"


def config(**changes: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        values = {
            "data": {"path": str(table(folder))},
            "recipe": {"model": {"name": "fcn", "widths": [8]}, "epochs": 1},
            "pool": {"models": 4},
            "out": str(folder / "run"),
            "engine": "serial",
        } | changes
        values = {key: value for key, value in values.items() if value is not None}
        (folder / "audit.yaml").write_text(yaml.safe_dump(values))
        return folder / "audit.yaml"

    return make


def table(folder: Path, text: str | None = None) -> Path:
    """A small CSV of sound records, or the text given."""
    path = folder / "records.csv"
    if text is None:
        rng = np.random.default_rng(0)
        rows = [f"r{i},{i % 2},{rng.normal():.3f},{rng.normal():.3f}" for i in range(80)]
        text = "id,label,a,b\n" + "\n".join(rows) + "\n"
    path.write_text(text)
    return path


def csv(text: str, **changes: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = config(**changes)(folder)
        table(folder, text)
        return path

    return make


def yaml_text(text: str) -> Callable[[Path], Path]:
    return raw(text.encode(), "audit.yaml")


def data_file(file: str, content: bytes, **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / file).write_bytes(content)
        return config(data={"path": str(folder / file), **options})(folder)

    return make


def bad_archive(dataset: str, name: str, member: str, content: bytes) -> Callable[[Path], Path]:
    """A tar archive in an official name with one wrong member."""

    def make(folder: Path) -> Path:
        with tarfile.open(folder / name, "w:gz") as archive:
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        return config(data={"name": dataset, "path": str(folder / name)})(folder)

    return make


def npz_records(**changes: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        made = {"inputs": np.random.default_rng(0).normal(size=(80, 3)), "labels": np.arange(80) % 2} | changes
        np.savez(folder / "records.npz", **made)
        return config(data={"path": str(folder / "records.npz")})(folder)

    return make


def half_finished(change: Callable[[Path], None]) -> Callable[[Path], Path]:
    """A finished run in which something was changed before it is started again."""

    def make(folder: Path) -> Path:
        path = config()(folder)
        audit(path)
        change(folder)
        return path

    return make


def edit_yaml(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = yaml.safe_load((folder / "audit.yaml").read_text())
        (folder / "audit.yaml").write_text(yaml.safe_dump(values | changes))

    return change


def alter_model(folder: Path) -> None:
    path = folder / "run" / "pool" / "00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def model_with_code(folder: Path) -> None:
    import pickle

    (folder / "run" / "pool" / "00001.safetensors").write_bytes(pickle.dumps(Marker()))


def remove_sidecar(folder: Path) -> None:
    (folder / "run" / "pool" / "00002.json").write_text("{")


def manifest_of_nothing(folder: Path) -> None:
    (folder / "run" / "pool" / "manifest.json").unlink()


def unwritable(folder: Path) -> Path:
    """A file stands where the run's folder should go (permissions do not stop root)."""
    (folder / "run").write_text("in the way")
    return config()(folder)


CASES = [
    # Saved outputs: values
    Case("NaN logit", npz(logits=put((1, 5, 2), np.nan)), "finite logits"),
    Case("infinite logit", npz(logits=put((0, 3, 0), np.inf)), "finite logits"),
    Case("minus infinity", npz(logits=put((0, 3, 0), -np.inf)), "finite logits"),
    Case("integer logits", npz(logits=lambda z: z.astype(int)), "floating-point"),
    Case("complex logits", npz(logits=lambda z: z.astype(complex)), "floating-point"),
    Case("logits as text", npz(logits=lambda z: z.astype(str)), "floating-point"),
    Case("logits named probabilities", npz(logits=None, probabilities=arrays()["logits"]), "sum to 1"),
    Case("probabilities that sum to 2", npz(logits=None, probabilities=2 * softmax(arrays()["logits"])), "sum to 1"),
    Case(
        "negative probability",
        npz(logits=None, probabilities=put((0, 0), [-0.5, 0.5, 0.5, 0.5])(softmax(arrays()["logits"]))),
        "sum to 1",
    ),
    Case("NaN probability", npz(logits=None, probabilities=np.full((M, N, K), np.nan)), "finite probabilities"),
    Case(
        "single column above 1",
        npz(logits=None, probabilities=np.full((M, N, 1), 1.5), labels=lambda y: y % 2),
        "[0, 1]",
    ),
    # Saved outputs: labels
    Case("label out of range", npz(labels=put(7, K)), "labels from 0 to 3"),
    Case("negative label", npz(labels=put(7, -1)), "labels of at least 0"),
    Case("fractional label", npz(labels=lambda y: y + 0.5), "not whole numbers"),
    Case("missing label (NaN)", npz(labels=lambda y: put(3, np.nan)(y.astype(float))), "not whole numbers"),
    Case("text labels", npz(labels=lambda y: y.astype(str)), "one integer a record"),
    Case("labels of two axes", npz(labels=lambda y: np.stack([y, y])), "one integer a record"),
    Case("no labels", npz(labels=None), "an array 'labels'"),
    Case("labels for K = 1 above 1", npz(logits=arrays()["logits"][:, :, :1]), "labels from 0 to 1"),
    # Saved outputs: membership
    Case("no membership", npz(members=None), "an array 'members'"),
    Case("membership as 0 and 1", npz(members=lambda m: m.astype(int)), "booleans"),
    Case("membership as text", npz(members=lambda m: m.astype(str)), "booleans"),
    Case("membership of one axis", npz(members=lambda m: m[0]), "shape (models, records)"),
    Case("no member in a model", npz(members=put(2, False)), "no record"),
    Case("only members in a model", npz(members=put(2, True)), "every record"),
    Case("membership of fewer records", npz(members=lambda m: m[:, :-1]), "one column a label"),
    Case("membership of fewer models", npz(members=lambda m: m[:-1]), "for M = 5 models"),
    # Saved outputs: identities and shapes
    Case("repeated ids", npz(ids=np.array(["same"] * N)), "a different id for every record"),
    Case("too few ids", npz(ids=np.arange(N - 1)), "one id a record"),
    Case("logits of two axes", npz(logits=lambda z: z[0]), "axes"),
    Case("logits of five axes", npz(logits=lambda z: z[:, :, None, None]), "axes"),
    Case("logits with records first", npz(logits=lambda z: z.swapaxes(0, 1)), "first axis the models"),
    Case(
        "no record at all",
        npz(logits=np.ones((M, 0, K)), members=np.ones((M, 0), bool), labels=np.ones(0, int)),
        "at least one",
    ),
    Case("population of members", npz(population=np.ones(N, bool)), "population records that no model was trained on"),
    Case("population not boolean", npz(population=np.zeros(N)), "population as booleans"),
    Case("unknown array", npz(logit=1.0), "did you mean 'logits'"),
    Case("both logits and probabilities", npz(probabilities=softmax(arrays()["logits"])), "one of"),
    # Saved outputs: the file
    Case("no such file", lambda folder: folder / "absent.npz", "no such file"),
    Case("a folder", lambda folder: folder, "a folder"),
    Case("an empty file", raw(b""), "an empty file"),
    Case("not an archive", raw(b"hello, world"), "another kind of file"),
    Case("a truncated archive", truncated, "a whole .npz file"),
    Case("a damaged archive", flipped_byte, "a whole .npz file"),
    Case("an archive of text", zip_of_text, "which is none"),
    Case("an object array", object_array, "never loaded"),
    Case("a pickle", pickled, "another kind of file"),
    # Saved outputs: what to do with them
    Case("a target that does not exist", npz(), "target rows from 0 to 5", ("--target", "6")),
    Case("a negative target", npz(), "target rows from 0 to 5", ("--target", "-1")),
    Case("a target twice", npz(), "different target rows", ("--target", "1", "--target", "1")),
    Case("an unknown attack", npz(), "did you mean 'lira_online'", ("--attack", "lira_onlin")),
    Case("a gate that is none", npz(), "a gate such as", ("--gate", "tpr is low")),
    Case("a gate limit above 1", npz(), "a limit in (0, 1)", ("--gate", "auc<1.5")),
    Case("a gate at 5 % false alarms", npz(), "false-alarm rate of 0.1, 0.01 or 0.001", ("--gate", "tpr@0.05<0.1")),
    Case("a gate on an attack not run", npz(), "a gate on an attack that was run", ("--gate", "lira:auc<0.6")),
    Case(
        "attacks that all lack something",
        npz(logits=lambda z: z[:1], members=lambda m: m[:1]),
        "at least one attack that can run",
        ("--attack", "rmia_online"),
    ),
    # Configurations
    Case("no configuration", lambda folder: folder / "absent.yaml", "a configuration file"),
    Case("an empty configuration", yaml_text(""), "an empty file"),
    Case("a list as configuration", yaml_text("- a\n- b\n"), "keys and values"),
    Case("broken YAML", yaml_text("data: [1, 2\nrecipe: {"), "a YAML file"),
    Case("YAML with a Python object", yaml_text("data: !!python/object/apply:os.getcwd []"), "a YAML file"),
    Case("no data", config(data=None), "either data"),
    Case("data and signals", config(signals="x.npz"), "either data"),
    Case("an unknown key", config(recpie={}), "did you mean 'recipe'"),
    Case("an unknown key of the pool", config(pool={"model": 4}), "did you mean 'models'"),
    Case("an unknown key of the recipe", config(recipe={"learning_rte": 0.1}), "did you mean 'learning_rate'"),
    Case("an unknown key of the gate", config(gate={"limit": 0.1, "metrik": "auc"}), "did you mean 'metric'"),
    Case("a negative learning rate", config(recipe={"learning_rate": -0.1}), "learning_rate"),
    Case("no epochs", config(recipe={"epochs": 0}), "epochs"),
    Case("dropout of 1", config(recipe={"dropout": 1.0}), "dropout"),
    Case("an unknown model", config(recipe={"model": "fcm"}), "did you mean 'fcn'"),
    Case(
        "an unknown option of a model", config(recipe={"model": {"name": "fcn", "width": [8]}}), "did you mean 'widths'"
    ),
    Case("a model that cannot take the records", config(recipe={"model": "resnet"}), "images of shape"),
    Case("an odd number of models in pairs", config(pool={"models": 5}), "even number"),
    Case("no models", config(pool={"models": 0}), "pool.models"),
    Case("a population larger than the data", config(pool={"models": 4, "population": 500}), "80"),
    Case("an unknown engine", config(engine="threads"), "engine"),
    Case("an unknown device", config(device="abacus"), "device"),
    Case("a negative seed", config(seed=-1), "seed"),
    Case("an unknown data set", config(data="digitz"), "did you mean 'digits'"),
    Case(
        "an unknown option of a data set", config(data={"name": "digits", "as_image": True}), "did you mean 'as_images'"
    ),
    Case("more records than there are", config(data={"name": "digits", "records": 5000}), "1,797"),
    Case("a missing data file", config(data={"path": "absent.csv"}), "no such file"),
    Case("an unknown kind of file", data_file("records.doc", b"x"), "a known kind"),
    # Records
    Case("an empty table", csv(""), "records.csv"),
    Case("a table of a header only", csv("id,label,a\n"), "record"),
    Case("a table without labels", csv("x,z\n1,2\n3,4\n"), "label"),
    Case("a table of words", csv("label,a\n0,red\n1,blue\n"), "a"),
    Case("a table with a gap", csv("label,a\n0,1.0\n1,\n"), "a"),
    Case("a table with a short line", csv("label,a,b\n0,1,2\n1,2\n"), "3"),
    Case("a table with repeated ids", csv("id,label,a\nr1,0,1\nr1,1,2\nr2,0,3\n"), "r1"),
    Case("records with an object array", npz_records(labels=np.array([Marker()] * 80, dtype=object)), "refused"),
    Case("records with NaN", npz_records(inputs=np.full((80, 3), np.nan)), "finite inputs"),
    Case("records of three axes", npz_records(inputs=np.zeros((80, 3, 3))), "(N, features)"),
    Case("labels of other records", npz_records(labels=np.arange(79) % 2), "79"),
    Case(
        "a CIFAR file cut short",
        bad_archive("cifar10", "cifar-10-binary.tar.gz", "cifar-10-batches-bin/data_batch_1.bin", b"\x00" * 3000),
        "cifar",
    ),
    Case(
        "an archive of another data set",
        bad_archive("location30", "dataset_location.tgz", "bangkok", b'"1",0,1\n"2",1,0\n'),
        "location",
    ),
    Case(
        "a truncated archive of records",
        data_file("dataset_purchase.tgz", b"\x1f\x8b\x08\x00truncated", name="purchase100"),
        "purchase",
    ),
    # Run folders
    Case("a file where the run should go", unwritable, "run"),
    Case(
        "a recipe changed under a pool",
        half_finished(edit_yaml(recipe={"model": {"name": "fcn", "widths": [9]}, "epochs": 1})),
        "widths",
    ),
    Case("a seed changed under a pool", half_finished(edit_yaml(seed=5)), "seed"),
    Case("a model file altered", half_finished(alter_model), "00001.safetensors"),
    Case("a model file with code in it", half_finished(model_with_code), "00001.safetensors"),
    Case("a damaged note beside a model", half_finished(remove_sidecar), "00002.json"),
    Case("models without a manifest", half_finished(manifest_of_nothing), "manifest"),
]


@pytest.fixture(autouse=True)
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "code-was-executed"
    monkeypatch.setenv("MEMBERSCOPE_TEST_MARKER", str(path))
    monkeypatch.setenv("MEMBERSCOPE_DATA", str(tmp_path / "data"))
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file that the case brought, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".lock")
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    path = case.make(folder)
    before = files_of(folder)
    yaml_file = path.suffix == ".yaml"
    if not case.options:
        with pytest.raises(MemberscopeError) as raised:
            if yaml_file:
                audit(path)
            else:
                from memberscope.auditing import examine
                from memberscope.signals.load import load_signals

                examine(load_signals(path))
        assert case.says.lower() in str(raised.value).lower()
        assert raised.value.expected and raised.value.got and raised.value.fix.endswith((".", "'"))
    given = [str(path)] if yaml_file else ["--signals", str(path), "--out", str(folder / "out")]
    status, out, err = command(["audit", *given, *case.options, "--json"], capsys)
    assert status == 2
    assert out == ""
    assert "Traceback" not in err and "internal error" not in err
    assert case.says.lower() in " ".join(err.split()).lower()
    assert "do this: " in err
    assert not marker.exists()
    # Nothing that was there is lost or changed.
    after = files_of(folder)
    assert {name: after.get(name) for name in before} == before


def test_there_are_at_least_sixty_cases() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


def findings_of(tmp_path: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> dict[str, Any]:
    """What the command says of an unusual but sound input."""
    path = npz(**changes)(tmp_path)
    status, out, _ = command(["audit", "--signals", str(path), "--json"], capsys)
    assert status == 0
    found: dict[str, Any] = json.loads(out)
    return found


def check(found: dict[str, Any], code: str) -> dict[str, Any]:
    return next(item for item in found["checks"] if item["code"] == code)


def test_one_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = np.random.default_rng(1).random((2, N)) < 0.5
    found = findings_of(tmp_path, capsys, logits=lambda z: z[:2], members=members)
    assert {item["name"] for item in found["not_run"]} >= {"lira_online", "attack_r"}
    assert check(found, "MS010")["level"] == "warning"
    assert all(result["references"] <= 1 for result in found["attacks"])


def test_twins_only_are_no_references(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two complementary models neither can judge the other: each would know the answer."""
    found = findings_of(tmp_path, capsys, logits=lambda z: z[:2], members=lambda m: m[:2])
    assert all(result["references"] == 0 for result in found["attacks"])
    assert "rmia_offline" in {item["name"] for item in found["not_run"]}


def test_records_in_or_out_of_too_few_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = np.random.default_rng(2).random((M, N)) < 0.5
    members[:, :5] = False
    members[0, :5] = True
    found = findings_of(tmp_path, capsys, members=members)
    assert check(found, "MS012")["level"] == "warning"
    scored = {result["name"]: result["records_scored"] for result in found["attacks"] if result["target"] == 0}
    assert scored["loss"] == N
    assert scored.get("lira_online", 0) < N


def test_saturated_probabilities_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    p = softmax(arrays()["logits"])
    hard = np.zeros_like(p)
    hard[np.arange(M)[:, None], np.arange(N), p.argmax(axis=2)] = 1
    found = findings_of(tmp_path, capsys, logits=None, probabilities=hard)
    assert check(found, "MS006")["level"] == "warning"


def test_rounded_probabilities_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Each by itself, as servers do: the sums are off by up to two hundredths.
    p = np.round(softmax(arrays()["logits"]), 2)
    found = findings_of(tmp_path, capsys, logits=None, probabilities=p)
    assert check(found, "MS007")["level"] == "warning"
    assert "2 decimals" in check(found, "MS007")["message"]


@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_unusual_numbers_of_classes(classes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, max(classes, 2), N)
    members = arrays()["members"]
    logits = rng.normal(size=(M, N, classes))
    shift = 3.0 * members
    if classes == 1:
        logits[:, :, 0] += np.where(labels == 1, shift, -shift)
    else:
        logits[:, np.arange(N), labels] += shift
    found = findings_of(tmp_path, capsys, logits=logits, members=members, labels=labels)
    assert found["data"]["classes"] == max(classes, 2)
    loss = next(r for r in found["attacks"] if r["name"] == "loss" and r["target"] == "all")
    assert loss["auc"]["value"] > 0.8


def test_wrong_order_of_classes_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = findings_of(tmp_path, capsys, labels=lambda y: (y + 1) % K)
    assert check(found, "MS013")["level"] == "warning"


def test_a_model_twice_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = findings_of(tmp_path, capsys, logits=lambda z: np.concatenate([z[:-1], z[:1]]))
    assert check(found, "MS014")["level"] == "error"
    assert any("Do not rely" in sentence for sentence in found["summary"])


def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A real full disk: a file-size limit of the process, in a child so that ours keeps its own."""
    import subprocess
    import sys

    path = npz()(tmp_path)
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "from memberscope.cli import main\n"
        f"main(['audit', '--signals', {str(path)!r}, '--out', {str(tmp_path / 'out')!r}, '-q'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "expected to write" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "out").rglob("*.part"))
    assert not (tmp_path / "out" / "findings.json").exists()
