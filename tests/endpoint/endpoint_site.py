"""A running server as a test sees it: descriptions of its routes, records, and a folder to write to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from endpoint_servers import MEMBERS, Server, World

SECRET = "sk-test-0123456789/+abcDEF"


@dataclass
class Site:
    """A running server, records, and where a test writes."""

    server: Server
    world: World
    port: int
    folder: Path

    def values(self, route: str, **changes: Any) -> dict[str, Any]:
        """A description of ``route``; a change to None leaves a key out."""
        made = {
            "uri": f"http://127.0.0.1:{self.port}/{route}",
            "request": {"x": "$INPUT"},
            "scores": "$.scores",
            "backoff": 0.02,
            "budget": {"requests": 2000, "per_record": 5},
        } | changes
        return {key: value for key, value in made.items() if value is not None}

    def describe(self, route: str, **changes: Any) -> Path:
        path = self.folder / "endpoint.yaml"
        path.write_text(yaml.safe_dump(self.values(route, **changes)))
        return path

    def candidates(self, count: int = 60, *, member: bool = True, name: str = "candidates.csv", **options: Any) -> Path:
        """Half of them members."""
        rows = np.r_[0 : count // 2, MEMBERS : MEMBERS + count // 2]
        return self.world.table(self.folder / name, rows.tolist(), member=member, **options)

    def population(self, count: int = 60) -> Path:
        rows = range(400, 400 + count)
        return self.world.table(self.folder / "population.csv", rows, member=False)

    @property
    def out(self) -> Path:
        return self.folder / "run"

    def files_with(self, word: str) -> list[str]:
        """Files below the test's folder that contain ``word``, in any case."""
        return [
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.is_file() and word.lower().encode() in path.read_bytes().lower()
        ]
