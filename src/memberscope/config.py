"""The configuration file of an audit: validated, unknown keys refused, every default written out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from memberscope.data import load
from memberscope.data.membership import splits
from memberscope.errors import ConfigError, nearest
from memberscope.exports import Exported
from memberscope.statistics.looks import sizes
from memberscope.training.recipe import Recipe
from memberscope.types import Dataset, Gate

if TYPE_CHECKING:
    from memberscope.training.engines import Engine

Analysis = Literal["trajectory", "vulnerability", "outliers", "embedding", "attribution"]
ANALYSES: tuple[Analysis, ...] = get_args(Analysis)

# Epochs after which every record is asked about unless the recipe says otherwise.
KEPT_EPOCHS = 6


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataChoice(BaseModel):
    """Which records: a known name or a path of yours, and the options of its loader beside them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str | None = None
    path: str | list[str] | None = Field(
        default=None, description="where the data lie; of several the first that exists; with a name, its archive"
    )
    records: int | None = Field(default=None, ge=2, description="use this many, drawn at random")

    @model_validator(mode="after")
    def _something(self) -> DataChoice:
        if self.name is None and self.path is None:
            raise ValueError("data needs a name (see 'memberscope data list') or a path")
        return self

    def arguments(self, base: Path) -> tuple[str, dict[str, Any]]:
        """What to call ``load`` with; relative paths are sought from here, then from ``base``."""
        options = dict(self.model_extra or {})
        if self.records is not None:
            options["records"] = self.records
        candidates = [self.path] if isinstance(self.path, str) else list(self.path or [])
        places = [place for path in candidates for place in (Path(path).expanduser(), base / path)]
        found = next((place for place in places if place.exists()), None)
        if self.name is not None:
            # Without the file, the named data set says itself where it belongs or fetches it.
            return self.name, options | ({"path": str(found)} if found else {})
        return str(found or candidates[0]), options


class PoolChoice(_Strict):
    """How many models, and which records each is trained on."""

    models: int = Field(default=16, ge=1, description="targets and references together")
    design: Literal["pairs", "bernoulli"] = "pairs"
    share: float = Field(default=0.5, gt=0, lt=1, description="bernoulli: chance that a model trains on a record")
    population: int = Field(default=0, ge=0, description="records kept out of every model to calibrate attacks")
    validation: int = Field(default=0, ge=0, description="records kept out of the audit, for early stopping alone")
    stack: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="fully connected nets trained at once in one task; auto: as many as pays"
    )
    looks: tuple[Annotated[int, Field(ge=4)], ...] | Literal["auto"] = Field(
        default=(),
        description="numbers of models at which the gates are judged, to stop early; auto: 10, 18, 34 and so on",
    )

    @property
    def looked_at(self) -> tuple[int, ...]:
        """Numbers of models at which the gates are judged; the last is ``models``."""
        return sizes(self.models) if self.looks == "auto" else (*self.looks, self.models)

    @model_validator(mode="after")
    def _rising(self) -> PoolChoice:
        looks = () if self.looks == "auto" else self.looks
        if list(looks) != sorted(set(looks)) or any(look >= self.models for look in looks):
            raise ValueError(f"pool.looks must rise and stay below pool.models ({self.models})")
        if self.design == "pairs" and any(look % 2 for look in looks):
            raise ValueError("pool.looks must be even for pairs")
        return self

    @property
    def stacked(self) -> int | None:
        """``stack`` as ``train_pool`` takes it."""
        return None if self.stack == "auto" else self.stack


