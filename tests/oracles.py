"""Slow oracles: every attack again, in plain loops over records and models, from METHODS and the papers.

Nothing here shares code with the package. Only these are handed in: which rows may speak about a record (tested
on its own in test_signals_references.py), the generator that deals attack P's folds, and the parameters under test.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import polygamma, psi
from scipy.stats import t as student_t

from memberscope.types import Signals

# allowed(target) -> for each record the rows that may serve as its references.
Allowed = Callable[[int], list[list[int]]]

# Differences below this are rounding errors of float64, never a reason to rank one record above another.
NOISE = 1e-11


class Oracle:
    """The slow view of one pool for one target: φ of every model, record and query, and each record's references."""

    def __init__(self, signals: Signals, target: int, allowed: Allowed, rng: np.random.Generator) -> None:
        self.signals, self.target, self.allowed, self.rng = signals, target, allowed, rng
        self.references = allowed(target)
        self.label = [int(y) for y in signals.labels]
        self.member = [[bool(m) for m in row] for row in signals.members]
        self.population = [bool(x) for x in signals.population]
        self.floor = _floor(signals) if signals.kind == "probabilities" else 0.0
        self._phi: dict[tuple[int, int, int, float], float] = {}

    @property
    def records(self) -> range:
        return range(len(self.label))

    @property
    def queries(self) -> range:
        return range(self.signals.outputs[0].shape[1])

    def numbers(self, model: int, i: int, q: int) -> list[float]:
        """Logits or probabilities of all classes; one column is the second of two classes."""
        values = [float(v) for v in self.signals.outputs[model][i, q]]
        if len(values) > 1:
            return values
        return [1 - values[0], values[0]] if self.signals.kind == "probabilities" else [0.0, values[0]]

    def phi(self, model: int, i: int, q: int, temperature: float = 1.0) -> float:
        """z_y − log Σ_{k≠y} exp z_k at z/T (Carlini et al. 2022, eq. 3)."""
        key = (model, i, q, temperature)
        if key not in self._phi:
            values, y = self.numbers(model, i, q), self.label[i]
            rest = [v for k, v in enumerate(values) if k != y]
            if self.signals.kind == "logits":
                top = max(rest) / temperature
                lse = top + math.log(math.fsum(math.exp(v / temperature - top) for v in rest))
                self._phi[key] = values[y] / temperature - lse
            else:
                own = math.log(max(values[y], self.floor)) / temperature
                powers = math.fsum(v ** (1 / temperature) for v in rest)
                self._phi[key] = own - math.log(max(powers, self.floor ** (1 / temperature)))
        return self._phi[key]

    def p(self, model: int, i: int, q: int, temperature: float = 1.0) -> float:
        """Probability of the label at temperature T."""
        return 1 / (1 + math.exp(-self.phi(model, i, q, temperature)))

    def loss(self, model: int, i: int, q: int) -> float:
        """−log p_y."""
        phi = self.phi(model, i, q)
        return math.log1p(math.exp(-phi)) if phi > 0 else -phi + math.log1p(math.exp(phi))

    def probabilities(self, i: int, q: int) -> list[float]:
        """The target's distribution."""
        values = self.numbers(self.target, i, q)
        if self.signals.kind == "probabilities":
            return values
        top = max(values)
        total = math.fsum(math.exp(v - top) for v in values)
        return [math.exp(v - top) / total for v in values]

    def sides(self, i: int) -> tuple[list[int], list[int]]:
        """The record's references that trained on it, and those that did not."""
        rows = self.references[i]
        return [m for m in rows if self.member[m][i]], [m for m in rows if not self.member[m][i]]

    def scores(self, one: Callable[[int, int], float]) -> list[float]:
        """Mean over the queries of ``one(record, query)``, NaN for the population."""
        return [
            math.nan if self.population[i] else math.fsum(one(i, q) for q in self.queries) / len(self.queries)
            for i in self.records
        ]


