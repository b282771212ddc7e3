"""Which of several compromises no other beats."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points that no other point beats, by rising first coordinate.

    A point ``(utility, leakage)`` is beaten by another with at least its utility and at most its leakage, one of them
    strictly better; equal points are all kept.

    >>> pareto_front([(0.8, 0.1), (0.9, 0.3), (0.7, 0.2), (0.9, 0.4)])
    [0, 1]
    """
    best = float("inf")
    front: list[int] = []
    held = (float("nan"), float("nan"))
    for place in sorted(range(len(points)), key=lambda place: (-points[place][0], points[place][1])):
        if points[place][1] < best or points[place] == held:
            front.append(place)
            best, held = points[place][1], points[place]
    return sorted(front, key=lambda place: (points[place][0], place))
