"""LiRA whose means and variances are both shrunk towards what all records have in common."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, polygamma

from memberscope.attacks.bavaria import MOST_DEGREES, few, trigamma_inverse
from memberscope.attacks.interface import Attack, Floats, by_piece, settled
from memberscope.large import pieces
from memberscope.signals.derive import scaled_logits
from memberscope.signals.moments import Moments, moments
from memberscope.signals.references import by_id, of_pair
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

        def ratio(at: slice) -> Floats:
            both = [one.densities(phi[at, q], at) for q, one in enumerate(shrunk)]
            return np.stack([inside - outside for inside, outside in both], axis=1)

        return settled(by_piece(signals, ratio))


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

    @cached_property
    def _terms(self) -> tuple[Floats, Floats, Floats]:
        """What a density has of the record alone: its logarithm at the mean, 1/(degrees · spread) and the power."""
        offset, inverse, power = (np.empty_like(self.spread) for _ in range(3))
        for at in pieces(len(self.spread)):
            spread, degrees = self.spread[at], self.degrees[at]
            steps, kind = _steps(degrees)
            constant = gammaln((steps + 1) / 2) - gammaln(steps / 2) - 0.5 * np.log(steps * np.pi)
            np.subtract(constant[kind], 0.5 * np.log(spread), out=offset[at])
            np.divide(1, degrees * spread, out=inverse[at])
            np.multiply(degrees + 1, 0.5, out=power[at])
        return offset, inverse, power

    def log_density(self, phi: Floats, at: slice = slice(None)) -> Floats:
        """log t(φ), ``(n,)``, of the records ``at``."""
        offset, inverse, power = (term[at] for term in self._terms)
        square = phi - self.mean[at]
        square *= square
        square *= inverse
        np.log1p(square, out=square)
        square *= power
        return np.subtract(offset, square, out=square)


def _steps(degrees: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Degrees of freedom among which the given ones are, and which each is: they are whole numbers apart.

    NaN, where a side has no reference, counts as the least; its scale is NaN and so is what comes of it.
    """
    least = np.fmin.reduce(degrees, initial=np.inf)
    least = least if np.isfinite(least) else 1.0
    kind = np.rint(np.nan_to_num(degrees - least)).astype(np.int64)
    return least + np.arange(float(kind.max()) + 1), kind


@dataclass(frozen=True, eq=False)
class Shrunk:
    """Both predictives of every record; NaN where a side has no reference."""

    inside: Side
    outside: Side

    def densities(self, phi: Floats, at: slice = slice(None)) -> tuple[Floats, Floats]:
        """log densities of ``phi (n,)`` of the records ``at`` under IN and under OUT."""
        return self.inside.log_density(phi, at), self.outside.log_density(phi, at)


def shrink(known: Moments, query: int, chosen: NDArray[np.int64] | None = None) -> Shrunk:
    """The hierarchical model of one query.

    Args:
        known: moments of φ over the references.
        query: which of the queries.
        chosen: records to fit the priors on; all when None.
    """
    n = known.n_in, known.n_out
    mean = known.mean_in[:, query], known.mean_out[:, query]
    variance = known.var_in[:, query], known.var_out[:, query]
    fit = np.arange(len(n[0])) if chosen is None else chosen
    # The regression of one mean on the other needs both.
    fit = fit[(n[0][fit] > 0) & (n[1][fit] > 0)]
    if not len(fit):
        nothing = np.full(len(n[0]), np.nan)
        return Shrunk(Side(nothing, nothing, nothing + 1), Side(nothing, nothing, nothing + 1))
    count, x = [side[fit] for side in n], [side[fit] for side in mean]
    raw = [np.nan_to_num(side[fit]) for side in variance]
    sides = []
    for s in (0, 1):
        own = np.maximum(count[s] - 1, 0)
        replicated = bool((own > 0).any())
        first = _Variances.fit(raw[s], own, x[s])
        prior = _Means.fit(x[s], first(raw[s], own, x[s])[0] / np.maximum(count[s], 1), x[1 - s], replicated=replicated)
        centre = prior(x[s], first(raw[s], own, x[s])[0] / np.maximum(count[s], 1), x[1 - s])[0]
        second = _Variances.fit(raw[s], own, centre)
        side = Side(*(np.empty(len(n[0])) for _ in range(3)))
        # Applied piece by piece, so that what is computed on the way stays in cache.
        for at in pieces(len(n[0])):
            models, here, held = n[s][at], np.maximum(n[s][at] - 1, 0), np.nan_to_num(variance[s][at])
            noise = first(held, here, mean[s][at])[0] / np.maximum(models, 1)
            centre, uncertainty, single = prior(mean[s][at], noise, mean[1 - s][at])
            own_variance, degrees = second(held, here, centre)
            total = (own_variance if replicated else single) + uncertainty
            side.mean[at], side.degrees[at] = centre, degrees
            side.spread[at] = np.where((models > 0) & (n[1 - s][at] > 0), total, np.nan)
        sides.append(side)
    return Shrunk(*sides)


