"""Pools: what is on disk, what resumes, what is refused."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from memberscope.errors import ConfigError, PoolError
from memberscope.files import read_json, sha256_file, sha256_json, write_json, writer_lock
from memberscope.training.mode import resolve
from memberscope.training.pool import load_pool, read_metrics, train_pool
from memberscope.training.recipe import Recipe
from memberscope.training.store import pool_model
from memberscope.types import Dataset, Pool

RECIPE = Recipe.parse({"model": {"name": "fcn", "widths": [16]}, "epochs": 3, "dropout": 0.1})
Make = Callable[..., Pool]


@pytest.fixture
def make(table: Dataset, members: NDArray[np.bool_], tmp_path: Path) -> Make:
    """Trains the pool in tmp_path/pool, with any argument changed."""

    def call(**changes: Any) -> Pool:
        arguments = {"dataset": table, "members": members, "recipe": RECIPE, "folder": tmp_path / "pool", "quiet": True}
        return train_pool(**(arguments | changes))

    return call


def files(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.safetensors"))}


def test_the_same_plan_gives_the_same_folder(make: Make, tmp_path: Path) -> None:
    first, second = make(folder=tmp_path / "a"), make(folder=tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b") == first.manifest["files"]
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()
    assert len(set(first.manifest["files"].values())) == len(first) == 6
    assert read_metrics(first)[0].train_accuracy == read_metrics(second)[0].train_accuracy


def test_a_models_weights_depend_on_its_own_row_only(make: Make, members: NDArray[np.bool_], tmp_path: Path) -> None:
    make(folder=tmp_path / "six", stack=1)
    make(folder=tmp_path / "two", members=members[:2], stack=1)
    for row in range(2):
        six, two = (load_file(tmp_path / name / f"{row:05d}.safetensors") for name in ("six", "two"))
        assert all(torch.equal(six[key], two[key]) for key in six)


def test_finished_models_are_never_trained_again(make: Make, tmp_path: Path) -> None:
    folder = make().folder
    whole, before = files(folder), stamps(folder)
    (folder / "00001.safetensors").unlink()
    # Killed between the two files of a model: the description is there, the model is not.
    (folder / "00004.safetensors").unlink()
    (folder / "00004.json").unlink()
    (folder / ".00004.safetensors.x.part").write_bytes(b"half a model")
    make()
    after = stamps(folder)
    assert files(folder) == whole
    assert [name for name in before if before[name] != after[name]] == ["00001.safetensors", "00004.safetensors"]
    assert not list(folder.glob("*.part")) + list(folder.glob(".*.part"))


def test_a_finished_pool_reopens(make: Make) -> None:
    made = make()
    pool = load_pool(made.folder)
    assert pool.manifest == made.manifest
    assert np.array_equal(pool.members, made.members)
    assert pool.recipe == resolve(RECIPE, (64,), 10, "cpu").as_json()
    assert stamps(made.folder) == (make() and stamps(made.folder))


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize(
    ("change", "field"),
    [
        (
            lambda d, m: {"recipe": RECIPE.model_copy(update={"learning_rate": 0.5})},
            "recipe.learning_rate is 0.5, was 0.001",
        ),
        (lambda d, m: {"seed": 4}, "seed is 4, was 0"),
        (lambda d, m: {"members": ~m}, "members is"),
        (lambda d, m: {"members": m[:4]}, "models is 4, was 6"),
        (lambda d, m: {"dataset": Dataset(d.inputs, d.labels[::-1])}, "data.fingerprint is"),
    ],
)
def test_a_changed_plan_is_refused(
    make: Make, table: Dataset, members: NDArray[np.bool_], half: bool, change: Any, field: str
) -> None:
    folder = make().folder
    if half:
        (folder / "00005.safetensors").unlink()
    before = stamps(folder)
    with pytest.raises(PoolError, match=field) as caught:
        make(**change(table, members))
    assert "use another folder" in caught.value.fix
    assert stamps(folder) == before


def test_other_software_may_read_a_finished_pool_but_not_go_on_with_one(make: Make) -> None:
    folder = make().folder
    manifest = read_json(folder / "manifest.json")
    manifest["environment"]["torch"] = "1.0"
    write_json(folder / "manifest.json", manifest)
    assert len(make()) == 6
    (folder / "00003.safetensors").unlink()
    with pytest.raises(PoolError, match=r"torch is .*, was 1\.0"):
        make()


def test_a_pool_from_before_an_option_existed_goes_on(make: Make) -> None:
    made = make()
    whole = files(made.folder)
    manifest = read_json(made.folder / "manifest.json")
    del manifest["plan"]["recipe"]["label_smoothing"], manifest["plan"]["recipe"]["model"]["activation"]
    manifest["plan_hash"] = sha256_json(manifest["plan"])
    write_json(made.folder / "manifest.json", manifest)
    for row in range(6):
        sidecar = read_json(made.folder / f"{row:05d}.json")
        write_json(made.folder / f"{row:05d}.json", sidecar | {"plan_hash": manifest["plan_hash"]})
    assert make().manifest["files"] == whole
    with pytest.raises(PoolError, match=r"recipe\.label_smoothing is 0\.1, was 0\.0"):
        make(recipe=RECIPE.model_copy(update={"label_smoothing": 0.1}))


@pytest.mark.parametrize("opened_by", ["load_pool", "train_pool"])
def test_an_altered_model_is_refused_by_name(make: Make, opened_by: str) -> None:
    folder = make().folder
    path = folder / "00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(PoolError, match=r"00002\.safetensors as it was written"):
        load_pool(folder) if opened_by == "load_pool" else make()
    with pytest.raises(PoolError, match=r"00002\.safetensors as it was written"):
        pool_model(load_pool(folder, verify=False), 2)


def test_a_model_swapped_with_its_description_is_refused(make: Make) -> None:
    folder = make().folder
    for suffix in ("json", "safetensors"):
        (folder / f"00001.{suffix}").write_bytes((folder / f"00000.{suffix}").read_bytes())
    with pytest.raises(PoolError, match=r"00001\.safetensors as it was written"):
        make()
    (folder / "00000.json").write_text("[]")
    with pytest.raises(PoolError, match=r"00000\.json of this pool"):
        make()


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o755)


@pytest.mark.parametrize("how", ["pickle", "torch.save"])
@pytest.mark.parametrize("manifest_forged", [False, True])
def test_a_model_file_with_code_in_it_is_refused_and_never_run(
    make: Make, tmp_path: Path, how: str, manifest_forged: bool
) -> None:
    folder = make().folder
    path, victim = folder / "00000.safetensors", tmp_path / "executed"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Bomb(victim)))
    else:
        torch.save({"weight": Bomb(victim)}, path)
    if manifest_forged:
        manifest = read_json(folder / "manifest.json")
        manifest["files"][path.name] = sha256_file(path)
        write_json(folder / "manifest.json", manifest)
    with pytest.raises(PoolError, match="a pickle, which could run any code"):
        load_pool(folder)
    with pytest.raises(PoolError, match="a pickle, which could run any code"):
        pool_model(load_pool(folder, verify=False), 0)
    with pytest.raises(PoolError, match="a pickle, which could run any code"):
        make()
    assert not victim.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no safetensors header"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "no safetensors header"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00[]", "no safetensors header"),
        (b"\xff" * 64, "no safetensors header"),
    ],
)
def test_damaged_model_files_are_refused(make: Make, content: bytes, message: str) -> None:
    folder = make().folder
    (folder / "00000.safetensors").write_bytes(content)
    with pytest.raises(PoolError, match=message):
        load_pool(folder)


def test_truncated_and_foreign_weights_are_refused(make: Make) -> None:
    pool = make()
    path = pool.model_path(0)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(PoolError, match="where its header announces"):
        load_pool(pool.folder)
    save_file({"weight": torch.zeros(3)}, path)
    forged = Pool(pool.folder, pool.members, pool.recipe, {**pool.manifest, "files": {path.name: sha256_file(path)}})
    with pytest.raises(PoolError, match="the weights of a fcn"):
        pool_model(forged, 0)


def test_missing_files_are_named(make: Make) -> None:
    pool = make()
    content = (pool.folder / "members.npy").read_bytes()
    pool.model_path(3).rename(pool.folder / "away")
    for verify in (True, False):
        with pytest.raises(PoolError, match=r"00003\.safetensors"):
            load_pool(pool.folder, verify=verify)
    (pool.folder / "away").rename(pool.model_path(3))
    np.save(pool.folder / "members.npy", ~pool.members)
    with pytest.raises(PoolError, match=r"members\.npy as it was written"):
        load_pool(pool.folder)
    (pool.folder / "members.npy").unlink()
    with pytest.raises(PoolError, match=r"members\.npy"):
        load_pool(pool.folder)
    (pool.folder / "members.npy").write_bytes(content)
    (pool.folder / "manifest.json").unlink()
    with pytest.raises(PoolError, match=r"manifest\.json"):
        load_pool(pool.folder)
    with pytest.raises(PoolError, match="the manifest that belongs to the models"):
        make()


def test_other_manifests_and_unfinished_pools_are_refused(make: Make) -> None:
    folder = make().folder
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", {key: value for key, value in manifest.items() if key != "files"})
    (folder / "00003.safetensors").unlink()
    with pytest.raises(PoolError, match=r"got 5 of 6 models.*Run the training again"):
        load_pool(folder)
    for content in ("{}", "[]", "3", '{"plan": {}}'):
        (folder / "manifest.json").write_text(content)
        with pytest.raises(PoolError):
            load_pool(folder)
        with pytest.raises(PoolError):
            make()


def test_a_second_writer_is_told_who_writes(make: Make, tmp_path: Path) -> None:
    with writer_lock(tmp_path / "pool"), pytest.raises(PoolError, match=f"process {os.getpid()}"):
        make()


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"seed": -1}, ConfigError, "a seed as a whole number"),
        ({"seed": 1.5}, ConfigError, "a seed as a whole number"),
        ({"engine": "procesess"}, ConfigError, "did you mean 'processes'"),
        ({"engine": "processes", "workers": 0}, ConfigError, "at least 1 worker"),
        ({"device": "gpu"}, ConfigError, "a device such as"),
        ({"recipe": Recipe.parse({"model": "cnn"})}, ConfigError, "Use the model 'fcn' for tables"),
        ({"members": np.zeros((2, 240), np.bool_)}, PoolError, "members and non-members"),
        ({"members": np.zeros((2, 240), np.int64)}, PoolError, "membership as booleans"),
        ({"members": np.eye(2, 9, dtype=np.bool_)}, PoolError, "one column of members a record"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    make: Make, tmp_path: Path, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make(**changes)
    assert not (tmp_path / "pool").exists()


def test_a_folder_that_cannot_be_is_named(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PoolError, match="a writable folder"):
        make(folder=tmp_path / "file" / "pool")


def test_a_full_disk_loses_nothing(make: Make, tmp_path: Path) -> None:
    # A limit on the size of files stands for the full disk: the same system call fails, of a real write.
    wide = RECIPE.model_copy(update={"model": RECIPE.model.model_copy(update={"widths": [64]})})
    code = f"""
        import resource, numpy as np
        from pathlib import Path
        from memberscope.data.embedded import digits
        from memberscope.errors import PoolError
        from memberscope.training.pool import train_pool
        from memberscope.training.recipe import Recipe
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
        half = np.arange(240) % 2 == 0
        try:
            train_pool(digits().take(np.arange(240)), np.stack([half, ~half]), Recipe.parse({wide.as_json()!r}),
                       folder=Path({str(tmp_path / "full")!r}), quiet=True)
        except PoolError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "to write" in done.stdout
    assert "Free space" in done.stdout
    folder = tmp_path / "full"
    assert not files(folder)
    assert not list(folder.glob("*.part")) + list(folder.glob(".*.part"))
    half = np.arange(240) % 2 == 0
    resumed, whole = (
        make(folder=tmp_path / name, members=np.stack([half, ~half]), recipe=wide) for name in ("full", "whole")
    )
    assert resumed.manifest == whole.manifest


