"""The server that all tests of endpoints ask, and a description of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint_servers import Running, Server, World
from endpoint_site import SECRET, Site


@pytest.fixture(scope="session")
def serving() -> Iterator[tuple[Server, int]]:
    server = Server(World())
    with Running(server.app) as port:
        yield server, port


@pytest.fixture
def site(serving: tuple[Server, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    server, port = serving
    server.reset()
    monkeypatch.setenv("MODEL_TOKEN", SECRET)
    monkeypatch.chdir(tmp_path)
    return Site(server, server.world, port, tmp_path)
