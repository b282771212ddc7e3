"""Who runs the tasks of a plan. An engine decides where and in which order, never what comes out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

from memberscope.errors import ConfigError, PoolError, nearest

T = TypeVar("T")
R = TypeVar("R")

_WATCH = "memberscope-parent-watch"


@runtime_checkable
class Engine(Protocol):
    """Runs ``function`` on every task and yields the results as they finish, in any order."""

    @property
    def name(self) -> str:
        """What manifests and messages call the engine."""

    def run(self, function: Callable[[T], R], tasks: Sequence[T], *, threads: int = 1) -> Generator[R, None, None]:
        """Yield ``function(task)`` for every task as it finishes.

        Args:
            function: picklable, with everything it needs; it sets its own PyTorch threads.
            tasks: picklable arguments, independent of each other.
            threads: that a task uses, so that no more run at once than the machine has cores for.

        Raises:
            PoolError: a worker was killed.
        """


@dataclass(frozen=True)
class Serial:
    """One task after the other, in this process."""

    name: str = "serial"

    def run(self, function: Callable[[T], R], tasks: Sequence[T], *, threads: int = 1) -> Generator[R, None, None]:
        """See :class:`Engine`."""
        for task in tasks:
            yield function(task)


@dataclass(frozen=True)
class Processes:
    """A process a core (joblib's loky); large arrays reach the workers as memory maps, not copies.

    Args:
        workers: processes at once; by default as many as the cores allow at the recipe's threads.
    """

    workers: int | None = None
    name: str = "processes"

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(
                "at least 1 worker", str(self.workers), "Give a positive number, or none for a worker a core."
            )

    def run(self, function: Callable[[T], R], tasks: Sequence[T], *, threads: int = 1) -> Generator[R, None, None]:
        """See :class:`Engine`."""
        from joblib import Parallel, cpu_count, delayed, parallel_config

        workers = min(self.workers or max(1, cpu_count() // threads), len(tasks))
        if not tasks:
            return
        with parallel_config("loky", n_jobs=workers, inner_max_num_threads=threads):
            parallel = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="2 * n_jobs")
        guarded = delayed(partial(_guarded, function, os.getpid()))
        try:
            with closing(parallel(guarded(task) for task in tasks)) as results:
                yield from results
        except BrokenExecutor as error:
            raise PoolError(
                "every worker process to live until its task is done",
                "one that was killed, by a person or because memory ran out",
                "Run the same command again, with fewer workers if memory was short: what is finished is kept.",
            ) from error


def _guarded(function: Callable[[T], R], parent: int, task: T) -> R:
    """``function(task)`` in a worker that ends as soon as the process that asked for it is gone."""
    if os.getppid() != parent:
        os._exit(1)
    if not any(thread.name == _WATCH for thread in threading.enumerate()):
        threading.Thread(target=_watch, args=(parent,), name=_WATCH, daemon=True).start()
    return function(task)


def _watch(parent: int) -> None:
    # Without this, a worker whose parent was killed would train on for minutes, unseen and for nobody.
    while os.getppid() == parent:
        time.sleep(0.25)
    os._exit(1)


_ENGINES: dict[str, Callable[[int | None], Engine]] = {"serial": lambda workers: Serial(), "processes": Processes}


def get_engine(engine: str | Engine, workers: int | None = None) -> Engine:
    """The engine of that name (or the given one), with ``workers`` where it has any.

    Raises:
        ConfigError: no such engine, or fewer than one worker.
    """
    if not isinstance(engine, str):
        return engine
    if engine not in _ENGINES:
        raise ConfigError(
            "a known engine", f"{engine!r}{nearest(engine, _ENGINES)}", f"Choose one of {', '.join(_ENGINES)}."
        )
    return _ENGINES[engine](workers)


__all__ = ["Engine", "Processes", "Serial", "get_engine"]
