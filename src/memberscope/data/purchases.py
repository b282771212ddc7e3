"""Shopping records in Purchase100's shape, generated: 600 products, 100 classes made by clustering.

Purchase100 (Shokri et al. 2017) is a year of shopping baskets whose classes are clusters of shoppers. Here
a shopper blends two of 300 sparse types, buys with an activity of their own, and is labelled by the
nearest of 100 balanced clusters, whose borders run between shoppers much alike. Some shoppers are atypical
(they blend many types) and some are mislabelled; ``groups["oddity"]`` says which.

Measured with ``python benchmarks/calibrate_purchases.py --train 157859 --test 39464 --epochs 22 --batch 128``
(the paper's FCN, Adam 5e-4, bf16), after epoch 17: 97.6 % train, 86.8 % test, loss AUC 56.7 %, advantage
13.6 %; published for Purchase100 (METHODS §7, 200 epochs in batches of 32): 97.8, 87.5, 57.3 and 13.9 %.
Class sizes there: 1,496 to 2,455, median 1,965.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memberscope.errors import ConfigError
from memberscope.types import Dataset

MOST = 197_324
PRODUCTS = 600
CLASSES = 100
# Records are drawn in blocks with a generator each, so that fewer records are the beginning of more.
BLOCK = 4096
# Prototypes are whole multiples of 1/1024: dot products with 0/1 records are then exact in float32, and
# labels do not depend on how a machine or its thread count orders a sum.
GRID = 1024
STEPS = 12
# Temperature of the soft assignment, in products: well below 2.5, the median distance to a border.
SOFTNESS = 0.2
ODDITIES = np.array(["typical", "atypical", "mislabelled"])


@dataclass(frozen=True)
class Shoppers:
    """What makes the population; the defaults are calibrated (benchmarks/calibrate_purchases.py).

    Args:
        types: number of shopper types.
        staples: products that a type favours.
        basket: mean number of products wanted; about 42 are bought, since each is bought once.
        background: share of a basket that follows general popularity.
        blend: parameter of the symmetric Beta that mixes a shopper's two types; small is nearly one type.
        activity: spread (sigma of the logarithm) of how much shoppers buy.
        atypical: share of shoppers who blend ten types.
        mislabelled: share of shoppers with a wrong label.
    """

    types: int = 300
    staples: int = 60
    basket: float = 45.0
    background: float = 0.2
    blend: float = 0.1
    activity: float = 0.35
    atypical: float = 0.02
    mislabelled: float = 0.05


def purchases(records: int = 20_000, seed: int = 0, population: Shoppers | None = None) -> Dataset:
    """Generate ``records`` shoppers.

    Args:
        records: number of records, 1 to 197,324.
        seed: of the whole population (types, clusters, shoppers): the same seed gives the same records, and
            fewer records are the first of more.
        population: what makes the population; the calibrated one when omitted.

    Returns:
        ``inputs`` (N, 600) uint8 of 0 and 1; labels of 100 classes; ids ``purchases-000001`` …; group
        ``oddity``: typical, atypical or mislabelled.

    Raises:
        ConfigError: ``records`` or ``seed`` out of range.
    """
    if not 1 <= records <= MOST:
        raise ConfigError(f"1 to {MOST:,} records", f"{records:,}", "Choose a number of records in this range.")
    if seed < 0:
        raise ConfigError("a seed of at least 0", f"{seed}", "Choose another seed.")
    world = population or Shoppers()
    types = _types(world, np.random.default_rng([seed, 0]))
    prototypes, weights = _clusters(types, world, seed)
    inputs = np.empty((records, PRODUCTS), np.uint8)
    labels = np.empty(records, np.int64)
    oddity = np.empty(records, np.int8)
    for start in range(0, records, BLOCK):
        rng = np.random.default_rng([seed, 2, start // BLOCK])
        baskets, odd, shift = _shoppers(types, world, rng)
        part = slice(start, min(start + BLOCK, records))
        size = part.stop - start
        inputs[part] = baskets[:size]
        classes = _assign(baskets, prototypes, weights)
        labels[part] = np.where(odd == 2, (classes + shift) % CLASSES, classes)[:size]
        oddity[part] = odd[:size]
    ids = np.array([f"purchases-{i:06d}" for i in range(1, records + 1)])
    names = tuple(f"cluster {k}" for k in range(1, CLASSES + 1))
    return Dataset(inputs, labels, ids, names, groups={"oddity": ODDITIES[oddity]}, name="purchases")


def _types(world: Shoppers, rng: np.random.Generator) -> NDArray[np.float32]:
    """Each type's chance of buying each product, (types, 600), rows summing to the mean basket."""
    popularity = rng.gamma(0.7, size=PRODUCTS)
    popularity /= popularity.sum()
    taste = np.zeros((world.types, PRODUCTS))
    for row in taste:
        # Popular products are favoured by more types, as in any shop.
        favourites = rng.choice(PRODUCTS, world.staples, replace=False, p=0.5 * popularity + 0.5 / PRODUCTS)
        row[favourites] = rng.gamma(2.0, size=world.staples)
    taste /= taste.sum(axis=1, keepdims=True)
    mixed = (1 - world.background) * taste + world.background * popularity
    return np.asarray(world.basket * mixed, np.float32)


