"""RMIA: does the record's probability rise more than that of most of the population?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from memberscope.attacks.interface import Attack, Floats
from memberscope.attacks.tuning import Tuned, log_ratio, tune
from memberscope.errors import ConfigError
from memberscope.types import Access, Signals


@dataclass(frozen=True)
class _Rmia(Attack):
    """What both variants share: the share of population z with r(x)/r(z) > γ, r = p_target/p̄.

    Zarifzadeh et al. 2024, "Low-Cost High-Power Membership Inference Attacks", eq. 3 to 5. The population is
    the one given, else all audited records (their membership in the target is not used). Temperature T of the
    probabilities (and a offline) are chosen on references that play target, never on the target itself.

    Args:
        gamma: γ ≥ 1.
        temperature: T > 0; chosen when None.
        a: offline estimate p̄ = ½[(1 + a)·mean p_out + 1 − a], in [0, 1]; chosen when None. Unused online.
    """

    gamma: float = 1.0
    temperature: float | None = None
    a: float | None = None

    online: ClassVar[bool] = False
    source: ClassVar[str] = "Zarifzadeh et al. 2024"
    access: ClassVar[Access] = Access.ROUNDED
    minimum: ClassVar[int] = 1
    recommended: ClassVar[int] = 4

    def __post_init__(self) -> None:
        if self.gamma < 1 or (self.a is not None and not 0 <= self.a <= 1):
            raise ConfigError(
                "gamma of at least 1 and a from 0 to 1", f"gamma={self.gamma}, a={self.a}", "Change them."
            )

    def chosen(self, signals: Signals, target: int) -> Tuned:
        """Temperature and a used for ``target``."""
        return tune(signals, target, self._kind(), temperature=self.temperature, a=self.a)

    @property
    def tunes(self) -> bool:
        return self.temperature is None

    def temperatures(self, signals: Signals, target: int) -> Sequence[float]:
        return (self.chosen(signals, target).temperature,)

    def _kind(self) -> str:
        return "rmia_online" if self.online else "rmia_offline"

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        tuned = self.chosen(signals, target)
        log_r = log_ratio(signals, target, self._kind(), tuned.temperature, tuned.a)
        population = signals.population if signals.population.any() else None
        return share_below(log_r, log_r if population is None else log_r[population], np.log(self.gamma))

    def parameters(self) -> Mapping[str, Any]:
        return {"gamma": self.gamma, "temperature": self.temperature or "tuned on references"} | (
            {} if self.online else {"a": "tuned on references" if self.a is None else self.a}
        )


def share_below(values: Floats, population: Floats, margin: float = 0.0) -> Floats:
    """Share of the population more than ``margin`` below each value, O((N + Z) log Z); NaN where the value is NaN."""
    order = np.argsort(values)
    ordered = values[order]
    if population is values and margin == 0:
        # The values are their own population: the share is the place of the first of equals.
        first = np.arange(len(values))
        first[1:][ordered[1:] == ordered[:-1]] = 0
        below = np.maximum.accumulate(first)
        known = len(values) - int(np.isnan(values).sum())
    else:
        ranked = np.sort(population[~np.isnan(population)])
        known = len(ranked)
        # In order, the binary searches walk through the population once and stay in cache.
        below = np.searchsorted(ranked, ordered - margin, "left")
    result = np.empty(len(values))
    result[order] = below / max(known, 1)
    result[np.isnan(values)] = np.nan
    return result


@dataclass(frozen=True)
class RmiaOffline(_Rmia):
    """p̄ from models that did not train on the record."""

    name: ClassVar[str] = "rmia_offline"
    title: ClassVar[str] = "RMIA, offline"


@dataclass(frozen=True)
class RmiaOnline(_Rmia):
    """p̄ from models that did and did not train on the record, half and half."""

    name: ClassVar[str] = "rmia_online"
    title: ClassVar[str] = "RMIA, online"
    online: ClassVar[bool] = True
    minimum: ClassVar[int] = 2
