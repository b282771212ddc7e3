"""What the leaking records are and why: the analyses of an audit, as they stand in findings.json."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from memberscope.types.base import Figure, Histogram, Model, NotRun


class TrajectoryPoint(Model):
    """All targets after ``epoch`` epochs of training."""

    epoch: int
    train_accuracy: Figure
    test_accuracy: Figure
    auc: Figure = Field(description="global threshold on the scaled logit")
    advantage: Figure
    tpr_at_fpr: dict[str, Figure] = Field(description='keys "0.1", "0.01", "0.001"')
    reference_auc: Figure | None = Field(default=None, description="reference attack among models of the same epoch")
    reference_tpr_at_fpr: dict[str, Figure] | None = None
    histogram: Histogram = Field(description="scaled logits of members and non-members, the same bins in every epoch")


class Trajectory(Model):
    """Leakage over the epochs (the paper's Figure 1)."""

    attack: str = "scaled_logit"
    reference_attack: str | None = None
    points: list[TrajectoryPoint] = Field(description="rising epochs; the last is the audited model")
    sentence: str


class PaperCell(Model):
    """The paper's definition: members whose scaled logit exceeds a percentile of the non-members'."""

    percentile: float = Field(description="0.99 or 0.995")
    base_rate: float = Field(description="share of non-members above it by construction, 1 - percentile")
    share: Figure = Field(description="share of the members above it")
    selected: int = Field(description="members above it, mean over targets")
    agreement: Figure = Field(description="share of them that are vulnerable by the per-record definition")
    sentence: str = Field(description="whether it selects more than the base rate, in plain words")


class TriageScore(Model):
    """A score of the loss trace, which costs nothing, against the per-record definition (higher = more vulnerable)."""

    name: Literal["loss_trace_iqr", "loss_trace_mean"]
    title: str
    auroc: Figure
    precision: dict[str, Figure] = Field(description='keys "0.01", "0.03", "0.05": of the top share, how many are')


class Vulnerability(Model):
    """Which records are vulnerable, by the paper's definition and by the default one."""

    attack: str
    definition: str = Field(description="the per-record definition in one plain sentence")
    records: int = Field(description="records judged: trained on by at least one target")
    vulnerable: int
    protected: int = Field(description="records that no target that trained on them flags")
    base_rate: float = Field(description="vulnerable / records")
    paper: list[PaperCell]
    triage: list[TriageScore]
    triage_reason: str = Field(default="", description="why there is no triage, if there is none")
    sentence: str


class OutlierScore(Model):
    """One outlier score (higher = more of an outlier) against the vulnerable records."""

    name: str
    title: str
    view: Literal["out", "target"] = Field(description="from models that did not train on the record, or the target")
    auroc: Figure = Field(description="of the score for the vulnerable records; 0.5 is chance")
    precision: dict[str, Figure] = Field(description='keys "0.01", "0.03", "0.05"')
    spearman: Figure = Field(description="with the record's membership score")
    effect: Figure = Field(description="Cliff's delta against controls of the same class, -1 to 1; 0 is none")
    p_value: float | None = Field(description="two-sided, of the effect; None where not measurable")
    adjusted_p_value: float | None = Field(description="Benjamini-Hochberg over all scores")


class OutlierRow(Model):
    """One vulnerable record with its outlier scores from models that did not train on it."""

    id: str
    label_name: str
    nearest_class: str = Field(description="class whose centroid is nearest in the features of those models")
    percentiles: dict[str, float] = Field(description="score name -> share of all records that score lower, 0 to 1")


class Outliers(Model):
    """Whether the vulnerable records are outliers of their class."""

    vulnerable: int
    controls: int
    base_rate: float
    models: int = Field(description="models whose features were read")
    scores: list[OutlierScore]
    top: list[OutlierRow] = Field(description="the most exposed records, at most 60")
    verdict: Literal["yes", "partly", "no", "undecided"]
    sentence: str


class Embedding(Model):
    """A t-SNE map of one target's records (the paper's Figure 2)."""

    of: Literal["features", "logits"]
    target: int
    available: int = Field(description="records that could be shown")
    perplexity: float
    ids: list[str]
    x: list[float]
    y: list[float]
    label: list[int]
    member: list[bool] = Field(description="of the target")
    vulnerable: list[bool]
    purity_vulnerable: Figure = Field(description="share of the 10 nearest records (before t-SNE) of the same class")
    purity_others: Figure
    note: str = Field(default="", description="what was left out, and why")


class AttributionMap(Model):
    """Where one model looks in one record: a Grad-CAM map, or the attributions of a table's features."""

    id: str
    label_name: str
    predicted_name: str
    kind: Literal["vulnerable", "protected"]
    place: Literal["nearest", "farthest"] = Field(description="to the centroid of its class, among its kind")
    distance: float
    map: list[list[float]] = Field(default_factory=list, description="rows of the map, 0 to 1; empty for tables")
    features: list[tuple[str, float, float]] = Field(
        default_factory=list, description="name, value, attribution to the label; largest first; empty for images"
    )


class Focus(Model):
    """One number about the maps, of vulnerable records against controls of the same class."""

    name: Literal["centre_mass", "border_mass", "entropy", "top_mass"]
    title: str
    vulnerable: Figure
    controls: Figure
    difference: Figure
    p_value: float | None
    adjusted_p_value: float | None


class Attribution(Model):
    """Grad-CAM (the paper's Figure 3), or a bar of attributions for tables."""

    method: Literal["gradcam", "attribution"]
    target: int
    layer: str
    maps: list[AttributionMap]
    focus: list[Focus]
    sentence: str


class Analyses(Model):
    """What the leaking records are and why; each part None where the audit lacks what it needs."""

    trajectory: Trajectory | None = None
    vulnerability: Vulnerability | None = None
    outliers: Outliers | None = None
    embeddings: list[Embedding] = Field(default_factory=list)
    attribution: Attribution | None = None
    not_done: list[NotRun] = Field(default_factory=list, description="analyses that were not made, and why")
