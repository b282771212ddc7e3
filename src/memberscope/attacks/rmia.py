"""RMIA: does the record's probability rise more than that of most of the population?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from memberscope.attacks.interface import Attack, Floats, mean_over_queries
from memberscope.attacks.tuning import Tuned, tune
from memberscope.errors import ConfigError
from memberscope.signals.derive import scaled_logits
from memberscope.signals.references import moments
from memberscope.types import Access, Signals

_TINY = np.finfo(np.float64).tiny


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
        kind = "rmia_online" if self.online else "rmia_offline"
        return tune(signals, target, kind, temperature=self.temperature, a=self.a)

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        tuned = self.chosen(signals, target)
        known = moments(signals, target, "p", tuned.temperature)
        if self.online:
            expected = 0.5 * (known.mean_in + known.mean_out)
            # A record that is IN (or OUT) in no model, such as the population, has only the other mean.
            expected = np.where(np.isnan(known.mean_in), known.mean_out, expected)
            expected = np.where(np.isnan(known.mean_out), known.mean_in, expected)
        else:
            expected = 0.5 * ((1 + tuned.a) * known.mean_out + 1 - tuned.a)
        own = -np.logaddexp(0.0, -scaled_logits(signals, tuned.temperature)[target])
        log_r = mean_over_queries(own - np.log(np.maximum(expected, _TINY)))
        population = signals.population if signals.population.any() else np.ones(len(log_r), np.bool_)
        return share_below(log_r - np.log(self.gamma), log_r[population])

    def parameters(self) -> Mapping[str, Any]:
        return {"gamma": self.gamma, "temperature": self.temperature or "tuned on references"} | (
            {} if self.online else {"a": "tuned on references" if self.a is None else self.a}
        )


def share_below(values: Floats, population: Floats) -> Floats:
    """Share of the population below each value, O((N + Z) log Z); NaN where the value is NaN."""
    known = np.sort(population[~np.isnan(population)])
    order = np.argsort(values)
    result = np.empty(len(values))
    # In order, the binary searches walk through the population once and stay in cache.
    result[order] = np.searchsorted(known, values[order], "left") / max(len(known), 1)
    return np.where(np.isnan(values), np.nan, result)


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
