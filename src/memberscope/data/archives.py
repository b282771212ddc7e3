"""Official archives: what they are called, where they come from, and how they are read safely.

Members of a tar are read as streams and nothing is ever extracted, so that no name inside an archive can
reach a path on disk.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from memberscope.errors import DataError
from memberscope.files import sha256_file

# What a damaged or hostile archive can raise while it is read.
BROKEN = (tarfile.TarError, EOFError, zlib.error, OSError)


@dataclass(frozen=True)
class Archive:
    """A published file.

    Args:
        filename: its name as published.
        url: where it is published.
        checksum: ``"md5:…"`` or ``"sha256:…"`` in hexadecimal, or empty where no trustworthy one is known.
        megabytes: about how large it is.
    """

    filename: str
    url: str
    checksum: str = ""
    megabytes: int = 0


def verify(path: Path, checksum: str) -> None:
    """Raise a DataError unless the file's content has ``checksum``; an empty one is always met."""
    if not checksum:
        return
    algorithm, _, wanted = checksum.partition(":")
    try:
        if algorithm == "sha256":
            got = sha256_file(path)
        else:
            with path.open("rb") as file:
                got = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"a readable file {path}", f"{error.strerror or error}", "Check the path.") from error
    if got != wanted:
        raise DataError(
            f"{algorithm.upper()} {wanted} for {path}",
            f"{got} ({path.stat().st_size:,} bytes)",
            "The file is damaged, incomplete or another one: remove it and download it again.",
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged archive raises into a DataError that names it."""
    try:
        yield
    except BROKEN as error:
        raise DataError(
            f"a whole archive at {path}",
            f"{error or type(error).__name__}",
            "Remove it and download it again.",
        ) from error


def members(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """The regular files of a tar, as (name, bytes, stream), in archive order; links and devices are skipped.

    Each stream is good until the next member is asked for.
    """
    with tarfile.open(path, "r:*") as tar:
        for member in tar:
            if member.isfile():
                stream = tar.extractfile(member)
                if stream is not None:
                    yield member.name, member.size, stream
        # tarfile stops at the end mark; the compressed file's own length and checksum come after it.
        while tar.fileobj is not None and tar.fileobj.read(1 << 20):
            pass
