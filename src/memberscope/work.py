"""From a configuration to trained models and their answers: all of a pool, its first models, or one shard of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memberscope.config import AuditConfig
from memberscope.data.membership import bernoulli, complementary_pairs, splits
from memberscope.errors import ConfigError
from memberscope.training.engines import Engine, get_engine, session
from memberscope.training.recipe import Recipe
from memberscope.training.rows import Shard, check_shard, tasks_of
from memberscope.types import Dataset, Pool, Signals


class Clock:
    """Seconds spent in each named step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class Work:
    """What a pool is trained on, how and where.

    Args:
        config: with ``data`` and ``out``.
        engine: that trains and asks.
        dataset: the audited records, and the population.
        validation: records apart, for early stopping; None without.
        recipe: of every model.
        members: ``(M, N)`` of the whole pool.
        population: ``(N,)`` records that no model is trained on.
    """

    config: AuditConfig
    engine: str | Engine
    dataset: Dataset
    validation: Dataset | None
    recipe: Recipe
    members: NDArray[np.bool_]
    population: NDArray[np.bool_]

    @classmethod
    def of(cls, config: AuditConfig, base: Path) -> Work:
        """Load the records and draw the membership.

        Raises:
            MemberscopeError: no folder, data that are not there, a model that cannot take them.
        """
        out_of(config)
        recipe = config.trained_recipe()
        dataset, validation = config.load_records(base)
        recipe.check_inputs(dataset.inputs.shape[1:], dataset.classes)
        choice, n = config.pool, len(dataset)
        population = np.zeros(n, np.bool_)
        if choice.population:
            population[splits(n, population=choice.population, seed=config.seed).population] = True
        audited = np.flatnonzero(~population)
        members = np.zeros((choice.models, n), np.bool_)
        if choice.design == "pairs":
            members[:, audited] = complementary_pairs(choice.models, len(audited), config.seed)
        else:
            members[:, audited] = bernoulli(choice.models, len(audited), choice.share, config.seed)
        return cls(config, config.make_engine(), dataset, validation, recipe, members, population)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Keep the engine's workers from one step to the next."""
        with session(get_engine(self.engine, self.config.workers), self.recipe.threads):
            yield

    def train(self, *, shard: Shard | None = None, until: int | None = None, quiet: bool = True) -> Pool:
        """The pool, as :func:`~memberscope.training.pool.train_pool` makes it; what is finished is kept."""
        from memberscope.training.pool import train_pool

        return train_pool(
            self.dataset,
            self.members,
            self.recipe,
            seed=self.config.seed,
            folder=out_of(self.config) / "pool",
            engine=self.engine,
            workers=self.config.workers,
            device=self.config.device,
            quiet=quiet,
            validation=self.validation,
            stack=self.config.pool.stacked,
            shard=shard,
            until=until,
        )

    def ask(self, pool: Pool, *, quiet: bool = True) -> Signals:
        """The answers of every model of ``pool``."""
        from memberscope.signals.collect import collect

        answers: Signals = collect(pool, self.dataset, folder=self._answers, **self._asking(quiet))
        return answers

    def ask_shard(self, pool: Pool, shard: Shard, *, quiet: bool = True) -> None:
        """The answers of the models of one shard."""
        from memberscope.signals.collect import collect

        collect(pool, self.dataset, folder=self._answers, shard=shard, **self._asking(quiet))

    @property
    def _answers(self) -> Path:
        return out_of(self.config) / "signals"

    def _asking(self, quiet: bool) -> dict[str, Any]:
        config = self.config
        return {
            "engine": self.engine,
            "workers": config.workers,
            "population": self.population,
            "device": config.device,
            "quiet": quiet,
        }


def run_shard(config: AuditConfig, shard: Shard, *, base: Path | None = None, quiet: bool = True) -> dict[str, Any]:
    """Train and ask the models of one shard, beside other processes with the same folder and other shards.

    Args:
        config: as for every shard and for the audit itself.
        shard: ``(i, n)``, 1 <= i <= n.
        base: where relative paths are sought beside the working directory.
        quiet: show no progress.

    Returns:
        ``shard``, ``models`` of the shard, ``untrained`` and ``unasked`` of the whole pool, and a ``sentence`` on
        what is still missing. The audit without a shard does the rest and trains nothing once all are done.

    Raises:
        MemberscopeError: what was expected, what came, what to do.
    """
    from memberscope.signals.ask import answers_path
    from memberscope.training.pool import missing_models

    check_shard(shard)
    if config.data is None:
        raise ConfigError("a configuration with data for a shard", "saved signals", "Leave --shard out.")
    work = Work.of(config, base or Path())
    with work.session():
        pool = work.train(shard=shard, quiet=quiet)
        work.ask_shard(pool, shard, quiet=quiet)
    own = sum(len(task) for task in tasks_of(pool.manifest["plan"]["tasks"], shard))
    untrained = missing_models(pool.folder, len(pool))
    unasked = [row for row in range(len(pool)) if not answers_path(out_of(config) / "signals" / "logits", row).exists()]
    name = f"{shard[0]}/{shard[1]}"
    done = f"Shard {name} is done: {own} of the {len(pool)} models are its own."
    if unasked:
        left = f"Still missing: {len(untrained)} models to train and {len(unasked)} to ask, which other shards do;"
        sentence = f"{done} {left} after them run the same command without --shard."
    else:
        sentence = f"{done} Nothing is missing: run the same command without --shard for the findings."
    return {
        "shard": name,
        "models": own,
        "untrained": len(untrained),
        "unasked": len(unasked),
        "sentence": sentence,
    }


def out_of(config: AuditConfig) -> Path:
    """The folder of the run.

    Raises:
        ConfigError: the configuration names none.
    """
    if config.out is None:
        raise ConfigError(
            "a folder for the pool and the report", "no 'out'", "Add 'out: runs/NAME' or pass --out runs/NAME."
        )
    return Path(config.out)
