"""A process a core: each worker stands alone, so that one that is killed takes nothing with it but its task."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import ConfigError
from memberscope.training.engines.faults import Attempts, kernel_kills, out_of_memory
from memberscope.training.engines.memory import keep_memory
from memberscope.training.engines.sharing import Rebuild, Sharing

T = TypeVar("T")
R = TypeVar("R")

_WATCH = "memberscope-parent-watch"

# Seconds after which an idle worker ends; until then the next run finds it with everything imported.
_IDLE = 300

_THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "BLIS", "VECLIB_MAXIMUM", "NUMBA")


@dataclass(frozen=True)
class Processes:
    """A process a core (loky, which joblib brings); large arrays reach the workers as memory maps, not copies.

    A worker that is killed costs its own running task, which runs again; when memory ran out, fewer run at once
    from then on.

    Args:
        workers: processes at once; by default as many as the cores allow at the recipe's threads.
    """

    workers: int | None = None
    name: str = "processes"

    def __post_init__(self) -> None:
        check_workers(self.workers)

    def run(self, function: Callable[[T], R], tasks: Sequence[T], *, threads: int = 1) -> Generator[R, None, None]:
        """See :class:`Engine`."""
        from joblib import cpu_count

        if not len(tasks):
            return
        workers = min(self.workers or max(1, cpu_count() // threads), len(tasks))
        crew = _Crew(partial(_guarded, function, os.getpid()), workers, threads)
        try:
            yield from crew.results(tasks)
        finally:
            crew.dismiss()


def check_workers(workers: int | None) -> None:
    """Raise a ConfigError unless there is at least one worker, or none is named."""
    if workers is not None and workers < 1:
        raise ConfigError("at least 1 worker", str(workers), "Give a positive number, or none for a worker a core.")


class _Crew:
    """The workers of one run."""

    def __init__(self, function: Callable[[Any], Any], workers: int, threads: int) -> None:
        self.function, self.threads = function, threads
        self.attempts = Attempts(workers)
        self.sharing = Sharing()
        self.busy: dict[Future[Any], tuple[int, int, _Worker]] = {}
        self.idle: list[_Worker] = []

    def results(self, tasks: Sequence[Any]) -> Generator[Any, None, None]:
        waiting = deque(range(len(tasks)))
        kills = kernel_kills()
        while waiting or self.busy:
            self._assign(waiting, tasks)
            finished = wait(self.busy, return_when=FIRST_COMPLETED).done
            results, running = [], len(self.busy)
            for future in finished:
                index, started, worker = self.busy.pop(future)
                error = future.exception()
                if error is None:
                    results.append(future.result())
                    self.idle.append(worker)
                    continue
                worker.end()
                if isinstance(error, BrokenExecutor):
                    before, kills = kills, kernel_kills()
                    if kills > before:
                        self.attempts.short_of_memory(running, started)
                    else:
                        self.attempts.killed(index)
                elif out_of_memory(error):
                    self.attempts.short_of_memory(running, started)
                else:
                    raise error
                waiting.appendleft(index)
            # Before the caller writes what came back, so that no worker waits for that.
            self._assign(waiting, tasks)
            yield from results

    def _assign(self, waiting: deque[int], tasks: Sequence[Any]) -> None:
        while waiting and len(self.busy) < self.attempts.limit:
            worker = self.idle.pop() if self.idle else _hire(self.threads)
            worker.lend(self.sharing)
            index = waiting.popleft()
            try:
                self.busy[worker.submit(self.function, tasks[index])] = index, self.attempts.reductions, worker
            except BrokenExecutor:
                # It ended while it had nothing to do.
                worker.end()
                waiting.appendleft(index)
        # Idle workers hold memory that the others are short of.
        while len(self.idle) + len(self.busy) > self.attempts.limit and self.idle:
            self.idle.pop().end()

    def dismiss(self) -> None:
        """End who is still at work, and keep the others for the next run."""
        for _, _, worker in self.busy.values():
            worker.end()
        for worker in self.idle:
            worker.lend(None)
            _SPARE.append(worker)
        self.sharing.close()


@dataclass(eq=False)
class _Worker:
    """One process, with an executor of its own: loky ends all processes of an executor when one is killed."""

    threads: int
    sharing: Sharing | None = None
    executor: Any = field(init=False)

    def __post_init__(self) -> None:
        from joblib.externals.loky import ProcessPoolExecutor

        reducers = {np.ndarray: _Reducer(self), np.memmap: _Reducer(self)}
        environment = {f"{name}_NUM_THREADS": str(self.threads) for name in _THREADS}
        self.executor = ProcessPoolExecutor(1, job_reducers=reducers, timeout=_IDLE, env=environment)

    def lend(self, sharing: Sharing | None) -> None:
        self.sharing = sharing

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future[Any]:
        future: Future[Any] = self.executor.submit(function, task)
        return future

    def end(self) -> None:
        self.executor.shutdown(wait=False, kill_workers=True)


class _Reducer:
    """Pickles arrays for a worker through whatever sharing the worker's present run has."""

    def __init__(self, worker: _Worker | None = None) -> None:
        self.worker = worker

    def __call__(self, array: NDArray[Any]) -> Rebuild:
        assert self.worker is not None and self.worker.sharing is not None
        return self.worker.sharing.describe(array)

    def __reduce__(self) -> tuple[type[_Reducer], tuple[()]]:
        # The queue takes its reducers along to the worker, which only reads from it.
        return type(self), ()


# Workers that have imported everything, for the next run of this process: starting one takes seconds.
_SPARE: list[_Worker] = []


def _hire(threads: int) -> _Worker:
    for worker in _SPARE:
        if worker.threads == threads:
            _SPARE.remove(worker)
            return worker
    return _Worker(threads)


@atexit.register
def _end_spare() -> None:
    for worker in _SPARE:
        worker.end()
    _SPARE.clear()


def _guarded(function: Callable[[T], R], parent: int, task: T) -> R:
    """``function(task)`` in a worker that ends as soon as the process that asked for it is gone."""
    if os.getppid() != parent:
        os._exit(1)
    if not any(thread.name == _WATCH for thread in threading.enumerate()):
        threading.Thread(target=_watch, args=(parent,), name=_WATCH, daemon=True).start()
        keep_memory()
    return function(task)


def _watch(parent: int) -> None:
    # Without this, a worker whose parent was killed would train on for minutes, unseen and for nobody.
    while os.getppid() == parent:
        time.sleep(0.25)
    os._exit(1)
