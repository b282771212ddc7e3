"""Checks on the data before an audit: members and non-members must differ in nothing but membership.

A difference that is visible without the model would be mistaken for leakage; a record on both sides hides
it. Codes MS001 to MS004; each says what was measured and what to do.
"""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
from numpy.typing import NDArray

from memberscope.data.neighbours import NEIGHBOURS, near_duplicates
from memberscope.errors import DataError
from memberscope.types import CheckResult, Dataset

# Each check may alarm on one clean audit in a thousand.
ALPHA = 0.001
SIDE = 10_000
FEW = 50


def check_inputs(data: Dataset, members: NDArray[np.bool_], rng: np.random.Generator) -> list[CheckResult]:
    """Run every check for one target.

    Args:
        data: the audited records.
        members: ``(N,)`` bool, which of them the target was trained on.
        rng: draws samples and projections.

    Returns:
        MS001 exact duplicates, MS002 near-duplicates, MS003 label shift, MS004 covariate shift, in order.
        Level ``ok``, ``warning``, or ``info`` where there are too few records to tell.

    Raises:
        DataError: ``members`` is not boolean of shape (N,), or holds no member or no non-member.
    """
    members = np.asarray(members)
    if members.shape != (len(data),) or members.dtype != np.bool_ or members.all() or not members.any():
        raise DataError(
            f"membership as booleans of shape ({len(data)},) with members and non-members",
            f"type {members.dtype}, shape {members.shape}, {int(np.sum(members))} members",
            "Pass one row of the pool's members.",
        )
    return [
        check_duplicates(data, members),
        check_near_duplicates(data, members, rng),
        check_labels(data, members, rng),
        check_shift(data, members, rng),
    ]


def check_duplicates(data: Dataset, members: NDArray[np.bool_]) -> CheckResult:
    """MS001: records with the very same inputs, labels aside; on both sides is a warning."""
    groups = _identical(data)
    sizes = np.bincount(groups)
    inside = np.bincount(groups, weights=members)
    mixed = ((inside > 0) & (inside < sizes))[groups] & ~members
    repeated = int((sizes - 1).sum())
    title = "Exact duplicates"
    if not mixed.any():
        return _ok(
            "MS001",
            title,
            f"No record is on both sides; {repeated:,} of {len(data):,} records repeat another.",
        )
    first = np.flatnonzero(mixed)[0]
    twin = np.flatnonzero((groups == groups[first]) & members)[0]
    return _warning(
        "MS001",
        title,
        f"{int(mixed.sum()):,} of {int((~members).sum()):,} non-members have exactly the inputs of a member,"
        f" for example {str(data.ids[first])!r} and {str(data.ids[twin])!r};"
        f" {repeated:,} records repeat another.",
        "Keep one of each: a copy of a member is no non-member, and leakage comes out too low.",
    )


def check_near_duplicates(data: Dataset, members: NDArray[np.bool_], rng: np.random.Generator) -> CheckResult:
    """MS002: non-members almost identical to a member, in at most 10,000 records of each side."""
    title = "Near-duplicates"
    # Exact copies are MS001's, and would hide how near others are.
    _, kept = np.unique(_identical(data), return_index=True)
    inside, outside = _sample(kept[members[kept]], rng), _sample(kept[~members[kept]], rng)
    if min(len(inside), len(outside)) < max(FEW, NEIGHBOURS + 1):
        return _info("MS002", title, f"Fewer than {FEW} different records on a side: not checked.")
    found = near_duplicates(data, outside, inside, rng)
    looked = f"{found.examined:,} non-members against {len(inside):,} members"
    if not found.count:
        return _ok(
            "MS002",
            title,
            f"No near-duplicate among {looked}: the nearest member is at {found.closest:.2f} of the distance"
            f" of the tenth nearest, typically {found.typical:.2f}.",
        )
    pairs = ", ".join(f"{str(data.ids[a])!r} and {str(data.ids[b])!r}" for a, b in found.pairs[:3])
    return _warning(
        "MS002",
        title,
        f"{found.count:,} non-members are almost identical to a member ({looked}), for example {pairs}.",
        "Look at the pairs and keep one of each: what a model learns from one it shows on the other.",
    )


