"""docs/doors.md and docs/clinical.md: their Python runs, their configurations are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from memberscope.doors.configured import DoorConfig
from memberscope.types import Findings

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = [
    (path.name, name, code)
    for path in (DOCS / "doors.md", DOCS / "clinical.md")
    for name, code in re.findall(r"<!-- run: (\w+) -->\n```python\n(.*?)```", path.read_text(), re.DOTALL)
]


@pytest.mark.parametrize(("page", "name", "code"), BLOCKS, ids=[name for _, name, _ in BLOCKS])
def test_the_pages_code_runs(page: str, name: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(code, f"{page}: {name}", "exec"), scope)
    findings = scope["findings"]
    assert isinstance(findings, Findings)
    written = list(tmp_path.glob("runs/*/report.html"))
    assert len(written) == (name != "model")


def test_all_python_blocks_are_run() -> None:
    assert [name for _, name, _ in BLOCKS] == ["predictions", "model", "fit", "clinical"]
    assert sum(page.read_text().count("```python") for page in (DOCS / "doors.md", DOCS / "clinical.md")) == len(BLOCKS)


def test_the_pages_configurations_are_valid() -> None:
    found = re.findall(r"```yaml\n(.*?)```", (DOCS / "doors.md").read_text(), re.DOTALL)
    first, second = (DoorConfig.parse(yaml.safe_load(block)) for block in found)
    assert first.predictions is not None and first.gate[0].limit == 0.05
    assert second.model is not None and second.model.references == 16
