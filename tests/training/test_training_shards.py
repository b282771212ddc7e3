"""Shards: several processes, one folder, the same bytes; and locks that say who holds them."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from commands import command
from memberscope.errors import ConfigError, PoolError
from memberscope.files import read_json, sha256_file, writer_lock
from memberscope.signals.collect import collect
from memberscope.training.pool import load_pool, train_pool
from memberscope.training.recipe import Recipe
from memberscope.training.rows import parse_shard, tasks_of
from memberscope.types import Dataset, Pool

RECIPE = Recipe.parse({"model": {"name": "fcn", "widths": [16]}, "epochs": 2, "dropout": 0.1})


@given(st.integers(0, 40), st.integers(1, 50))
def test_every_task_falls_to_one_shard(count: int, shards: int) -> None:
    tasks = [[2 * task, 2 * task + 1] for task in range(count)]
    parts = [tasks_of(tasks, (shard, shards)) for shard in range(1, shards + 1)]
    assert sorted(rows for part in parts for rows in part) == tasks
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert tasks_of(tasks, None) == tasks


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/0", "-1/2", "a/b", "1/2/3", ""])
def test_shards_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="a shard i/n with 1 <= i <= n"):
        parse_shard(text)


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1, 2, 3), (1.0, 2), (True, 2)])
def test_shards_out_of_range_train_nothing(table: Dataset, members: Any, tmp_path: Path, shard: Any) -> None:
    with pytest.raises(ConfigError, match="a shard i/n"):
        train_pool(table, members, RECIPE, folder=tmp_path / "pool", quiet=True, shard=shard)
    assert not (tmp_path / "pool").exists()


def part(dataset: Dataset, members: NDArray[np.bool_], folder: Path, shard: tuple[int, int] | None) -> Pool:
    return train_pool(dataset, members, RECIPE, folder=folder / "pool", quiet=True, stack=1, shard=shard)


def stamps(folder: Path, kind: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob(f"*.{kind}")}


def test_shards_make_the_same_pool_and_signals(table: Dataset, members: NDArray[np.bool_], tmp_path: Path) -> None:
    whole = part(table, members, tmp_path / "whole", None)
    signals = collect(whole, table, folder=tmp_path / "whole" / "signals", quiet=True)
    folder = tmp_path / "parts"
    for shard in [(2, 4), (1, 4), (4, 4)]:
        pool = part(table, members, folder, shard)
        assert "files" not in pool.manifest
        assert collect(pool, table, folder=folder / "signals", quiet=True, shard=shard) is None
    with pytest.raises(PoolError, match="5 of 6 models"):
        load_pool(folder / "pool")
    with pytest.raises(PoolError, match=r"the model file .*00002.*Train this shard first"):
        collect(pool, table, folder=folder / "signals", quiet=True, shard=(3, 4))
    before = stamps(folder, "safetensors")
    # Whoever is last finishes both.
    pool = part(table, members, folder, (3, 4))
    last = collect(pool, table, folder=folder / "signals", quiet=True, shard=(3, 4))
    assert last is not None and last.fingerprint == signals.fingerprint
    assert pool.manifest == whole.manifest == load_pool(folder / "pool").manifest
    assert before.items() <= stamps(folder, "safetensors").items()
    # Without a shard nothing is left to do.
    before = stamps(folder, "npy") | stamps(folder, "safetensors")
    again = collect(part(table, members, folder, None), table, folder=folder / "signals", quiet=True)
    assert again.fingerprint == signals.fingerprint
    assert before == stamps(folder, "npy") | stamps(folder, "safetensors")
    # More shards than tasks: nothing to do is no error.
    part(table, members, folder, (9, 9))


def test_a_shard_keeps_its_hands_off_what_others_are_writing(
    table: Dataset, members: NDArray[np.bool_], tmp_path: Path
) -> None:
    part(table, members, tmp_path, (1, 2))
    own, others = (tmp_path / "pool" / f".0000{row}.safetensors.x.part" for row in (2, 3))
    own.write_bytes(b"half")
    others.write_bytes(b"half")
    part(table, members, tmp_path, (1, 2))
    assert not own.exists() and others.exists()
    part(table, members, tmp_path, None)
    assert not others.exists()


def test_shards_of_another_plan_are_refused(table: Dataset, members: NDArray[np.bool_], tmp_path: Path) -> None:
    part(table, members, tmp_path, (1, 2))
    with pytest.raises(PoolError, match="seed is 1, was 0"):
        train_pool(table, members, RECIPE, seed=1, folder=tmp_path / "pool", quiet=True, stack=1, shard=(2, 2))
    (tmp_path / "pool" / "members.npy").unlink()
    part(table, members, tmp_path, (2, 2))
    assert np.array_equal(load_pool(tmp_path / "pool").members, members)


HOLDER = """
    import sys, time
    from pathlib import Path
    from memberscope.files import writer_lock
    with writer_lock(Path(sys.argv[1]), sys.argv[2]):
        print("held", flush=True)
        time.sleep(300)
