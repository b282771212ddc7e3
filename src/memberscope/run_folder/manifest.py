"""manifest.json: the SHA-256 of every file of a run, and one digest over all of them that can be kept elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from memberscope import __version__
from memberscope.errors import ConfigError, PoolError
from memberscope.files import atomic, read_json, sha256_file, sha256_json, write_json
from memberscope.large import in_threads, threads

SCHEMA = "1.1"
# Stands in a sealed file where the digest will stand; the file is hashed with it.
UNSEALED = "0" * 64
_NAME = "manifest.json"


@dataclass(frozen=True)
class Problem:
    """One difference between a run folder and its manifest."""

    kind: Literal["missing", "changed", "added", "manifest", "digest", "uncovered"]
    path: str
    sentence: str


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found.

    Args:
        digest: of the folder's manifest.
        files: compared.
        problems: empty if every file is as it was written.
    """

    digest: str
    files: int
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems

    @property
    def status(self) -> int:
        """Of the command: 0, 1 if something differs, 3 if an older manifest leaves files out and nothing differs."""
        return 0 if self.ok else 3 if all(problem.kind == "uncovered" for problem in self.problems) else 1

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        if self.status == 3:
            return (
                f"The {self.files} files that the manifest names are as the audit wrote them; {len(self.problems)} "
                "others are not covered, because an older version wrote it: 'memberscope report RUN' takes them in "
                "as they are."
            )
        if self.ok:
            return f"All {self.files} files are as the audit wrote them."
        count = len(self.problems)
        return f"{count} thing{'s' * (count > 1)} differ{'s' * (count == 1)} from what the audit wrote."


def seal(folder: Path, touched: Iterable[Path] | None = None, sealed: Iterable[Path] = ()) -> str:
    """Write manifest.json, and its digest into the files that show it.

    Args:
        folder: of the run.
        touched: files that were written just now; the hashes of others stay as they were, so that what was altered
            meanwhile is not blessed. None hashes every file anew.
        sealed: text files among them that hold :data:`UNSEALED` where the digest belongs.

    Returns:
        The digest: SHA-256 of the manifest's content, which covers the hash of every file.

    Raises:
        PoolError: the folder cannot be read or written.
    """
    old = _read(folder) if touched is not None and (folder / _NAME).exists() else {}
    files: dict[str, str] = dict(old.get("files", {}))
    showing: dict[str, None] = dict.fromkeys(old.get("sealed", []))
    # A manifest of before schema 1.1 named the chief files alone; the others are taken in as they are.
    every = [
        path
        for path in _walk(folder)
        if touched is None or (not old.get("digest") and _name(folder, path) not in files)
    ]
    paths = list(dict.fromkeys([*every, *(path for path in touched or () if path.exists())]))
    fresh = {_name(folder, path): None for path in sealed if UNSEALED.encode() in path.read_bytes()}
    known = str(old.get("digest", ""))
    for name, digest in zip((_name(folder, path) for path in paths), _hashes(paths), strict=True):
        files[name] = digest
        if name not in fresh:
            showing.pop(name, None)
    showing |= fresh
    content = _content(files, [name for name in showing if name in files])
    digest = sha256_json(content)
    for name in content["sealed"]:
        _replace(folder / name, UNSEALED if name in fresh else known, digest)
    write_json(folder / _NAME, content | {"digest": digest})
    return digest


def digest_of(folder: Path) -> str:
    """The digest that the folder's manifest states; empty for a run before there was one.

    Raises:
        PoolError: no manifest.
    """
    return str(_read(folder).get("digest", ""))