def _floor(signals: Signals) -> float:
    """Half of the last decimal if all numbers are rounded, else half of the least positive p_y or 1 − p_y."""
    flat = [float(v) for row in signals.outputs for v in row.ravel()]
    for digits in range(7):
        if all(v == round(v, digits) for v in flat):
            return 0.5 * 10.0**-digits
    least = 1.0
    for row in signals.outputs:
        for record, y in zip(row, signals.labels, strict=True):
            for query in record:
                values = [float(v) for v in query]
                values = values if len(values) > 1 else [1 - values[0], values[0]]
                own, rest = values[y], math.fsum(v for k, v in enumerate(values) if k != y)
                least = min([least, *(v for v in (own, rest) if v > 0)])
    return least / 2


def gap(o: Oracle) -> list[float]:
    def correct(i: int, q: int) -> float:
        values = o.numbers(o.target, i, q)
        return float(values.index(max(values)) == o.label[i])

    return o.scores(correct)


def loss(o: Oracle) -> list[float]:
    return o.scores(lambda i, q: -o.loss(o.target, i, q))


def scaled_logit(o: Oracle) -> list[float]:
    return o.scores(lambda i, q: o.phi(o.target, i, q))


def confidence(o: Oracle) -> list[float]:
    def odds(i: int, q: int) -> float:
        p = sorted(o.probabilities(i, q))
        return math.log(max(p[-1], o.floor)) - math.log(max(math.fsum(p[:-1]), o.floor))

    return o.scores(odds)


def entropy(o: Oracle) -> list[float]:
    return o.scores(lambda i, q: math.fsum(p * math.log(p) for p in o.probabilities(i, q) if p > 0))


def modified_entropy(o: Oracle) -> list[float]:
    """Song & Mittal 2021, eq. 7: −(1 − p_y) log p_y − Σ_{k≠y} p_k log(1 − p_k), less is more likely a member."""

    def one(i: int, q: int) -> float:
        p, y = o.probabilities(i, q), o.label[i]
        rest = [math.fsum(v for j, v in enumerate(p) if j != k) for k in range(len(p))]
        total = max(rest[y], o.floor) * math.log(max(p[y], o.floor))
        return total + math.fsum(p[k] * math.log(max(rest[k], o.floor)) for k in range(len(p)) if k != y)

    return o.scores(one)


def attack_p(o: Oracle) -> list[float]:
    """Ye et al. 2022, attack P: percentile among the held-out non-members of the class."""
    phi = [math.fsum(o.phi(o.target, i, q) for q in o.queries) / len(o.queries) for i in o.records]
    if any(o.population):
        held = {i: [j for j in o.records if o.population[j] and o.label[j] == o.label[i]] for i in o.records}
        lot = [0.0] * len(phi)
    else:
        fold = [int(f) % 5 for f in o.rng.permutation(len(phi))]
        lot = [float(v) for v in o.rng.random(len(phi))]
        out = [j for j in o.records if not o.member[o.target][j]]
        held = {i: [j for j in out if fold[j] != fold[i] and o.label[j] == o.label[i]] for i in o.records}
    result = []
    for i in o.records:
        below = sum((phi[j], lot[j]) < (phi[i], lot[i]) for j in held[i])
        equal = sum((phi[j], lot[j]) == (phi[i], lot[i]) for j in held[i])
        scored = held[i] and not o.population[i]
        result.append((below + 0.5 * equal) / len(held[i]) if scored else math.nan)
    return result


def attack_r(o: Oracle) -> list[float]:
    """Ye et al. 2022, attack R: share of the OUT models that fit the record worse."""

    def one(i: int, q: int) -> float:
        own, out = o.phi(o.target, i, q), o.sides(i)[1]
        wins = [1.0 if o.phi(m, i, q) < own else 0.5 if o.phi(m, i, q) == own else 0.0 for m in out]
        return statistics.fmean(wins) if wins else math.nan

    return o.scores(one)


