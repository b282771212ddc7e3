"""The sections ``predictions:`` and ``model:`` of a configuration: one command audits what is saved on disk."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from memberscope.config import DataChoice, read_yaml
from memberscope.data import load
from memberscope.doors.model import audit_model
from memberscope.doors.outputs import Kind
from memberscope.doors.predictions import audit_predictions
from memberscope.errors import ConfigError, nearest
from memberscope.exports import Exported
from memberscope.run_folder import export_run, read_baselines
from memberscope.targets.estimator import Estimator, load_skops
from memberscope.targets.module import Module, load_weights
from memberscope.targets.onnx_file import OnnxFile
from memberscope.types import Dataset, Findings, Gate

SECTIONS = ("predictions", "model")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PredictionsChoice(_Strict):
    """Files of saved predictions; every key is an argument of :func:`audit_predictions`."""

    path: str
    references: list[str] = Field(default_factory=list)
    membership: str | None = None
    kind: Kind = "auto"
    class_names: list[str] = Field(default_factory=list)
    id: str | None = None
    label: str | None = None
    member: str | None = None
    ignore: list[str] = Field(default_factory=list)
    delimiter: str | None = None
    decimal: str | None = None
    encoding: str | None = None


class ModelChoice(_Strict):
    """A saved model and the records to ask it about.

    ``kind``: ``onnx``; ``skops``, with the types that you have ``trusted`` after reviewing them; or ``torch``, weights
    alone, with ``module`` naming a function ``package.file:function`` that builds the architecture. ``references`` are
    trained for ``skops`` by cloning the estimator.
    """

    kind: Literal["onnx", "skops", "torch"]
    path: str
    members: DataChoice
    nonmembers: DataChoice
    trusted: list[str] = Field(default_factory=list)
    module: str | None = None
    ask: str | None = None
    scores: Kind = "auto"
    class_names: list[str] = Field(default_factory=list)
    references: int = Field(default=0, ge=0)
    batch_size: int = Field(default=1024, ge=1)
    device: str = "cpu"

    @model_validator(mode="before")
    @classmethod
    def _paths(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            values = dict(values)
            for side in ("members", "nonmembers"):
                if isinstance(values.get(side), str):
                    values[side] = {"path": values[side]}
        return values

    @model_validator(mode="after")
    def _fits(self) -> ModelChoice:
        if (self.kind == "torch") != (self.module is not None):
            raise ValueError("module is for kind torch, and needed there: package.file:function")
        if self.references and self.kind != "skops":
            raise ValueError("references need training code: kind skops here, or audit_model(..., fit=) in Python")
        return self


class DoorConfig(_Strict):
    """A configuration with one of the two sections."""

    name: str | None = None
    predictions: PredictionsChoice | None = None
    model: ModelChoice | None = None
    attacks: list[str] | Literal["all"] = "all"
    analyses: list[str] | Literal["all", "none"] = "all"
    gate: list[Gate] = Field(default_factory=list)
    exports: list[Exported] = Field(default_factory=list)
    seed: int = Field(default=0, ge=0)
    workers: int | None = Field(default=None, ge=1)
    out: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            values = dict(values)
            if isinstance(values.get("gate"), Mapping):
                values["gate"] = [values["gate"]]
            if isinstance(values.get("exports"), str | Mapping):
                values["exports"] = [values["exports"]]
            if isinstance(values.get("predictions"), str):
                values["predictions"] = {"path": values["predictions"]}
        return values

    @model_validator(mode="after")
    def _one(self) -> DoorConfig:
        if (self.predictions is None) == (self.model is None):
            raise ValueError("give either predictions or model")
        return self

    @classmethod
    def parse(cls, values: Any) -> DoorConfig:
        """A configuration from plain values.

        Raises:
            ConfigError: an unknown key (the nearest known one is named), or a value of the wrong kind or range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = [str(part) for part in first["loc"]]
            if first["type"] == "extra_forbidden":
                sections: dict[str, type[BaseModel]] = {"predictions": PredictionsChoice, "model": ModelChoice}
                known = sorted((sections.get(place[0], cls) if len(place) > 1 else cls).model_fields)
                raise ConfigError(
                    f"keys{f' in {place[0]}' if len(place) > 1 else ''} among {', '.join(known)}",
                    f"unknown key {place[-1]!r}{nearest(place[-1], known)}",
                    "Rename or remove it.",
                ) from error
            said = first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"a valid {'.'.join(place) or 'configuration'}", said, "Change it.") from error