"""


def hold(folder: Path, part: str) -> subprocess.Popen[str]:
    code = [sys.executable, "-c", textwrap.dedent(HOLDER), str(folder), part]
    process = subprocess.Popen(code, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("", "", "to be the only writer of"),
        ("2-of-8", "2-of-8", "to be the only writer of shard 2/8 in"),
        ("2-of-8", "", r"since .* \(shard 2/8\)"),
        ("", "2-of-8", "to be the only writer of shard|to be the only writer of"),
        ("2-of-8", "1-of-3", r"since .* \(shard 2/8\)"),
        ("2-of-8", "3-of-8", ""),
    ],
)
def test_the_second_writer_is_told_who_holds_the_folder(tmp_path: Path, first: str, second: str, message: str) -> None:
    holder = hold(tmp_path, first)
    try:
        if not message:
            with writer_lock(tmp_path, second):
                return
        with pytest.raises(PoolError, match=message) as caught, writer_lock(tmp_path, second):
            pass
        host = re.escape(socket.gethostname())
        assert re.search(rf"process {holder.pid} on {host} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d", caught.value.got)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    # Free at once, though nobody could tidy up.
    with writer_lock(tmp_path, second):
        pass


def test_without_locks_writers_of_one_machine_still_see_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    holder = hold(tmp_path, "1-of-2")
    # No file system here lacks flock: the system call is taken away.
    monkeypatch.setattr(fcntl, "flock", none)
    try:
        with pytest.raises(PoolError, match=f"process {holder.pid} on"), writer_lock(tmp_path, "1-of-2"):
            pass
    finally:
        holder.kill()
        holder.wait()
    with writer_lock(tmp_path, "1-of-2"):
        assert "has no locks" in capsys.readouterr().err
        assert (tmp_path / ".lock-1-of-2").read_text().startswith(f"process {os.getpid()} on")


def test_of_many_writers_one_creates_the_file(tmp_path: Path) -> None:
    code = f"""
        import sys
        from pathlib import Path
        from memberscope.files import create_json
        sys.stdin.read(1)
        print(create_json(Path({str(tmp_path / "one.json")!r}), {{"writer": sys.argv[1]}}))
    """
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    said = [writer.communicate("x")[0].strip() for writer in writers]
    assert sorted(said) == ["False", "False", "False", "True"]
    assert read_json(tmp_path / "one.json") == {"writer": str(said.index("True"))}
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


CONFIG = """
data: {name: digits}
recipe: {model: {name: fcn, widths: [16]}, epochs: 1}
pool: {models: 4}
analyses: none
attacks: [loss]
engine: serial
"""


def test_the_command_trains_shards_side_by_side_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.replace("epochs: 1}", "epochs: 1, precision: fp32}"))
    out = ["--out", str(tmp_path / "run"), "-q"]
    status, _, said = command(["audit", str(config), "--shard", "5/4", *out], capsys)
    assert status == 2 and "a shard i/n with 1 <= i <= n" in said
    status, said, _ = command(["audit", str(config), "--shard", "1/2", *out], capsys)
    assert status == 0 and re.search(r"Shard 1/2 is done: \d of the 4 models are its own\.", said)
    tasks = read_json(tmp_path / "run" / "pool" / "manifest.json")["plan"]["tasks"]
    left = sum(map(len, tasks[1::2]))
    assert ("Nothing is missing" in said) == (not left)
    code = [sys.executable, "-m", "memberscope", "audit", str(config), *out, "--json", "--shard"]
    both = [subprocess.Popen([*code, f"{i}/2"], stdout=subprocess.PIPE, text=True) for i in (1, 2)]
    ended = [(process.communicate(timeout=120)[0], process.returncode) for process in both]
    assert all(status == 0 and '"shard"' in text for text, status in ended)
    before = stamps(tmp_path / "run", "safetensors")
    status, said, _ = command(["audit", str(config), *out], capsys)
    assert status == 0 and "Report:" in said
    assert stamps(tmp_path / "run", "safetensors") == before
    status, _, _ = command(["audit", str(config), "--out", str(tmp_path / "serial"), "-q"], capsys)
    for path in sorted((tmp_path / "serial").rglob("*.safetensors")):
        assert sha256_file(path) == sha256_file(tmp_path / "run" / "pool" / path.name)


def test_a_full_disk_leaves_no_half_model(table: Dataset, members: NDArray[np.bool_], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "memberscope", str(small)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system of our own here: {mounted.stderr.strip()}")
    try:
        with pytest.raises(PoolError, match=r"to write .*No space left on device.*Free space"):
            part(table, members, small, None)
        assert not list(small.rglob(".*.part"))
        before = stamps(small, "safetensors")
        assert len(before) < len(members)
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        resumed = part(table, members, small, None)
        assert before.items() <= stamps(small, "safetensors").items()
        assert resumed.manifest == part(table, members, tmp_path, None).manifest
    finally:
        subprocess.run(["umount", str(small)], check=True)