def calibrated_loss(o: Oracle) -> list[float]:
    """Watson et al. 2022: the loss expected of a model that never saw the record, less the target's."""

    def one(i: int, q: int) -> float:
        out = o.sides(i)[1]
        return statistics.fmean(o.loss(m, i, q) for m in out) - o.loss(o.target, i, q) if out else math.nan

    return o.scores(one)


def _fits(o: Oracle, side: int, q: int) -> list[tuple[int, float, float]]:
    """For each record: number, mean and unbiased variance of φ over its references of one side."""
    result = []
    for i in o.records:
        values = [o.phi(m, i, q) for m in o.sides(i)[side]]
        mean = statistics.fmean(values) if values else math.nan
        result.append((len(values), mean, statistics.variance(values) if len(values) > 1 else math.nan))
    return result


def _variances(fits: list[tuple[int, float, float]], pooled: bool) -> list[float]:
    """Each record's variance, at least 1/1000 of the pooled one, or the pooled one; 1 where none is known."""
    known = [(n - 1, v) for n, _, v in fits if n > 1]
    shared = math.fsum(d * v for d, v in known) / sum(d for d, _ in known) if known else 0.0
    shared = shared if shared > 0 else 1.0
    return [shared if pooled else max(v, 1e-3 * shared) if n > 1 else math.nan for n, _, v in fits]


def _log_normal(x: float, mean: float, variance: float) -> float:
    return -0.5 * math.log(2 * math.pi * variance) - (x - mean) ** 2 / (2 * variance)


def _lira(o: Oracle, online: bool, pooled: bool) -> list[float]:
    """Carlini et al. 2022, algorithm 1; offline the z-score."""
    fits = [[_fits(o, side, q) for q in o.queries] for side in (0, 1)]
    spreads = [[_variances(fit, pooled) for fit in side] for side in fits]

    def one(i: int, q: int) -> float:
        x = o.phi(o.target, i, q)
        mean_in, mean_out = fits[0][q][i][1], fits[1][q][i][1]
        var_in, var_out = spreads[0][q][i], spreads[1][q][i]
        if online:
            return _log_normal(x, mean_in, var_in) - _log_normal(x, mean_out, var_out)
        return (x - mean_out) / math.sqrt(var_out)

    return o.scores(one)


def expected(o: Oracle, i: int, q: int, rows: list[int], kind: str, temperature: float, a: float) -> float:
    """p̄ of the record over ``rows``: Zarifzadeh et al. 2024, eq. 4 and appendix (offline); BASE: the plain mean."""
    p_in = [o.p(m, i, q, temperature) for m in rows if o.member[m][i]]
    p_out = [o.p(m, i, q, temperature) for m in rows if not o.member[m][i]]
    if kind == "base":
        return statistics.fmean(p_in + p_out) if rows else math.nan
    if kind == "rmia_offline":
        return 0.5 * ((1 + a) * statistics.fmean(p_out) + 1 - a) if p_out else math.nan
    sides = [statistics.fmean(side) for side in (p_in, p_out) if side]
    return statistics.fmean(sides) if sides else math.nan


def ratio(o: Oracle, model: int, i: int, rows: list[int], kind: str, temperature: float, a: float, q: int) -> float:
    """log of the model's p over p̄."""
    return math.log(o.p(model, i, q, temperature)) - math.log(expected(o, i, q, rows, kind, temperature, a))