def test_nothing_that_could_run_code_is_written(make: Make) -> None:
    folder = make().folder
    kinds = {path.suffix for path in folder.iterdir()}
    assert kinds == {".json", ".npy", ".npz", ".safetensors", ""}
    assert json.loads((folder / "00000.json").read_text())["metrics"].keys() == {
        "train_accuracy",
        "held_out_accuracy",
        "loss",
        "seconds",
        "evaluation_seconds",
        "epochs",
        "best_epoch",
        "privacy",
    }


@pytest.mark.parametrize("stack", [1, 2])
def test_a_pool_stopped_early_is_the_beginning_of_the_whole_one(
    make: Make, members: NDArray[np.bool_], tmp_path: Path, stack: int
) -> None:
    whole = make(folder=tmp_path / "whole", stack=stack)
    begun = make(folder=tmp_path / "grown", stack=stack, until=3)
    assert len(begun) == 3
    assert (begun.members == members[:3]).all()
    # A stack is trained whole: its fourth model is there for later, and not part of the pool yet.
    assert sorted(files(tmp_path / "grown")) == [f"{row:05d}.safetensors" for row in range(3 if stack == 1 else 4)]
    loaded = load_pool(tmp_path / "grown")
    assert len(loaded) == 3 and loaded.manifest["files"] == begun.manifest["files"]
    before = stamps(tmp_path / "grown")
    grown = make(folder=tmp_path / "grown", stack=stack)
    assert grown.manifest == whole.manifest
    assert stamps(tmp_path / "grown").items() >= before.items()
    # Asked for fewer again, nothing that is there is forgotten.
    assert len(make(folder=tmp_path / "grown", stack=stack, until=2)) == 2
    assert len(load_pool(tmp_path / "grown")) == len(members)


@pytest.mark.parametrize("until", [0, 7])
def test_a_pool_cannot_be_stopped_outside_its_models(make: Make, until: int) -> None:
    with pytest.raises(ConfigError, match="until from 1 to the 6 models"):
        make(until=until)
