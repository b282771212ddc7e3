"""LiRA whose means and variances are both shrunk towards what all records have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, polygamma

from memberscope.attacks.bavaria import MOST_DEGREES, trigamma_inverse
from memberscope.attacks.interface import Attack, Floats, mean_over_queries, settled
from memberscope.signals.derive import scaled_logits
from memberscope.signals.references import Moments, by_id, moments, of_pair
from memberscope.types import Access, Signals

# Trends are piecewise linear between quantiles: enough to follow the curves seen, too few to follow noise.
_KNOTS = 9
_RECORDS_A_KNOT = 40
_RIDGE = 1e-6
_ROUNDS = 4

# Records that the trends are fitted on: their standard error is far below the noise of any record by then.
_FITTED = 20_000


@dataclass(frozen=True)
class LiraHierarchical(Attack):
    """log t(φ; IN) − log t(φ; OUT), every record's means and variances shrunk by priors fitted over records.

    A record's IN and OUT means follow each other closely: each is shrunk towards its regression on the other
    (Efron & Morris 1973), by the variance of the regression against that of the mean. Variances depend on the
    mean: each is shrunk towards a trend of log s² in the mean (Smyth 2004, §6.2, with a trend for the constant
    s₀², as limma does). The predictive density of φ is a Student t as in BaVarIA (Brännvall 2026), around the
    shrunk mean, with the posterior variance of the mean in place of σ²/n. The likelihood ratio is LiRA's (Carlini
    et al. 2022). docs/attacks.md has the derivation. All priors come from the references; nothing is tuned.
    """

    name: ClassVar[str] = "lira_hierarchical"
    title: ClassVar[str] = "LiRA, hierarchical (means and variances shrunk)"
    source: ClassVar[str] = "Efron & Morris 1973; Smyth 2004; Carlini et al. 2022"
    access: ClassVar[Access] = Access.ROUNDED
    minimum: ClassVar[int] = 2
    recommended: ClassVar[int] = 8
    contrasts: ClassVar[bool] = True

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        phi, known = scaled_logits(signals)[target], moments(signals, target)
        shrunk = of_pair(
            signals, target, self, lambda: [shrink(known, q, _spread(signals)) for q in range(phi.shape[1])]
        )
        densities = [one.densities(phi[:, q]) for q, one in enumerate(shrunk)]
        return settled(mean_over_queries(np.stack([inside - outside for inside, outside in densities], axis=1)))


def _spread(signals: Signals) -> NDArray[np.int64]:
    """The records that trends are fitted on, spread over the ids."""
    order = by_id(signals)[0]
    return np.asarray(order[np.linspace(0, len(order) - 1, min(len(order), _FITTED)).round().astype(np.int64)])


@dataclass(frozen=True, eq=False)
class Side:
    """Predictive of one side, ``(N,)`` each: a Student t with ``degrees`` around ``mean``, squared scale ``spread``."""

    mean: Floats
    spread: Floats
    degrees: Floats

    def z(self, phi: Floats) -> Floats:
        """φ in units of the predictive's scale around its mean."""
        return np.asarray((phi - self.mean) / np.sqrt(self.spread))

    def log_density(self, phi: Floats) -> Floats:
        """log t(φ), ``(N,)``."""
        # Most records have equally many references.
        degrees, place = np.unique(self.degrees, return_inverse=True)
        constant = (gammaln((degrees + 1) / 2) - gammaln(degrees / 2) - 0.5 * np.log(degrees * np.pi))[place]
        square = (phi - self.mean) ** 2 / self.spread
        return np.asarray(
            constant - 0.5 * np.log(self.spread) - (self.degrees + 1) / 2 * np.log1p(square / self.degrees)
        )


@dataclass(frozen=True, eq=False)
class Shrunk:
    """Both predictives of every record; NaN where a side has no reference."""

    inside: Side
    outside: Side

    def densities(self, phi: Floats) -> tuple[Floats, Floats]:
        """log densities of ``phi (N,)`` under IN and under OUT."""
        return self.inside.log_density(phi), self.outside.log_density(phi)


def shrink(known: Moments, query: int, chosen: NDArray[np.int64] | None = None) -> Shrunk:
    """The hierarchical model of one query.

    Args:
        known: moments of φ over the references.
        query: which of the queries.
        chosen: records to fit the priors on; all when None.
    """
    n = known.n_in, known.n_out
    mean = known.mean_in[:, query], known.mean_out[:, query]
    own = tuple(np.maximum(count - 1, 0) for count in n)
    raw = tuple(np.nan_to_num(variance[:, query]) for variance in (known.var_in, known.var_out))
    fit = np.arange(len(n[0])) if chosen is None else chosen
    # The regression of one mean on the other needs both.
    fit = fit[(n[0][fit] > 0) & (n[1][fit] > 0)]
    if not len(fit):
        nothing = np.full(len(n[0]), np.nan)
        return Shrunk(Side(nothing, nothing, nothing + 1), Side(nothing, nothing, nothing + 1))
    spread = [_variance(raw[s], own[s], mean[s], fit)[0] for s in (0, 1)]
    sides = []
    for s in (0, 1):
        replicated = bool((own[s][fit] > 0).any())
        centre, uncertainty, single = _mean(
            mean[s], spread[s] / np.maximum(n[s], 1), mean[1 - s], fit, replicated=replicated
        )
        variance, degrees = _variance(raw[s], own[s], centre, fit)
        if not replicated:
            variance = single
        known_ = (n[0] > 0) & (n[1] > 0)
        total = np.where(known_, variance + uncertainty, np.nan)
        sides.append(Side(centre, total, degrees))
    return Shrunk(*sides)


