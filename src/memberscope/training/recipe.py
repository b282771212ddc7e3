"""How a model is trained: a validated, frozen recipe. It needs no PyTorch, so that mistakes show at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from memberscope.errors import ConfigError
from memberscope.models import check_shape, parse_options
from memberscope.models.options import Norm, Options, as_config_error

Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine", "step", "onecycle"]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]


class ModelChoice(BaseModel):
    """The model's name and, beside it, its own options: ``{"name": "fcn", "widths": [256, 128]}``."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The options given, unchecked."""
        return dict(self.model_extra or {})


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Augmentation(_Part):
    """Random changes of every record each time it is trained on; never when it is asked about."""

    crop: int = Field(default=0, ge=0, le=64, description="images: shift by up to so many pixels, zeros move in")
    flip: bool = Field(default=False, description="images: mirror left and right, every other time")
    bit_flip: float = Field(default=0.0, ge=0.0, lt=0.5, description="0/1 tables: chance that an entry is flipped")


class EarlyStopping(_Part):
    """Keep the epoch that is best on the validation split; stop when none was better for ``patience`` epochs."""

    patience: Count = 10
    metric: Literal["accuracy", "loss"] = "accuracy"


class Curriculum(_Part):
    """Easy records first (Bengio et al. 2009), by a difficulty that reference models gave each record.

    The share of the records in use grows in a straight line from ``start`` to all, over the first ``until`` of
    the training.
    """

    start: float = Field(default=0.3, gt=0.0, le=1.0, description="share of the easiest records in the first epoch")
    until: float = Field(default=0.5, gt=0.0, le=1.0, description="share of the epochs after which all are in use")


class Privacy(_Part):
    """Training with per-record clipping and noise (DP-SGD; Abadi et al. 2016), on Poisson-sampled batches.

    Give ``epsilon`` (the noise is found) or ``noise_multiplier`` (ε is computed); noise 0 is clipping alone, which
    guarantees nothing. ``batch_size`` of the recipe is the expected batch.
    """

    clip: float = Field(default=1.0, gt=0.0, description="largest norm of a record's gradient, C")
    noise_multiplier: float | None = Field(default=None, ge=0.0, description="σ: noise of standard deviation σ C")
    epsilon: float | None = Field(default=None, gt=0.0, description="target ε at delta")
    delta: float | None = Field(default=None, gt=0.0, lt=1.0, description="below 1/n; default 1e-5, or 0.1/n if less")
    accountant: Literal["prv", "rdp"] = Field(default="prv", description="prv falls back to rdp where it fails")
    physical_batch_size: Count = Field(default=512, description="records whose gradients are held at once")
    multiplicity: Count = Field(default=1, description="augmentations of a record averaged before clipping")
    grad_sample_mode: Literal["ghost", "hooks"] = Field(default="ghost", description="how clipping is computed")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.noise_multiplier is None) == (self.epsilon is None):
            raise ValueError("give either noise_multiplier or epsilon")
        return self


