"""What each model can be told, checked without loading PyTorch, so that a recipe fails before anything runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memberscope.errors import ConfigError, nearest

Width = Annotated[int, Field(ge=1, le=65_536)]
Norm = Literal["batch", "group"]


class Options(BaseModel):
    """Options that every model has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="probability of dropping a unit while training")


class FcnOptions(Options):
    """Fully connected network: by default the paper's for Purchase100."""

    widths: tuple[Width, ...] = Field(default=(1024, 512, 256, 128), min_length=1, description="hidden units a layer")
    activation: Literal["tanh", "relu"] = "tanh"


class CnnOptions(Options):
    """Small convolution network: one 3×3 convolution, 2×2 pooling, norm and ReLU a width, then a hidden layer."""

    widths: tuple[Width, ...] = Field(default=(32, 64, 128), min_length=1, description="channels a stage")
    hidden: Width = Field(default=256, description="units of the layer before the classifier")
    norm: Norm = "batch"


class DensenetOptions(Options):
    """DenseNet-BC; the defaults are DenseNet-BC-100-12."""

    depth: int = Field(default=100, ge=10, description="6 L + 4 layers for L bottlenecks a block")
    growth: int = Field(default=12, ge=1, description="channels that a layer adds")
    norm: Norm = "batch"


class ResnetOptions(Options):
    """ResNet for 32×32 images; the defaults are ResNet-18."""

    width: Width = Field(default=64, description="channels of the first stage; each later stage doubles them")
    blocks: tuple[Width, ...] = Field(default=(2, 2, 2, 2), min_length=1, description="basic blocks a stage")
    norm: Norm = "batch"


class VitOptions(Options):
    """Small Vision Transformer; it has layer normalisation only."""

    patch: int = Field(default=4, ge=1, description="pixels along a patch's side")
    dim: Width = Field(default=192, description="token width; a multiple of heads")
    blocks: Width = Field(default=6, description="transformer blocks")
    heads: Width = Field(default=3, description="attention heads")


OPTIONS: dict[str, type[Options]] = {
    "cnn": CnnOptions,
    "densenet": DensenetOptions,
    "fcn": FcnOptions,
    "resnet": ResnetOptions,
    "vit": VitOptions,
}


def parse_options(name: str, options: dict[str, Any]) -> Options:
    """The checked options of the model ``name``.

    Raises:
        ConfigError: no such model or option (the nearest known one is named), or a value out of range.

    >>> parse_options("fcn", {"widths": [256, 128]}).widths
    (256, 128)
    """
    if name not in OPTIONS:
        raise ConfigError(
            "a known model", f"{name!r}{nearest(name, OPTIONS)}", f"Choose one of {', '.join(sorted(OPTIONS))}."
        )
    kind = OPTIONS[name]
    known = sorted(kind.model_fields)
    for key in options:
        if key not in known:
            raise ConfigError(
                f"options of the model {name!r}", f"{key!r}{nearest(key, known)}", f"It knows {', '.join(known)}."
            )
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        raise as_config_error(error, kind, f"option of the model {name!r}") from error


def as_config_error(error: ValidationError, kind: type[BaseModel], what: str) -> ConfigError:
    """A pydantic error as ours: the first problem, with the key, the value and what the key accepts."""
    problem = error.errors(include_url=False)[0]
    place = [str(part) for part in problem["loc"]]
    key = ".".join(place)
    value = repr(problem["input"])
    value = value if len(value) <= 80 else value[:77] + "..."
    if problem["type"] == "extra_forbidden":
        known = sorted(_fields(kind, place[:-1]))
        return ConfigError(f"a known {what}", f"{key!r}{nearest(place[-1], known)}", f"Known keys: {', '.join(known)}.")
    if problem["type"] == "missing":
        return ConfigError(f"the {what} {key!r}", "nothing", f"Give {key}.")
    message = problem["msg"].removeprefix("Value error, ")
    if not place:
        return ConfigError(f"{what}s that agree with each other", value, f"{message[:1].upper()}{message[1:]}.")
    return ConfigError(f"a valid {what} {key!r}", value, f"{message[:1].upper()}{message[1:]}.")


def _fields(kind: type[BaseModel], place: list[str]) -> list[str]:
    for part in place:
        annotation = kind.model_fields[part].annotation if part in kind.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        kind = annotation
    return list(kind.model_fields)