def check_labels(data: Dataset, members: NDArray[np.bool_], rng: np.random.Generator) -> CheckResult:
    """MS003: class frequencies of members and non-members, all together and class by class.

    A chi-square test over all classes (against 4,000 random memberships where classes are small) and exact
    hypergeometric tests of each class with Holm's correction share the false-alarm rate of .001: the one
    sees many small shifts, the others one large shift among many classes.
    """
    from scipy import stats

    title = "Label shift"
    total = np.bincount(data.labels, minlength=data.classes)
    used = np.flatnonzero(total)
    if len(used) < 2:
        return _info("MS003", title, "All records have one label: not checked.")
    total = total[used]
    inside = np.bincount(data.labels[members], minlength=data.classes)[used]
    m, n = int(members.sum()), int((~members).sum())
    expected = total * (m / len(data))
    weight = 1 / expected + 1 / (total - expected)
    statistic = float(((inside - expected) ** 2 * weight).sum())
    if min(expected.min(), (total - expected).min()) >= 5:
        p = float(stats.chi2.sf(statistic, len(used) - 1))
    else:
        draws = rng.multivariate_hypergeometric(total, m, 4_000, method="marginals")
        null = ((draws - expected) ** 2 * weight).sum(axis=1)
        p = float((1 + (null >= statistic * (1 - 1e-9)).sum()) / (1 + len(null)))
    spread = stats.hypergeom(len(data), total, m)
    each = np.minimum(1.0, 2 * np.minimum(spread.cdf(inside), spread.sf(inside - 1)))
    order = np.argsort(each, kind="stable")
    holm = np.maximum.accumulate(np.minimum(1.0, each[order] * np.arange(len(each), 0, -1)))
    if p >= ALPHA / 2 and holm[0] >= ALPHA / 2:
        return _ok("MS003", title, f"Class frequencies agree: p = {p:.2g} over {len(used)} classes.")
    outside = total - inside
    worst = order[: max(1, int((holm < ALPHA / 2).sum()))][:3]
    named = ", ".join(
        f"{data.class_names[used[k]]!r} {inside[k] / m:.1%} of members, {outside[k] / n:.1%} of non-members"
        for k in worst
    )
    return _warning(
        "MS003",
        title,
        f"Members and non-members have different class frequencies (p = {min(p, holm[0]):.1g}): {named}.",
        "Draw members at random from one pool: as it is, an attack can score the class alone.",
    )


def check_shift(data: Dataset, members: NDArray[np.bool_], rng: np.random.Generator) -> CheckResult:
    """MS004: classifiers that see the inputs but no model try to tell members from non-members.

    Logistic regression and gradient boosting on at most 10,000 records a side and 64 features (random
    projections of more, beside each record's mean, deviation, least and greatest value); fitted on one half
    and judged on the other. A warning when the better one's AUC lies above what guessing reaches with
    probability .001, corrected for the two. One held-out half and not cross-validation, whose folds share
    their training records: under no shift its AUC scatters 1.4 times as wide as the test allows for.
    """
    from scipy import stats
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    title = "Covariate shift"
    inside, outside = (rng.permutation(_sample(np.flatnonzero(side), rng)) for side in (members, ~members))
    if min(len(inside), len(outside)) < FEW:
        return _info("MS004", title, f"Fewer than {FEW} records on a side: not checked.")
    features = _features(data, np.concatenate([inside, outside]), rng)
    side = np.repeat([1, 0], [len(inside), len(outside)])
    fitted = np.concatenate([np.arange(len(inside)) % 2, np.arange(len(outside)) % 2]) == 0
    seed = int(rng.integers(2**31))
    linear = LogisticRegression(C=0.1, max_iter=200)
    boosted = HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=8, early_stopping=False, random_state=seed)
    truth = side[~fitted] == 1
    m, n = int(truth.sum()), int((~truth).sum())
    best = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for model in (linear, boosted):
            guess = model.fit(features[fitted], side[fitted]).predict_proba(features[~fitted])[:, 1]
            best = max(best, float((stats.rankdata(guess)[truth].mean() - (m + 1) / 2) / n))
    limit = 0.5 + stats.norm.isf(ALPHA / 2) * np.sqrt((m + n + 1) / (12 * m * n))
    measured = f"AUC {best:.3f} from the inputs alone, on {m + n:,} records; guessing stays below {limit:.3f}"
    if best <= limit:
        return _ok("MS004", title, f"Members and non-members cannot be told apart without the model: {measured}.")
    return _warning(
        "MS004",
        title,
        f"Members and non-members can be told apart without the model: {measured}.",
        "Take both from one random draw; as it is, an attack's success need not come from the model.",
    )


def _features(data: Dataset, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
    """Standardised features, at most 68 columns."""
    flat = data.inputs[rows].reshape(len(rows), -1).astype(np.float32)
    if flat.shape[1] > 64:
        own = np.stack([flat.mean(axis=1), flat.std(axis=1), flat.min(axis=1), flat.max(axis=1)], axis=1)
        flat = np.hstack([flat @ rng.standard_normal((flat.shape[1], 64), np.float32), own])
    flat = flat - flat.mean(axis=0)
    deviation = flat.std(axis=0)
    return np.asarray(flat / np.where(deviation > 0, deviation, 1), np.float32)


def _identical(data: Dataset) -> NDArray[np.intp]:
    """A number for each record, the same for records with the same inputs."""
    numbers: dict[bytes, int] = {}
    groups = np.empty(len(data), np.intp)
    for row, record in enumerate(data.inputs):
        # Adding zero makes -0.0 and 0.0, which are equal, the same bytes.
        content = (record + 0.0).tobytes() if record.dtype.kind == "f" else record.tobytes()
        groups[row] = numbers.setdefault(hashlib.blake2b(content, digest_size=16).digest(), len(numbers))
    return groups


def _sample(rows: NDArray[np.intp], rng: np.random.Generator, most: int = SIDE) -> NDArray[np.int64]:
    chosen = rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))
    return np.asarray(chosen, np.int64)


def _ok(code: str, title: str, message: str) -> CheckResult:
    return CheckResult(code=code, level="ok", title=title, message=message)


def _info(code: str, title: str, message: str) -> CheckResult:
    return CheckResult(
        code=code,
        level="info",
        title=title,
        message=message,
        action="Audit more records to have this checked.",
    )


def _warning(code: str, title: str, message: str, action: str) -> CheckResult:
    return CheckResult(code=code, level="warning", title=title, message=message, action=action)