class Recipe(BaseModel):
    """Everything that decides a model's weights, given data, members and seed.

    Threads and precision are part of it, and no engine overrides them, because they change the bytes; what is
    ``auto`` is decided when the plan is made, and written there.
    Epochs may be fractions in ``milestones`` and ``warmup``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: ModelChoice = ModelChoice(name="fcn")
    dropout: Share = Field(default=0.0, description="passed to the model")
    norm: Norm | None = Field(default=None, description="passed to the model; None leaves its default")
    optimizer: Optimizer = "adam"
    learning_rate: float = Field(default=1e-3, gt=0.0)
    momentum: Share = Field(default=0.9, description="SGD only")
    nesterov: bool = Field(default=False, description="SGD only; needs momentum")
    betas: tuple[Share, Share] = Field(default=(0.9, 0.999), description="Adam and AdamW only")
    weight_decay: float = Field(default=0.0, ge=0.0, description="L2 in SGD and Adam, decoupled in AdamW")
    schedule: Schedule = "constant"
    milestones: tuple[float, ...] = Field(
        default=(), description="step: epochs at which the rate is multiplied by gamma"
    )
    gamma: float = Field(default=0.1, gt=0.0, le=1.0, description="step: the factor")
    warmup: float = Field(
        default=0.0, ge=0.0, description="epochs of linear rise from 0; onecycle: until the peak (0: 30 %)"
    )
    epochs: Count = 50
    batch_size: Count = 64
    label_smoothing: Share = 0.0
    gradient_clip: float | None = Field(default=None, gt=0.0, description="largest norm of a batch's gradient")
    early_stopping: EarlyStopping | None = Field(default=None, description="needs a validation split")
    augmentation: Augmentation | None = None
    mixup: float = Field(default=0.0, ge=0.0, description="Beta(α, α) of the mix (Zhang et al. 2018); 0: none")
    curriculum: Curriculum | None = Field(default=None, description="needs a difficulty for every record")
    privacy: Privacy | None = Field(default=None, description="DP-SGD, or clipping alone")
    ema: float | None = Field(
        default=None, gt=0.0, lt=1.0, description="decay of the moving average of the weights that is kept"
    )
    trajectory: Annotated[tuple[Count, ...], Field(max_length=64)] = Field(
        default=(), description="epochs after which every record is asked about; costs an evaluation each"
    )
    loss_trace: bool = Field(default=True, description="keep each training record's loss in every epoch")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="bf16: products in bfloat16, weights stay float32; auto: bf16 where the machine gains by it",
    )
    channels_last: bool | Literal["auto"] = Field(
        default="auto", description="memory format of images; auto: with convolutions in bf16"
    )
    threads: Count = Field(default=1, description="of PyTorch, for one model, whatever the engine")
    evaluation_batch_size: Count = 512

    @model_validator(mode="before")
    @classmethod
    def _model_by_name(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(values.get("model"), str):
            return {**values, "model": {"name": values["model"]}}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise ValueError("nesterov needs optimizer sgd with momentum above 0")
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule step needs milestones, for example [30, 60, 90]")
        if self.milestones and self.schedule != "step":
            raise ValueError("milestones belong to schedule step")
        if list(self.milestones) != sorted(set(self.milestones)) or any(epoch <= 0 for epoch in self.milestones):
            raise ValueError("milestones must be rising epochs above 0")
        if self.warmup >= self.epochs:
            raise ValueError("warmup must be shorter than epochs")
        if list(self.trajectory) != sorted(set(self.trajectory)):
            raise ValueError("trajectory must be rising epochs")
        if self.trajectory and self.trajectory[-1] > self.epochs:
            raise ValueError(f"trajectory asks for epoch {self.trajectory[-1]} of {self.epochs}")
        if self.mixup and self.curriculum:
            raise ValueError("mixup and curriculum cannot be combined: a mixed record has no difficulty")
        if self.privacy is not None:
            self._private(self.privacy)
        for key in ("dropout", "norm"):
            if key in self.model.options:
                raise ValueError(f"{key} stands beside the model, not inside it")
        return self

    def _private(self, privacy: Privacy) -> None:
        """What DP-SGD cannot be combined with, because ε would not hold or would not mean this training."""
        for key in ("mixup", "curriculum", "gradient_clip", "early_stopping"):
            if getattr(self, key):
                raise ValueError(f"privacy cannot be combined with {key}: its ε would not cover what {key} does")
        if self.precision == "bf16":
            raise ValueError("privacy needs precision fp32: clipping in bfloat16 does not bound a record's gradient")
        if privacy.multiplicity > 1 and self.augmentation is None:
            raise ValueError("privacy.multiplicity above 1 needs an augmentation")

    @classmethod
    def parse(cls, mapping: Mapping[str, Any]) -> Recipe:
        """A recipe from plain values, as they come from YAML or a manifest.

        Raises:
            ConfigError: an unknown key (the nearest known one is named), a value out of range, a model
                or option that does not exist.

        >>> Recipe.parse({"model": "cnn", "epochs": 20}).model.name
        'cnn'
        >>> Recipe.parse({"learning_rte": 0.1})
        Traceback (most recent call last):
        ...
        memberscope.errors.ConfigError: ... got 'learning_rte' (did you mean 'learning_rate'?). ...
        """
        if not isinstance(mapping, Mapping):
            raise ConfigError("a recipe as keys and values", repr(mapping), "Give at least a model.")
        try:
            recipe = cls.model_validate(dict(mapping))
        except ValidationError as error:
            raise as_config_error(error, cls, "recipe key") from error
        # A recipe that parses can be built: the model's options are checked here, not at the first model.
        recipe.model_options()
        return recipe

    @classmethod
    def paper_fcn(cls) -> Recipe:
        """Purchase100 as published: Adam 5e-4, batch 32, 200 epochs (METHODS §7)."""
        return cls(learning_rate=5e-4, batch_size=32, epochs=200)

    @classmethod
    def paper_densenet(cls) -> Recipe:
        """CIFAR-10 as published: SGD .1, momentum .9, batch 64, 100 epochs, ÷10 at 30, 60, 90 (METHODS §7)."""
        return cls(
            model=ModelChoice(name="densenet"),
            optimizer="sgd",
            learning_rate=0.1,
            batch_size=64,
            epochs=100,
            schedule="step",
            milestones=(30, 60, 90),
            channels_last=True,
        )

    def model_options(self) -> dict[str, Any]:
        """The options with which the model is built, defaults, dropout and norm among them.

        Raises:
            ConfigError: the model does not know one of them, or a value is out of range.
        """
        return dict(self._options())

    def check_inputs(self, input_shape: tuple[int, ...], classes: int) -> None:
        """Raise a ConfigError if the model cannot take such inputs; costs nothing, needs no PyTorch."""
        check_shape(self.model.name, input_shape, classes, self._options())
        change = self.augmentation
        if change is not None and (change.crop or change.flip) and len(input_shape) != 3:
            raise ConfigError(
                "images for the augmentations crop and flip",
                f"inputs of shape {input_shape}",
                "Use bit_flip for tables.",
            )
        if change is not None and change.bit_flip and len(input_shape) != 1:
            raise ConfigError(
                "a table of 0 and 1 for bit_flip", f"inputs of shape {input_shape}", "Use crop and flip for images."
            )

    def as_json(self) -> dict[str, Any]:
        """The recipe as plain JSON values, every default written out, those of the model too."""
        options = self._options().model_dump(mode="json", exclude={"dropout", "norm"})
        return self.model_dump(mode="json") | {"model": {"name": self.model.name, **options}}

    def _options(self) -> Options:
        shared = {"dropout": self.dropout} | ({} if self.norm is None else {"norm": self.norm})
        options = parse_options(self.model.name, self.model.options | shared)
        if self.batch_size == 1 and getattr(options, "norm", None) == "batch":
            raise ConfigError(
                "batches of at least 2 for batch normalisation",
                "batch_size 1",
                "Raise batch_size, or set norm to group.",
            )
        if self.privacy is not None and getattr(options, "norm", None) == "batch":
            raise ConfigError(
                f"a model without batch normalisation for privacy (here {self.model.name!r})",
                "norm batch, which mixes the records of a batch, so that no record's gradient can be clipped",
                "Set norm to group.",
            )
        return options
