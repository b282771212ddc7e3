"""Files in the official formats, made small, and the folder of real data."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

TarWriter = Callable[[Path, Mapping[str, bytes]], Path]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own, so that no test sees the user's cache."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MEMBERSCOPE_DATA", str(folder))
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, or a skip that says where it was looked for."""
    here = os.environ.get("MEMBERSCOPE_SHARED")
    folder = Path(here) if here else Path(__file__).resolve().parents[3] / "shared" / "data"
    if not (folder / "dataset_location.tgz").is_file():
        pytest.skip(f"no real data at {folder}; set MEMBERSCOPE_SHARED to their folder")
    return folder


@pytest.fixture
def write_tar() -> TarWriter:
    """Write a gzipped tar with these members."""

    def write(path: Path, members: Mapping[str, bytes]) -> Path:
        with tarfile.open(path, "w:gz") as tar:
            for name, content in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def rows_of() -> Callable[..., bytes]:
    """0/1 features as the official archives write them: label first, quoted or not."""

    def rows(inputs: NDArray[np.uint8], labels: NDArray[np.int64], quote: str = '"', end: str = "\n") -> bytes:
        lines = [
            ",".join([f"{quote}{label}{quote}", *map(str, row)])
            for label, row in zip(labels.tolist(), inputs.tolist(), strict=True)
        ]
        return (end.join(lines) + end).encode()

    return rows
