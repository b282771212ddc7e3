"""The engine on Ray: two nodes on addresses of this machine; skipped where Ray is not installed."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from ray_nodes import ray_nodes
from ray_tasks import Counted, refuse

import memberscope
from memberscope.config import AuditConfig
from memberscope.errors import ConfigError, MissingExtraError, PoolError
from memberscope.signals.collect import collect
from memberscope.training.engines import Ray
from memberscope.training.native import SWITCH, dense_kernels
from memberscope.training.pool import train_pool
from memberscope.training.recipe import Recipe
from memberscope.types import Dataset

RECIPE = Recipe.parse({"model": {"name": "cnn", "widths": [8, 16], "hidden": 16}, "epochs": 2, "dropout": 0.1})


installed = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (extra 'ray')")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster whose workers can import ``ray_tasks``; its second machine has no kernels of ours."""
    paths = {"PYTHONPATH": str(Path(__file__).parent)}
    with ray_nodes(2, environments={0: paths, 1: paths | {SWITCH: "off"}}) as address:
        yield address


@installed
def test_a_killed_worker_costs_its_own_task_only(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = list(Ray(address=address).run(Counted(tmp_path, 1), range(12)))
    assert sorted(value for value, _, _ in results) == list(range(12))
    begun = sorted(int(path.name.split("-")[0]) for path in tmp_path.iterdir())
    assert begun == sorted([*range(12), 1])
    # A busy node may leave all of twelve such short tasks to the other.
    assert {host for _, host, _ in results} <= {"127.0.0.2", "127.0.0.3"}
    assert {threads for _, _, threads in results} == {"1"}
    assert "its task runs again (time 1 of at most 3)" in capsys.readouterr().err


@installed
def test_the_same_bytes_as_serial(address: str, images: Dataset, members: NDArray[np.bool_], tmp_path: Path) -> None:
    made = {}
    for name, engine in (("serial", "serial"), ("ray", Ray(address=address))):
        pool = train_pool(images, members, RECIPE, folder=tmp_path / name / "pool", engine=engine, quiet=True)
        collect(pool, images, folder=tmp_path / name / "signals", engine=engine, quiet=True)
        paths = [path for path in (tmp_path / name).rglob("*") if path.suffix in (".safetensors", ".npy", ".npz")]
        made[name] = {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in paths}
        made[name]["manifest"] = (tmp_path / name / "pool" / "manifest.json").read_bytes()
    assert made["ray"] == made["serial"]


@installed
@pytest.mark.skipif(dense_kernels().library is None, reason="no kernels here")
def test_a_machine_without_the_kernels_is_named(
    address: str, images: Dataset, members: NDArray[np.bool_], tmp_path: Path
) -> None:
    densenet = Recipe.parse({"model": {"name": "densenet", "depth": 10}, "precision": "bf16", "epochs": 1})
    engine = Ray(address=address)
    said = r"kernels dense blocks in C .* got .* kernels PyTorch's own \(MEMBERSCOPE_KERNELS is off\) on 127\.0\.0\.3"
    with pytest.raises(PoolError, match=said):
        train_pool(images, members[:1], densenet, folder=tmp_path, engine=engine, quiet=True)


@installed
def test_what_cannot_work_is_said(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    engine = Ray(address=address)
    with pytest.raises(ConfigError, match="expected a; got b"):
        list(engine.run(refuse, range(3)))
    with pytest.raises(ConfigError, match=r"1 CPUs and 0\.5 GPUs for a task; got machines with 1 CPUs and 0 GPUs"):
        list(Ray(address=address, gpus_per_model=0.5).run(abs, [1]))
    with monkeypatch.context() as patch:
        here = memberscope.__version__
        patch.setattr(memberscope, "__version__", "9.9")
        with pytest.raises(PoolError, match=rf"memberscope 9\.9.*got memberscope {here}.* on 127\.0\.0\.[23]"):
            list(engine.run(abs, [1]))
    assert not ray.is_initialized()
    # A session of the caller's is used and left open.
    with engine.session():
        assert sorted(engine.run(abs, [-1, 2])) == [1, 2]
        assert ray.is_initialized()
    assert not ray.is_initialized()


@installed
@pytest.mark.parametrize("kind", ["nobody", "unknown host", "silence", "not an address"])
def test_an_unreachable_cluster_is_said_in_time(kind: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.9", 0))
        port = other.getsockname()[1]
        if kind == "silence":
            other.listen()
        addresses = {"unknown host": f"nowhere.invalid:{port}", "not an address": "there"}
        place = addresses.get(kind, f"127.0.0.9:{port}")
        started = time.monotonic()
        with pytest.raises(ConfigError, match=r"a Ray cluster at .*Check the address"):
            list(Ray(address=place, timeout=6).run(abs, [1]))
        assert time.monotonic() - started < 30


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"memberscope\[ray\]"):
        list(Ray().run(abs, [1]))
    assert list(Ray().run(abs, [])) == []


def test_configured() -> None:
    values = {"data": "digits", "engine": "ray", "workers": 3, "ray_address": "head:6379"}
    assert AuditConfig.parse(values).make_engine() == Ray(3, "head:6379", 0.0)
    assert AuditConfig.parse(values | {"device": "cuda"}).make_engine() == Ray(3, "head:6379", 1.0)
    shared = AuditConfig.parse(values | {"device": "cuda", "gpus_per_model": 0.25}).make_engine()
    assert isinstance(shared, Ray) and shared.gpus_per_model == 0.25
    with pytest.raises(ConfigError, match="need engine: ray"):
        AuditConfig.parse({"data": "digits", "ray_address": "auto"})
    with pytest.raises(ConfigError, match="gpus_per_model from 0 to 64"):
        Ray(gpus_per_model=-1)
