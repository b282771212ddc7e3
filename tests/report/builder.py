"""Findings made by hand, every state that a report can meet; all values are invented and follow a binormal model."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from memberscope.attacks import ATTACKS
from memberscope.types import AttackResult, CheckResult, Dataset, Figure, Findings, Gate, GateResult, NotRun
from memberscope.types.findings import (
    ClassRow,
    Curve,
    Histogram,
    Look,
    OperatingPoint,
    RecordRow,
    Records,
    ReferenceAdvice,
    ReferencePoint,
)
from report.made import analyses, share

ANIMALS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Separation of members from non-members of each attack, in standard deviations of the score.
POWER = {
    "gap": 0.32, "loss": 0.55, "confidence": 0.42, "entropy": 0.4, "modified_entropy": 0.56, "scaled_logit": 0.57,
    "attack_p": 0.6, "attack_r": 0.7, "calibrated_loss": 0.8, "lira_offline": 0.78, "lira_offline_pooled": 0.9,
    "lira_online": 1.0, "lira_online_pooled": 1.12, "rmia_offline": 0.98, "rmia_online": 1.08, "base": 1.05,
    "bavaria": 1.2,
}  # fmt: skip
TOO_FEW = "5,000 non-members; a rate of 0.1 % needs at least 10,000"


def tpr_of(power: float, fpr: float) -> float:
    """TPR of a binormal score whose members are also a little wider."""
    return float(ndtr((ndtri(fpr) + power) / (1 + 0.25 * power)))


def result(name: str, target: int | str, power: float, references: int) -> AttackResult:
    auc = float(ndtr(power / np.sqrt(1 + (1 + 0.25 * power) ** 2)))
    rates = {key: share(tpr_of(power, float(key))) for key in ("0.1", "0.01")}
    one = tpr_of(power, 0.01)
    point = OperatingPoint(
        nominal_fpr=0.01,
        tpr=share(one),
        fpr=share(0.0104),
        precision=share(one / (one + 0.0104)),
        balanced_accuracy=share((one + 0.9896) / 2),
        ppv_at_prior={str(p): share(p * one / (p * one + (1 - p) * 0.0104)) for p in (0.01, 0.1, 0.5)},
    )
    missing = Figure.not_measurable("correct or not is all that this attack sees: one threshold, no 1 % rate")
    kind = next((kind for kind in ATTACKS if kind.name == name), None)
    return AttackResult.model_validate(
        {
            "name": name,
            "target": target,
            "references": 0 if kind is None or kind.minimum == 0 else references,
            "access": "label" if name == "gap" else "scores",
            "records_scored": 10_000,
            "auc": share(auc),
            "advantage": share(2 * auc - 1),
            "tpr_at_fpr": {
                "0.1": missing if name == "gap" else rates["0.1"],
                "0.01": missing if name == "gap" else rates["0.01"],
                "0.001": Figure.not_measurable(TOO_FEW),
            },
            "operating_point": None if name == "gap" else point,
        }
    )


def curve(name: str, power: float) -> Curve:
    fpr = np.concatenate([[0.0], np.geomspace(2e-4, 1, 120)])
    tpr = np.concatenate([[0.0], ndtr((ndtri(fpr[1:]) + power) / (1 + 0.25 * power))])
    half = 1.96 * np.sqrt(tpr * (1 - tpr) / 5000) + 0.002 * (tpr > 0)
    low, high = np.clip(tpr - half, 0, 1), np.clip(tpr + half, 0, 1)
    return Curve(attack=name, fpr=fpr.tolist(), tpr=tpr.tolist(), low=low.tolist(), high=high.tolist())


def histogram(name: str, power: float) -> Histogram:
    edges = np.linspace(-4, 6, 51)
    middles = (edges[1:] + edges[:-1]) / 2
    width = 1 + 0.25 * power
    members, others = np.exp(-(((middles - power) / width) ** 2) / 2) / width, np.exp(-(middles**2) / 2)
    return Histogram(attack=name, edges=edges.tolist(), members=members.tolist(), non_members=others.tolist())


def class_row(name: str, tpr: float, size: int = 500) -> ClassRow:
    return ClassRow(
        name=name,
        members=size,
        non_members=size,
        train_accuracy=0.994,
        test_accuracy=float(np.clip(0.95 - 1.2 * tpr, 0, 1)),
        auc=share(0.5 + 1.9 * tpr if tpr < 0.25 else 0.97, 2 * size),
        tpr=share(tpr, size),
        fpr=share(0.011, size),
    )


def record(place: int, targets: int, ident: str, label: int, name: str) -> RecordRow:
    found = max(1, targets - place // 30)
    p = 10.0 ** -(9 - place * 0.04)
    return RecordRow(
        id=ident, label=label, label_name=name, score=float(9.5 - 0.05 * place), p_value=min(p, 1.0),
        adjusted_p_value=min(40 * p, 1.0), support_in=found, targets_in=targets, support_out=int(place % 17 == 5),
        targets_out=targets,
    )  # fmt: skip


CHECKS = [
    CheckResult(code="MS001", level="ok", title="No record on both sides", message="No duplicate crosses the border."),
    CheckResult(
        code="MS004",
        level="warning",
        title="Few non-members for 0.1 %",
        message="5,000 non-members cannot show a false-alarm rate of 0.1 %.",
        action="Audit at least 10,000 non-members, or report 1 % only.",
    ),
    CheckResult(
        code="MS008",
        level="warning",
        title="The model is overfitted",
        message="Training accuracy is 21.8 points above test accuracy.",
        action="Read the gap attack first: part of the leakage is overfitting.",
    ),
    CheckResult(
        code="MS003", level="info", title="Covariate shift", message="Without the inputs it could not be checked."
    ),
    CheckResult(code="MS002", level="ok", title="Labels alike", message="Members and non-members share labels."),
]


def references() -> ReferenceAdvice:
    """Advice on references, invented."""
    points = [ReferencePoint(references=size, value=share(tpr)) for size, tpr in ((2, 0.07), (4, 0.1), (12, 0.125))]
    return ReferenceAdvice(
        attack="bavaria",
        metric="tpr",
        targets=6,
        points=points,
        share=0.83,
        recommended=64,
        models=40,
        sentence="With 12 references BaVarIA finds most of what it can.",
    )


def build(
    *,
    verdict: str = "fail",
    kind: str = "image",
    strength: float = 1.0,
    targets: int = 6,
    exposed: int = 123,
    ids: list[str] | None = None,
    class_names: tuple[str, ...] = ANIMALS,
    gate: bool = True,
    headline: str = "",
    summary: list[str] | None = None,
    name: str = "small CNN on CIFAR-10",
    data_name: str = "cifar10",
    **changes: Any,
) -> Findings:
    """Findings of one audit; ``changes`` replace whole fields."""
    rng = np.random.default_rng(5)
    powers = {name: power * strength for name, power in POWER.items()}
    attacks = [result(name, "all", power, 12) for name, power in powers.items()]
    for index in range(targets):
        for attack, power in powers.items():
            attacks.append(result(attack, index, power + 0.08 * strength * float(rng.normal()), 12))
    strongest = next(r for r in attacks if r.name == "bavaria" and r.target == "all")
    found = strongest.tpr_at_fpr["0.01"]
    labels = rng.integers(0, len(class_names), exposed)
    idents = ids or [f"train/{5 * i + 17:05d}" for i in range(exposed)]
    rows = [
        record(i, targets, idents[i % len(idents)] if ids else idents[i], int(k), class_names[k])
        for i, k in enumerate(labels)
    ]
    gates = []
    if gate:
        sentence = {
            "fail": "The whole interval lies above the limit of 5 %.",
            "pass": "The whole interval lies below the limit of 5 %.",
            "inconclusive": "The interval holds the limit of 5 %: neither kept nor broken is shown.",
        }[verdict]
        gates = [
            GateResult.model_validate(
                {
                    "gate": Gate(limit=0.05),
                    "verdict": verdict,
                    "attack": "bavaria",
                    "figure": found,
                    "sentence": sentence,
                }
            )
        ]
    spread = rng.gamma(3.0, 0.045 * strength, len(class_names)).clip(0.004, 0.8)
    fields: dict[str, Any] = {
        "name": name,
        "verdict": verdict if gate else "no_gate",
        "headline": headline
        or "The model gives away about 1 in 8 of its training records to an attacker who accepts one false alarm in a "
        "hundred.",
        "summary": summary
        if summary is not None
        else [
            "The limit set for it is 5 %, and the whole interval lies above it.",
            "Two kinds of attack were not run, because neither gradients nor the training history were given.",
            "What to do next: train with less overfitting or with noise, then audit again; look at the records first.",
        ],
        "data": {
            "name": data_name,
            "access": "scores",
            "records": 10_000,
            "classes": len(class_names),
            "class_names": list(class_names),
            "fingerprint": "9f2c" * 16,
            "kind": kind,
        },
        "model": {
            "recipe": {"model": "cnn", "epochs": 30, "optimiser": "sgd", "learning_rate": 0.1, "weight_decay": 0.0005},
            "train_accuracy": {"value": 0.992, "low": 0.989, "high": 0.994},
            "test_accuracy": {"value": 0.774, "low": 0.762, "high": 0.786},
        },
        "populations": {
            "models": 13, "targets": targets, "references": 12, "members": 5000, "non_members": 5000, "population": 0,
            "audit_records": 10_000,
        },
        "threat_model": {
            "release": "The model answers queries with scores for every class.",
            "access": "Scores; no gradients, no training history.",
            "knowledge": "Records from the same source, and the recipe the model was trained with.",
            "assumptions": "The attacker can train 12 reference models.",
        },
        "checks": CHECKS,
        "attacks": attacks,
        "not_run": [
            NotRun(name="white_box", reason="needs gradients, and only scores are given"),
            NotRun(name="leverage", reason="needs gradients, and only scores are given"),
            NotRun(name="loss_trace", reason="needs the training history, which was not kept"),
        ],
        "strongest": "bavaria",
        "gates": gates,
        "curves": [
            curve(name, powers[name])
            for name in ("bavaria", "lira_online_pooled", "rmia_online", "calibrated_loss", "loss", "attack_p")
        ],
        "histograms": [histogram(name, powers[name]) for name in ("loss", "lira_online_pooled", "bavaria")],
        "classes": [class_row(name, float(t)) for name, t in zip(class_names, spread, strict=True)],
        "groups": {"split": [class_row("train", 0.13), class_row("test", 0.12)]},
        "records": Records(
            attack="bavaria",
            q=0.05,
            flagged=exposed,
            members=5000,
            share=share(exposed / 5000),
            always=sum(row.support_in == row.targets_in > 1 for row in rows),
            top=rows,
        ),
        "analyses": analyses([row.id for row in rows], labels.tolist(), class_names, images=kind == "image"),
        "references": references(),
        "looks": [
            Look(models=8, references=6, level=0.9875, verdict="inconclusive", strongest="rmia_online", sentence="On."),
            Look(models=13, references=12, level=0.975, verdict="fail", strongest="bavaria", sentence="Looked enough."),
        ],
        "limits": [
            "The figures hold for models trained with this recipe on this many records.",
            "Only attacks on single records were run; groups of records may leak more.",
        ],
        "cost": {"models_trained": 13, "queries": 130_000},
        "run": {
            "created": "2026-01-02T03:04:05+00:00",
            "seed": 7,
            "seconds": {"train": 412.3, "signals": 8.25, "attacks": 3.1},
            "versions": {"memberscope": "0.1.0", "python": "3.12.3", "numpy": "2.1.0"},
            "hashes": {"run": "ab12cd34" * 8, "signals": "77aa" * 16},
        },
    }  # fmt: skip
    return Findings.model_validate({**fields, **changes})


def images(count: int = 700, channels: int = 3) -> Dataset:
    """Soft random blobs, 32 × 32, whose ids are those of the records built above."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:32, 0:32] / 31
    centre = rng.random((count, 2, 1, 1))
    colour = rng.random((count, channels, 1, 1))
    blob = np.exp(-(((x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2) * 14))[:, None]
    inputs = ((0.35 + 0.65 * blob) * colour * 255).astype(np.uint8)
    ids = np.array([f"train/{i:05d}" for i in range(count)])
    return Dataset(inputs, rng.integers(0, 10, count), ids, ANIMALS, name="cifar10")


def table(count: int = 700, *, binary: bool = True) -> Dataset:
    """A table whose ids are those of the records built above."""
    rng = np.random.default_rng(4)
    columns = 40
    inputs = (rng.random((count, columns)) < 0.2).astype(np.uint8) if binary else rng.normal(50, 12, (count, columns))
    names = tuple(f"product {j}" for j in range(columns))
    ids = np.array([f"train/{i:05d}" for i in range(count)])
    return Dataset(inputs, rng.integers(0, 10, count), ids, ANIMALS, names, name="purchases")
