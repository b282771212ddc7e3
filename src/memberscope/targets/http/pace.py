"""When the next request may be sent: the rate asked for, and the waits that the server asks for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

LONGEST_BACKOFF = 60.0


def retry_after(value: str | None, date: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, None without one that can be read (RFC 9110, 10.2.3).

    Args:
        value: the header: seconds, or an HTTP date.
        date: the answer's Date header, so that a server whose clock is wrong is waited for as long as it means.

    >>> retry_after("120", None)
    120.0
    >>> retry_after("Wed, 21 Oct 2015 07:28:30 GMT", "Wed, 21 Oct 2015 07:28:00 GMT")
    30.0
    >>> retry_after("soon", None) is None
    True
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        until = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    try:
        now = parsedate_to_datetime(date or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        now = time.time()
    return max(0.0, until - now)


def backoff(first: float, failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubles, at most a minute.

    >>> [backoff(1.0, failures) for failures in (1, 2, 3, 10)]
    [1.0, 2.0, 4.0, 60.0]
    """
    return min(first * 2.0 ** min(failures - 1, 30), LONGEST_BACKOFF)


class Pace:
    """Slots for requests, evenly spaced; none before a pause is over.

    Args:
        per_minute: at most so many starts a minute, None for any number.
        since_last: seconds since the last request of an earlier start of the run.
    """

    def __init__(self, per_minute: float | None, since_last: float = float("inf")) -> None:
        self.interval = 60.0 / per_minute if per_minute else 0.0
        now = time.monotonic()
        self._next = now + max(0.0, self.interval - since_last)
        self._resume = now

    def pause(self, seconds: float) -> None:
        """No request for so long."""
        self._resume = max(self._resume, time.monotonic() + seconds)

    async def slot(self, stopped: Callable[[], bool]) -> None:
        """Wait until a request may be sent, and take the slot; come back at once when the run has ended."""
        while not stopped():
            now = time.monotonic()
            start = max(self._next, self._resume)
            if start <= now:
                # Late slots are not made up for: never more than the rate, over any minute.
                self._next = now + self.interval
                return
            await asyncio.sleep(min(start - now, 1.0))
