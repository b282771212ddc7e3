"""What a study is run from: a YAML file of yours, or a preset at one of its scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from memberscope.config import DataChoice, read_yaml
from memberscope.data import REGISTRY
from memberscope.defences import DEFENCES, defence
from memberscope.errors import ConfigError, DataError, nearest
from memberscope.models.options import as_config_error
from memberscope.study.published import TableName
from memberscope.training.recipe import Recipe

PRESETS = ("purchase100", "cifar10", "cifar100")
SCALES = ("paper", "laptop", "smoke")


class StudyConfig(BaseModel):
    """Defences × targets on one data set; every row on the same records, the same memberships and the same seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = "study"
    scale: str = Field(default="own", description="of a preset")
    data: tuple[DataChoice, ...] = Field(min_length=1, description="of several the first that is here")
    records: int | None = Field(default=None, ge=4, description="that are audited; all others than validation if null")
    validation: int | DataChoice = Field(default=0, description="records for early stopping alone, drawn or your own")
    recipe: dict[str, Any] = Field(default_factory=dict, description="of the undefended models")
    rows: tuple[str, ...] = Field(default=tuple(DEFENCES), min_length=1, description="methods, in the table's order")
    strengths: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="changes to the recipe of single methods, after the defence's own"
    )
    models: int = Field(default=10, ge=2, description="of a row: targets and references together")
    folds: int = Field(default=2, ge=2, description="each model leaves out one of so many parts; 2: pairs of halves")
    seeds: int = Field(default=3, ge=1, description="models of a row that play target")
    seed: int = Field(default=0, ge=0)
    engine: Literal["serial", "processes"] = "processes"
    workers: int | None = Field(default=None, ge=1)
    device: str = "cpu"
    published: TableName | None = Field(default=None, description="the paper's table to stand beside ours")

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        if "data" in values:
            given = values["data"]
            several = given if isinstance(given, list | tuple) else [given]
            values["data"] = [_choice(item) for item in several]
        if isinstance(values.get("rows"), list | tuple):
            rows, strengths = [], dict(values.get("strengths") or {})
            for row in values["rows"]:
                if isinstance(row, Mapping) and set(row) <= {"method", "recipe"} and "method" in row:
                    strengths[str(row["method"])] = dict(row.get("recipe") or {})
                    row = row["method"]
                rows.append(row)
            values |= {"rows": rows, "strengths": strengths}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.rows)) < len(self.rows):
            raise ValueError("rows name each method once")
        if any(choice.records is not None for choice in self.data):
            raise ValueError("records stands beside data in a study, since validation records are drawn too")
        if isinstance(self.validation, int) and self.validation < 0:
            raise ValueError("validation is a number of at least 0, or data of your own")
        return self

    @classmethod
    def parse(cls, values: Any) -> StudyConfig:
        """A study from plain values.

        Raises:
            ConfigError: an unknown key or method (the nearest known one is named), a value of the wrong kind or
                range, fewer models than the targets need, or a recipe that is none.

        >>> StudyConfig.parse({"data": "digits", "rows": ["l2_1e3"]})
        Traceback (most recent call last):
        ...
        memberscope.errors.ConfigError: ... got 'l2_1e3' (did you mean 'l2_1e-3'?). ...
        """
        if not isinstance(values, Mapping):
            raise ConfigError("a study as keys and values", type(values).__name__, "Start with 'data: digits'.")
        try:
            config = cls.model_validate(dict(values))
        except ValidationError as error:
            raise as_config_error(error, cls, "study key") from error
        for method in (*config.rows, *config.strengths):
            defence(method)
        if config.models % config.folds or config.models < config.seeds * config.folds:
            raise ConfigError(
                f"a multiple of {config.folds} models, at least {config.seeds * config.folds} for {config.seeds} "
                f"target{'s' * (config.seeds > 1)} (each in a group of {config.folds} of its own)",
                f"{config.models} models",
                "Raise models, or ask for fewer seeds.",
            )
        Recipe.parse(config.recipe)
        for method, changes in config.strengths.items():
            _check_strength(method, changes)
        return config

    @classmethod
    def read(cls, path: Path) -> StudyConfig:
        """A study from a YAML file, named after the file unless it names itself.

        Raises:
            ConfigError: the file is missing, not YAML, or as :meth:`parse`.
        """
        values = read_yaml(path, "a study")
        if isinstance(values, Mapping):
            values = {"name": path.stem} | dict(values)
        return cls.parse(values)

    def changed(self, **changes: Any) -> StudyConfig:
        """The study with other values, checked anew."""
        return self.parse(self.model_dump() | changes)

    def resolved(self) -> dict[str, Any]:
        """Every value, defaults written out, as it stands in a study's folder; it can be read again."""
        values: dict[str, Any] = self.model_dump(mode="json", exclude_none=True)
        return values | {"recipe": Recipe.parse(self.recipe).as_json()}