def tuned(o: Oracle, kind: str) -> tuple[float, float]:
    """T (and a) by the mean AUC of at most four references that play target, without the audited pair of rows."""
    models = range(len(o.member))
    audited = [i for i in o.records if not o.population[i]]
    hidden = {o.target} | {m for m in models if all(o.member[m][i] != o.member[o.target][i] for i in audited)}
    if len(hidden) > 2:
        raise ValueError("one twin at most, please")
    references = [m for m in models if m not in hidden]
    shares = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) if kind == "rmia_offline" else (0.3,)
    if len(references) < 2:
        return 2.0, 0.3
    count = min(4, len(references))
    players = sorted({references[round(k * (len(references) - 1) / (count - 1))] for k in range(count)})
    best, choice = -1.0, (2.0, 0.3)
    usable = []
    for player in players:
        rows = {i: [m for m in o.allowed(player)[i] if m not in hidden] for i in audited}
        everywhere_out = all(any(not o.member[m][i] for m in rows[i]) for i in audited)
        if everywhere_out and len({o.member[player][i] for i in audited}) == 2:
            usable.append((player, rows))
    for temperature in (1.0, 2.0, 4.0):
        for a in shares:
            total = 0.0
            for player, rows in usable:
                score = {i: ratio(o, player, i, rows[i], kind, temperature, a, 0) for i in audited}
                inside = [score[i] for i in audited if o.member[player][i]]
                outside = [score[i] for i in audited if not o.member[player][i]]
                wins = sum((x > y + NOISE) + 0.5 * (abs(x - y) <= NOISE) for x in inside for y in outside)
                total += wins / (len(inside) * len(outside))
            if usable and total > best + 1e-12:
                best, choice = total, (temperature, a)
    return choice


def _rmia(o: Oracle, kind: str, gamma: float = 1.0, given: tuple[float, float] | None = None) -> list[float]:
    """Zarifzadeh et al. 2024, eq. 3: share of the population z with r(x)/r(z) > γ."""
    temperature, a = given or tuned(o, kind)
    log_r = []
    for i in o.records:
        each = [ratio(o, o.target, i, o.references[i], kind, temperature, a, q) for q in o.queries]
        log_r.append(math.fsum(each) / len(each))
    z = [j for j in o.records if o.population[j]] or list(o.records)
    z = [j for j in z if not math.isnan(log_r[j])]
    return [
        math.nan
        if o.population[i] or math.isnan(log_r[i])
        else sum(log_r[i] - log_r[j] > math.log(gamma) + NOISE for j in z) / len(z)
        for i in o.records
    ]


def _base(o: Oracle, given: float | None = None) -> list[float]:
    """Lassila et al. 2025: log p_T(θ) − log mean_k p_T(θ_k)."""
    temperature = tuned(o, "base")[0] if given is None else given
    return o.scores(lambda i, q: ratio(o, o.target, i, o.references[i], "base", temperature, 0.0, q))


def prior(fits: list[tuple[int, float, float]]) -> tuple[float, float]:
    """Smyth 2004, §6.2: degrees ν₀ (in [1, 1e6]) and variance s₀² whose scaled F fits the records' variances."""
    known = [(n - 1, v) for n, _, v in fits if n > 1]
    if not any(v > 0 for _, v in known):
        return 1.0, 1.0
    least = 1e-5 * statistics.median(v for _, v in known if v > 0)
    e = [math.log(max(v, least)) - psi(d / 2) + math.log(d / 2) for d, v in known]
    centre = statistics.fmean(e)
    spread = statistics.variance(e) if len(e) > 1 else 0.0
    excess = spread - statistics.fmean(float(polygamma(1, d / 2)) for d, _ in known)
    if excess <= float(polygamma(1, 5e5)):
        return 1e6, math.exp(centre)
    half = max(0.5, brentq(lambda x: float(polygamma(1, x)) - excess, 1e-4, 1e7, xtol=1e-13, rtol=1e-14))
    return 2 * half, math.exp(centre + psi(half) - math.log(half))


def bavaria(o: Oracle, degrees: float | None = None) -> list[float]:
    """Brännvall 2026: Student-t predictives with a conjugate prior on each record's variance."""
    fits = [[_fits(o, side, q) for q in o.queries] for side in (0, 1)]
    priors = [[prior(fit) for fit in side] for side in fits]

    def density(side: int, i: int, q: int) -> float:
        n, mean, variance = fits[side][q][i]
        nu0, s0 = priors[side][q]
        nu0 = nu0 if degrees is None else degrees
        if n == 0:
            return math.nan
        nu = nu0 + n - 1
        squared = (nu0 * s0 + (n - 1) * (variance if n > 1 else 0.0)) / nu * (1 + 1 / n)
        return float(student_t.logpdf(o.phi(o.target, i, q), nu, mean, math.sqrt(squared)))

    return o.scores(lambda i, q: density(0, i, q) - density(1, i, q))


