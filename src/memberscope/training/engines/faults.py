"""What is done about lost workers, whoever runs them: try again, fewer at once when memory was short, give up."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from memberscope.errors import PoolError

# A task whose worker was killed is run again so many times; a task that itself ends its worker stops there.
RETRIES = 3

# How often one task at a time may still run out of memory: other programs may have taken it for a moment.
ALONE = 2


class Attempts:
    """Counts losses and says what follows from them.

    Args:
        limit: tasks at once to begin with.
        retries: how often a task is run again after its worker was killed.

    Attributes:
        limit: tasks that may run at once from now on.
        reductions: how often it was lowered; noted when a task is started.
    """

    def __init__(self, limit: int, retries: int = RETRIES) -> None:
        self.limit, self.retries, self.reductions = limit, retries, 0
        self._killed: Counter[int] = Counter()
        self._alone = 0

    def killed(self, task: int, why: str = "was killed") -> None:
        """A worker ended while it ran ``task``, for another reason than memory.

        Raises:
            PoolError: the task has lost too many workers.
        """
        self._killed[task] += 1
        if self._killed[task] > self.retries:
            raise PoolError(
                "every worker to live until its task is done",
                f"one that was killed, {self._killed[task]} times on the same task ({why})",
                "Run the same command again, with fewer workers if memory was short: what is finished is kept.",
            )
        say(f"a worker {why}; its task runs again (time {self._killed[task]} of at most {self.retries})")

    def short_of_memory(self, running: int, started: int) -> None:
        """A worker ran out of memory while ``running`` tasks ran at once, its own among them.

        Args:
            started: ``reductions`` when the task was started.

        Raises:
            PoolError: a task does not fit though it runs alone.
        """
        # Losses of tasks that were started before the last reduction say nothing against the new limit.
        if started < self.reductions:
            return
        if running <= 1:
            self._alone += 1
            if self._alone >= ALONE:
                raise memory_error()
            say("a worker ran out of memory though it ran alone; its task runs once more")
            return
        self.limit = max(1, running // 2)
        self.reductions += 1
        say(f"a worker ran out of memory; going on with {self.limit} at once instead of {running}")


def say(message: str) -> None:
    """Tell the person in front of the screen, who must know though progress may be silenced."""
    print(f"memberscope: {message}", file=sys.stderr, flush=True)


def memory_error() -> PoolError:
    """One task alone is too much."""
    return PoolError(
        "memory for one task at a time",
        "a worker that ran out of it",
        "Give the machine more memory, or choose a smaller batch or model; what is finished is kept.",
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on the host or on an accelerator."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def kernel_kills() -> int:
    """How many processes of this machine the kernel has ended because memory ran out; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
