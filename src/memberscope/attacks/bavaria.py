"""BaVarIA: LiRA whose per-record variances are shrunk by a prior learnt from all records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, polygamma

from memberscope.attacks.interface import Attack, Floats, by_piece, settled
from memberscope.large import PIECE, pieces
from memberscope.signals.derive import scaled_logits
from memberscope.signals.moments import moments
from memberscope.signals.references import of_pair
from memberscope.types import Access, Signals


@dataclass(frozen=True)
class Bavaria(Attack):
    """log t(φ; IN) − log t(φ; OUT) with the Student-t predictives of a normal model.

    Brännvall 2026, "Exponential-Family Membership Inference: From LiRA and RMIA to BaVarIA". Each record's
    variance has an inverse-gamma prior with ν₀ degrees of freedom around s₀², the same for all records. With n
    models of mean x̄ and variance s², the predictive is a Student t with ν = ν₀ + n − 1 degrees of freedom, at x̄,
    with squared scale ((ν₀ s₀² + (n − 1) s²)/ν)·(1 + 1/n). ν₀ and s₀² are fitted by moments of log s² over the
    records (Smyth 2004, "Linear Models and Empirical Bayes Methods", §6.2): few models lean on the pooled
    variance, many on the record's own, and nothing is tuned.

    Args:
        prior_degrees: ν₀ if it shall be fixed; fitted when None.
    """

    prior_degrees: float | None = None

    name: ClassVar[str] = "bavaria"
    title: ClassVar[str] = "BaVarIA (Bayesian variances)"
    source: ClassVar[str] = "Brännvall 2026"
    access: ClassVar[Access] = Access.ROUNDED
    minimum: ClassVar[int] = 2
    recommended: ClassVar[int] = 8
    contrasts: ClassVar[bool] = True

    def score(self, signals: Signals, target: int, rng: np.random.Generator) -> Floats:
        phi, known = scaled_logits(signals)[target], moments(signals, target)
        inside, outside = of_pair(
            signals,
            target,
            self,
            lambda: (
                self._predictive(known.n_in, known.mean_in, known.var_in),
                self._predictive(known.n_out, known.mean_out, known.var_out),
            ),
        )
        return settled(by_piece(signals, lambda at: inside(phi[at], at) - outside(phi[at], at)))

    def _predictive(self, count: Floats, mean: Floats, variance: Floats) -> _StudentT:
        prior_degrees, prior_variance = self._prior(np.maximum(count - 1, 0)[:, None], variance)
        spread = np.empty_like(variance)
        with np.errstate(invalid="ignore", divide="ignore"):
            for records in pieces(len(count), max(1, PIECE // variance.shape[1])):
                n = count[records, None]
                own = np.maximum(n - 1, 0)
                degrees = prior_degrees + own
                held = np.nan_to_num(variance[records])
                spread[records] = (prior_degrees * prior_variance + own * held) / degrees * (1 + 1 / n)
        # Counts are few different whole numbers.
        steps = prior_degrees + np.maximum(np.arange(count.max() + 1) - 1, 0)[:, None]
        constant = gammaln((steps + 1) / 2) - gammaln(steps / 2) - 0.5 * np.log(steps * np.pi)
        return _StudentT(count.astype(np.int32), mean, spread, steps, constant)

    def _prior(self, own: Floats, variance: Floats) -> tuple[Floats, Floats]:
        """(ν₀, s₀²) of each query, ``(Q,)`` both, from the records' sample variances."""
        fitted = [fit_scaled_f(variance[:, q], own[:, 0]) for q in range(variance.shape[1])]
        degrees = np.array([d for d, _ in fitted])
        scale = np.array([s for _, s in fitted])
        return (degrees if self.prior_degrees is None else np.full_like(degrees, self.prior_degrees)), scale


