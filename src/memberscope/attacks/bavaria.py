"""BaVarIA: LiRA whose per-record variances are shrunk by a prior learnt from all records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import digamma, gammaln, polygamma

from memberscope.attacks.interface import Attack, Floats, mean_over_queries, settled
from memberscope.signals.derive import scaled_logits
from memberscope.signals.references import moments
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
        log_in = self._log_predictive(phi, known.n_in, known.mean_in, known.var_in)
        log_out = self._log_predictive(phi, known.n_out, known.mean_out, known.var_out)
        return settled(mean_over_queries(log_in - log_out))

    def _log_predictive(self, phi: Floats, count: Floats, mean: Floats, variance: Floats) -> Floats:
        n = count[:, None]
        own = np.maximum(n - 1, 0)
        prior_degrees, prior_variance = self._prior(own, variance)
        degrees = prior_degrees + own
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = (prior_degrees * prior_variance + own * np.nan_to_num(variance)) / degrees * (1 + 1 / n)
            return student_t_logpdf(phi, degrees, mean, spread)

    def _prior(self, own: Floats, variance: Floats) -> tuple[Floats, Floats]:
        """(ν₀, s₀²) of each query, ``(Q,)`` both, from the records' sample variances."""
        fitted = [fit_scaled_f(variance[:, q], own[:, 0]) for q in range(variance.shape[1])]
        degrees = np.array([d for d, _ in fitted])
        scale = np.array([s for _, s in fitted])
        return (degrees if self.prior_degrees is None else np.full_like(degrees, self.prior_degrees)), scale


# ν₀ beyond this is the pooled variance for every purpose.
_MOST_DEGREES = 1e6


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
    s2 = np.maximum(s2, 1e-5 * np.median(s2[s2 > 0]))
    e = np.log(s2) - digamma(d / 2) + np.log(d / 2)
    centre = float(e.mean())
    excess = float(((e - centre) ** 2).sum() / max(len(e) - 1, 1) - polygamma(1, d / 2).mean())
    if excess <= polygamma(1, _MOST_DEGREES / 2):
        return _MOST_DEGREES, float(np.exp(centre))
    nu = max(1.0, 2 * _trigamma_inverse(excess))
    return min(nu, _MOST_DEGREES), float(np.exp(centre + digamma(nu / 2) - np.log(nu / 2)))


def _trigamma_inverse(value: float) -> float:
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
