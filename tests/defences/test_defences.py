"""Defences: each changes what its row in the docs says, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memberscope.defences import DEFENCES, defence, defend, revised
from memberscope.errors import ConfigError
from memberscope.training.plan import differences
from memberscope.training.recipe import Recipe

TABLE = Recipe.paper_fcn()
IMAGE = Recipe.parse(Recipe.paper_densenet().as_json() | {"precision": "bf16", "gradient_clip": 5.0})

DP_TABLE = {"batch_size": 256, "optimizer": "sgd", "learning_rate": 0.001, "momentum": 0.0}
DP_IMAGE: dict[str, Any] = {"precision": "fp32", "norm": "group", "gradient_clip": None}
HIGH: dict[str, Any] = {
    "batch_size": 1024,
    "optimizer": "sgd",
    "learning_rate": 2.0,
    "momentum": 0.0,
    "ema": 0.999,
    "privacy.epsilon": 8.0,
    "privacy.noise_multiplier": None,
    "privacy.multiplicity": 4,
}

# What each changes: for a table, for images. The paper's strengths stand in METHODS §7.
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "original": ({}, {}),
    "early_stopping": ({"early_stopping.patience": 10}, {"early_stopping.metric": "accuracy"}),
    "l2_5e-4": ({"weight_decay": 5e-4}, {"weight_decay": 5e-4}),
    "l2_1e-3": ({"weight_decay": 1e-3}, {"weight_decay": 1e-3}),
    "l2_5e-3": ({"weight_decay": 5e-3}, {"weight_decay": 5e-3}),
    "regdrop_25": ({"weight_decay": 5e-4, "dropout": 0.25}, {"weight_decay": 5e-4, "dropout": 0.25}),
    "regdrop_50": ({"weight_decay": 5e-4, "dropout": 0.5}, {"weight_decay": 5e-4, "dropout": 0.5}),
    "label_smoothing": ({"label_smoothing": 0.03}, {"label_smoothing": 0.1}),
    "dp_sgd": (
        DP_TABLE | {"privacy.clip": 1.0, "privacy.noise_multiplier": 1.0},
        DP_IMAGE | {"privacy.clip": 1.0, "privacy.noise_multiplier": 0.5},
    ),
    "augmentation": ({"augmentation.bit_flip": 0.005}, {"augmentation.crop": 4, "augmentation.flip": True}),
    "mixup": ({"mixup": 0.2}, {"mixup": 1.0}),
    "curriculum": ({"curriculum.start": 0.3}, {"curriculum.until": 0.5}),
    "clip_only": (
        DP_TABLE | {"privacy.noise_multiplier": 0.0},
        DP_IMAGE | {"privacy.noise_multiplier": 0.0},
    ),
    "dp_sgd_high_utility": (
        HIGH | {"augmentation.bit_flip": 0.005},
        HIGH | DP_IMAGE | {"augmentation.crop": 4, "schedule": "constant", "milestones": []},
    ),
    "original+reweighting": ({}, {}),
    "regdrop_25+reweighting": ({"weight_decay": 5e-4, "dropout": 0.25}, {"weight_decay": 5e-4, "dropout": 0.25}),
}


def test_every_defence_has_its_row_and_order() -> None:
    assert list(DEFENCES) == list(ROWS)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("kind", ["table", "image"])
def test_changes_are_the_documented_ones_and_no_others(name: str, kind: Any) -> None:
    base = TABLE if kind == "table" else IMAGE
    expected = ROWS[name][kind == "image"]
    changed = defend(name, base, kind)
    values = flat(changed.as_json())
    for key, value in expected.items():
        assert values[key] == value, key
    touched = {line.split(" is ")[0] for line in differences(base.as_json(), changed.as_json())}
    parts = {key.split(".")[0] for key in expected}
    assert {key.split(".")[0] for key in touched} <= parts | ({"privacy"} if changed.privacy else set())
    assert touched or not expected
    # A defended recipe can be built for its kind of records.
    changed.check_inputs((600,) if kind == "table" else (3, 32, 32), 100)


def test_rows_of_output_policies_share_the_models_of_their_base() -> None:
    for name, known in DEFENCES.items():
        assert known.pool == name.removesuffix("+reweighting")
        assert (known.policy == "reweighting") == name.endswith("+reweighting") == (known.family == "output")
        assert defend(name, TABLE, "table") == defend(known.pool, TABLE, "table")


def test_unknown_defence_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'l2_1e-3'"):
        defence("l2_1e3")


def test_revised_recipes_are_checked() -> None:
    with pytest.raises(ConfigError, match="did you mean 'dropout'"):
        revised(TABLE, droput=0.5)
    with pytest.raises(ConfigError, match="mixup"):
        revised(defend("dp_sgd", TABLE, "table"), mixup=0.2)


def test_docs_have_one_row_a_defence() -> None:
    text = (Path(__file__).parents[2] / "docs/defences.md").read_text()
    for name, known in DEFENCES.items():
        assert f"| `{name}` | {known.title} | {known.family} | {known.does} | {known.source} |" in text, name


def test_registry_needs_no_torch() -> None:
    code = "import memberscope.defences, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
