"""What an engine is, and the simplest one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from memberscope.training.engines.faults import memory_error, out_of_memory

T = TypeVar("T")
R = TypeVar("R")


@runtime_checkable
class Engine(Protocol):
    """Runs ``function`` on every task and yields the results as they finish, in any order.

    An engine whose workers may not see the caller's disk has a true attribute ``by_value``: functions then
    return content instead of writing files.
    """

    @property
    def name(self) -> str:
        """What manifests and messages call the engine."""

    def run(self, function: Callable[[T], R], tasks: Sequence[T], *, threads: int = 1) -> Generator[R, None, None]:
        """Yield ``function(task)`` for every task as it finishes.

        Args:
            function: picklable, with everything it needs; it sets its own PyTorch threads. Calling it twice on
                a task gives the same result: a task whose worker was lost is run again.
            tasks: picklable arguments, independent of each other.
            threads: that a task uses, so that no more run at once than the machine has cores for.

        Raises:
            PoolError: workers were lost again and again, or one task alone is too much for the memory.
        """


@dataclass(frozen=True)
class Serial:
    """One task after the other, in this process."""

    name: str = "serial"

    def run(self, function: Callable[[T], R], tasks: Sequence[T], *, threads: int = 1) -> Generator[R, None, None]:
        """See :class:`Engine`."""
        for task in tasks:
            try:
                result = function(task)
            except Exception as error:
                if out_of_memory(error):
                    raise memory_error() from error
                raise
            yield result
