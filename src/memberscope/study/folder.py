"""A study's folder: what it is bound to, and the files that it ends with."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from memberscope.config import write_yaml
from memberscope.errors import PoolError
from memberscope.files import read_json, write_json, write_text
from memberscope.study.prepare import Prepared
from memberscope.training.plan import differences
from memberscope.types.study import StudyResult

# What may change from run to run in one folder: the figures of a row do not depend on it.
_FREE = ("rows", "strengths", "recipe", "engine", "workers", "name", "published")


def bind(out: Path, prepared: Prepared) -> None:
    """Bind ``out`` to the study, or refuse if it is bound to another.

    Rows may be added later; the recipe of a row that is there may not change.

    Raises:
        PoolError: the folder holds another study; every differing key is named.
    """
    path = out / "binding.json"
    config = prepared.config.resolved()
    new: dict[str, Any] = {key: value for key, value in config.items() if key not in _FREE}
    new["data"] = {"choice": config["data"], "fingerprint": prepared.dataset.fingerprint}
    if prepared.validation is not None:
        new["data"]["validation"] = prepared.validation.fingerprint
    recipes = {name: recipe.as_json() for name, recipe in prepared.recipes.items()}
    if path.exists():
        old = read_json(path)
        common = {name: recipe for name, recipe in recipes.items() if name in old["recipes"]}
        before = old["study"] | {"recipes": {name: old["recipes"][name] for name in common}}
        if changes := differences(before, new | {"recipes": common}):
            raise PoolError(
                f"the study with which {out} was begun",
                f"another one: {'; '.join(changes)}",
                "Undo the change, or use another folder (or delete this one).",
            )
        recipes = old["recipes"] | recipes
    write_json(path, {"study": new, "recipes": recipes})
    write_text(out / "study.yaml", write_yaml(config))


def study_json(result: StudyResult) -> str:
    """The study document, as study.json and ``--json`` give it."""
    return result.model_dump_json(indent=1) + "\n"


def write_study(out: Path, result: StudyResult, *, page: bool) -> None:
    """Write study.json, study.csv and, with ``page``, index.html."""
    write_text(out / "study.json", study_json(result))
    write_text(out / "study.csv", study_csv(result))
    if page:
        from memberscope.report.study import render_study

        write_text(out / "index.html", render_study(result))


def study_csv(result: StudyResult) -> str:
    """One line a row; a figure is three columns, value, low and high, empty where it could not be measured."""
    lines = [dict(_cells(row.model_dump(mode="json"))) for row in result.rows]
    columns = list(dict.fromkeys(column for line in lines for column in line))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


_DP = ("noise_multiplier", "clip", "sample_rate", "steps", "delta", "accountant", "drawn_batches")
_PUBLISHED = ("train_accuracy", "test_accuracy", "threshold_auc", "threshold_advantage", "train_seconds")
_PARTS = {"dp": _DP, "published": _PUBLISHED}


def _cells(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if key in _PARTS:
            yield from ((f"{key}_{part}", (value or {}).get(part)) for part in _PARTS[key])
        elif key == "reference_tpr_at_fpr":
            for rate, figure in value.items():
                yield from _figure(f"reference_tpr_at_{rate}", figure)
        elif key == "shifted" or (isinstance(value, Mapping) and "value" in value):
            yield from _figure(key, value or {})
        elif isinstance(value, list):
            yield key, " ".join(value)
        else:
            yield key, value


def _figure(key: str, figure: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield key, figure.get("value")
    yield f"{key}_low", figure.get("low")
    yield f"{key}_high", figure.get("high")
