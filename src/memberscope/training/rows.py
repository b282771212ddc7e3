"""Shards: which tasks of a plan fall to one of several processes that share a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence

from memberscope.errors import ConfigError

Shard = tuple[int, int]


def check_shard(shard: Shard | None) -> None:
    """Raise a ConfigError unless ``shard`` is None or ``(i, n)`` with whole numbers 1 <= i <= n."""
    if shard is None:
        return
    if len(shard) != 2 or any(type(part) is not int for part in shard) or not 1 <= shard[0] <= shard[1]:
        raise ConfigError(
            "a shard i/n with 1 <= i <= n", "/".join(str(part) for part in shard), "Give for example the second of 8."
        )


def parse_shard(text: str) -> Shard:
    """A shard from the command line.

    >>> parse_shard("2/8")
    (2, 8)

    Raises:
        ConfigError: not of the form i/n with 1 <= i <= n.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    if not found:
        raise ConfigError("a shard i/n with 1 <= i <= n, such as 2/8", repr(text), "Write it in that form.")
    shard = int(found[1]), int(found[2])
    check_shard(shard)
    return shard


def tasks_of(tasks: Sequence[Sequence[int]], shard: Shard | None) -> list[list[int]]:
    """The tasks, each the rows that are trained together, that fall to ``shard``: every n-th, from the i-th.

    >>> tasks_of([[0, 1], [2, 3], [4]], (1, 2))
    [[0, 1], [4]]
    """
    first, step = (0, 1) if shard is None else (shard[0] - 1, shard[1])
    return [list(rows) for rows in tasks[first::step]]


def part_of(shard: Shard | None) -> str:
    """What the shard's lock is called.

    >>> part_of((2, 8)), part_of(None)
    ('2-of-8', '')
    """
    return "" if shard is None else f"{shard[0]}-of-{shard[1]}"
