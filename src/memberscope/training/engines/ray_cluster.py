"""Ray: tasks on the machines of a cluster, or on this one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from memberscope.errors import ConfigError, MissingExtraError, PoolError
from memberscope.training.engines.faults import RETRIES, Attempts, out_of_memory
from memberscope.training.engines.memory import keep_memory
from memberscope.training.engines.processes import check_workers
from memberscope.training.native import PLAIN, SWITCH

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Ray:
    """Tasks on a Ray cluster (extra ``ray``), by ``ray.remote`` alone.

    The function with its data is put into the object store once; results come back by value and only the caller
    writes, so that no disk need be shared. A session of Ray that the caller has opened is used and left open; a
    cluster that is started here is shut down again; from one that was there before we only disconnect.

    Args:
        workers: tasks at once; by default as many as the cluster has room for.
        address: ``"host:port"`` of a cluster's head (from one of its machines), ``"ray://host:port"`` (from
            outside, through Ray's client), ``"auto"`` for the cluster that runs on this machine, ``"local"`` for a
            new one on this machine alone; by default what RAY_ADDRESS says, else ``"local"``.
        gpus_per_model: share of a GPU that a task gets; 0.25 puts four models on one. 0 for the processor.
        retries: how often a task runs again whose worker or machine was lost. Errors of the task itself, such as
            a training that diverged, are not tried again.
        timeout: seconds to reach the cluster, and again to hear from all of its machines.
    """

    workers: int | None = None
    address: str | None = None
    gpus_per_model: float = 0.0
    retries: int = RETRIES
    timeout: float = 60.0
    name: str = "ray"
    by_value: bool = True

    def __post_init__(self) -> None:
        check_workers(self.workers)
        if not 0 <= self.gpus_per_model <= 64 or self.retries < 0:
            raise ConfigError(
                "gpus_per_model from 0 to 64 and retries of at least 0",
                f"{self.gpus_per_model} and {self.retries}",
                "Give for example gpus_per_model 0.25.",
            )

    def run(self, function: Callable[[T], R], tasks: Sequence[T], *, threads: int = 1) -> Generator[R, None, None]:
        """See :class:`Engine`.

        Raises:
            MissingExtraError: Ray is not installed.
            ConfigError: no cluster at the address in time, or none with room for a task.
            PoolError: a machine without memberscope or with another version, or without the kernels that
                ``function.kernels`` names, where it has one; or as :class:`Engine`.
        """
        if not len(tasks):
            return
        ray = _import()
        with self.session(threads):
            _check_machines(ray, self.timeout, getattr(function, "kernels", None))
            yield from self._results(ray, function, tasks, threads)

    def _results(
        self, ray: Any, function: Callable[[T], R], tasks: Sequence[T], threads: int
    ) -> Generator[R, None, None]:
        lost = (
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.LocalRayletDiedError,
            ray.exceptions.ObjectLostError,
        )
        # Losses are counted here and not by Ray, which would try for ever where a task never fits the memory.
        call = ray.remote(num_cpus=threads, num_gpus=self.gpus_per_model, max_retries=0)(_call)
        shared = ray.put(function)
        waiting: deque[int] = deque(range(len(tasks)))
        running: dict[Any, tuple[int, int]] = {}
        attempts = Attempts(self.workers or sys.maxsize, self.retries)
        try:
            while waiting or running:
                room = self._room(ray, threads)
                # Twice the room keeps every machine busy and tells a cluster that grows on demand to grow.
                while waiting and len(running) < min(2 * room, attempts.limit):
                    index = waiting.popleft()
                    running[call.remote(shared, tasks[index])] = index, attempts.reductions
                ready, _ = ray.wait(list(running), num_returns=1, fetch_local=True)
                index, started = running.pop(ready[0])
                beside = min(len(running) + 1, room, attempts.limit)
                try:
                    result = ray.get(ready[0])
                except ray.exceptions.OutOfMemoryError:
                    attempts.short_of_memory(beside, started)
                except lost as error:
                    attempts.killed(index, _why(error))
                except ray.exceptions.RayTaskError as error:
                    cause = error.cause
                    if isinstance(cause, ray.exceptions.RayError):
                        raise _failed(cause) from error
                    if not out_of_memory(cause):
                        raise cause from error
                    attempts.short_of_memory(beside, started)
                except ray.exceptions.RayError as error:
                    raise _failed(error) from error
                else:
                    del ready
                    yield result
                    continue
                waiting.appendleft(index)
        finally:
            for task in running:
                ray.cancel(task, force=True)

    def _room(self, ray: Any, threads: int) -> int:
        """How many tasks run at once on the machines that are there now."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = sum(_fit(node, threads, self.gpus_per_model) for node in nodes)
        if not room:
            has = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise ConfigError(
                f"a machine of the cluster with {threads} CPUs and {self.gpus_per_model:g} GPUs for a task",
                f"machines with {has or 'nothing'}",
                "Start Ray with more, or lower the recipe's threads or gpus_per_model.",
            )
        return room

    @contextmanager
    def session(self, threads: int = 1) -> Iterator[None]:
        """Stay connected inside ``with``: runs within it need not start or reach the cluster each time.

        Raises:
            MissingExtraError: Ray is not installed.
            ConfigError: no cluster at the address in time.
        """
        ray = _import()
        if ray.is_initialized():
            yield
            return
        address = self.address or os.environ.get("RAY_ADDRESS") or "local"
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if address == "local":
            # A cluster of ours: nothing is reported anywhere and no page is served.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            cores = self.workers * threads if self.workers else None
            quiet |= {"num_cpus": cores, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        else:
            _check_reachable(address, self.timeout)
        try:
            ray.init(address=address, **quiet)
        except (ray.exceptions.RayError, RuntimeError, ValueError, ImportError, OSError) as error:
            raise _unreachable(address, _first(error)) from error
        try:
            yield
        finally:
            ray.shutdown()


def _import() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("ray", "ray", "the engine 'ray'") from error
    return ray


def _call(function: Callable[[Any], Any], task: Any) -> Any:
    keep_memory()
    return function(task)


def _fit(node: Mapping[str, float], threads: int, gpus: float) -> int:
    cores = int(node.get("CPU", 0) // threads)
    if not gpus:
        return cores
    # Fractions of a GPU are never split over two, and more than one comes in whole ones.
    accelerators = node.get("GPU", 0)
    return min(cores, int(accelerators) * int(1 / gpus) if gpus < 1 else int(accelerators // gpus))


def _why(error: BaseException) -> str:
    return "was lost with its machine" if "Node" in type(error).__name__ else "was killed"


def _failed(error: BaseException) -> PoolError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[-1] if lines else 'nothing more'}"
    return PoolError("Ray to run the tasks", said, "Look at the cluster's logs.")


def _first(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()


def _unreachable(address: str, why: str) -> ConfigError:
    return ConfigError(
        f"a Ray cluster at {address!r}",
        why,
        "Check the address and that 'ray start --head' runs there; without address and RAY_ADDRESS, Ray runs on "
        "this machine alone.",
    )


_PROBE = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR'); ray.shutdown()"


@cache
def _check_reachable(address: str, timeout: float) -> None:
    """Raise a ConfigError unless a cluster answers at ``address``, asked once a process.

    Ray itself waits for minutes for a head that is not there, and may end the process: another one asks first.
    """
    if address != "auto":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if not host or not port.isdigit():
            raise _unreachable(address, "not of the form host:port, ray://host:port, auto or local")
        try:
            socket.create_connection((host.strip("[]"), int(port)), min(timeout, 5)).close()
        except (OSError, OverflowError) as error:
            raise _unreachable(address, f"no connection ({getattr(error, 'strerror', None) or error})") from error
    command = [sys.executable, "-c", _PROBE, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise _unreachable(address, f"no answer within {timeout:g} s from what listens there") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise _unreachable(address, lines[-1] if lines else f"exit status {done.returncode}")


def _check_machines(ray: Any, timeout: float, kernels: str | None) -> None:
    """Raise a PoolError unless every machine has the packages of this process, in the same versions, and the kernels.

    Where tasks train on PyTorch's own kernels, machines that have others do so, too, and are not asked.
    """
    from memberscope import __version__

    expected = {"memberscope": __version__}
    if "torch" in sys.modules:
        expected["torch"] = sys.modules["torch"].__version__
    if kernels not in (None, PLAIN):
        expected["kernels"] = kernels

    # Nested, so that it travels by value: a machine that lacks the package could not import it from there.
    def versions(names: list[str]) -> dict[str, str]:
        import importlib

        found = {}
        for name in names:
            try:
                if name == "kernels":
                    found[name] = str(importlib.import_module("memberscope.training.native").kernels_like(kernels))
                else:
                    found[name] = str(importlib.import_module(name).__version__)
            except ImportError as error:
                found[name] = f"none ({error})"
        return found

    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    ask = ray.remote(num_cpus=0, max_retries=2)(versions)
    asked = {
        ask.options(scheduling_strategy=strategy(node["NodeID"], soft=False)).remote(list(expected)): node
        for node in ray.nodes()
        if node["Alive"]
    }
    ready, silent = ray.wait(list(asked), num_returns=len(asked), timeout=timeout)
    if silent:
        hosts = ", ".join(asked[task]["NodeManagerAddress"] for task in silent)
        raise PoolError(
            f"every machine of the cluster to answer within {timeout:g} s", f"silence from {hosts}", "Look at its logs."
        )
    for task in ready:
        host = asked[task]["NodeManagerAddress"]
        try:
            found = ray.get(task)
        except ray.exceptions.NodeDiedError:
            # It has gone since it was listed: no task will run there.
            continue
        except ray.exceptions.RayError as error:
            raise PoolError(
                f"the machine {host} to import {' and '.join(expected)}", _first(error), "Look at its logs."
            ) from error
        if found != expected:
            raise PoolError(
                f"{_listed(expected)} on every machine of the cluster, as here",
                f"{_listed(found)} on {host}",
                _fix(expected, found),
            )


def _fix(expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    if any(expected[name] != found[name] for name in expected if name != "kernels"):
        return "Install the same versions there, in the Python that Ray was started with."
    return f"Give every machine the same processor and a C compiler, or set {SWITCH}=off on all of them."


def _listed(versions: Mapping[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in versions.items())
