"""What is chosen for a pool is chosen from model and machine, written into its plan, and kept when it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file

from memberscope.errors import ConfigError, PoolError
from memberscope.files import read_json, sha256_json, write_json
from memberscope.training.mode import (
    batches_an_epoch,
    describe,
    fcn_weights,
    make_tasks,
    native_bf16,
    resolve,
    stack_size,
)
from memberscope.training.pool import train_pool
from memberscope.training.recipe import Recipe
from memberscope.training.steps import batches
from memberscope.types import Dataset, Pool

RECIPE = Recipe.parse({"model": {"name": "fcn", "widths": [16]}, "epochs": 3, "dropout": 0.1, "precision": "fp32"})
UNDECIDED = RECIPE.model_copy(update={"precision": "auto"})
Make = Callable[..., Pool]


@pytest.fixture
def make(table: Dataset, members: NDArray[np.bool_], tmp_path: Path) -> Make:
    """Trains the pool in tmp_path/pool, with any argument changed."""

    def call(**changes: Any) -> Pool:
        arguments = {"dataset": table, "members": members, "recipe": RECIPE, "folder": tmp_path / "pool", "quiet": True}
        return train_pool(**(arguments | changes))

    return call


@given(st.integers(1, 300), st.integers(1, 70))
def test_batches_are_counted_as_they_are_made(records: int, size: int) -> None:
    assert batches_an_epoch(records, size) == len(batches(torch.arange(records), size))


@given(st.lists(st.integers(20, 90), min_size=1, max_size=40), st.integers(1, 12))
def test_every_row_has_one_task_and_stacks_take_equal_steps(counts: list[int], size: int) -> None:
    members = np.arange(100) < np.array(counts)[:, None]
    tasks = make_tasks(members, RECIPE.model_copy(update={"batch_size": 16}), size)
    assert sorted(row for task in tasks for row in task) == list(range(len(counts)))
    assert max(len(task) for task in tasks) <= size
    for task in tasks:
        assert len({batches_an_epoch(counts[row], 16) for row in task}) == 1
    assert tasks == sorted(tasks)


def test_stacks_are_balanced_and_leave_work_for_two() -> None:
    half = np.arange(200) % 2 == 0
    sizes = [len(task) for task in make_tasks(np.stack([half] * 66), RECIPE, 8)]
    assert len(sizes) % 2 == 0 and max(sizes) - min(sizes) <= 1
    assert make_tasks(np.stack([half] * 6), RECIPE, 2) == [[0, 1], [2, 3], [4, 5]]
    assert stack_size(RECIPE, (64,), 10, 2) == 1
    assert stack_size(RECIPE, (64,), 10, 66) == stack_size(RECIPE, (64,), 10, 1000) > 1


def test_wide_models_share_a_cache_with_fewer_others() -> None:
    paper = Recipe.paper_fcn()
    assert fcn_weights(paper, (600,), 100) == 600 * 1024 + 1024 * 512 + 512 * 256 + 256 * 128 + 128 * 100
    assert 1 <= stack_size(paper, (600,), 100, 66) < stack_size(RECIPE, (600,), 100, 66)


def test_auto_is_the_machines_choice_and_nothing_else_is_changed() -> None:
    wide = Recipe.parse({"model": {"name": "fcn", "widths": [1024]}})
    expected = "bf16" if native_bf16("cpu") else "fp32"
    assert resolve(wide, (600,), 100, "cpu").precision == expected
    for given_precision in ("fp32", "bf16"):
        chosen = wide.model_copy(update={"precision": given_precision})
        assert resolve(chosen, (600,), 100, "cpu").precision == given_precision
    assert resolve(wide, (600,), 100, "cpu").model_copy(update={"precision": "auto", "channels_last": "auto"}) == wide
    cnn = resolve(Recipe.parse({"model": "cnn"}), (3, 32, 32), 10, "cpu")
    assert cnn.precision == expected
    assert cnn.channels_last is (expected == "bf16")
    assert (
        resolve(Recipe.parse({"model": "cnn", "channels_last": False}), (3, 32, 32), 10, "cpu").channels_last is False
    )
    assert resolve(resolve(wide, (600,), 100, "cpu"), (600,), 100, "cpu") == resolve(wide, (600,), 100, "cpu")


def test_private_models_and_small_ones_that_no_kernel_trains_stay_in_fp32() -> None:
    small = Recipe.parse({"model": {"name": "fcn", "widths": [8]}, "mixup": 0.2})
    private = Recipe.parse({"model": {"name": "fcn", "widths": [1024]}, "privacy": {"noise_multiplier": 1.0}})
    threads = Recipe.parse({"model": {"name": "fcn", "widths": [8]}, "threads": 2})
    for recipe, shape in ((small, (64,)), (private, (600,)), (threads, (64,))):
        assert resolve(recipe, shape, 10, "cpu").precision == "fp32"


def test_the_mode_is_said() -> None:
    assert describe(RECIPE.model_copy(update={"precision": "bf16"}), [[0, 1], [2, 3]]) == (
        "bf16, stacks of 2, one thread a process"
    )
    cnn = Recipe.parse({"model": "cnn", "precision": "fp32", "channels_last": True, "threads": 4})
    assert describe(cnn, [[0], [1]]) == (
        "fp32, channels last, one model at a time (only fully connected networks are stacked, not cnn), "
        "4 threads a process"
    )


def test_a_pool_says_how_it_was_trained(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    pool = make(quiet=False)
    assert pool.manifest["plan"]["tasks"] == [[0, 1, 2], [3, 4, 5]]
    assert pool.manifest["plan"]["recipe"]["precision"] == "fp32"
    assert pool.manifest["mode"] == "fp32, stacks of 3, one thread a process"
    assert f"training 6 models ({pool.manifest['mode']})" in capsys.readouterr().err


@pytest.mark.parametrize("stack", [2, 3, 6])
def test_stacks_of_any_size_give_the_models_alone(make: Make, tmp_path: Path, stack: int) -> None:
    alone, stacked = make(folder=tmp_path / "alone", stack=1), make(stack=stack)
    assert max(map(len, stacked.manifest["plan"]["tasks"])) <= stack
    for row in range(6):
        ours, theirs = load_file(stacked.model_path(row)), load_file(alone.model_path(row))
        assert all(torch.allclose(ours[key], theirs[key], rtol=1e-4, atol=2e-6) for key in theirs)


def test_engines_give_the_same_stacks(make: Make, tmp_path: Path) -> None:
    serial = make(folder=tmp_path / "serial")
    parallel = make(folder=tmp_path / "parallel", engine="processes", workers=2)
    assert serial.manifest["files"] == parallel.manifest["files"]


def test_only_the_stacks_that_miss_a_model_are_trained_again(make: Make) -> None:
    pool = make()
    whole = pool.manifest["files"]
    stamps = {row: pool.model_path(row).stat().st_mtime_ns for row in range(6)}
    pool.model_path(4).unlink()
    assert make().manifest["files"] == whole
    changed = [row for row in range(6) if pool.model_path(row).stat().st_mtime_ns != stamps[row]]
    assert changed == [4]


def test_a_pool_keeps_the_tasks_and_the_precision_that_it_was_begun_with(make: Make) -> None:
    begun = make(stack=1, recipe=RECIPE.model_copy(update={"precision": "bf16"}))
    begun.model_path(3).unlink()
    assert make(recipe=UNDECIDED).manifest["files"] == begun.manifest["files"]
    with pytest.raises(PoolError, match="tasks is"):
        make(recipe=UNDECIDED, stack=3)
    with pytest.raises(PoolError, match=r"recipe\.precision is fp32, was bf16"):
        make(recipe=RECIPE.model_copy(update={"precision": "fp32"}))


def test_a_pool_from_before_there_was_a_choice_goes_on_as_it_was(make: Make) -> None:
    begun = make(stack=1)
    manifest = read_json(begun.folder / "manifest.json")
    assert manifest["plan"]["recipe"]["precision"] == "fp32"
    del manifest["mode"], manifest["plan"]["recipe"]["precision"], manifest["plan"]["recipe"]["channels_last"]
    manifest["plan_hash"] = sha256_json(manifest["plan"])
    write_json(begun.folder / "manifest.json", manifest)
    for row in range(6):
        sidecar = read_json(begun.folder / f"{row:05d}.json")
        write_json(begun.folder / f"{row:05d}.json", sidecar | {"plan_hash": manifest["plan_hash"]})
    assert make(recipe=UNDECIDED).manifest["files"] == begun.manifest["files"]
    before = load_file(begun.model_path(2))
    begun.model_path(2).unlink()
    after = load_file(make(recipe=UNDECIDED).model_path(2))
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("stack", "recipe", "message"),
    [
        (0, RECIPE, "at least 1 model a stack"),
        (2.5, RECIPE, "at least 1 model a stack"),
        (2, RECIPE.model_copy(update={"mixup": 0.5}), "mixup is not stacked"),
    ],
)
def test_stacks_that_cannot_be_are_refused(make: Make, stack: Any, recipe: Recipe, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(stack=stack, recipe=recipe)


def test_a_killed_stack_costs_itself_alone(make: Make, tmp_path: Path, members: NDArray[np.bool_]) -> None:
    code = """
        import sys, numpy as np
        from pathlib import Path
        from memberscope.data.embedded import digits
        from memberscope.training.pool import train_pool
        from memberscope.training.recipe import Recipe
        train_pool(digits().take(np.arange(240)), np.load(sys.argv[1]), Recipe.parse(eval(sys.argv[3])),
                   folder=Path(sys.argv[2]), quiet=True, stack=2)
    """
    np.save(tmp_path / "members.npy", members)
    slow = RECIPE.model_copy(update={"epochs": 120})
    killed = tmp_path / "killed"
    arguments = [str(tmp_path / "members.npy"), str(killed), repr(slow.as_json())]
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *arguments])
    deadline = time.monotonic() + 60
    while not list(killed.glob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in killed.glob("*.safetensors")}
    resumed = make(folder=killed, recipe=slow, stack=2)
    assert 0 < len(finished) < 6
    assert {name: (killed / name).stat().st_mtime_ns for name in finished} == finished
    assert resumed.manifest == make(folder=tmp_path / "whole", recipe=slow, stack=2).manifest


def test_the_command_overrides_the_precision_and_the_findings_say_the_mode(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(
        "data: {name: digits, records: 240}\n"
        "recipe: {model: {name: fcn, widths: [16]}, epochs: 2}\n"
        "pool: {models: 6, stack: 2}\nattacks: [loss]\nanalyses: none\nengine: serial\n"
    )
    command = [sys.executable, "-m", "memberscope", "audit", str(config), "--precision", "bf16", "--quiet", "--json"]
    done = subprocess.run([*command, "--out", str(tmp_path / "run")], capture_output=True, text=True, check=True)
    model = json.loads(done.stdout)["model"]
    assert model["mode"] == "bf16, stacks of 2, one thread a process"
    assert model["recipe"]["precision"] == "bf16"
    refused = subprocess.run(
        [sys.executable, "-m", "memberscope", "audit", "--signals", "outputs.npz", "--precision", "fp32"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "Leave --precision out" in " ".join(refused.stderr.split())
