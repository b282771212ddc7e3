"""An audit that stops training when its gates are decided, and one that goes on later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import memberscope as ms
from memberscope.config import AuditConfig
from memberscope.errors import ConfigError


def config(out: Path, limit: float, **pool: Any) -> dict[str, Any]:
    return {
        "data": {"name": "digits", "records": 600},
        "recipe": {"model": {"name": "fcn", "widths": [8]}, "epochs": 2, "precision": "fp32"},
        "pool": {"models": 20, "stack": 1, **pool},
        "analyses": "none",
        "attacks": ["loss", "lira_offline_pooled"],
        "gate": {"metric": "auc", "limit": limit},
        "engine": "serial",
        "out": str(out),
    }


def trained(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "pool").glob("*.safetensors")}


def test_a_decided_gate_ends_the_training_and_more_may_follow(tmp_path: Path) -> None:
    found = ms.audit(config(tmp_path, 0.9, looks=[10, 14]))
    assert found.verdict == "pass"
    assert [look.models for look in found.looks] == [10]
    assert found.looks[0].level == pytest.approx(1 - 0.05 / 4)
    assert "10 models need not be trained" in " ".join(found.summary)
    before = trained(tmp_path)
    assert len(before) == 10 == found.populations["models"] == found.cost["models_trained"]
    # Without looks the same folder is finished, and nothing is trained twice.
    whole = ms.audit(config(tmp_path, 0.9))
    assert len(trained(tmp_path)) == 20 == whole.populations["models"]
    assert trained(tmp_path).items() >= before.items()
    assert whole.looks == []


def test_an_open_gate_goes_to_the_last_look(tmp_path: Path) -> None:
    found = ms.audit(config(tmp_path, 0.5, looks=[10, 14]))
    assert [look.models for look in found.looks] == [10, 14, 20]
    assert found.looks[-1].level == pytest.approx(0.975)
    assert "this is the last look" in found.looks[-1].sentence
    assert len(trained(tmp_path)) == 20
    # Looking changes no model: the same audit without looks finds the same.
    plain = ms.audit(config(tmp_path / "plain", 0.5))
    # Bounds are those of the gates' level, which the looks share.
    one, other = (each.pooled("loss").model_copy(update={"bounds": {}}) for each in (plain, found))
    assert one == other


@pytest.mark.parametrize(
    ("pool", "gate", "said"),
    [
        ({"looks": [14, 10]}, True, "must rise"),
        ({"looks": [20]}, True, "stay below pool.models"),
        ({"looks": [11]}, True, "even for pairs"),
        ({"looks": [2]}, True, "greater than or equal to 4"),
        ({"looks": "auto"}, False, "needs a gate"),
    ],
)
def test_looks_that_make_no_sense_are_refused(tmp_path: Path, pool: dict[str, Any], gate: bool, said: str) -> None:
    values = config(tmp_path, 0.5, **pool)
    if not gate:
        values["gate"] = []
    with pytest.raises(ConfigError, match=said):
        AuditConfig.parse(values)
