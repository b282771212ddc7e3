"""Engines decide where and in which order, never what comes out; and a SIGKILL costs running tasks only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memberscope.errors import ConfigError, PoolError
from memberscope.files import sha256_file
from memberscope.training.engines import Engine, Processes, Serial, get_engine
from memberscope.training.pool import train_pool
from memberscope.training.recipe import Recipe
from memberscope.types import Dataset

RECIPE = {
    "model": {"name": "cnn", "widths": [8, 16], "hidden": 16},
    "epochs": 3,
    "dropout": 0.1,
    "precision": "bf16",
    "channels_last": True,
}


@dataclass(frozen=True)
class Backwards:
    """Anybody's engine: the last task first."""

    name: str = "backwards"

    def run(
        self, function: Callable[[Any], Any], tasks: Sequence[Any], *, threads: int = 1
    ) -> Generator[Any, None, None]:
        for task in reversed(tasks):
            yield function(task)


def square(value: int) -> tuple[int, int, int]:
    return value, value**2, os.getpid()


def end_oneself(value: int) -> int:
    if value == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def refuse(value: int) -> int:
    raise ConfigError("a", f"b {value}", "C.")


@pytest.mark.parametrize("engine", [Serial(), Processes(2), Backwards()], ids=lambda engine: engine.name)
def test_every_task_is_run_once(engine: Engine) -> None:
    results = list(engine.run(square, range(20)))
    assert sorted(value for value, _, _ in results) == list(range(20))
    assert all(result == value**2 for value, result, _ in results)
    assert ({pid for _, _, pid in results} == {os.getpid()}) == (engine.name != "processes")
    assert list(engine.run(square, [])) == []


@pytest.mark.parametrize("engine", [Serial(), Processes(2)], ids=lambda engine: engine.name)
def test_errors_keep_their_type(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="expected a; got b"):
        list(engine.run(refuse, range(3)))


def test_a_killed_worker_is_explained() -> None:
    with pytest.raises(PoolError, match=r"one that was killed.*Run the same command again, with fewer workers"):
        list(Processes(2).run(end_oneself, range(4)))
    assert len(list(Processes(2).run(square, range(4)))) == 4


def test_engines_by_name() -> None:
    assert get_engine("serial", 3) == Serial()
    assert get_engine("processes", 3) == Processes(3)
    assert get_engine(Backwards()) == Backwards()
    assert isinstance(Backwards(), Engine)


def train(dataset: Dataset, members: NDArray[np.bool_], folder: Path, engine: str | Engine) -> dict[str, str]:
    pool = train_pool(dataset, members, Recipe.parse(RECIPE), folder=folder, engine=engine, workers=2, quiet=True)
    return {path.name: sha256_file(path) for path in sorted(pool.folder.glob("*.safetensors"))}


def test_the_same_bytes_on_every_engine(images: Dataset, members: NDArray[np.bool_], tmp_path: Path) -> None:
    whole = train(images, members, tmp_path / "serial", "serial")
    assert len(whole) == 6
    assert train(images, members, tmp_path / "processes", "processes") == whole
    assert train(images, members, tmp_path / "backwards", Backwards()) == whole
    # Begun by one engine, finished by another.
    for row in (0, 3):
        (tmp_path / "backwards" / f"{row:05d}.safetensors").unlink()
    assert train(images, members, tmp_path / "backwards", "processes") == whole


SCRIPT = """
    import sys
    from pathlib import Path
    import numpy as np
    from memberscope.data.embedded import digits
    from memberscope.training.pool import train_pool
    from memberscope.training.recipe import Recipe
    half = np.array([np.random.default_rng(pair).permutation(600) < 300 for pair in range(5)])
    members = np.stack([half, ~half], axis=1).reshape(10, 600)
    model = {"name": "fcn", "widths": [64, 32]}
    recipe = Recipe.parse({"model": model, "epochs": 20, "batch_size": 32, "dropout": 0.1})
    folder, engine = Path(sys.argv[1]), sys.argv[2]
    train_pool(digits().take(np.arange(600)), members, recipe, folder=folder, engine=engine, workers=2, quiet=True)
"""


COMMAND = [sys.executable, "-c", textwrap.dedent(SCRIPT)]


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pool of SCRIPT, trained in one go."""
    folder = tmp_path_factory.mktemp("unkilled") / "pool"
    subprocess.run([*COMMAND, str(folder), "serial"], check=True)
    return folder


@pytest.mark.parametrize(("engine", "times"), [("serial", 3), ("processes", 1)])
def test_kills_at_random_instants_change_nothing(engine: str, times: int, unkilled: Path, tmp_path: Path) -> None:
    # The acceptance run with twenty kills is benchmarks/kill_pool.py.
    rng = np.random.default_rng(len(engine))
    killed, before, kills = tmp_path / "killed", {}, 0
    for _ in range(times):
        process = subprocess.Popen([*COMMAND, str(killed), engine], stderr=subprocess.DEVNULL)
        count = len(stamps(killed))
        while process.poll() is None and len(stamps(killed)) == count:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        kills += process.poll() is None
        process.kill()
        process.wait()
        assert before.items() <= stamps(killed).items()
        before = stamps(killed)
    assert kills
    subprocess.run([*COMMAND, str(killed), engine], check=True)
    assert before.items() <= stamps(killed).items()
    for name in [*stamps(unkilled), "members.npy", "manifest.json"]:
        assert (killed / name).read_bytes() == (unkilled / name).read_bytes(), name
    assert len(stamps(killed)) == 10


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.safetensors")}


WORKERS = """
    import os, sys, time
    from pathlib import Path
    from memberscope.training.engines import Processes

    def work(folder):
        (Path(folder) / str(os.getpid())).touch()
        time.sleep(300)

    list(Processes(2).run(work, [sys.argv[1]] * 2))
"""


def test_workers_do_not_outlive_their_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORKERS), str(tmp_path)], stderr=subprocess.DEVNULL
    )
    wait(lambda: len(list(tmp_path.iterdir())) == 2)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert all(alive(worker) for worker in workers)
    parent.kill()
    parent.wait()
    wait(lambda: not any(alive(worker) for worker in workers))


def alive(pid: int) -> bool:
    try:
        # A zombie that nobody reaps has ended as well.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