def verify(folder: str | Path, digest: str | None = None) -> Verification:
    """Hold every file of a run folder against the manifest, and the manifest against its digest.

    Args:
        folder: that an audit wrote.
        digest: as the audit printed it or the report shows it, 12 characters or more of it. Who can change the files
            can change the manifest and the report as well: only a digest kept elsewhere tells.

    Raises:
        PoolError: no such folder, or no manifest in it.
        ConfigError: ``digest`` is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PoolError(f"a run folder {folder}", "no such folder", "Name a folder that an audit wrote.")
    manifest = _read(folder)
    stated, files = str(manifest.get("digest", "")), dict(manifest["files"])
    sealed = [str(name) for name in manifest.get("sealed", [])]
    own = sha256_json({key: value for key, value in manifest.items() if key != "digest"})
    problems = []
    if stated and own != stated:
        problems.append(Problem("manifest", _NAME, "manifest.json was altered: its digest does not fit its content."))
    if digest is not None and not _same(stated, digest):
        said = f"The digest is {stated[:12] or 'not there'}…, not {digest[:12]}…: this is not the run that was sealed."
        problems.append(Problem("digest", _NAME, said))
    there = {_name(folder, path): path for path in _walk(folder)}
    names = [name for name in files if name in there]
    plain = [name for name in names if name not in sealed]
    found = dict(zip(plain, _hashes([there[name] for name in plain]), strict=True))
    for name in sorted(set(files) | set(there)):
        if name not in there:
            problems.append(Problem("missing", name, f"{name} is missing."))
        elif name not in files:
            problems.append(_unlisted(name, old=not stated))
        elif name in sealed:
            shown = there[name].read_bytes()
            ways = (shown.replace(mark.encode(), UNSEALED.encode()) for mark in {stated, own})
            if all(_sha256(way) != files[name] for way in ways):
                problems.append(Problem("changed", name, f"{name} was changed."))
        elif found[name] != files[name]:
            problems.append(Problem("changed", name, f"{name} was changed."))
    return Verification(stated, len(names), problems)


def _unlisted(name: str, *, old: bool) -> Problem:
    # Before schema 1.1 the manifest named the chief files alone.
    if old:
        return Problem("uncovered", name, f"{name} is not covered: this run's manifest is of an older kind.")
    return Problem("added", name, f"{name} was added.")


def _same(stated: str, digest: str) -> bool:
    wanted = digest.strip().lower().removesuffix("…")
    if len(wanted) < 12 or set(wanted) - set("0123456789abcdef"):
        raise ConfigError(
            "a digest of 12 to 64 hexadecimal digits", repr(digest), "Copy it from the audit's output or its report."
        )
    return stated.startswith(wanted)


def _read(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / _NAME)
    files = manifest.get("files") if isinstance(manifest, Mapping) else None
    names = [*(files or ()), *manifest.get("sealed", [])] if isinstance(manifest, Mapping) else []
    # A name that leads out of the folder would have other files read, or written when the run is sealed again.
    outside = any(Path(name).is_absolute() or ".." in Path(name).parts for name in map(str, names))
    if not isinstance(files, Mapping) or outside or not all(isinstance(value, str) for value in files.values()):
        raise PoolError(f"a manifest in {folder / _NAME}", "another document", "Name a folder that an audit wrote.")
    return dict(manifest)


def _content(files: Mapping[str, str], sealed: Iterable[str]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA,
        "memberscope": __version__,
        "note": "SHA-256 of every file; those under sealed are hashed with 64 zeros in place of the digest they show.",
        "files": dict(sorted(files.items())),
        "sealed": sorted(sealed),
    }


def _walk(folder: Path) -> Iterator[Path]:
    """Every file of the run, links followed, but for the manifest itself and locks."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            lock = name == ".lock" or name.startswith(".lock-")
            if not lock and path != folder / _NAME:
                yield path


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _hashes(paths: list[Path]) -> list[str]:
    size = sum(path.stat().st_size for path in paths if path.exists())
    return list(in_threads(_hash, paths, threads(size)))


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise PoolError(f"to read {path}", str(error.strerror or error), "Check the file.") from error


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def _replace(path: Path, old: str, new: str) -> None:
    content = path.read_bytes().replace(old.encode(), new.encode())
    with atomic(path) as file:
        file.write(content)
