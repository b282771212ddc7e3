"""A gate against a baseline: by how much an audit found more than another one, by the interval of the difference."""

from __future__ import annotations

from memberscope.auditing.figures import bounds_of, figure_of, pooled, row_bounds, row_figure, rows_of, unlike
from memberscope.statistics.difference import difference
from memberscope.statistics.verdict import Candidate, check_attack, decide, metric_of, shower, unmeasured
from memberscope.text import SPACE, percent
from memberscope.types import Figure, Findings, Gate, GateResult
from memberscope.types.findings import Bounds


def judge_regression(findings: Findings, gate: Gate, baseline: Findings) -> GateResult:
    """The difference from a baseline: of every attack that both ran, or of every row that both have."""
    assert gate.worse_by is not None
    sides = _row_sides(findings, gate, baseline) if gate.group else _attack_sides(findings, gate, baseline)
    if not sides:
        return unmeasured(gate, gate.attack if gate.attack != "strongest" else findings.strongest, _NOTHING)
    candidates, figures = [], {}
    for name, (new, old) in sides.items():
        value, low, high = difference(_plain(new), _plain(old))
        corrected_low = low if len(sides) == 1 and not gate.group else difference(_corrected(new), _corrected(old))[1]
        candidates.append(Candidate(name, value, low, high, corrected_low))
        figures[name] = _figure(new), _figure(old)
    verdict, worst = decide(gate.worse_by, candidates)
    now, before = figures[worst.name]
    rise = _change if gate.metric == "auc" else _points
    shown = shower(gate)
    assert now.value is not None and before.value is not None
    what = f"{metric_of(gate)} of {worst.name}" if not gate.group else f"{metric_of(gate)} in {gate.group} {worst.name}"
    against = f"{shown(now.value)} against {shown(before.value)} in the baseline"
    many = f" (corrected for {len(sides)} {'rows' if gate.group else 'attacks'})" if len(sides) > 1 else ""
    said = {
        "fail": f"Fail: the {what} is {against}: worse by at least {rise(worst.corrected_low)}{many}, more than the "
        f"{rise(gate.worse_by)} allowed.",
        "pass": (
            f"Pass: nothing is worse than in the baseline by more than {rise(worst.high)} (the {what}: {against}), "
            f"which is below the {rise(gate.worse_by)} allowed."
            if worst.high > 0
            else f"Pass: nothing is worse than in the baseline (nearest to it, the {what}: {against})."
        ),
        "inconclusive": f"Inconclusive: the {what} is {against}; the change lies between {rise(worst.low)} and "
        f"{rise(worst.high)}, on either side of the {rise(gate.worse_by)} allowed. More records or targets decide it.",
    }[verdict]
    notes = unlike(findings, baseline)
    return GateResult(
        gate=gate,
        verdict=verdict,
        attack=findings.strongest if gate.group else worst.name,
        figure=now,
        sentence=" ".join([said, *notes]),
        row=worst.name if gate.group else None,
        baseline=before,
        difference=worst.figure,
    )


# A value with what it is judged by.
_Side = tuple[float, Bounds]
_NOTHING = "this audit and the baseline have no such figure in common"


def _attack_sides(findings: Findings, gate: Gate, baseline: Findings) -> dict[str, tuple[_Side, _Side]]:
    now, before = pooled(findings), pooled(baseline)
    if gate.attack != "strongest":
        check_attack(gate, now)
        check_attack(gate, before)
    sides = {}
    for name in now if gate.attack == "strongest" else [gate.attack]:
        if name in before:
            new, old = (
                _side(figure_of(run[name], gate.figure), bounds_of(owner, run[name], gate.figure))
                for owner, run in ((findings, now), (baseline, before))
            )
            if new and old:
                sides[name] = new, old
    return sides


def _row_sides(findings: Findings, gate: Gate, baseline: Findings) -> dict[str, tuple[_Side, _Side]]:
    assert gate.group is not None
    rows = rows_of(findings, gate.group)
    others = {row.name: row for row in rows_of(baseline, gate.group)}
    sides = {}
    for row in rows:
        if row.name in others:
            new, old = (
                _side(row_figure(part, gate.figure), row_bounds(owner, part, gate.figure, count))
                for owner, part, count in ((findings, row, len(rows)), (baseline, others[row.name], len(others)))
            )
            if new and old:
                sides[row.name] = new, old
    return sides


def _side(figure: Figure, found: Bounds | None) -> _Side | None:
    return None if figure.value is None or found is None else (figure.value, found)


def _plain(side: _Side) -> tuple[float, float, float]:
    return side[0], side[1].low, side[1].high


def _corrected(side: _Side) -> tuple[float, float, float]:
    return side[0], side[1].corrected_low, side[1].corrected_high


def _figure(side: _Side) -> Figure:
    value, low, high = _plain(side)
    return Figure(value=value, low=min(low, value), high=max(high, value))


def _points(change: float) -> str:
    """A change of a rate.

    >>> _points(-0.021), _points(0.01)
    ('−2.1 points', '1 point')
    """
    text = percent(change).removesuffix(f"{SPACE}%").replace("-", "−")
    return f"{text} point{'s' * (text != '1')}"


def _change(change: float) -> str:
    """A change of an area."""
    return f"{change:.3f}".replace("-", "−")
