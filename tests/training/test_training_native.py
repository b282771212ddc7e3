"""The C kernels: built once, safely, and either the ones that a pool was planned with or an error."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from memberscope.errors import ConfigError, PoolError
from memberscope.training.answers import TrainingData
from memberscope.training.compiled import describe_kernels
from memberscope.training.engines import processes
from memberscope.training.inputs import Normalisation
from memberscope.training.loop import train
from memberscope.training.native import PLAIN, SWITCH, Kernels, dense_kernels, kernels
from memberscope.training.pool import train_pool
from memberscope.training.recipe import Recipe
from memberscope.types import Dataset

KERNELS = dense_kernels()
pytestmark = pytest.mark.skipif(KERNELS.library is None, reason=KERNELS.reason or "kernels are there")
BF16 = Recipe.parse(
    {"model": {"name": "densenet", "depth": 10}, "precision": "bf16", "channels_last": True, "epochs": 1}
)
ASK = "from memberscope.training.native import dense_kernels; assert dense_kernels().library, dense_kernels()"


def load() -> Kernels:
    """As a process that has not asked before."""
    return kernels.__wrapped__("dense_block")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that three processes at once have built into."""
    cache = tmp_path_factory.mktemp("cache")
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    builders = [subprocess.Popen([sys.executable, "-c", ASK], env=environment) for _ in range(3)]
    assert [builder.wait() for builder in builders] == [0, 0, 0]
    return cache


@pytest.fixture
def cache(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that is this test's cache folder."""
    copy = tmp_path / "cache"
    shutil.copytree(built, copy, copy_function=shutil.copy2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(copy))
    return copy / "memberscope" / "kernels"


@pytest.fixture
def switched_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(SWITCH, "off")
    kernels.cache_clear()
    yield
    monkeypatch.delenv(SWITCH)
    kernels.cache_clear()


def test_built_once_by_several_processes_and_nobody_elses_to_write(cache: Path) -> None:
    (library,) = cache.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (cache, library)] == [0o700, 0o700]
    before = library.stat()
    with warnings.catch_warnings(action="error"):
        assert load().library is not None
    assert list(cache.iterdir()) == [library]
    assert (library.stat().st_ino, library.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_another_compiler_has_a_file_of_its_own(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -O1")
    assert load().library is not None
    assert len(list(cache.glob("*.so"))) == len(list(cache.iterdir())) == 2


def test_without_a_cache_folder_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert load().library is not None
    assert not list((tmp_path / "temporary").iterdir())


def _link(library: Path) -> None:
    library.rename(library.with_suffix(".moved"))
    library.symlink_to(library.with_suffix(".moved"))


UNSAFE: dict[str, tuple[Callable[[Path], None], str]] = {
    "group writes the library": (lambda library: library.chmod(0o720), "others can write to .*so;"),
    "all write the library": (lambda library: library.chmod(0o702), "others can write to .*so;"),
    "all write the folder": (lambda library: library.parent.chmod(0o777), "others can write to .*kernels;"),
    "a link": (_link, "is not what was put there"),
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_what_others_can_write_to_is_not_loaded(cache: Path, kind: str) -> None:
    spoil, said = UNSAFE[kind]
    (library,) = cache.iterdir()
    spoil(library)
    with pytest.warns(UserWarning, match=rf"training without its dense blocks in C.*{said}"):
        found = load()
    assert found.library is None and found.name == PLAIN


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_not_loaded(cache: Path) -> None:
    (library,) = cache.iterdir()
    os.chown(library, 12345, -1)
    with pytest.warns(UserWarning, match="belongs to another user"):
        assert load().library is None


def test_a_damaged_library_is_built_again(cache: Path) -> None:
    (library,) = cache.iterdir()
    content = library.read_bytes()
    library.write_bytes(content[:1000])
    assert load().library is not None
    assert list(cache.iterdir()) == [library] and library.read_bytes() == content


def test_without_a_compiler_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    with pytest.warns(UserWarning, match="failed: .*No such file"):
        load()
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(UserWarning, match="no C compiler"):
        load()


def test_switched_off(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    with warnings.catch_warnings(action="error"):
        assert str(load()) == f"{PLAIN} (MEMBERSCOPE_KERNELS is off)"
    monkeypatch.setenv(SWITCH, "of")
    with pytest.raises(ConfigError, match="MEMBERSCOPE_KERNELS as on or off; got 'of'"):
        load()


def test_the_environment_names_the_kernels() -> None:
    assert describe_kernels(BF16, "cpu") == {"kernels": KERNELS.name}
    assert "dense blocks in C" in KERNELS.name
    for changed in ({"precision": "fp32"}, {"threads": 2}, {"dropout": 0.1}):
        assert describe_kernels(BF16.model_copy(update=changed), "cpu") == {}
    assert describe_kernels(Recipe.parse({"model": "resnet", "precision": "bf16"}), "cpu") == {}


def first_state(dataset: Dataset, member: NDArray[np.bool_], kernels: str | None) -> dict[str, bytes]:
    data = TrainingData(dataset.inputs, dataset.labels, dataset.classes, Normalisation.fit(dataset.inputs))
    state = train(data, member, BF16, seed=(0, 0), name="model 0", kernels=kernels).state
    return {key: value.numpy().tobytes() for key, value in state.items()}


def test_training_goes_by_the_plan(images: Dataset, members: NDArray[np.bool_]) -> None:
    planned = first_state(images, members[0], PLAIN)
    assert first_state(images, members[0], KERNELS.name) != planned
    with pytest.raises(PoolError, match="was planned, dense blocks in C ffffff; got dense blocks in C"):
        first_state(images, members[0], "dense blocks in C ffffff")


def test_plain_training_is_what_it_is_with_kernels_off(
    images: Dataset, members: NDArray[np.bool_], request: pytest.FixtureRequest
) -> None:
    planned = first_state(images, members[0], PLAIN)
    request.getfixturevalue("switched_off")
    assert first_state(images, members[0], None) == planned


def test_a_worker_without_the_kernels_stops_the_pool(
    images: Dataset, members: NDArray[np.bool_], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This process has its kernels already; workers that start from here on get none.
    assert dense_kernels().library is not None
    processes._end_spare()
    monkeypatch.setenv(SWITCH, "off")
    with pytest.raises(PoolError, match=r"dense blocks in C.*; got PyTorch's own \(MEMBERSCOPE_KERNELS is off\)"):
        train_pool(images, members[:2], BF16, folder=tmp_path, engine="processes", workers=1, quiet=True)
    processes._end_spare()
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_pool_goes_on_with_the_kernels_it_was_begun_with(
    images: Dataset, members: NDArray[np.bool_], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    train_pool(images, members[:2], BF16, folder=tmp_path, shard=(1, 2), quiet=True)
    request.getfixturevalue("switched_off")
    with pytest.raises(PoolError, match="kernels is PyTorch's own, was dense blocks in C"):
        train_pool(images, members[:2], BF16, folder=tmp_path, shard=(2, 2), quiet=True)
    with pytest.raises(PoolError, match="kernels is PyTorch's own, was dense blocks in C"):
        train_pool(images, members[:2], BF16, folder=tmp_path, quiet=True)
