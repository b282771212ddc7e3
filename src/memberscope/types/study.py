"""Everything a study measured, as it stands in study.json (schema version 1)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from memberscope.types.base import Figure, Model

STUDY_SCHEMA_VERSION = "1.0"


class Published(Model):
    """The paper's own figures of a row, as shares and seconds; null where its table is empty."""

    train_accuracy: float
    test_accuracy: float
    threshold_auc: float
    threshold_advantage: float
    train_seconds: float | None = None


class Dp(Model):
    """How a model was trained privately."""

    noise_multiplier: float = Field(description="standard deviation of the noise over the clipping norm, σ")
    clip: float
    sample_rate: float = Field(description="chance of a record to be in a batch")
    steps: int
    delta: float
    accountant: str
    drawn_batches: int | None = Field(default=None, description="Poisson batches that our own loop counted")


class StudyRow(Model):
    """One method on one target (``seed`` 0, 1, …) or on every model in turn (``seed == "all"``).

    All figures of a method come from the same models. Shares are in [0, 1].
    """

    method: str
    seed: int | Literal["all"]
    title: str
    family: str
    target: int | None = Field(description="row of the pool that played target; null for all")
    train_accuracy: Figure
    test_accuracy: Figure
    threshold_auc: Figure = Field(description="one threshold on the scaled logit for all records: the paper's attack")
    threshold_advantage: Figure = Field(description="TPR - FPR at a threshold chosen on the other half of the records")
    reference_attack: str | None = Field(description="the strongest attack with reference models of this defence")
    reference_tpr_at_fpr: dict[str, Figure] = Field(description='keys "0.1", "0.01", "0.001"')
    reference_auc: Figure = Field(description="interval corrected for picking the strongest (Bonferroni)")
    gap_auc: Figure
    ece: Figure = Field(description="expected calibration error of the served probabilities of non-members, 15 bins")
    train_seconds: Figure = Field(description="of one model, evaluation left out")
    overhead: Figure = Field(description="seconds a query that the output policy adds; 0 without a policy")
    overhead_relative: Figure = Field(description="the same over the model's own time")
    shifted: Figure | None = Field(
        default=None, description="share of answers in which the policy's centroid had to give way to keep the class"
    )
    epochs: float | None = Field(description="trained, mean over the models")
    kept_epoch: float | None = Field(default=None, description="that early stopping kept, mean over the models")
    epsilon: float | None
    epsilon_reason: str | None = Field(description="why there is no ε")
    dp: Dp | None = None
    published: Published | None
    differences: list[str] = Field(description="how ours and the published figures differ, and what that comes with")


class Front(Model):
    """Which methods no other beats in both test accuracy and leakage."""

    metric: Literal["reference_tpr", "threshold_auc"]
    methods: list[str] = Field(description="by rising test accuracy")


class StudyResult(Model):
    """The study document. Everything but times (``train_seconds``, ``overhead*``, ``run``) follows from the config."""

    schema_version: str = STUDY_SCHEMA_VERSION
    name: str
    scale: str
    headline: str = Field(description="the result in one plain sentence")
    summary: list[str]
    data: dict[str, Any]
    populations: dict[str, Any] = Field(
        description="models, targets, references, audit_records, members, non_members, validation"
    )
    config: dict[str, Any]
    published: str | None = Field(description="name of the paper's table that the rows are set beside")
    fronts: list[Front]
    rows: list[StudyRow]
    notes: list[str] = Field(default_factory=list, description="what the study said while it ran")
    run: dict[str, Any] = Field(default_factory=dict, description="created, seconds by row, versions")

    def pooled(self, method: str) -> StudyRow:
        """The row of ``method`` over all targets.

        Raises:
            KeyError: the method is not in the study.
        """
        for row in self.rows:
            if row.method == method and row.seed == "all":
                return row
        raise KeyError(method)

    def of(self, method: str) -> list[StudyRow]:
        """The rows of ``method`` on its single targets."""
        return [row for row in self.rows if row.method == method and row.seed != "all"]