def preset(name: str, scale: str = "laptop") -> StudyConfig:
    """A preset at a scale: ``paper`` (the published recipe, on a GPU), ``laptop`` (two cores), ``smoke`` (a check).

    Raises:
        ConfigError: no such preset or scale; the nearest is named.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"a study file (.yaml) or a preset among {', '.join(PRESETS)}",
            f"{name!r}{nearest(name, PRESETS)}",
            "Name one of them.",
        )
    if scale not in SCALES:
        raise ConfigError(f"a scale among {', '.join(SCALES)}", f"{scale!r}{nearest(scale, SCALES)}", "Name one.")
    text = files("memberscope.study").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    scales = values.pop("scales")
    return StudyConfig.parse(values | scales[scale] | {"name": name, "scale": scale})


def with_data(config: StudyConfig, given: str) -> StudyConfig:
    """``config`` on other data: a known name, or where the archive or folder of its own data lies.

    Raises:
        DataError: no such file or folder.
        ConfigError: a word that is neither a known name nor a path.
    """
    if given in REGISTRY:
        return config.changed(data=[{"name": given}])
    if not Path(given).expanduser().exists():
        if "/" not in given and "." not in given:
            raise ConfigError(
                f"a known data set ({', '.join(REGISTRY)}) or an existing path",
                f"{given!r}{nearest(given, REGISTRY)}",
                "Run 'memberscope data list' to see them.",
            )
        raise DataError(f"a data set at {given}", "no such file or folder", "Check --data.")
    known = config.data[0]
    archived = known.name is not None and known.name in REGISTRY and not REGISTRY[known.name].embedded
    changed = known.model_dump(exclude_none=True) if archived else {}
    return config.changed(data=[changed | {"path": given}])


def with_rows(config: StudyConfig, rows: Sequence[str]) -> StudyConfig:
    """``config`` with only these methods, at the strengths that it gives them."""
    return config.changed(rows=[part for row in rows for part in row.split(",") if part])


def with_seeds(config: StudyConfig, seeds: int) -> StudyConfig:
    """``config`` with so many targets, and as many models as they need."""
    return config.changed(seeds=seeds, models=max(config.models, seeds * config.folds))


def _choice(given: Any) -> Any:
    if isinstance(given, str):
        return {"path": given} if "/" in given or "." in given else {"name": given}
    return given


def _check_strength(method: str, changes: Mapping[str, Any]) -> None:
    base = DEFENCES[method].base
    if base:
        raise ConfigError(
            f"recipe changes for the models behind {method!r}, under {base!r}",
            f"changes under {method!r}",
            f"Move them to {base!r}: both rows are measured on the same models.",
        )
    known = list(Recipe.model_fields)
    for key in changes:
        if key not in known:
            raise ConfigError(
                f"a known recipe key for {method!r}",
                f"{key!r}{nearest(key, known)}",
                f"Known keys: {', '.join(known)}.",
            )