def is_door(path: Path) -> bool:
    """Whether the YAML file at ``path`` has one of the two sections."""
    values = read_yaml(path, "a configuration")
    return isinstance(values, Mapping) and any(section in values for section in SECTIONS)


def audit_configured(
    config: DoorConfig, *, base: Path | None = None, name: str = "audit", source: Path | None = None, quiet: bool = True
) -> Findings:
    """Do what a configuration with a section ``predictions`` or ``model`` says, exports included.

    Args:
        config: validated.
        base: where relative paths are sought if they are not here.
        name: of the audit unless the configuration says one.
        source: the file that the configuration was read from, at whose lines exports point.
        quiet: show no progress.
    """
    if config.exports and config.out is None:
        raise ConfigError("a run folder, which exports are written from", "no 'out'", "Add 'out: runs/NAME'.")
    gates = [
        g if g.baseline is None else g.model_copy(update={"baseline": str(_found(g.baseline, base))})
        for g in config.gate
    ]
    # Before the model is asked anything: a baseline that is not there would only be missed at the end.
    read_baselines(gates)
    findings = _audited(config.model_copy(update={"gate": gates}), base, name, quiet)
    if config.out is not None and config.exports:
        at = str(source) if source is not None else None
        asked = [one if one.config or not at else one.model_copy(update={"config": at}) for one in config.exports]
        export_run(Path(config.out), findings, asked)
    return findings


def _audited(config: DoorConfig, base: Path | None, name: str, quiet: bool) -> Findings:
    options: dict[str, Any] = {
        "attacks": None if config.attacks == "all" else config.attacks,
        "analyses": None if config.analyses == "all" else () if config.analyses == "none" else config.analyses,
        "gate": config.gate,
        "name": config.name or name,
        "seed": config.seed,
        "out": config.out,
        "quiet": quiet,
    }
    if config.predictions is not None:
        given = config.predictions.model_dump()
        path = _found(given.pop("path"), base)
        references = [_found(each, base) for each in given.pop("references")]
        if given["membership"] is not None:
            given["membership"] = _found(given["membership"], base)
        return audit_predictions(path, references, **given, **options)
    assert config.model is not None
    choice = config.model
    members = _records(choice.members, base)
    nonmembers = _records(choice.nonmembers, base, members.class_names)
    return audit_model(
        _load(choice, base),
        members=members,
        nonmembers=nonmembers,
        references=choice.references,
        kind=choice.scores,
        class_names=choice.class_names,
        ask=choice.ask,
        batch_size=choice.batch_size,
        device=choice.device,
        workers=config.workers,
        **options,
    )


def _found(path: str, base: Path | None) -> Path:
    here = Path(path).expanduser()
    return here if base is None or here.exists() or not (base / here).exists() else base / here


def _records(choice: DataChoice, base: Path | None, class_names: Sequence[str] = ()) -> Dataset:
    name, options = choice.arguments(base or Path())
    if class_names and choice.path is not None and choice.name is None and Path(name).suffix:
        # Both sides are numbered alike, also where one of them lacks a class.
        options.setdefault("class_names", list(class_names))
    return load(name, **options)


def _load(choice: ModelChoice, base: Path | None) -> Any:
    path = _found(choice.path, base)
    if choice.kind == "onnx":
        return OnnxFile.of(path, output=choice.ask, batch_size=choice.batch_size)
    if choice.kind == "skops":
        return Estimator.of(load_skops(path, choice.trusted), choice.ask)
    assert choice.module is not None
    return Module(load_weights(path, _built(choice.module, base)), choice.batch_size, choice.device)


def _built(place: str, base: Path | None) -> Any:
    """What the function at ``package.file:function`` builds; sought beside the configuration too."""
    module, _, function = place.partition(":")
    before = list(sys.path)
    sys.path[:0] = [str(folder) for folder in (base or Path(), Path())]
    try:
        build = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            "module as package.file:function, a function that builds the network",
            f"{place!r} ({error})",
            "Put the file beside the configuration and name the function.",
        ) from error
    finally:
        sys.path[:] = before
    return build()