@dataclass(frozen=True, eq=False)
class _Variances:
    """Sample variances shrunk to their trend in the mean; without a trend, to 1 as one degree of freedom."""

    trend: Trend | None
    nu: float

    @classmethod
    def fit(cls, raw: Floats, own: Floats, mean: Floats) -> _Variances:
        """From sample variances ``raw`` with ``own`` degrees of freedom, ``(n,)`` each."""
        known = own > 0
        s2, d, x = raw[known], own[known], mean[known]
        if not len(s2) or not s2.max() > 0:
            return cls(None, 1.0)
        # As in BaVarIA: a few records with equal answers would drag the mean logarithm to minus infinity.
        s2 = np.maximum(s2, 1e-5 * np.median(s2[s2 > 0]))
        # Degrees are few different numbers, and these functions slow.
        steps, kind = few(d)
        with np.errstate(divide="ignore", invalid="ignore"):
            shift, expected = np.log(steps / 2) - digamma(steps / 2), polygamma(1, steps / 2)
        e = np.log(s2) + shift[kind]
        trend = _Basis(x).fit(e)
        spread = float(((e - trend(x)) ** 2).sum() / max(len(e) - len(trend.knots), 1))
        excess = spread - float(expected[kind].mean())
        nu = MOST_DEGREES
        if excess > polygamma(1, MOST_DEGREES / 2):
            nu = min(max(1.0, 2 * trigamma_inverse(excess)), MOST_DEGREES)
        return cls(trend, nu)

    def __call__(self, raw: Floats, own: Floats, mean: Floats) -> tuple[Floats, Floats]:
        """Posterior variance and its degrees of freedom, ``(n,)``."""
        if self.trend is None:
            return (1.0 + own * raw) / (1.0 + own), 1.0 + own
        nu = self.nu
        prior = np.exp(self.trend(mean) + digamma(nu / 2) - np.log(nu / 2))
        return (nu * prior + own * raw) / (nu + own), nu + own


@dataclass(frozen=True, eq=False)
class _Means:
    """The prior of one side's means: their regression on the other side's, and the variance around it.

    Args:
        centre: the regression.
        between: the variance, at least ``least``.
        least: see above.
        replicated: False if no record has two models on this side, so that only the regression can tell how far
            models are apart.
    """

    centre: Trend
    between: Trend
    least: float
    replicated: bool

    @classmethod
    def fit(cls, mean: Floats, noise: Floats, other: Floats, *, replicated: bool) -> _Means:
        """From sample means, their variances given the true means, and the other side's means, ``(n,)`` each."""
        weight, se = np.ones(len(mean)), noise
        fine, coarse = _Basis(other), _Basis(other, most=5)
        for _ in range(_ROUNDS):
            centre = fine.fit(mean, weight)
            square = (mean - centre(other)) ** 2
            if not replicated:
                # One model a side: what is spread around the regression is half difficulty, half noise.
                se = 0.5 * coarse.fit(square, weight**2)(other)
                se = np.maximum(se, 1e-3 * max(float(square.mean()), 1e-12))
            between = coarse.fit(square - se, weight**2)
            least = 0.01 * float(se.mean())
            weight = 1 / (np.maximum(between(other), least) + se)
            weight /= weight.mean()
        return cls(centre, between, least, replicated)

    def __call__(self, mean: Floats, noise: Floats, other: Floats) -> tuple[Floats, Floats, Floats]:
        """Posterior mean, its variance, and the models' variance as far as the prior tells it, ``(n,)`` each."""
        predicted, prior = self.centre(other), np.maximum(self.between(other), self.least)
        if not self.replicated:
            noise = prior
        share = prior / (prior + noise)
        return predicted + share * (mean - predicted), share * noise, noise


@dataclass(frozen=True, eq=False)
class Trend:
    """A piecewise linear function, level beyond its ends."""

    knots: Floats
    values: Floats

    def __call__(self, x: Floats) -> Floats:
        # As np.interp, to the last digit; with so few knots comparing with each is faster than searching them.
        place = np.zeros(x.shape, np.int8)
        for knot in self.knots[1:]:
            place += x >= knot
        slope = np.append(np.diff(self.values) / np.diff(self.knots), 0.0)
        result = np.maximum(x, self.knots[0])
        result -= self.knots[place]
        result *= slope[place]
        result += self.values[place]
        return np.asarray(result, np.float64)


class _Basis:
    """Piecewise linear functions of ``x (n,)``, knots at even quantiles of it from the lowest to the highest."""

    def __init__(self, x: Floats, most: int = _KNOTS) -> None:
        number = int(np.clip(2 + len(x) // _RECORDS_A_KNOT, 2, most))
        self.knots = np.unique(np.quantile(x, np.linspace(0, 1, number), method="nearest"))
        if len(self.knots) < 2:
            return
        self._left = np.zeros(len(x), np.int64)
        for knot in self.knots[1:-1]:
            self._left += x >= knot
        self._right_share = (x - self.knots[self._left]) / np.diff(self.knots)[self._left]

    def fit(self, y: Floats, weight: Floats | None = None) -> Trend:
        """Weighted least squares of ``y (n,)``."""
        weight = np.ones(len(y)) if weight is None else weight
        if len(self.knots) < 2:
            return Trend(self.knots, np.array([float((weight * y).sum() / weight.sum())]))
        left, right_share, size = self._left, self._right_share, len(self.knots)
        left_share = 1 - right_share

        def total(place: NDArray[np.int64], values: Floats) -> Floats:
            return np.asarray(np.bincount(place, values, minlength=size), np.float64)

        across = total(left, weight * left_share * right_share)[:-1]
        normal = np.diag(total(left, weight * left_share**2) + total(left + 1, weight * right_share**2))
        normal += np.diag(across, 1) + np.diag(across, -1)
        normal += _RIDGE * weight.mean() * np.eye(size)
        moment = total(left, weight * left_share * y) + total(left + 1, weight * right_share * y)
        return Trend(self.knots, np.asarray(np.linalg.solve(normal, moment), np.float64))
