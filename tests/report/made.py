"""Analyses made by hand: every number is invented, and no two that are compared are alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from memberscope.types import Figure, Findings, NotRun
from memberscope.types.analyses import (
    Analyses,
    Attribution,
    AttributionMap,
    Embedding,
    Focus,
    OutlierRow,
    Outliers,
    OutlierScore,
    PaperCell,
    Trajectory,
    TrajectoryPoint,
    TriageScore,
    Vulnerability,
)
from memberscope.types.base import Histogram

FEW = "5,000 non-members; a rate of 0.1 % needs at least 10,000"
EPOCHS = (1, 3, 10, 30)
SCORES = {
    "centroid_cosine": "Distance to the class centroid (cosine, features)",
    "neighbours": "Neighbours of another class",
    "margin": "Out-of-sample margin, inverted",
    "loss_trace_iqr": "Spread of the loss trace",
}
TRACELESS = "the loss trace is the same from every view"


def share(value: float, n: int = 5000) -> Figure:
    """A share of ``n`` with its Wilson interval."""
    value = min(max(float(value), 0.0), 1.0)
    z2 = 1.96**2
    centre = (value + z2 / (2 * n)) / (1 + z2 / n)
    half = 1.96 * math.sqrt(value * (1 - value) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Figure(value=value, low=min(max(centre - half, 0.0), value), high=max(min(centre + half, 1.0), value))


def around(value: float, half: float = 0.031) -> Figure:
    """A figure that may be negative, with an even interval."""
    return Figure(value=value, low=value - half, high=value + half)


def trajectory() -> Trajectory:
    edges = np.linspace(-8, 16, 41)
    middles = (edges[1:] + edges[:-1]) / 2

    def bell(at: float, width: float) -> list[float]:
        return list((np.exp(-(((middles - at) / width) ** 2) / 2) / width).round(5))

    points = [
        TrajectoryPoint(
            epoch=epoch,
            train_accuracy=share(0.41 + 0.17 * k),
            test_accuracy=share(0.40 + 0.09 * k),
            auc=share(0.502 + 0.041 * k),
            advantage=share(0.013 + 0.052 * k),
            tpr_at_fpr={
                "0.1": share(0.104 + 0.033 * k), "0.01": share(0.0101 + 0.004 * k),
                "0.001": Figure.not_measurable(FEW),
            },
            reference_auc=share(0.511 + 0.071 * k),
            reference_tpr_at_fpr={
                "0.1": share(0.112 + 0.063 * k), "0.01": share(0.0115 + 0.027 * k),
                "0.001": Figure.not_measurable(FEW),
            },
            histogram=Histogram(
                attack="scaled_logit", edges=edges.tolist(), members=bell(2.0 * k, 1 + 0.2 * k),
                non_members=bell(1.2 * k, 1.2 + 0.3 * k),
            ),
        )
        for k, epoch in enumerate(EPOCHS)
    ]  # fmt: skip
    return Trajectory(
        reference_attack="rmia_online", points=points, sentence="Leakage keeps rising after test accuracy has stopped."
    )


def vulnerability() -> Vulnerability:
    return Vulnerability(
        attack="bavaria",
        definition="A record is vulnerable when half of the models trained on it give it away.",
        records=9871,
        vulnerable=137,
        protected=8403,
        base_rate=0.01388,
        paper=[
            PaperCell(
                percentile=0.99, base_rate=0.01, share=share(0.0147), selected=74, agreement=share(0.213, 74),
                sentence="It selects hardly more than its base rate of 1 %.",
            ),
            PaperCell(
                percentile=0.995, base_rate=0.005, share=share(0.0083), selected=42, agreement=share(0.247, 42),
                sentence="It selects a little more than its base rate of 0.5 %.",
            ),
        ],
        triage=[
            TriageScore(
                name="loss_trace_iqr", title="Spread of the loss trace (free)", auroc=share(0.783, 400),
                precision={"0.01": share(0.277, 99), "0.03": share(0.191, 296), "0.05": share(0.147, 494)},
            ),
            TriageScore(
                name="loss_trace_mean", title="Mean of the loss trace (free)", auroc=share(0.812, 400),
                precision={"0.01": share(0.308, 99), "0.03": share(0.222, 296), "0.05": share(0.163, 494)},
            ),
        ],
        sentence="137 of 9871 records are vulnerable.",
    )  # fmt: skip


def outliers(ids: Sequence[str], labels: Sequence[str]) -> Outliers:
    scores = []
    for k, (name, title) in enumerate(SCORES.items()):
        for j, view in enumerate(("out", "target")):
            lost = view == "target" and name == "loss_trace_iqr"
            missing = Figure.not_measurable(TRACELESS)
            drop = 0.053 * k + 0.117 * j
            precision = {key: share(at - drop / 4, 200) for key, at in (("0.01", 0.33), ("0.03", 0.24), ("0.05", 0.19))}
            scores.append(
                OutlierScore.model_validate(
                    {
                        "name": name, "title": title, "view": view,
                        "auroc": missing if lost else share(0.871 - drop, 300),
                        "precision": {} if lost else precision,
                        "spearman": missing if lost else around(0.387 - 2 * drop),
                        "effect": missing if lost else around(0.644 - 3 * drop),
                        "p_value": None if lost else 3.1e-9 * 10**k,
                        "adjusted_p_value": None if lost else 6.7e-9 * 10**k,
                    }
                )
            )  # fmt: skip
    top = [
        OutlierRow(
            id=ident,
            label_name=label,
            nearest_class=labels[(k + 1) % len(labels)] if k % 2 else label,
            percentiles={name: round(0.9991 - 0.011 * k - 0.0173 * j, 4) for j, name in enumerate(SCORES)},
        )
        for k, (ident, label) in enumerate(zip(ids[:40], labels, strict=False))
    ]
    return Outliers(
        vulnerable=137, controls=1370, base_rate=0.01388, models=12, scores=scores, top=top, verdict="partly",
        sentence="The vulnerable records are partly outliers of their class.",
    )  # fmt: skip


def embedding(ids: Sequence[str], labels: Sequence[int], of: str) -> Embedding:
    """Records on rings, one a class; every seventh is vulnerable."""
    turn = np.arange(len(ids)) * 2.399
    radius = 1 + np.asarray(labels)
    return Embedding.model_validate(
        {
            "of": of, "target": 2, "available": 4 * len(ids), "perplexity": 30.0, "ids": list(ids),
            "x": (radius * np.cos(turn)).round(3).tolist(), "y": (radius * np.sin(turn)).round(3).tolist(),
            "label": [int(k) for k in labels], "member": [k % 2 == 0 for k in range(len(ids))],
            "vulnerable": [k % 7 == 0 for k in range(len(ids))],
            "purity_vulnerable": share(0.617 if of == "features" else 0.583, 180),
            "purity_others": share(0.941 if of == "features" else 0.926, 1050),
            "note": "Two records without a class were left out." if of == "logits" else "",
        }
    )  # fmt: skip


def attribution(ids: Sequence[str], labels: Sequence[str], *, images: bool) -> Attribution:
    across = np.linspace(0, 1, 7)
    groups = [(kind, place) for kind in ("vulnerable", "protected") for place in ("nearest", "farthest")]
    maps = []
    for k, (ident, label) in enumerate(zip(ids[:8], labels, strict=False)):
        kind, place = groups[k // 2]
        maps.append(
            AttributionMap.model_validate(
                {
                    "id": ident, "label_name": label, "predicted_name": labels[k + 1] if k == 3 else label,
                    "kind": kind, "place": place, "distance": 1.37 + 0.81 * k,
                    "map": np.exp(-((across[:, None] - across[k % 7]) ** 2 + (across - 0.4) ** 2) * 8).tolist()
                    if images
                    else [],
                    "features": []
                    if images
                    else [(f"product {j}", float(j % 2), (-1) ** j * (2.5 - 0.2 * j - 0.01 * k)) for j in range(10)],
                }
            )
        )  # fmt: skip
    focus = [
        Focus.model_validate(
            {
                "name": name, "title": title, "vulnerable": share(0.413 + 0.1 * k, 250),
                "controls": share(0.467 + 0.08 * k, 900), "difference": around(-0.054 + 0.02 * k, 0.017),
                "p_value": 2.3e-5 * 40**k, "adjusted_p_value": 9.2e-5 * 30**k if k < 3 else None,
            }
        )
        for k, (name, title) in enumerate(
            {
                "centre_mass": "On the centre", "border_mass": "On the border", "entropy": "Evenness",
                "top_mass": "On the strongest tenth",
            }.items()
        )
    ]  # fmt: skip
    return Attribution(
        method="gradcam" if images else "attribution",
        target=2,
        layer="stage3.conv2" if images else "",
        maps=maps,
        focus=focus if images else [],
        sentence="On vulnerable records the model looks less at the centre.",
    )


def analyses(ids: Sequence[str], labels: Sequence[int], names: Sequence[str], *, images: bool = True) -> Analyses:
    """Every analysis of the records ``ids``, whose labels and class names are given."""
    words = [names[label] for label in labels]
    return Analyses(
        trajectory=trajectory(),
        vulnerability=vulnerability(),
        outliers=outliers(ids, words) if ids else None,
        embeddings=[embedding(ids, labels, of) for of in ("features", "logits")] if ids else [],
        attribution=attribution(ids, words, images=images) if ids else None,
        not_done=[NotRun(name="label_errors", reason="cleanlab is not installed")],
    )


def made(findings: Findings) -> Analyses:
    assert findings.analyses is not None
    return findings.analyses


def rewritten(findings: Findings, **changes: object) -> Findings:
    """The same findings with parts of the analyses replaced."""
    return findings.model_copy(update={"analyses": made(findings).model_copy(update=changes)})
