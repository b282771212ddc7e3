"""docs/endpoint.md: its example runs as it stands there, its tables are the code's."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from endpoint_servers import Running
from pydantic import BaseModel

from commands import command
from memberscope.targets.http.config import Budget, Endpoint, InputForm, Robustness

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/endpoint.md").read_text()
EXAMPLE = ROOT / "examples/endpoint.yaml"


def test_the_worked_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = re.findall(r"<!-- server -->\n```python\n(.*?)```", TEXT, re.DOTALL)[0]
    server = types.ModuleType("server")
    # FastAPI looks annotations up in the module.
    monkeypatch.setitem(sys.modules, "server", server)
    exec(compile(source, "docs/endpoint.md", "exec"), server.__dict__)
    console = re.findall(r"<!-- run -->\n```console\n(.*?)```", TEXT, re.DOTALL)
    dry, real = ([line[2:] for line in text.splitlines() if line.startswith("$ ")] for text in console)
    with Running(server.app) as port:
        described = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[0]
        (tmp_path / "endpoint.yaml").write_text(described.replace(":8000", f":{port}"))
        status, said, _ = command(dry[0].split()[1:], capsys)
        assert status == 0 and said == console[0].splitlines(keepends=True)[1]
        monkeypatch.setenv(*real[0].removeprefix("export ").split("="))
        status, said, noise = command(real[1].replace("'", "").split()[1:], capsys)
    assert status == 1, noise
    assert "probabilities of 2 classes rounded to 2 decimals" in noise and said.strip().startswith("FAIL")
    assert (tmp_path / "runs/clinic/report.html").exists()
    assert command(["report", "runs/clinic"], capsys)[0] == 0


def test_the_example_file_is_the_documented_one() -> None:
    assert EXAMPLE.read_text() in TEXT
    assert Endpoint.read(EXAMPLE).name == "clinic"


@pytest.mark.parametrize("model", [Endpoint, Budget, InputForm, Robustness])
def test_every_key_stands_there_with_its_meaning_and_default(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{name}` | {field.description} |"))
        shown = row.split("|")[3].strip().strip("`").replace(",", "")
        default: Any = "required" if field.is_required() else field.get_default()
        if isinstance(default, str | int | float) and not isinstance(default, bool):
            assert str(default).removesuffix(".0") == shown


def test_other_yaml_is_valid() -> None:
    whole = yaml.safe_load(EXAMPLE.read_text())
    for text in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[1:]:
        Endpoint.parse(whole | yaml.safe_load(text))