def _shoppers(
    types: NDArray[np.float32], world: Shoppers, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int8], NDArray[np.int64]]:
    """One block: baskets (BLOCK, 600), oddity codes (BLOCK,), and the shift of a wrong label."""
    first, second = rng.integers(0, len(types), (2, BLOCK))
    share = rng.beta(world.blend, world.blend, BLOCK).astype(np.float32)[:, None]
    activity = np.exp(rng.normal(-(world.activity**2) / 2, world.activity, BLOCK)).astype(np.float32)[:, None]
    coin = rng.random(BLOCK)
    odd = np.where(coin < world.atypical, 1, np.where(coin < world.atypical + world.mislabelled, 2, 0))
    shift = rng.integers(1, CLASSES, BLOCK)
    chance = types[first]
    chance += share * (types[second] - chance)
    strange = np.flatnonzero(odd == 1)
    chance[strange] = types[rng.integers(0, len(types), (len(strange), 10))].mean(axis=1)
    chance *= activity
    # 16 random bits decide a purchase: a basket never needs more, and they are drawn fastest.
    limit = np.minimum(chance * np.float32(65_536), np.float32(62_000)).astype(np.uint16)
    baskets = rng.integers(0, 65_536, (BLOCK, PRODUCTS), np.uint16) < limit
    return baskets.view(np.uint8), odd.astype(np.int8), shift


def _assign(
    baskets: NDArray[np.uint8], prototypes: NDArray[np.float32], weights: NDArray[np.float32]
) -> NDArray[np.int64]:
    return np.asarray(np.argmax(baskets.astype(np.float32) @ prototypes.T + weights, axis=1), np.int64)


def _clusters(
    types: NDArray[np.float32], world: Shoppers, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Prototypes (100, 600) and weights (100,) of balanced k-means on a sample of shoppers of their own.

    A record belongs to the class with the largest ``record · prototype + weight``. Lloyd's algorithm with
    assignments softened and scaled to equal class sizes (Sinkhorn's iteration), whose weights then make
    hard classes of about even sizes too.
    """
    blocks = [_shoppers(types, world, np.random.default_rng([seed, 1, block]))[0] for block in range(4)]
    sample = np.concatenate(blocks).astype(np.float32)
    rng = np.random.default_rng([seed, 3])
    prototypes = np.rint(sample[rng.choice(len(sample), CLASSES, replace=False)] * GRID).astype(np.float32)
    weights = np.zeros(CLASSES, np.float32)
    owners = np.arange(CLASSES)[:, None]
    for step in range(STEPS):
        similarity = sample @ prototypes.T
        for _ in range(4 if step < STEPS - 1 else 25):
            soft = (similarity + weights) / np.float32(SOFTNESS * GRID)
            soft = np.exp(soft - soft.max(axis=1, keepdims=True))
            shares = (soft / soft.sum(axis=1, keepdims=True)).mean(axis=0, dtype=np.float64)
            weights = np.rint(weights - SOFTNESS * GRID * np.log(shares * CLASSES + 1e-6)).astype(np.float32)
        if step < STEPS - 1:
            classes = np.argmax(similarity + weights, axis=1)
            counts = np.maximum(np.bincount(classes, minlength=CLASSES), 1)[:, None]
            sums = (classes == owners).astype(np.float32) @ sample
            centres = np.rint(sums / counts * GRID).astype(np.float32)
            prototypes = np.where(sums.any(axis=1, keepdims=True), centres, prototypes)
    return prototypes, weights
