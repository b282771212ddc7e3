"""t-SNE maps keep what is known about planted points, and never crash at the end of an hour."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memberscope.analysis.embedding import embedding, sample
from memberscope.errors import ConfigError, DataError, MissingExtraError
from memberscope.types.analyses import Embedding

pytest.importorskip("openTSNE", reason="needs the extra analysis")


def clusters(per_class: int, classes: int, dimensions: int = 12, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Well separated Gaussian clusters, a class each."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    centres = 12 * rng.normal(size=(classes, dimensions))
    return centres[labels] + rng.normal(size=(len(labels), dimensions)), labels


def draw(points: NDArray[Any], labels: NDArray[Any], **changes: Any) -> Embedding:
    n = len(points)
    rng = np.random.default_rng(5)
    arguments: dict[str, Any] = {
        "of": "features",
        "labels": labels,
        "ids": np.array([f"r{i}" for i in range(n)]),
        "member": rng.random(n) < 0.5,
        "vulnerable": rng.random(n) < 0.2,
        "candidates": np.ones(n, np.bool_),
        "target": 3,
        "seed": 0,
    }
    return embedding(points, **(arguments | changes))


def neighbours(points: NDArray[Any], k: int = 10) -> list[set[int]]:
    """The slow way."""
    found = []
    for i, point in enumerate(points):
        distance = ((points - point) ** 2).sum(axis=1)
        distance[i] = np.inf
        found.append(set(np.argsort(distance, kind="stable")[:k].tolist()))
    return found


def placed(result: Embedding) -> NDArray[np.float64]:
    return np.column_stack([result.x, result.y])


def test_planted_clusters_stay_together_and_neighbours_stay_neighbours() -> None:
    points, labels = clusters(60, 4)
    labels = labels.copy()
    # Three strangers in the middle of another class: the map shows them there, the purity counts them.
    strangers = np.zeros(240, np.bool_)
    strangers[[10, 70, 130]] = True
    labels[strangers] = 3
    result = draw(points, labels, vulnerable=strangers)
    where = placed(result)
    true_class = np.repeat(np.arange(4), 60)
    for i, near in enumerate(neighbours(where)):
        assert (true_class[list(near)] == true_class[i]).all()
    before, after = neighbours(points), neighbours(where)
    kept = np.mean([len(a & b) / 10 for a, b in zip(before, after, strict=True)])
    # By chance within a cluster: 10 of 59.
    assert kept > 2 * 10 / 59
    assert result.purity_vulnerable.value == 0.0
    share = np.array([np.mean([labels[j] == labels[i] for j in near]) for i, near in enumerate(before)])
    assert result.purity_others.value == pytest.approx(share[~strangers].mean())
    assert result.purity_others.low < result.purity_others.value < result.purity_others.high
    assert result.note == ""


def test_purity_of_labels_that_mean_nothing_is_chance() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(4, size=400)
    result = draw(rng.normal(size=(400, 6)), labels, limit=150)
    for purity in (result.purity_vulnerable, result.purity_others):
        assert purity.low < 0.25 < purity.high
        assert purity.high - purity.low < 0.2


def test_every_record_keeps_its_own_and_the_same_seed_gives_the_same_bytes() -> None:
    points, labels = clusters(50, 3, seed=2)
    rng = np.random.default_rng(3)
    flags = {name: rng.random(150) < 0.4 for name in ("member", "vulnerable", "candidates")}
    result = draw(points, labels, **flags, limit=45)
    shown = np.array([int(name[1:]) for name in result.ids])
    assert len(shown) == 45 and flags["candidates"][shown].all() and (np.diff(shown) > 0).all()
    assert result.available == flags["candidates"].sum()
    assert result.label == labels[shown].tolist()
    assert result.member == flags["member"][shown].tolist()
    assert result.vulnerable == flags["vulnerable"][shown].tolist()
    assert (result.of, result.target) == ("features", 3)
    assert all(value == round(value, 3) for value in (*result.x, *result.y))
    assert draw(points, labels, **flags, limit=45).model_dump_json() == result.model_dump_json()
    assert draw(points, labels, **flags, limit=45, seed=1).ids != result.ids
    # A memory map of float32 gives the same records.
    assert draw(points.astype(np.float32), labels, **flags, limit=45).ids == result.ids


@pytest.mark.parametrize(("marked", "expected"), [(30, 30), (80, 50), (370, 70)])
def test_the_sample_keeps_vulnerable_records_and_the_proportions_of_the_classes(marked: int, expected: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 3], [200, 100, 99, 1])
    vulnerable = np.zeros(400, np.bool_)
    vulnerable[rng.permutation(399)[:marked]] = True
    shown = sample(np.arange(400), labels, vulnerable, 100, rng)
    assert len(set(shown.tolist())) == 100 and (np.diff(shown) > 0).all()
    assert vulnerable[shown].sum() == expected
    others = ~vulnerable
    share = (100 - expected) / others.sum()
    for label in range(4):
        here = others & (labels == label)
        assert abs((labels[shown] == label)[others[shown]].sum() - share * here.sum()) <= 1.01
    assert (labels[shown] == 3).sum() == 1


def test_left_out_records_are_named_with_their_numbers() -> None:
    points, labels = clusters(50, 4)
    vulnerable = np.arange(200) % 5 == 0
    note = draw(points, labels, vulnerable=vulnerable, limit=100).note
    assert "100 of 200 records are shown: all 40 vulnerable ones" in note and "60 others" in note
    note = draw(points, labels, vulnerable=vulnerable, limit=60).note
    assert "60 of 200 records are shown: 30 of the 40 vulnerable ones" in note and "Memory" not in note


def test_too_little_memory_shows_fewer_records_and_says_so() -> None:
    points, labels = clusters(60, 4)
    bytes_a_record = 256 * 30 + 32 * 12
    result = draw(points, labels, memory=80 * bytes_a_record)
    assert len(result.ids) == 80
    assert re.search(r"80 of 240 records.*Memory does not suffice for more \(the limit is 3,000\)", result.note)
    with pytest.raises(DataError, match="memory for 4"):
        draw(points, labels, memory=4 * bytes_a_record)


AWKWARD = {
    "five records": (np.arange(10.0).reshape(5, 2) ** 2, np.array([0, 0, 1, 1, 1])),
    "one dimension": (np.arange(40.0)[:, None] % 7, np.arange(40) % 2),
    "two classes of logits": (np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2),
    "two places": (np.repeat([[0.0, 1.0], [1.0, 0.0]], 25, axis=0), np.repeat([0, 1], 25)),
    "half of them equal": (np.where(np.arange(80)[:, None] < 40, 1.0, clusters(20, 4)[0]), np.arange(80) % 4),
    "a constant feature": (np.hstack([np.full((40, 3), 7.0), clusters(20, 2)[0]]), np.repeat([0, 1], 20)),
    "a class of one record": (clusters(20, 2)[0], np.array([2] + [0] * 19 + [1] * 20)),
    "huge": (1e30 * clusters(20, 2)[0], np.repeat([0, 1], 20)),
    "tiny": (1e-30 * clusters(20, 2)[0], np.repeat([0, 1], 20)),
    "more dimensions than records": (np.random.default_rng(0).normal(size=(20, 300)), np.arange(20) % 3),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_points_are_drawn(name: str) -> None:
    points, labels = AWKWARD[name]
    result = draw(points, labels, vulnerable=np.arange(len(points)) < 3)
    assert len(result.ids) == len(points)
    where = placed(result)
    assert np.isfinite(where).all() and where.std() > 0
    assert result.perplexity == pytest.approx(min(30, (len(points) - 1) / 3), abs=1e-3)
    assert ("Perplexity" in result.note) == (len(points) < 91)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_purity_and_map_do_not_depend_on_the_unit(scale: float) -> None:
    rng = np.random.default_rng(4)
    points, labels = rng.normal(size=(60, 3)), rng.integers(3, size=60)
    plain, scaled = draw(points, labels), draw(scale * points + scale, labels)
    assert scaled.purity_others == plain.purity_others
    assert scaled.purity_vulnerable == plain.purity_vulnerable


def test_without_vulnerable_records_their_purity_has_a_reason() -> None:
    points, labels = clusters(10, 2)
    result = draw(points, labels, vulnerable=np.zeros(20, np.bool_))
    assert result.purity_vulnerable.reason == "no vulnerable records to measure"
    assert result.purity_others.value == pytest.approx(0.9)  # ten neighbours, nine others of the class


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"candidates": np.arange(40) < 4}, DataError, "at least 5 records for a map"),
        ({"candidates": np.zeros(40, np.bool_)}, DataError, "0 records that may be shown"),
        ({"points": np.full((40, 12), 3.0)}, DataError, "40 records at one place"),
        ({"points": np.full((40, 12), np.nan)}, DataError, "finite features"),
        ({"points": np.zeros(40)}, DataError, r"points of shape \(N, D\)"),
        ({"member": np.ones(39, np.bool_)}, DataError, r"member of shape \(39,\)"),
        ({"vulnerable": np.ones(40)}, DataError, "vulnerable as booleans"),
        ({"limit": 3}, ConfigError, "a limit of at least 5"),
        ({"perplexity": 0.5}, ConfigError, "a perplexity above 1"),
    ],
)
def test_what_cannot_be_drawn_is_named(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    points, labels = clusters(20, 2)
    with pytest.raises(kind, match=message):
        draw(changes.pop("points", points), labels, **changes)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'memberscope\[analysis\]'"):
        draw(*clusters(20, 2))