def _variance(raw: Floats, own: Floats, mean: Floats, fit: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Posterior variance and its degrees of freedom, ``(N,)``: sample variances shrunk to their trend in the mean."""
    fit = fit[own[fit] > 0]
    s2, d = raw[fit], own[fit]
    if not len(fit) or not s2.max() > 0:
        return (1.0 + own * raw) / (1.0 + own), 1.0 + own
    # As in BaVarIA: a few records with equal answers would drag the mean logarithm to minus infinity.
    s2 = np.maximum(s2, 1e-5 * np.median(s2[s2 > 0]))
    e = np.log(s2) - digamma(d / 2) + np.log(d / 2)
    trend = Trend.fit(mean[fit], e)
    excess = float(((e - trend(mean[fit])) ** 2).sum() / max(len(e) - len(trend.knots), 1) - polygamma(1, d / 2).mean())
    nu = MOST_DEGREES
    if excess > polygamma(1, MOST_DEGREES / 2):
        nu = min(max(1.0, 2 * trigamma_inverse(excess)), MOST_DEGREES)
    prior = np.exp(trend(mean) + digamma(nu / 2) - np.log(nu / 2))
    return (nu * prior + own * raw) / (nu + own), nu + own


def _mean(
    mean: Floats, noise: Floats, other: Floats, fit: NDArray[np.int64], *, replicated: bool
) -> tuple[Floats, Floats, Floats]:
    """Posterior mean, its variance, and the models' variance where only the regression can tell it, ``(N,)`` each.

    Args:
        mean: sample means.
        noise: their variances given the true means.
        other: the other side's means, which the prior depends on.
        fit: records to fit on.
        replicated: False if no record has two models on this side, so that ``noise`` is unknown.
    """
    x, m, se = other[fit], mean[fit], noise[fit]
    weight = np.ones(len(fit))
    for _ in range(_ROUNDS):
        centre = Trend.fit(x, m, weight)
        square = (m - centre(x)) ** 2
        if not replicated:
            # One model a side: what is spread around the regression is half difficulty, half noise.
            se = 0.5 * Trend.fit(x, square, weight**2, most=5)(x)
            se = np.maximum(se, 1e-3 * max(float(square.mean()), 1e-12))
        between = Trend.fit(x, square - se, weight**2, most=5)
        least = 0.01 * float(se.mean())
        weight = 1 / (np.maximum(between(x), least) + se)
        weight /= weight.mean()
    predicted, prior = centre(other), np.maximum(between(other), least)
    if not replicated:
        noise = prior
    share = prior / (prior + noise)
    return predicted + share * (mean - predicted), share * noise, noise


@dataclass(frozen=True, eq=False)
class Trend:
    """A piecewise linear function, level beyond its ends."""

    knots: Floats
    values: Floats

    def __call__(self, x: Floats) -> Floats:
        return np.asarray(np.interp(x, self.knots, self.values), np.float64)

    @classmethod
    def fit(cls, x: Floats, y: Floats, weight: Floats | None = None, most: int = _KNOTS) -> Trend:
        """Weighted least squares of ``y`` on ``x``, knots at even quantiles of ``x`` from the lowest to the highest."""
        number = int(np.clip(2 + len(x) // _RECORDS_A_KNOT, 2, most))
        knots = np.unique(np.quantile(x, np.linspace(0, 1, number), method="nearest"))
        weight = np.ones(len(x)) if weight is None else weight
        if len(knots) < 2:
            return cls(knots, np.array([float((weight * y).sum() / weight.sum())]))
        left = np.clip(np.searchsorted(knots, x, "right") - 1, 0, len(knots) - 2)
        right_share = (x - knots[left]) / (knots[left + 1] - knots[left])
        left_share, size = 1 - right_share, len(knots)

        def total(place: NDArray[np.int64], values: Floats) -> Floats:
            return np.asarray(np.bincount(place, values, minlength=size), np.float64)

        across = total(left, weight * left_share * right_share)[:-1]
        normal = np.diag(total(left, weight * left_share**2) + total(left + 1, weight * right_share**2))
        normal += np.diag(across, 1) + np.diag(across, -1)
        normal += _RIDGE * weight.mean() * np.eye(size)
        moment = total(left, weight * left_share * y) + total(left + 1, weight * right_share * y)
        return cls(knots, np.asarray(np.linalg.solve(normal, moment), np.float64))
