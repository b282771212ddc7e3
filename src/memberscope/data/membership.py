"""Designs: which records each model of a pool is trained on, and which records serve what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memberscope.errors import ConfigError, DataError
from memberscope.types.pool import check_members

Seed = int | np.random.Generator


def complementary_pairs(models: int, records: int, rng_or_seed: Seed = 0) -> NDArray[np.bool_]:
    """Membership in pairs: row 2i is a random half of the records, row 2i + 1 the other half.

    So every record is a member of exactly half of the models, and a design with more models starts with
    the rows of one with fewer (Carlini et al. 2022 train their reference models this way).

    Args:
        models: number of models M, even.
        records: number of records N, at least 2.
        rng_or_seed: a generator, or the seed of a fresh one.

    Returns:
        ``(M, N)`` bool; even rows hold ⌊N/2⌋ members, odd rows ⌈N/2⌉.

    Raises:
        ConfigError: M is odd or below 2, or N is below 2.

    >>> members = complementary_pairs(4, 10, 0)
    >>> members.sum(axis=0).tolist() == [2] * 10
    True
    """
    _check_size(models, records)
    if models % 2:
        raise ConfigError(
            "an even number of models, since they come in complementary pairs",
            f"{models}",
            f"Ask for {models + 1} models, or use membership.bernoulli.",
        )
    rng = np.random.default_rng(rng_or_seed)
    members = np.zeros((models, records), np.bool_)
    for row in range(0, models, 2):
        members[row, rng.permutation(records)[: records // 2]] = True
        members[row + 1] = ~members[row]
    return members


def bernoulli(models: int, records: int, p: float = 0.5, rng_or_seed: Seed = 0) -> NDArray[np.bool_]:
    """Membership by independent coins: each record is a member of each model with probability ``p``.

    A row that came out empty or full is drawn again, since such a model cannot be audited.

    Args:
        models: number of models M, at least 1.
        records: number of records N, at least 2.
        p: chance of membership, in (0, 1).
        rng_or_seed: a generator, or the seed of a fresh one.

    Returns:
        ``(M, N)`` bool with members and non-members in every row.

    Raises:
        ConfigError: M or N too small, ``p`` not in (0, 1), or so near its ends that rows stay one-sided.
    """
    _check_size(models, records, least=1)
    if not 0 < p < 1:
        raise ConfigError(
            "a membership probability above 0 and below 1",
            f"p={p}",
            "Use 0.5 unless a design asks otherwise.",
        )
    rng = np.random.default_rng(rng_or_seed)
    members = np.empty((models, records), np.bool_)
    for row in range(models):
        for _ in range(1000):
            members[row] = rng.random(records) < p
            if 0 < members[row].sum() < records:
                break
        else:
            raise ConfigError(
                "a probability that leaves members and non-members in every model",
                f"p={p} with {records} records, one-sided 1,000 times in a row",
                "Choose p nearer to 0.5 or more records.",
            )
    return members


def given(members: NDArray[Any], *, models: int | None = None, records: int | None = None) -> NDArray[np.bool_]:
    """A design drawn elsewhere, checked.

    Args:
        members: ``(M, N)`` bool.
        models: M that it must have, if known.
        records: N that it must have, if known.

    Returns:
        The same array, C-contiguous.

    Raises:
        PoolError: not boolean, not two axes, or a model with no member or no non-member.
        ConfigError: another number of models or records than asked.
    """
    members = np.asarray(members)
    check_members(members)
    for what, wanted, got in (("models", models, members.shape[0]), ("records", records, members.shape[1])):
        if wanted is not None and wanted != got:
            raise ConfigError(
                f"membership of {wanted} {what}",
                f"shape {members.shape} (models, records)",
                "Draw the design for this pool, rows for models and columns for records.",
            )
    return np.ascontiguousarray(members)


@dataclass(frozen=True, eq=False)
class Splits:
    """Disjoint index arrays, each sorted, into one data set.

    Args:
        audit: ``(A,)`` records that models are trained on and judged by.
        validation: ``(V,)`` records for early stopping and choices between models, nothing else.
        population: ``(P,)`` records that no model trains on and that calibrate attacks.
    """

    audit: NDArray[np.int64]
    validation: NDArray[np.int64]
    population: NDArray[np.int64]


def splits(
    n: int,
    *,
    audit: int | None = None,
    validation: int = 0,
    population: int = 0,
    seed: Seed = 0,
    labels: ArrayLike | None = None,
) -> Splits:
    """Divide ``n`` records at random into audit, validation and population, which never overlap.

    Args:
        n: number of records.
        audit: size of the audit pool; all that the others leave when omitted.
        validation: size of the validation split.
        population: size of the population.
        seed: a generator, or the seed of a fresh one.
        labels: ``(n,)`` classes; when given, every part holds each class in proportion, within one record
            or two.

    Returns:
        The indices of each part, sorted.

    Raises:
        ConfigError: a negative size, more records asked than there are, or fewer than 2 left to audit.
        DataError: ``labels`` is not one class a record.

    >>> parts = splits(100, validation=10, population=20, seed=1)
    >>> len(parts.audit), len(parts.validation), len(parts.population)
    (70, 10, 20)
    """
    rest = n - validation - population
    size = rest if audit is None else audit
    sizes = {"n": n, "audit": audit or 0, "validation": validation, "population": population}
    for name, value in sizes.items():
        if value < 0:
            raise ConfigError(f"{name} of at least 0 records", f"{value}", "Give a size of 0 or more.")
    if size > rest or size < 2:
        asked = ", ".join(f"{name}={value}" for name, value in sizes.items() if name != "n")
        raise ConfigError(
            f"parts of at most {n} records together, at least 2 of them to audit",
            asked,
            "Make the parts smaller.",
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(n) if labels is None else _stratified_order(np.asarray(labels), n, rng)
    ends = np.cumsum([size, validation, population])
    first, second, third = (np.sort(part).astype(np.int64) for part in np.split(order, ends)[:3])
    return Splits(first, second, third)


def _stratified_order(labels: NDArray[Any], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order of which every stretch holds each class in proportion."""
    if labels.shape != (n,):
        raise DataError(
            f"one label a record, shape ({n},)",
            f"shape {labels.shape}",
            "Pass the labels of the same data set.",
        )
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shuffled = rng.permutation(n)
    grouped = shuffled[np.argsort(codes[shuffled], kind="stable")]
    rank = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    # Record r of a class of c sits near (r + ½)/c of the way; the offset keeps small classes from all
    # landing in the same part.
    offset = np.repeat(rng.random(len(counts)), counts)
    place = (rank + offset) / np.repeat(counts, counts)
    return np.asarray(grouped[np.argsort(place, kind="stable")], np.int64)


def _check_size(models: int, records: int, least: int = 2) -> None:
    if models < least:
        raise ConfigError(f"at least {least} models", f"{models}", "Train more models.")
    if records < 2:
        raise ConfigError(
            "at least 2 records, so that a model has a member and a non-member",
            f"{records}",
            "Give more records.",
        )