class _StudentT:
    """Log densities of one side's predictives; what does not depend on the target's answer is computed once.

    Args:
        count: ``(N,)`` models.
        mean: ``(N, Q)``.
        spread: ``(N, Q)`` squared scale.
        degrees: ``(n, Q)`` degrees of freedom by count.
        constant: ``(n, Q)`` what the density has of them alone.
    """

    def __init__(
        self, count: NDArray[np.int32], mean: Floats, spread: Floats, degrees: Floats, constant: Floats
    ) -> None:
        self.mean = mean
        self.inverse, self.power, self.offset = (np.empty_like(spread) for _ in range(3))
        for at in pieces(len(count), max(1, PIECE // spread.shape[1])):
            own = degrees[count[at]]
            with np.errstate(divide="ignore", invalid="ignore"):
                self.offset[at] = constant[count[at]] - 0.5 * np.log(spread[at])
                self.inverse[at] = 1 / (own * spread[at])
            self.power[at] = (own + 1) / 2

    def __call__(self, x: Floats, at: slice) -> Floats:
        """At ``x``, ``(n, Q)``, of the records ``at``."""
        distance = x - self.mean[at]
        distance *= distance
        with np.errstate(invalid="ignore"):
            distance *= self.inverse[at]
            np.log1p(distance, out=distance)
        distance *= self.power[at]
        return np.subtract(self.offset[at], distance, out=distance)


# ν₀ beyond this is the pooled variance for every purpose.
MOST_DEGREES = 1e6


def fit_scaled_f(variance: Floats, degrees: Floats) -> tuple[float, float]:
    """Prior degrees of freedom ν₀ and variance s₀² of sample variances, by moments of their logarithms.

    Args:
        variance: ``(N,)`` sample variances, NaN where there is none.
        degrees: ``(N,)`` their degrees of freedom.

    Returns:
        (ν₀, s₀²), ν₀ in [1, 1e6]. Without any variance (one model a record) the prior is vague: (1, 1).
    """
    known = (degrees > 0) & ~np.isnan(variance)
    s2, d = variance[known], degrees[known]
    if not len(s2) or not s2.max() > 0:
        return 1.0, 1.0
    # A few records with equal answers would drag the mean logarithm to minus infinity.
    if s2.min() < 1e-5 * s2.max():
        s2 = np.maximum(s2, 1e-5 * np.median(s2[s2 > 0]))
    # Degrees are few different numbers, and these functions slow.
    steps, kind = few(d)
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.log(steps / 2) - digamma(steps / 2)
        expected = polygamma(1, steps / 2)
    e = np.log(s2)
    e += shift[kind]
    centre = float(e.mean())
    e -= centre
    excess = float(np.dot(e, e) / max(len(e) - 1, 1) - expected[kind].mean())
    if excess <= polygamma(1, MOST_DEGREES / 2):
        return MOST_DEGREES, float(np.exp(centre))
    nu = max(1.0, 2 * trigamma_inverse(excess))
    return min(nu, MOST_DEGREES), float(np.exp(centre + digamma(nu / 2) - np.log(nu / 2)))


def few(numbers: Floats) -> tuple[Floats, NDArray[np.int32]]:
    """Numbers among which the given ones are, and which each is: counts without sorting them."""
    kind = numbers.astype(np.int32)
    if (kind == numbers).all():
        return np.arange(float(kind.max()) + 1), kind
    values, inverse = np.unique(numbers, return_inverse=True)
    return values, inverse.astype(np.int32)


def trigamma_inverse(value: float) -> float:
    """x with trigamma(x) = value > 0, by Newton's method on 1/trigamma (Smyth 2004, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        step = polygamma(1, x) * (1 - polygamma(1, x) / value) / polygamma(2, x)
        x += step
        if -step / x < 1e-12:
            break
    return float(x)


def student_t_logpdf(x: Floats, degrees: Floats, location: Floats, squared_scale: Floats) -> Floats:
    """log density of a Student t, elementwise."""
    return np.asarray(
        gammaln((degrees + 1) / 2)
        - gammaln(degrees / 2)
        - 0.5 * np.log(degrees * np.pi * squared_scale)
        - (degrees + 1) / 2 * np.log1p((x - location) ** 2 / (degrees * squared_scale))
    )
