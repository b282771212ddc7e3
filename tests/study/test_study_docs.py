"""The docs on studies and defences: their code runs, their example is a study, their columns are all there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from memberscope.study import StudyConfig
from memberscope.study.prepare import prepare
from memberscope.types.study import StudyRow

DOCS = Path(__file__).parents[2] / "docs"


def test_documented_study_can_begin() -> None:
    text = (DOCS / "study.md").read_text()
    values = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    found = prepare(StudyConfig.parse(values | {"rows": ["original", "l2_1e-3", "original+reweighting"]}))
    assert found.recipes["l2_1e-3"].epochs == 20 and len(found.dataset) == 1200
    assert StudyConfig.parse(values).strengths["dp_sgd"]["epochs"] == 5
    for key in StudyConfig.model_fields:
        assert re.search(rf"\b{key}\b", text), key


def test_every_column_is_explained() -> None:
    text = (DOCS / "study.md").read_text()
    for name in StudyRow.model_fields:
        if name not in ("method", "seed", "title", "family", "target"):
            assert f"`{name}`" in text, name


@pytest.mark.parametrize("number", range(2))
def test_documented_code_runs(number: int) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "defences.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    exec(compile(blocks[number], f"defences.md block {number}", "exec"), {})
