"""Who runs the tasks of a plan. An engine decides where and in which order, never what comes out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from memberscope.errors import ConfigError, nearest
from memberscope.training.engines.interface import Engine, Serial
from memberscope.training.engines.processes import Processes
from memberscope.training.engines.ray_cluster import Ray

_ENGINES: dict[str, Callable[[int | None], Engine]] = {
    "serial": lambda workers: Serial(),
    "processes": Processes,
    "ray": Ray,
}


def get_engine(engine: str | Engine, workers: int | None = None) -> Engine:
    """The engine of that name (or the given one), with ``workers`` where it has any.

    Raises:
        ConfigError: no such engine, or fewer than one worker.
    """
    if not isinstance(engine, str):
        return engine
    if engine not in _ENGINES:
        raise ConfigError(
            "a known engine", f"{engine!r}{nearest(engine, _ENGINES)}", f"Choose one of {', '.join(_ENGINES)}."
        )
    return _ENGINES[engine](workers)


def session(engine: Engine, threads: int = 1) -> AbstractContextManager[None]:
    """A context in which several runs of ``engine`` share what is costly to start; ``threads`` as in ``run``."""
    return engine.session(threads) if isinstance(engine, Ray) else nullcontext()


__all__ = ["Engine", "Processes", "Ray", "Serial", "get_engine", "session"]
