"""The figures of findings that gates and comparisons take, with the bounds that they are judged by."""

from __future__ import annotations

from memberscope.errors import ConfigError, nearest
from memberscope.statistics.difference import carried
from memberscope.statistics.intervals import LEVEL
from memberscope.types import AttackResult, Figure, Findings
from memberscope.types.findings import Bounds, ClassRow


def pooled(findings: Findings) -> dict[str, AttackResult]:
    """The results over all targets, by attack."""
    return {result.name: result for result in findings.attacks if result.target == "all"}


def figure_of(result: AttackResult, name: str) -> Figure:
    """The figure ``"auc"``, ``"advantage"`` or ``"tpr@0.01"`` of a result."""
    if name.startswith("tpr@"):
        return result.tpr_at_fpr.get(name.removeprefix("tpr@"), Figure.not_measurable("not measured"))
    return result.auc if name == "auc" else result.advantage


def bounds_of(findings: Findings, result: AttackResult, name: str) -> Bounds | None:
    """What a figure of an attack over all targets is judged by; None where it was not measured.

    Findings before schema 1.3 keep 95 % intervals only: the wider ones are carried over from them.
    """
    figure = figure_of(result, name)
    if figure.value is None or figure.low is None or figure.high is None:
        return None
    if name in result.bounds:
        return result.bounds[name]
    rivals = sum(figure_of(other, name).value is not None for other in pooled(findings).values())
    return _carried(findings, (figure.value, figure.low, figure.high), LEVEL, rivals)


def rows_of(findings: Findings, group: str) -> list[ClassRow]:
    """The rows of ``"class"`` or of a group.

    Raises:
        ConfigError: the findings have no such group.
    """
    if group == "class":
        return findings.classes
    if group not in findings.groups:
        known = ["class", *findings.groups]
        raise ConfigError(
            f"a gate by one of the groups that the audit measured ({', '.join(known)})",
            f"group {group!r}{nearest(group, known)}",
            "Name one of them; groups with 2 to 50 values are measured.",
        )
    return findings.groups[group]


def row_figure(row: ClassRow, name: str) -> Figure:
    """The figure ``"auc"`` or ``"tpr@0.01"`` of a row."""
    return row.auc if name == "auc" else row.tpr


def row_bounds(findings: Findings, row: ClassRow, name: str, rows: int) -> Bounds | None:
    """What a figure of one of several rows is judged by; None where it was not measured."""
    figure = row_figure(row, name)
    if figure.value is None or figure.low is None or figure.high is None:
        return None
    if name in row.bounds:
        return row.bounds[name]
    level = 1 - (1 - LEVEL) / max(rows, 1)
    return _carried(findings, (figure.value, figure.low, figure.high), level, len(pooled(findings)))


def _carried(findings: Findings, figure: tuple[float, float, float], level: float, choices: int) -> Bounds:
    # How many targets are twins is not in the findings; the fewest clusters there may be give the widest bounds.
    targets = int(findings.populations.get("targets", 1))
    clusters = targets if targets < 3 else (targets + 1) // 2
    corrected = 1 - (1 - level) / max(choices, 1)
    low, high = carried(figure, level, corrected, clusters)
    return Bounds(
        level=level,
        low=figure[1],
        high=figure[2],
        corrected_level=corrected,
        corrected_low=low,
        corrected_high=high,
    )


def unlike(new: Findings, old: Findings) -> list[str]:
    """Sentences on what differs between two audits beside the models: a change may come from that."""
    said = []
    if new.data.get("fingerprint") != old.data.get("fingerprint"):
        said.append("The baseline audited other records.")
    ours, theirs = (findings.populations.get("references") for findings in (new, old))
    if ours != theirs:
        said.append(f"This audit has {ours} reference models a target, the baseline {theirs}.")
    if new.threat_model.get("access") != old.threat_model.get("access"):
        said.append("The attacker sees other answers than in the baseline.")
    only = sorted(set(pooled(new)) ^ set(pooled(old)))
    if only:
        said.append(f"Not compared, because only one of the two audits ran it: {', '.join(only)}.")
    return said
