"""Everything that can go wrong is found here, before the first model trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memberscope.config import DataChoice
from memberscope.data import REGISTRY, load
from memberscope.data.membership import splits
from memberscope.defences import DEFENCES, Defence, defend, revised
from memberscope.errors import ConfigError, MemberscopeError
from memberscope.study.config import StudyConfig
from memberscope.study.design import fold_members, target_rows
from memberscope.training.engines import get_engine
from memberscope.training.recipe import Recipe
from memberscope.types import Dataset

# The pool that scores how hard a record is, for the curriculum.
SCORER = "original"


@dataclass(frozen=True, eq=False)
class Prepared:
    """A study that can begin.

    Args:
        config: as it was asked for, with the data set that was found.
        dataset: the audited records; order and membership are the same for every row.
        validation: records for early stopping alone, None without.
        members: ``(M, N)`` which records each model of every row trains on.
        recipes: by pool, how its models are trained, in the order of training.
        notes: what a reader should know of the choices made.
    """

    config: StudyConfig
    dataset: Dataset
    validation: Dataset | None
    members: NDArray[np.bool_]
    recipes: dict[str, Recipe]
    notes: tuple[str, ...]

    @property
    def rows(self) -> tuple[Defence, ...]:
        """The methods in the order of the table."""
        return tuple(DEFENCES[name] for name in self.config.rows)

    @cached_property
    def targets(self) -> list[int]:
        """Rows of every pool that play target: those of the seeds in their order, then all others."""
        return target_rows(self.config.seeds, self.config.folds, self.config.models)

    @property
    def size(self) -> int:
        """Records that a model trains on."""
        return int(self.members[0].sum())


def prepare(config: StudyConfig, base: Path | None = None) -> Prepared:
    """Load the records, draw who trains on what, and check every row against them.

    Args:
        config: what to study.
        base: folder from which relative paths are sought too, such as that of the configuration file.

    Raises:
        MemberscopeError: data that are not here, too few records, a recipe that cannot be trained on these records or
            cannot be private, a validation split that overlaps, an engine or device that is not here.
    """
    from memberscope.training.plan import check_extras, describe_environment

    get_engine(config.engine, config.workers)
    choice, notes = _chosen(config, base or Path())
    config = config.changed(data=[choice.model_dump(exclude_none=True)])
    dataset, validation = _records(config, base or Path())
    members = fold_members(config.models, len(dataset), config.folds, config.seed)
    wanted = {DEFENCES[name].pool for name in config.rows}
    if "curriculum" in wanted and SCORER not in wanted:
        notes.append(f"The pool {SCORER!r} is trained too, though it is no row: it scores how hard each record is.")
        wanted.add(SCORER)
    recipes: dict[str, Recipe] = {}
    describe_environment(config.device)
    for name in (name for name in DEFENCES if name in wanted):
        with _about(name):
            recipe = defend(name, Recipe.parse(config.recipe), dataset.kind)
            recipe = revised(recipe, **config.strengths.get(name, {}))
            recipe.check_inputs(dataset.inputs.shape[1:], dataset.classes)
            _check_sizes(recipe, int(members.sum(axis=1).min()), validation)
            difficulty = np.zeros(len(dataset)) if recipe.curriculum else None
            check_extras(dataset, recipe, validation, difficulty)
            if recipe.privacy is not None:
                _check_private(recipe, dataset, int(members.sum(axis=1).min()))
            recipes[name] = recipe
    notes += _few(dataset)
    return Prepared(config, dataset, validation, members, recipes, tuple(notes))


@contextmanager
def _about(method: str) -> Iterator[None]:
    try:
        yield
    except MemberscopeError as error:
        raise type(error)(f"{error.expected} (in the row {method!r})", error.got, error.fix) from error


def _chosen(config: StudyConfig, base: Path) -> tuple[DataChoice, list[str]]:
    """The first of the data sets that is here, and a note if it is not the first."""
    for choice in config.data:
        _, options = choice.arguments(base)
        entry = REGISTRY.get(choice.name or "")
        if entry is None or entry.available or "path" in options:
            if choice == config.data[0] or entry is None:
                return choice, []
            missing = ", ".join(str(other.name) for other in config.data[: config.data.index(choice)])
            return choice, [f"Data: {choice.name} ({entry.description}), since {missing} is not on this machine."]
    # None is here: the loader of the first says where it belongs.
    return config.data[0], []


def _records(config: StudyConfig, base: Path) -> tuple[Dataset, Dataset | None]:
    name, options = config.data[0].arguments(base)
    drawn = config.validation if isinstance(config.validation, int) else 0
    options |= {"seed": config.seed} | ({} if config.records is None else {"records": config.records + drawn})
    dataset = load(name, **options)
    if isinstance(config.validation, DataChoice):
        other, own = config.validation.arguments(base)
        return _enough(dataset), load(other, **own)
    if not drawn:
        return _enough(dataset), None
    parts = splits(len(dataset), validation=drawn, seed=config.seed, labels=dataset.labels)
    return _enough(dataset.take(parts.audit)), dataset.take(parts.validation)


def _enough(dataset: Dataset) -> Dataset:
    present = len(np.unique(dataset.labels))
    if present < 2:
        raise ConfigError(
            "records of at least 2 classes",
            f"{present} among {len(dataset):,} records",
            "Ask for more records, or for data with several classes.",
        )
    return dataset


def _few(dataset: Dataset) -> list[str]:
    """A note on classes so small that a model may never see one of them."""
    counts = np.bincount(dataset.labels, minlength=dataset.classes)
    few = np.flatnonzero((counts > 0) & (counts < 4))
    absent = int((counts == 0).sum())
    said = []
    if len(few):
        said.append(
            f"{len(few)} of {dataset.classes} classes have fewer than 4 records (for example "
            f"{dataset.class_names[few[0]]!r}): a model may train on none of them, and its reweighting then takes a "
            "centroid made of the other classes'."
        )
    if absent:
        said.append(f"{absent} of {dataset.classes} classes have no record among those drawn.")
    return said


def _check_sizes(recipe: Recipe, members: int, validation: Dataset | None) -> None:
    if recipe.batch_size > members:
        raise ConfigError(
            f"batches of at most {members:,} records, as many as a model trains on",
            f"batch_size {recipe.batch_size}",
            "Lower batch_size under strengths, or raise records.",
        )
    if recipe.milestones and recipe.milestones[0] >= recipe.epochs:
        raise ConfigError(
            "epochs that reach the first milestone of the schedule",
            f"{recipe.epochs} epochs, first milestone {recipe.milestones[0]:g}",
            "Raise epochs or lower milestones.",
        )
    if recipe.early_stopping is not None and validation is None:
        raise ConfigError(
            "validation records for early stopping", "none", "Set validation, for example to 1000, or drop the row."
        )


def _check_private(recipe: Recipe, dataset: Dataset, members: int) -> None:
    """Build the model and take a private step, and find the noise for a wanted ε."""
    from memberscope.training.dpsgd import preflight

    preflight(recipe, dataset.inputs.shape[1:], dataset.classes)
    privacy = recipe.privacy
    assert privacy is not None
    from memberscope.training.accounting import delta_of, noise_for, sample_rate_of

    rate, delta = sample_rate_of(recipe.batch_size, members), delta_of(privacy.delta, members)
    if privacy.epsilon is not None:
        noise_for(privacy.epsilon, rate, recipe.epochs * int(1 / rate), delta, privacy.accountant)
