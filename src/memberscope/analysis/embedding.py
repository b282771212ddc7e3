"""A t-SNE map of one target's records, vulnerable ones marked (Figure 2 of Khalil et al., arXiv 2511.16792).

t-SNE (van der Maaten & Hinton 2008) keeps neighbours, not distances or densities: the purity beside a map, measured
before t-SNE, is the number to quote. Made by openTSNE (Poličar et al. 2024) with its defaults (Kobak & Berens 2019:
principal components as the start, exaggeration 12, learning rate n/12), the number of iterations excepted.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memberscope.analysis.means import mean_of_shares
from memberscope.errors import ConfigError, DataError, MissingExtraError
from memberscope.types.analyses import Embedding

COMPONENTS = 50
NEIGHBOURS = 10
FEWEST = 5
# Neighbours are looked for among so many records at most, a draw of all candidates.
SEARCHED = 20_000
# A third of the time less than openTSNE's 250 and 500, for a Kullback-Leibler divergence 0.3 % larger and the same
# share of neighbours kept, on 3,000 points.
ITERATIONS = (150, 350)
# Measured for openTSNE 1.0: neighbours and affinities take 220 bytes a point and unit of perplexity, and the copies of
# the points at most 32 bytes a value.
BYTES_PERPLEXITY, BYTES_VALUE = 256, 32


def embedding(
    points: NDArray[Any],
    of: Literal["features", "logits"],
    labels: NDArray[np.int64],
    ids: NDArray[np.str_],
    member: NDArray[np.bool_],
    vulnerable: NDArray[np.bool_],
    candidates: NDArray[np.bool_],
    *,
    target: int,
    seed: int,
    limit: int = 3000,
    perplexity: float = 30,
    memory: int | None = None,
) -> Embedding:
    """Draw the candidates in two dimensions; 3,000 of them take about 15 seconds of one core.

    The points are centred and reduced to their first 50 principal components; they are not scaled feature by
    feature, because the size of a penultimate activation is its weight in the model's answer. Of more than ``limit``
    candidates, all vulnerable ones are kept up to half the limit (a draw beyond it), and the others are drawn from
    each class in proportion. The same arguments give the same bytes on one machine, unless memory runs short.

    Args:
        points: ``(N, D)`` penultimate features or logits of every record under the target; may be a memory map.
        of: what the points are.
        labels: ``(N,)`` classes.
        ids: ``(N,)`` identities.
        member: ``(N,)`` bool, records that the target was trained on.
        vulnerable: ``(N,)`` bool, records to be marked.
        candidates: ``(N,)`` bool, records that may be shown.
        target: row of the pool whose points these are.
        seed: of the sample, the start and the neighbour search.
        limit: records to show at most, at least 5.
        perplexity: t-SNE's effective number of neighbours, above 1; lowered to a third of the records shown.
        memory: bytes that may be used; by default half of what is free. Fewer records are shown if it is short.

    Returns:
        The map, coordinates to three decimals, in the order of the records. ``purity_vulnerable`` and
        ``purity_others``: the share of the 10 records nearest to a record (Euclidean, in all D dimensions, among at
        most 20,000 candidates drawn at random besides those shown) that bear its label, mean with its t interval
        over the vulnerable or the other records shown; 1 means a record among its own class. ``note`` says what was
        left out or changed.

    Raises:
        DataError: shapes that disagree, values that are not finite, fewer than 5 records or all of them at one place,
            or not enough memory for 5.
        ConfigError: ``limit`` or ``perplexity`` out of range.
        MissingExtraError: openTSNE is not installed.
    """
    _check(points, {"labels": labels, "ids": ids, "member": member, "vulnerable": vulnerable, "candidates": candidates})
    if limit < FEWEST or not perplexity > 1:
        raise ConfigError(
            f"a limit of at least {FEWEST} records and a perplexity above 1",
            f"limit {limit}, perplexity {perplexity:g}",
            "Raise it, or leave it out.",
        )
    tsne = _open_tsne()
    rng = np.random.default_rng(seed)
    available = np.flatnonzero(candidates)
    size = BYTES_PERPLEXITY * perplexity + BYTES_VALUE * points.shape[1]
    affordable = int((_free_memory() // 2 if memory is None else memory) // size)
    if min(len(available), affordable) < FEWEST:
        raise DataError(
            f"at least {FEWEST} records for a map, and memory for them",
            f"{len(available)} records that may be shown, memory for {affordable}",
            "Show more records, or free memory.",
        )
    shown = sample(available, labels, vulnerable, min(limit, affordable), rng)
    notes = [_left_out(shown, available, vulnerable, limit, affordable)]
    most = min(SEARCHED, affordable)
    searched = available if len(available) <= most else rng.choice(available, most, replace=False)
    searched = np.union1d(searched, shown)
    space = np.asarray(points[searched], np.float64)
    if not np.isfinite(space).all():
        raise DataError(f"finite {of}", "NaN or infinity", "A diverged model cannot be drawn: choose another target.")
    own = np.searchsorted(searched, shown)
    if not np.ptp(space[own], axis=0).any():
        raise DataError(
            f"{of} that differ between records", f"{len(shown)} records at one place", "Choose another target."
        )
    # In units of its own spread, so that neither tiny nor huge activations meet the limits of floating point.
    space -= space[own].mean(axis=0)
    space /= np.abs(space[own]).max()
    used = min(perplexity, (len(shown) - 1) / 3)
    if used < perplexity:
        notes.append(f"Perplexity {used:.3g} instead of {perplexity:g}, because {len(shown):,} records are few.")
    x, y = _place(tsne, space[own], used, seed)
    purity = _purity(space, labels[searched], own)
    marked = vulnerable[shown]
    return Embedding(
        of=of,
        target=target,
        available=len(available),
        perplexity=round(used, 3),
        ids=[str(name) for name in ids[shown]],
        x=x,
        y=y,
        label=[int(label) for label in labels[shown]],
        member=[bool(flag) for flag in member[shown]],
        vulnerable=[bool(flag) for flag in marked],
        purity_vulnerable=mean_of_shares(purity[marked], "vulnerable records").figure(),
        purity_others=mean_of_shares(purity[~marked], "other records").figure(),
        note=" ".join(note for note in notes if note),
    )


def sample(
    available: NDArray[np.int64],
    labels: NDArray[np.int64],
    vulnerable: NDArray[np.bool_],
    size: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """At most ``size`` of the records ``available``, rising: vulnerable ones first, the others class by class.

    Vulnerable records fill half at most, unless there are too few others. Of the others each class gives the same
    share, and one record at least where places allow.
    """
    if len(available) <= size:
        return available
    marked, others = available[vulnerable[available]], available[~vulnerable[available]]
    first = rng.permutation(marked)[: max(size // 2, size - len(others))]
    shuffled = rng.permutation(others)
    share = np.empty(len(others))
    for label in np.unique(labels[others]):
        where = labels[shuffled] == label
        share[where] = np.arange(where.sum()) / where.sum()
    rest = shuffled[np.argsort(share, kind="stable")][: size - len(first)]
    return np.sort(np.concatenate([first, rest]))


def _left_out(
    shown: NDArray[np.int64],
    available: NDArray[np.int64],
    vulnerable: NDArray[np.bool_],
    limit: int,
    affordable: int,
) -> str:
    if len(shown) == len(available):
        return ""
    marked, all_marked = int(vulnerable[shown].sum()), int(vulnerable[available].sum())
    which = f"all {marked:,}" if marked == all_marked else f"{marked:,} of the {all_marked:,}"
    text = f"{len(shown):,} of {len(available):,} records are shown: {which} vulnerable ones and, "
    text += f"class by class, a sample of {len(shown) - marked:,} others."
    if affordable < limit:
        text += f" Memory does not suffice for more (the limit is {limit:,})."
    return text


def _place(tsne: Any, space: NDArray[np.float64], perplexity: float, seed: int) -> tuple[list[float], list[float]]:
    """Coordinates of ``(n, D)`` points."""
    from sklearn.decomposition import PCA

    components = min(COMPONENTS, *space.shape)
    reduced = PCA(components, svd_solver="randomized", random_state=seed).fit_transform(space)
    start = np.zeros((len(space), 2))
    start[:, : min(components, 2)] = reduced[:, :2]
    start *= 1e-4 / start[:, 0].std()
    # Equal points would stay one point, since the forces on them are equal.
    start += np.random.default_rng(seed).normal(0.0, 1e-6, start.shape)
    result = tsne(
        perplexity=perplexity,
        initialization=start,
        neighbors="exact",
        negative_gradient_method="bh",
        early_exaggeration_iter=ITERATIONS[0],
        n_iter=ITERATIONS[1],
        n_jobs=1,
        random_state=seed,
    ).fit(reduced)
    # Plus 0, because findings have no use for a negative zero.
    x, y = np.round(np.asarray(result, np.float64).T, 3) + 0.0
    return x.tolist(), y.tolist()


def _purity(space: NDArray[np.float64], labels: NDArray[np.int64], shown: NDArray[np.int64]) -> NDArray[np.float64]:
    """``(n,)`` share of the nearest records of the space that bear the label of each record shown, itself excluded."""
    from sklearn.neighbors import NearestNeighbors

    wanted = min(NEIGHBOURS, len(space) - 1)
    points = space.astype(np.float32)
    search = NearestNeighbors(n_neighbors=wanted + 1, algorithm="brute").fit(points)
    found = search.kneighbors(points[shown], return_distance=False)
    # Among equal records a record need not be the first of its own neighbours, nor be there at all.
    other = found != shown[:, None]
    other[other.all(axis=1), -1] = False
    nearest = found[other].reshape(len(shown), wanted)
    return np.asarray((labels[nearest] == labels[shown][:, None]).mean(axis=1))


def _check(points: NDArray[Any], columns: dict[str, NDArray[Any]]) -> None:
    n = len(points)
    wrong = {name: values.shape for name, values in columns.items() if values.shape != (n,)}
    if points.ndim != 2 or points.shape[1] < 1 or wrong:
        raise DataError(
            "points of shape (N, D) and one label, id and flag for each",
            f"points of shape {points.shape}" + "".join(f", {name} of shape {shape}" for name, shape in wrong.items()),
            "Give the arrays of one data set.",
        )
    for name in ("member", "vulnerable", "candidates"):
        if columns[name].dtype != np.bool_:
            raise DataError(f"{name} as booleans", f"type {columns[name].dtype}", "Convert it with astype(bool).")


def _open_tsne() -> Any:
    try:
        return import_module("openTSNE").TSNE
    except ImportError as error:
        raise MissingExtraError.of("openTSNE", "analysis", "the t-SNE map") from error


def _free_memory() -> int:
    """Bytes that are free on the machine, or within the limit of the container."""
    free = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else [1 << 32]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = [int(line.split()[1]) * 1024]
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            # Cached files count as used there, though the kernel drops them when asked for memory.
            cached = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
            used = int((group / "memory.current").read_text())
            used -= sum(int(value) for key, value in cached if key in ("active_file", "inactive_file"))
            free.append(int(limit) - used)
    except (OSError, ValueError):
        pass
    return max(min(free), 0)
