"""Engines decide where and in which order, never what comes out; and a SIGKILL costs running tasks only."""

from __future__ import annotations

import os
import platform
import resource
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
import torch
from numpy.typing import NDArray

from memberscope.errors import ConfigError, PoolError
from memberscope.files import sha256_file
from memberscope.training.engines import Engine, Processes, Ray, Serial, get_engine
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


def faults_of_an_allocation(megabytes: int) -> int:
    """Pages of memory that the system hands out while one that was freed is allocated and filled again."""
    torch.ones(megabytes << 18)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(megabytes << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_worker_keeps_its_memory() -> None:
    ours = next(iter(Processes(1).run(faults_of_an_allocation, [100])))
    code = "from test_training_engines import faults_of_an_allocation as f; print(f(100))"
    plain = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert ours < 100 and int(plain.stdout) > 1000


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


def test_a_task_that_ends_its_workers_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PoolError, match=r"killed, 4 times on the same task.*Run the same command again, with fewer"):
        list(Processes(2).run(end_oneself, range(4)))
    assert "its task runs again (time 3 of at most 3)" in capsys.readouterr().err
    assert len(list(Processes(2).run(square, range(4)))) == 4


@dataclass(frozen=True)
class Counted:
    """Notes in a folder which task was begun; the task named in ``victim`` is killed the first time."""

    folder: Path
    victim: int

    def __call__(self, value: int) -> int:
        times = len(list(self.folder.glob(f"{value}-*")))
        (self.folder / f"{value}-{times}").touch()
        if value == self.victim and not times:
            # The other worker is at work on its task meanwhile.
            wait(lambda: len(list(self.folder.iterdir())) > 2)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1)
        return value


def test_a_killed_worker_costs_its_own_task_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(Processes(2).run(Counted(tmp_path, 1), range(8))) == list(range(8))
    begun = [path.name.split("-")[0] for path in tmp_path.iterdir()]
    assert sorted(begun) == sorted([*"01234567", "1"])
    assert "a worker was killed; its task runs again (time 1 of at most 3)" in capsys.readouterr().err


@dataclass(frozen=True)
class Crowded:
    """A machine with memory for two tasks at once: of the first four, which run side by side, two fail."""

    folder: Path

    def __call__(self, value: int) -> int:
        own, begun = self.folder / f"running-{value}", self.folder / f"begun-{value}"
        first = not begun.exists()
        begun.touch()
        own.touch()
        try:
            if first and value < 4:
                wait(lambda: all((self.folder / f"begun-{other}").exists() for other in range(4)))
                if value >= 2:
                    raise MemoryError
            elif len(list(self.folder.glob("running-*"))) > 2:
                (self.folder / "crowded").touch()
            time.sleep(0.2)
        finally:
            own.unlink()
        return value


def test_fewer_run_at_once_when_memory_runs_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(Processes(4).run(Crowded(tmp_path), range(8))) == list(range(8))
    said = capsys.readouterr().err
    assert "a worker ran out of memory; going on with 2 at once instead of 4" in said
    assert said.count("ran out of memory") == 1
    assert not (tmp_path / "crowded").exists()


@pytest.mark.parametrize("engine", [Serial(), Processes(2)], ids=lambda engine: engine.name)
def test_what_does_not_fit_alone_is_given_up(engine: Engine) -> None:
    with pytest.raises(PoolError, match=r"memory for one task at a time.*what is finished is kept"):
        list(engine.run(too_large, range(3)))


def too_large(value: int) -> int:
    return int(np.ones(1 << 62, np.uint8)[value])


CGROUP = Path("/sys/fs/cgroup/memory")

HUNGRY = """
    import os, sys, time
    from pathlib import Path
    Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
    import numpy as np
    from memberscope.training.engines import Processes

    def work(value):
        held = np.ones(400 << 20, np.uint8)
        time.sleep(0.5)
        return int(held[value])

    print(sum(Processes(2).run(work, range(4))))
"""


def test_the_kernels_killing_for_memory_is_told_from_other_kills(tmp_path: Path) -> None:
    group = CGROUP / f"memberscope-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(750 << 20))
    except OSError as error:
        pytest.skip(f"no memory cgroup of our own here: {error}")
    try:
        code = [sys.executable, "-c", textwrap.dedent(HUNGRY), str(group)]
        done = subprocess.run(code, capture_output=True, text=True, timeout=120)
        assert done.stdout.strip() == "4", done.stderr
        assert "a worker ran out of memory; going on with 1 at once instead of 2" in done.stderr
    finally:
        # Its last processes are on their way out.
        wait(lambda: not (group / "cgroup.procs").read_text().strip())
        group.rmdir()


@pytest.mark.parametrize("kind", ["plain", "fortran", "strided", "map", "slice of a map", "text", "empty", "scalar"])
def test_arrays_arrive_as_they_are_and_large_ones_are_mapped(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large = rng.integers(0, 99, (1 << 10, 1 << 9))
    if "map" in kind:
        np.save(tmp_path / "map.npy", large)
        large = np.load(tmp_path / "map.npy", mmap_mode="r")
    arrays = {
        "fortran": np.asfortranarray(large),
        "strided": large[::2],
        "slice of a map": large[300:],
        "text": np.array(["a", "bcd"] * (1 << 18)),
        "empty": np.empty((0, 3)),
        "scalar": np.array(2.5),
    }
    array = arrays.get(kind, large)
    ((same, mapped, kind_of),) = Processes(1).run(Compared(array), [array])
    assert same and kind_of == array.dtype
    assert mapped == (array.nbytes >= 1 << 20)


@dataclass(frozen=True, eq=False)
class Compared:
    """Whether two arrays that travelled are equal, and whether the first is a map."""

    array: NDArray[Any]

    def __call__(self, other: NDArray[Any]) -> tuple[bool, bool, np.dtype[Any]]:
        return bool((self.array == other).all()), isinstance(self.array, np.memmap), self.array.dtype


def test_engines_by_name() -> None:
    assert get_engine("serial", 3) == Serial()
    assert get_engine("processes", 3) == Processes(3)
    assert get_engine("ray", 3) == Ray(3)
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
