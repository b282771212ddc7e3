"""Everything an audit measured, as it stands in findings.json (schema version 1)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from memberscope.types.analyses import Analyses
from memberscope.types.base import Figure, Histogram, Model, NotRun

SCHEMA_VERSION = "1.3"

Verdict = Literal["pass", "fail", "inconclusive", "no_gate"]


class OperatingPoint(Model):
    """What a fixed threshold does: chosen for a 1 % false-alarm rate on records that are not scored with it."""

    nominal_fpr: float
    tpr: Figure
    fpr: Figure
    precision: Figure
    balanced_accuracy: Figure
    ppv_at_prior: dict[str, Figure] = Field(
        description='keys "0.01", "0.1", "0.5": share of accusations that are right'
    )


class Bounds(Model):
    """The interval that gates hold against a limit, and a wider one that allows for picking it from several.

    ``level``: confidence of ``low`` and ``high``; above .95 with several looks, or for one row of several.
    ``corrected_level``: likewise, divided among the attacks that were run (Bonferroni).
    """

    level: float
    low: float
    high: float
    corrected_level: float
    corrected_low: float
    corrected_high: float


class AttackResult(Model):
    """One attack on one target, or on all targets together (``target == "all"``)."""

    name: str
    target: int | Literal["all"]
    references: int
    access: str
    records_scored: int
    auc: Figure
    advantage: Figure
    tpr_at_fpr: dict[str, Figure] = Field(description='keys "0.1", "0.01", "0.001"')
    operating_point: OperatingPoint | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    bounds: dict[str, Bounds] = Field(
        default_factory=dict,
        description='over all targets, of "auc", "advantage", "tpr@0.01"…: what gates are judged by (since 1.3)',
    )


class CheckResult(Model):
    """One finding of a check: level ``ok``, ``info`` (could not be checked), ``warning`` or ``error``."""

    code: str
    level: Literal["ok", "info", "warning", "error"]
    title: str
    message: str
    action: str = ""


class Gate(Model):
    """A limit that the model must keep: the whole interval of the metric must lie below it.

    ``metric``: ``"tpr"`` (at ``fpr``), ``"auc"`` or ``"advantage"``. ``attack``: a name, or ``"strongest"``
    (every attack run; corrected for the choice). ``group``: ``"class"`` or one of the data's groups; then every row
    of it under the strongest attack must keep the limit (corrected for the number of rows).

    Instead of ``limit``, a regression: ``baseline`` (a run folder or a findings.json) and ``worse_by``, the most
    that the metric may lie above the baseline's.
    """

    metric: Literal["tpr", "auc", "advantage"] = "tpr"
    fpr: float = 0.01
    limit: float | None = Field(default=None, gt=0, lt=1)
    attack: str = "strongest"
    group: str | None = Field(default=None, min_length=1, description="class, or a group of the data (since 1.3)")
    baseline: str | None = Field(default=None, min_length=1, description="run folder or findings.json (since 1.3)")
    worse_by: float | None = Field(
        default=None, gt=0, lt=1, description="most by which the metric may exceed the baseline's (since 1.3)"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Gate:
        if self.fpr not in (0.1, 0.01, 0.001):
            raise ValueError(f"fpr is 0.1, 0.01 or 0.001, not {self.fpr}")
        if (self.baseline is None) != (self.worse_by is None):
            missing = "worse_by" if self.worse_by is None else "baseline"
            raise ValueError(f"a regression needs baseline and worse_by, and {missing} is missing")
        if (self.limit is None) == (self.baseline is None):
            raise ValueError("a gate has either a limit, or a baseline with worse_by")
        if self.group is not None:
            if self.metric == "advantage" or (self.metric == "tpr" and self.fpr != 0.01):
                raise ValueError("a gate by group has the metric auc, or tpr at fpr 0.01")
            if self.attack != "strongest":
                raise ValueError("a gate by group judges the strongest attack: leave attack out")
        return self

    @property
    def figure(self) -> str:
        """Which figure is held against the limit: ``"auc"``, ``"advantage"`` or ``"tpr@0.01"``."""
        return f"tpr@{self.fpr:g}" if self.metric == "tpr" else self.metric

    @property
    def kind(self) -> Literal["limit", "group", "regression"]:
        """What the gate compares: figures with a limit, rows of a group with it, or two audits."""
        return "regression" if self.baseline is not None else "limit" if self.group is None else "group"


class GateResult(Model):
    """A gate, the figure that decided it, and the outcome."""

    gate: Gate
    verdict: Literal["pass", "fail", "inconclusive"]
    attack: str
    figure: Figure
    sentence: str
    row: str | None = Field(default=None, description="of a gate by group: the row that decided (since 1.3)")
    baseline: Figure | None = Field(default=None, description="of a regression: the baseline's figure (since 1.3)")
    difference: Figure | None = Field(
        default=None, description="of a regression: the figure less the baseline's (since 1.3)"
    )


class ReferencePoint(Model):
    """What an attack finds with so many references, mean over independent targets."""

    references: int
    value: Figure


class ReferenceAdvice(Model):
    """How many reference models are enough, judged from fewer than there are.

    The curve is ceiling − loss/R. ``share``: part of what the attack would find beyond chance with any number of
    references that it finds with the present ones; None where it finds nothing. ``recommended``: the smallest power of
    two that finds 95 %. ``models``: how many would decide the gates that are inconclusive, if their figures stay.
    """

    attack: str
    metric: Literal["tpr", "auc"]
    targets: int
    points: list[ReferencePoint]
    share: float | None
    recommended: int
    models: int | None = None
    sentence: str


class Look(Model):
    """One judgement of the gates while the pool grew, at the level that all judgements together leave it."""

    models: int
    references: int
    level: float
    verdict: Verdict
    strongest: str
    sentence: str


class ClassRow(Model):
    """Leakage of one class (or subgroup) under the strongest attack, intervals corrected over the rows."""

    name: str
    members: int
    non_members: int
    train_accuracy: float | None
    test_accuracy: float | None
    auc: Figure
    tpr: Figure = Field(description="share of the class's members found at the attack's 1 % threshold")
    fpr: Figure = Field(description="share of the class's non-members accused at that threshold")
    bounds: dict[str, Bounds] = Field(
        default_factory=dict, description='by figure ("auc", "tpr@0.01"): what gates by group are judged by (since 1.3)'
    )


class RecordRow(Model):
    """One exposed record: evidence under the strongest reference attack, over all targets.

    ``support_in``: targets trained on the record that flag it; ``targets_in``: targets trained on it;
    likewise ``_out`` for the targets that were not (false alarms).
    """

    id: str
    label: int
    label_name: str
    score: float
    p_value: float
    adjusted_p_value: float
    support_in: int
    targets_in: int
    support_out: int
    targets_out: int


class Records(Model):
    """Which records are exposed: Benjamini-Hochberg at ``q`` over the records of each target."""

    attack: str
    q: float
    flagged: int = Field(description="members flagged, mean over targets")
    members: int = Field(description="members, mean over targets")
    share: Figure
    always: int = Field(description="records flagged by every one of two or more targets that trained on them")
    top: list[RecordRow] = Field(description="the most exposed, at most 200; records.csv has all")


class Curve(Model):
    """A ROC curve with its pointwise 95 % band, false-positive rates increasing."""

    attack: str
    fpr: list[float]
    tpr: list[float]
    low: list[float]
    high: list[float]


class Findings(Model):
    """The findings document. Everything but ``run`` is determined by data, plan and seed."""

    schema_version: str = SCHEMA_VERSION
    name: str
    verdict: Verdict
    headline: str = Field(description="the result in one plain sentence")
    summary: list[str] = Field(description="plain sentences: how sure, what was not tested, what to do next")
    data: dict[str, Any] = Field(description="name, records, classes, class_names, fingerprint, kind")
    model: dict[str, Any] = Field(description="recipe if known; train_accuracy and test_accuracy as figures")
    populations: dict[str, Any] = Field(
        description="models, targets, references, members, non_members, population, audit_records"
    )
    threat_model: dict[str, str] = Field(description="release, access, knowledge, assumptions")
    checks: list[CheckResult]
    attacks: list[AttackResult]
    not_run: list[NotRun]
    strongest: str = Field(description="name of the attack with the highest lower bound of the reporting metric")
    gates: list[GateResult]
    curves: list[Curve]
    histograms: list[Histogram]
    classes: list[ClassRow]
    groups: dict[str, list[ClassRow]] = Field(default_factory=dict)
    records: Records | None
    analyses: Analyses | None = Field(default=None, description="what the leaking records are, and why (since 1.1)")
    references: ReferenceAdvice | None = Field(
        default=None, description="what more reference models would add (since 1.2)"
    )
    looks: list[Look] = Field(
        default_factory=list, description="judgements while the pool grew, the last one decides (since 1.2)"
    )
    limits: list[str]
    cost: dict[str, Any] = Field(default_factory=dict, description="models trained, queries; no times")
    run: dict[str, Any] = Field(default_factory=dict, description="created, seconds by step, versions, seed, hashes")

    def pooled(self, name: str) -> AttackResult:
        """The figure over all targets of the attack ``name``.

        Raises:
            KeyError: the attack was not run.
        """
        for result in self.attacks:
            if result.name == name and result.target == "all":
                return result
        raise KeyError(name)
