"""Everything that was asked and answered, one JSON line each, only ever appended: what a killed run goes on from.

A request is written down before it is sent, so that it counts against the budgets whatever happens to it; an answer
as soon as it is whole. Answers are kept under a hash of what was asked, secrets left out of both.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from memberscope.errors import PoolError

FILE = "transcript.jsonl"

# Lines reach the system at once, and so survive the end of the process; the disk, for a power cut, once a second.
_SYNC_SECONDS = 1.0


class Transcript:
    """The transcript in ``path``, read and open for more.

    Args:
        path: made if it is not there.
        clean: takes secrets out of a JSON value.

    Raises:
        PoolError: it cannot be read or written, or a line before the last is damaged.
    """

    def __init__(self, path: Path, clean: Callable[[Any], Any]) -> None:
        self.path, self._clean = path, clean
        self.asked = 0
        self.by_record: Counter[str] = Counter()
        self.by_question: Counter[str] = Counter()
        self.answers: dict[str, Any] = {}
        self.skipped: dict[str, int] = {}
        self.failures: Counter[str] = Counter()
        self.last_asked = 0.0
        self._synced = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # For its owner alone: answers about records are as private as the records.
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            self._read()
        except OSError as error:
            raise PoolError(
                f"to read and write {path}", f"{error.strerror or error}", "Choose another folder with --out."
            ) from error

    def _read(self) -> None:
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    # The process died while it wrote this line.
                    break
                try:
                    self._take(json.loads(line))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise PoolError(
                        f"one JSON object a line in {self.path}",
                        f"line {number}, which is damaged",
                        "Remove that line; what it answered is asked again.",
                    ) from error
                whole += len(line)
        if whole < os.fstat(self._file).st_size:
            os.ftruncate(self._file, whole)

    def _take(self, line: dict[str, Any]) -> None:
        key = line["key"]
        match line["event"]:
            case "ask":
                self.asked += 1
                self.by_record[line["record"]] += 1
                self.by_question[key] += 1
                self.last_asked = max(self.last_asked, float(line["time"]))
            case "answer":
                self.answers[key] = line["body"]
            case "skip":
                self.skipped[key] = int(line["status"])
            case "fail":
                self.failures[line["reason"]] += 1
            case other:
                raise ValueError(other)

    def _append(self, line: dict[str, Any]) -> None:
        try:
            data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
            while data:
                data = data[os.write(self._file, data) :]
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            raise PoolError(
                f"to write {self.path}", f"{error.strerror or error}", "Free space, then start again to go on."
            ) from error
        # A request that could not be written down is not sent, an answer that could not be is not used.
        self._take(line)

    def ask(self, key: str, record: str) -> None:
        """About to send the question ``key`` about ``record``."""
        self._append({"event": "ask", "key": key, "record": self._clean(record), "time": round(time.time(), 3)})

    def answer(self, key: str, status: int, body: Any) -> Any:
        """The endpoint answered with the JSON value ``body``; returns what was kept of it."""
        self._append({"event": "answer", "key": key, "status": status, "body": self._clean(body)})
        return self.answers[key]

    def skip(self, key: str, status: int) -> None:
        """The endpoint refused this question, and it shall not be asked again."""
        self._append({"event": "skip", "key": key, "status": status})

    def fail(self, key: str, reason: str) -> None:
        """No answer this time."""
        self._append({"event": "fail", "key": key, "reason": self._clean(reason)})

    def asked_about(self, record: str) -> int:
        """Requests about ``record`` so far."""
        return self.by_record[self._clean(record)]

    def known(self, key: str) -> bool:
        """Whether there is nothing more to ask."""
        return key in self.answers or key in self.skipped

    def close(self) -> None:
        """Bring everything to the disk."""
        os.fsync(self._file)
        os.close(self._file)

    def __enter__(self) -> Transcript:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
