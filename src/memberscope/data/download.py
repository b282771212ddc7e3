"""Download a published file: resumed after a break, checked, and placed whole or not at all."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO

from memberscope import __version__
from memberscope.data.archives import Archive, verify
from memberscope.errors import DataError, PoolError
from memberscope.files import writer_lock
from memberscope.progress import progress

PIECE = 1 << 18
MEBIBYTE = 1 << 20
# Answers that another attempt may change.
TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Refused(Exception):
    """The server answered, and trying again will not change the answer."""


def download(
    archive: Archive,
    folder: Path,
    *,
    attempts: int = 4,
    wait: float = 1.0,
    timeout: float = 30.0,
    quiet: bool = False,
) -> Path:
    """Bring ``archive`` into ``folder``, unless it lies there already with the right checksum.

    What has come so far is kept in ``NAME.part``, and the next attempt, or the next call, asks only for the
    rest (HTTP Range). The file takes its name after its length and checksum are right.

    Args:
        archive: what to fetch; an empty checksum leaves only the length to check.
        folder: where it goes; made if need be.
        attempts: how often to try when the connection fails.
        wait: seconds before the second attempt, doubled for each further one.
        timeout: seconds without a byte after which an attempt has failed.
        quiet: show no progress.

    Returns:
        The path of the file.

    Raises:
        DataError: no network, a refusal, or a wrong checksum; says which file to put where by hand.
        PoolError: the folder cannot be written, or another process downloads into it.
    """
    target = folder / archive.filename
    part = folder / f"{archive.filename}.part"
    with writer_lock(folder):
        if target.is_file() and _right(target, archive.checksum):
            return target
        while True:
            resumed = _size(part) > 0
            try:
                _receive_all(archive, part, attempts, wait, timeout, quiet)
                verify(part, archive.checksum)
                break
            except (_Refused, DataError, http.client.HTTPException, OSError) as error:
                if isinstance(error, DataError):
                    part.unlink()
                    # A stale beginning spoils a right end: what was resumed gets one fresh start.
                    if resumed:
                        continue
                raise _by_hand(archive, target, error) from error
        part.replace(target)
    return target


def _receive_all(archive: Archive, part: Path, attempts: int, wait: float, timeout: float, quiet: bool) -> None:
    """Receive until the file is complete; attempts that brought something do not count."""
    failed = 0
    while True:
        before = _size(part)
        try:
            return _receive(archive, part, timeout, quiet)
        except (http.client.HTTPException, OSError):
            failed = 1 if _size(part) > before else failed + 1
            if failed >= attempts:
                raise
            time.sleep(wait * 2.0 ** (failed - 1))


def _receive(archive: Archive, part: Path, timeout: float, quiet: bool) -> None:
    """One request, appended to ``part``; an OSError or HTTPException if it breaks off."""
    offset = _size(part)
    headers = {"User-Agent": f"memberscope/{__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and offset:
                if error.headers.get("Content-Range", "").endswith(f"/{offset}"):
                    return
                part.unlink()
                raise ConnectionError("the server's file is shorter than what had come before") from error
            if error.code in TEMPORARY:
                raise ConnectionError(f"HTTP {error.code} {error.reason}") from error
            raise _Refused(f"HTTP {error.code} {error.reason}") from error
    with response:
        start, total = _extent(response.status, response.headers)
        if start not in (0, offset):
            raise _Refused(f"bytes from {start:,} where bytes from {offset:,} were asked for")
        done = start
        steps = -(-(total or archive.megabytes * MEBIBYTE) // MEBIBYTE)
        with (
            progress(f"{archive.filename} (MiB)", steps, done=done // MEBIBYTE, quiet=quiet) as report,
            _opened(part, append=start > 0) as file,
        ):
            while piece := response.read(PIECE):
                _write(file, piece, part)
                done += len(piece)
                report(done // MEBIBYTE)
            report(steps)
    if total is not None and done != total:
        raise ConnectionError(f"the connection ended after {done:,} of {total:,} bytes")


def _extent(status: int, headers: Message) -> tuple[int, int | None]:
    """Where the body starts in the file, and the length of the whole file if the server says it."""
    if status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        if not found:
            raise _Refused("a partial answer that does not say which part it is")
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = headers.get("Content-Length")
    return 0, int(length) if length is not None and length.isdigit() else None


def _opened(part: Path, *, append: bool) -> IO[bytes]:
    try:
        return part.open("ab" if append else "wb")
    except OSError as error:
        raise _unwritable(part, error) from error


def _write(file: IO[bytes], piece: bytes, part: Path) -> None:
    try:
        file.write(piece)
    except OSError as error:
        raise _unwritable(part, error) from error


def _unwritable(part: Path, error: OSError) -> PoolError:
    return PoolError(
        f"to write {part}",
        f"{error.strerror or error}",
        "Free space, or set MEMBERSCOPE_DATA to another folder.",
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _right(path: Path, checksum: str) -> bool:
    try:
        verify(path, checksum)
    except DataError:
        return False
    return True


def _by_hand(archive: Archive, target: Path, error: BaseException) -> DataError:
    """The error that says which file to put where."""
    reason = error.got if isinstance(error, DataError) else str(getattr(error, "reason", "") or error)
    name, _, digits = archive.checksum.partition(":")
    check = f" ({name.upper()} {digits})" if digits else ""
    return DataError(
        f"to download {archive.url}" + (f" with {name.upper()} {digits}" if digits else ""),
        reason or type(error).__name__,
        f"Download it where there is a network and put it at {target}{check}.",
    )
