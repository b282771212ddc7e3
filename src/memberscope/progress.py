"""Progress on standard error with a time estimate, so that standard output stays clean for results."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Anything that can be told how far a long piece of work has come."""

    def __call__(self, done: int, note: str = "") -> None:
        """``done`` of the announced total are finished; ``note`` says something about the last one."""


@contextmanager
def progress(title: str, total: int, *, done: int = 0, quiet: bool = False) -> Iterator[Progress]:
    """Show progress of ``total`` steps, ``done`` of which were finished before.

    On a terminal a bar with the remaining time; elsewhere (a log, CI) a line at most every ten seconds.
    """
    if quiet or total <= 0:
        yield lambda done, note="": None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        with Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=False,
        ) as bar:
            task = bar.add_task(title, total=total, completed=done, note="")
            yield lambda done, note="": bar.update(task, completed=done, note=note)
    else:
        started, last, first = time.monotonic(), 0.0, done

        def log(done: int, note: str = "") -> None:
            nonlocal last
            now = time.monotonic()
            if done < total and now - last < 10:
                return
            last = now
            left = (now - started) / max(done - first, 1) * (total - done)
            print(f"{title}: {done}/{total}, {left:.0f} s left {note}".rstrip(), file=sys.stderr, flush=True)

        yield log