class AuditConfig(_Strict):
    """Everything an audit is run from."""

    name: str | None = None
    signals: str | None = Field(default=None, description="an .npz of saved outputs, instead of data, pool and recipe")
    data: DataChoice | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    pool: PoolChoice = PoolChoice()
    targets: list[int] | Literal["all"] = "all"
    attacks: list[str] | Literal["all"] = "all"
    analyses: list[Analysis] | Literal["all", "none"] = Field(
        default="all", description="what to find out about the leaking records"
    )
    gate: list[Gate] = Field(default_factory=list)
    exports: list[Exported] = Field(default_factory=list, description="formats to write the result in, and where")
    seed: int = Field(default=0, ge=0)
    engine: Literal["serial", "processes", "ray"] = "processes"
    ray_address: str | None = Field(default=None, description="of engine ray: host:port, ray://host:port, auto, local")
    gpus_per_model: float | None = Field(
        default=None, ge=0, le=64, description="of engine ray: share of a GPU a task; one on cuda, else none"
    )
    workers: int | None = Field(default=None, ge=1)
    device: str = "cpu"
    out: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            values = dict(values)
            if isinstance(values.get("data"), str):
                word = values["data"]
                values["data"] = {"path": word} if "/" in word or "." in word else {"name": word}
            if isinstance(values.get("gate"), Mapping):
                values["gate"] = [values["gate"]]
            if isinstance(values.get("exports"), str | Mapping):
                values["exports"] = [values["exports"]]
        return values

    @model_validator(mode="after")
    def _one_source(self) -> AuditConfig:
        if (self.signals is None) == (self.data is None):
            raise ValueError("give either data (models are trained) or signals (saved outputs)")
        if self.engine != "ray" and (self.ray_address is not None or self.gpus_per_model is not None):
            raise ValueError("ray_address and gpus_per_model need engine: ray")
        if self.pool.looks and not self.gate:
            raise ValueError("pool.looks needs a gate: without a limit nothing can be decided early")
        if self.pool.design == "pairs" and self.pool.models % 2:
            raise ValueError(f"pool.design pairs needs an even number of models, not {self.pool.models}")
        return self

    def load_records(self, base: Path) -> tuple[Dataset, Dataset | None]:
        """The audited records (and the population), and the validation split if one is asked for.

        Raises:
            MemberscopeError: the data are not there or cannot be read.
        """
        assert self.data is not None
        name, options = self.data.arguments(base)
        options.setdefault("seed", self.seed)
        dataset = load(name, **options)
        if not self.pool.validation:
            return dataset, None
        apart = splits(len(dataset), validation=self.pool.validation, seed=self.seed)
        return dataset.take(apart.audit), dataset.take(apart.validation)

    def make_engine(self) -> str | Engine:
        """Who trains and asks the models."""
        if self.engine != "ray":
            return self.engine
        from memberscope.training.engines import Ray

        share = self.gpus_per_model
        return Ray(self.workers, self.ray_address, float(self.device != "cpu") if share is None else share)

    def chosen_analyses(self) -> tuple[Analysis, ...]:
        """Names of the analyses to make."""
        return ANALYSES if self.analyses == "all" else () if self.analyses == "none" else tuple(self.analyses)

    def trained_recipe(self) -> Recipe:
        """The recipe that models are trained with: with epochs to keep if the trajectory is asked for."""
        recipe = Recipe.parse(self.recipe)
        if "trajectory" in self.recipe or "trajectory" not in self.chosen_analyses():
            return recipe
        return recipe.model_copy(update={"trajectory": spread_epochs(recipe.epochs)})

    @classmethod
    def parse(cls, values: Any) -> AuditConfig:
        """A configuration from plain values.

        Raises:
            ConfigError: an unknown key (the nearest known one is named), or a value of the wrong kind or range.

        >>> AuditConfig.parse({"data": "digits", "sed": 1})
        Traceback (most recent call last):
        ...
        memberscope.errors.ConfigError: ... got unknown key 'sed' (did you mean 'seed'?). ...
        """
        if not isinstance(values, Mapping):
            raise ConfigError(
                "a configuration as keys and values", f"{type(values).__name__}", "Start with 'data: digits'."
            )
        if section := next((key for key in ("predictions", "model") if key in values), ""):
            raise ConfigError(
                "a configuration that trains models or reads signals",
                f"a section {section!r}",
                f"Run 'memberscope audit FILE.yaml', or call audit_{section} in Python.",
            )
        try:
            config = cls.model_validate(dict(values))
        except ValidationError as error:
            raise _as_config_error(error) from error
        Recipe.parse(config.recipe)
        return config

    @classmethod
    def read(cls, path: Path) -> AuditConfig:
        """A configuration from a YAML file.

        Raises:
            ConfigError: the file is missing, not YAML, or as :meth:`parse`.
        """
        values = read_yaml(path, "a configuration")
        if values is None:
            raise ConfigError(f"a configuration in {path}", "an empty file", "Start with 'data: digits'.")
        return cls.parse(values)

    def resolved(self) -> dict[str, Any]:
        """Every value, defaults written out, as it stands in a run's config.yaml."""
        values: dict[str, Any] = self.model_dump(mode="json")
        if self.data is not None:
            values["recipe"] = self.trained_recipe().as_json()
        return values


def spread_epochs(epochs: int, count: int = KEPT_EPOCHS) -> tuple[int, ...]:
    """At most ``count`` epochs from 1 to ``epochs``, closer together at the beginning, where most happens.

    >>> spread_epochs(20), spread_epochs(3)
    ((1, 2, 3, 6, 11, 20), (1, 2, 3))
    """
    steps = [round(epochs ** (step / (count - 1))) for step in range(count)] if count > 1 else [epochs]
    return tuple(sorted(set(steps)))


_KEYS: dict[str, type[BaseModel]] = {"pool": PoolChoice, "data": DataChoice, "gate": Gate, "exports": Exported}


def _as_config_error(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    place = [part for part in first["loc"] if isinstance(part, str) and part not in ("list[int]", "list[str]")]
    where = ".".join(place)
    if first["type"] == "extra_forbidden":
        model = _KEYS.get(place[0], AuditConfig) if len(place) > 1 else AuditConfig
        known = sorted(model.model_fields)
        inside = f" in {place[0]}" if len(place) > 1 else ""
        return ConfigError(
            f"keys{inside} among {', '.join(known)}",
            f"unknown key {place[-1]!r}{nearest(place[-1], known)}",
            "Rename or remove it.",
        )
    message = first["msg"].removeprefix("Value error, ")
    return ConfigError(
        f"a valid {where or 'configuration'}", f"{message}" + (f" ({first['input']!r})" if where else ""), "Change it."
    )


def read_yaml(path: Path, what: str) -> Any:
    """The plain values in a YAML file; ``what`` is what errors call its content, for example ``"a study"``.

    Raises:
        ConfigError: the file is missing or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{what} file {path}", f"{error.strerror or error}", "Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"a YAML file at {path}", " ".join(str(error).split()), "Mend the syntax there.") from error


def write_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML, keys in their order."""
    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))