def _quantiles(values: list[float], number: int) -> list[float]:
    """Even quantiles from the lowest to the highest, each one of the values (the nearest, halves to even ranks)."""
    ordered, last = sorted(values), len(values) - 1
    return sorted({ordered[round(last * (k / (number - 1)))] for k in range(number)})


def _trend(x: list[float], y: list[float], w: list[float], most: int = 9) -> Callable[[float], float]:
    """Weighted least squares of y on hats between quantiles of x: a line through knots, level outside."""
    knots = _quantiles(x, max(2, min(most, 2 + len(x) // 40)))
    if len(knots) == 1:
        level = math.fsum(a * b for a, b in zip(w, y, strict=True)) / math.fsum(w)
        return lambda _: level

    def hats(v: float) -> list[float]:
        v = min(max(v, knots[0]), knots[-1])
        row = [0.0] * len(knots)
        for k in range(len(knots) - 1):
            if knots[k] <= v <= knots[k + 1]:
                share = (v - knots[k]) / (knots[k + 1] - knots[k])
                row[k], row[k + 1] = 1 - share, share
                break
        return row

    # Ridge of one millionth of the mean weight, as rows of their own.
    weak = math.sqrt(1e-6 * math.fsum(w) / len(w))
    rows = [[math.sqrt(b) * h for h in hats(v)] for v, b in zip(x, w, strict=True)]
    rows += [[weak * (k == j) for k in range(len(knots))] for j in range(len(knots))]
    right = [math.sqrt(b) * v for v, b in zip(y, w, strict=True)] + [0.0] * len(knots)
    values = [float(v) for v in np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]]
    return lambda v: math.fsum(h * c for h, c in zip(hats(v), values, strict=True))


_Fit = tuple[int, float, float]


def _posterior_variances(fits: list[_Fit], centre: list[float], both: list[int]) -> tuple[list[float], list[float]]:
    """Smyth 2004, §6.2 with log s₀² a trend in the mean (limma-trend): posterior variance and its degrees."""
    fitted = [i for i in both if fits[i][0] > 1]
    own = [(max(n - 1, 0), v if n > 1 else 0.0) for n, _, v in fits]
    if not any(fits[i][2] > 0 for i in fitted):
        return [(1 + d * v) / (1 + d) for d, v in own], [1.0 + d for d, _ in own]
    least = 1e-5 * statistics.median(fits[i][2] for i in fitted if fits[i][2] > 0)
    e = [math.log(max(own[i][1], least)) - psi(own[i][0] / 2) + math.log(own[i][0] / 2) for i in fitted]
    x = [centre[i] for i in fitted]
    line = _trend(x, e, [1.0] * len(x))
    knots = len(_quantiles(x, max(2, min(9, 2 + len(x) // 40))))
    spread = math.fsum((a - line(b)) ** 2 for a, b in zip(e, x, strict=True)) / max(len(x) - knots, 1)
    excess = spread - statistics.fmean(float(polygamma(1, own[i][0] / 2)) for i in fitted)
    half = 5e5
    if excess > float(polygamma(1, 5e5)):
        half = min(max(0.5, brentq(lambda v: float(polygamma(1, v)) - excess, 1e-4, 1e7, xtol=1e-13, rtol=1e-14)), 5e5)
    prior_ = [math.nan if math.isnan(m) else math.exp(line(m) + psi(half) - math.log(half)) for m in centre]
    return [(2 * half * p + d * v) / (2 * half + d) for p, (d, v) in zip(prior_, own, strict=True)], [
        2 * half + d for d, _ in own
    ]


def _posterior_means(
    fits: list[_Fit], noise: list[float], other: list[float], both: list[int], replicated: bool
) -> list[tuple[float, float, float]]:
    """Each mean shrunk to its regression on the other side's: mean, its variance, the models' variance."""
    x, m, se = [other[i] for i in both], [fits[i][1] for i in both], [noise[i] for i in both]
    w = [1.0] * len(both)
    for _ in range(4):
        line = _trend(x, m, w)
        square = [(a - line(b)) ** 2 for a, b in zip(m, x, strict=True)]
        heavy = [v**2 for v in w]
        if not replicated:
            half = _trend(x, square, heavy, 5)
            se = [max(0.5 * half(v), 1e-3 * max(statistics.fmean(square), 1e-12)) for v in x]
        between = _trend(x, [a - b for a, b in zip(square, se, strict=True)], heavy, 5)
        least = 0.01 * statistics.fmean(se)
        w = [1 / (max(between(a), least) + b) for a, b in zip(x, se, strict=True)]
        w = [v / statistics.fmean(w) for v in w]
    result = []
    for i in range(len(fits)):
        if i not in set(both):
            result.append((math.nan, math.nan, math.nan))
            continue
        t = max(between(other[i]), least)
        v = noise[i] if replicated else t
        result.append((line(other[i]) + t / (t + v) * (fits[i][1] - line(other[i])), t * v / (t + v), v))
    return result


def shrunk(fits: list[list[_Fit]]) -> list[list[tuple[float, float, float]]]:
    """(mean, squared scale, degrees) of both predictives of every record, NaN unless both sides have models."""
    both = [i for i in range(len(fits[0])) if fits[0][i][0] and fits[1][i][0]]
    means = [[m for _, m, _ in side] for side in fits]
    result = []
    for s in (0, 1):
        first = _posterior_variances(fits[s], means[s], both)[0]
        noise = [v / max(n, 1) for v, (n, _, _) in zip(first, fits[s], strict=True)]
        replicated = any(fits[s][i][0] > 1 for i in both)
        post = _posterior_means(fits[s], noise, means[1 - s], both, replicated)
        variance, degrees = _posterior_variances(fits[s], [m for m, _, _ in post], both)
        total = [(single if not replicated else v) + u for v, (_, u, single) in zip(variance, post, strict=True)]
        result.append([(m, t, d) for (m, _, _), t, d in zip(post, total, degrees, strict=True)])
    return result


def densities(side: tuple[float, float, float], x: float) -> tuple[float, float]:
    """log t(x) and the z-score."""
    mean, squared, degrees = side
    if math.isnan(squared):
        return math.nan, math.nan
    scale = math.sqrt(squared)
    return float(student_t.logpdf(x, degrees, mean, scale)), (x - mean) / scale


def lira_hierarchical(o: Oracle) -> list[float]:
    """LiRA with both means and variances shrunk, Student-t predictives (docs/attacks.md)."""
    models = [shrunk([_fits(o, side, q) for side in (0, 1)]) for q in o.queries]

    def one(i: int, q: int) -> float:
        x = o.phi(o.target, i, q)
        return densities(models[q][0][i], x)[0] - densities(models[q][1][i], x)[0]

    return o.scores(one)


ORACLES: dict[str, Callable[..., list[float]]] = {
    "gap": gap,
    "loss": loss,
    "confidence": confidence,
    "entropy": entropy,
    "modified_entropy": modified_entropy,
    "scaled_logit": scaled_logit,
    "attack_p": attack_p,
    "attack_r": attack_r,
    "calibrated_loss": calibrated_loss,
    "lira_offline": lambda o: _lira(o, online=False, pooled=False),
    "lira_offline_pooled": lambda o: _lira(o, online=False, pooled=True),
    "lira_online": lambda o: _lira(o, online=True, pooled=False),
    "lira_online_pooled": lambda o: _lira(o, online=True, pooled=True),
    "rmia_offline": lambda o, **given: _rmia(o, "rmia_offline", **given),
    "rmia_online": lambda o, **given: _rmia(o, "rmia_online", **given),
    "base": _base,
    "bavaria": bavaria,
    "lira_hierarchical": lira_hierarchical,
}
