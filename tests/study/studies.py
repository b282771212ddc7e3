"""A study's document with figures like the paper's, for tests of what reads it."""

from __future__ import annotations

from typing import Any

from memberscope.defences import DEFENCES
from memberscope.study.published import TABLES
from memberscope.study.wording import fronts, headline
from memberscope.types import Figure
from memberscope.types.study import Dp, StudyResult, StudyRow

# Test accuracy, threshold AUC, share found at 1 % by the reference attack: made up, in the order of the defences.
SHAPES: dict[str, tuple[float, float, float, float]] = {
    "original": (0.99, 0.62, 0.66, 0.12),
    "early_stopping": (0.97, 0.63, 0.64, 0.10),
    "l2_5e-4": (0.93, 0.64, 0.60, 0.07),
    "l2_1e-3": (0.88, 0.635, 0.57, 0.05),
    "l2_5e-3": (0.62, 0.55, 0.52, 0.016),
    "regdrop_25": (0.90, 0.645, 0.58, 0.055),
    "regdrop_50": (0.82, 0.61, 0.55, 0.033),
    "label_smoothing": (0.99, 0.63, 0.69, 0.15),
    "dp_sgd": (0.32, 0.31, 0.502, 0.011),
    "augmentation": (0.92, 0.66, 0.58, 0.061),
    "mixup": (0.95, 0.65, 0.60, 0.078),
    "curriculum": (0.985, 0.61, 0.65, 0.115),
    "clip_only": (0.48, 0.45, 0.513, 0.014),
    "dp_sgd_high_utility": (0.44, 0.43, 0.504, 0.012),
    "original+reweighting": (0.99, 0.62, 0.60, 0.09),
    "regdrop_25+reweighting": (0.90, 0.645, 0.56, 0.047),
}


def near(value: float, reach: float) -> Figure:
    return Figure(value=value, low=max(value - reach, 0.0), high=min(value + reach, 1.0))


def row(method: str, seed: Any = "all", reach: float = 0.012, **changes: Any) -> StudyRow:
    """A row of ``method``."""
    train, test, auc, found = SHAPES[method]
    private = method.startswith("dp_sgd") or method == "clip_only"
    reweighted = method.endswith("reweighting")
    known: dict[str, Any] = {
        "method": method,
        "seed": seed,
        "title": DEFENCES[method].title,
        "family": DEFENCES[method].family,
        "target": None if seed == "all" else 2 * int(seed),
        "train_accuracy": near(train, reach / 4),
        "test_accuracy": near(test, reach),
        "threshold_auc": near(auc, reach),
        "threshold_advantage": near(1.6 * (auc - 0.5), reach),
        "reference_attack": "bavaria",
        "reference_tpr_at_fpr": {
            "0.1": near(min(3 * found, 1.0), 0.02),
            "0.01": near(found, 0.16 * found),
            "0.001": Figure.not_measurable("needs 10,000 non-members for a false-alarm rate of 0.1 %, has 3,000"),
        },
        "reference_auc": near(min(auc + 0.05, 1.0), reach),
        "gap_auc": near(0.5 + (train - test) / 2, reach / 2),
        "ece": near(0.9 * (train - test), reach),
        "train_seconds": Figure(value=61.0, low=55.0, high=67.0),
        "overhead": Figure(value=4.1e-5 if reweighted else 0.0, low=0.0, high=4.6e-5 if reweighted else 0.0),
        "overhead_relative": near(0.05 if reweighted else 0.0, 0.0),
        "shifted": near(0.013, 0.002) if reweighted else None,
        "epochs": 30.0,
        "kept_epoch": 21.4 if method == "early_stopping" else None,
        "epsilon": 4.27 if private and method != "clip_only" else None,
        "epsilon_reason": None if private and method != "clip_only" else "no noise was added in training",
        "dp": Dp(noise_multiplier=1.0, clip=1.0, sample_rate=0.0256, steps=780, delta=1e-5, accountant="prv")
        if private
        else None,
        "published": TABLES["purchase100"].of(method),
        "differences": [
            "Ours less the published: train accuracy +1.2 points, test accuracy −25.5 points.",
            "Our models train on 10,000 records, the paper's on 157,859.",
        ]
        if TABLES["purchase100"].of(method)
        else ["The paper's table has no such row."],
    }
    return StudyRow(**known | changes)


def result(rows: list[StudyRow] | None = None, **changes: Any) -> StudyResult:
    """A whole study of 3 targets."""
    rows = rows or [row(method, seed) for method in SHAPES for seed in (0, 1, 2, "all")]
    pooled = [one for one in rows if one.seed == "all"]
    known: dict[str, Any] = {
        "name": "purchase100",
        "scale": "laptop",
        "headline": headline(pooled),
        "summary": ["Each row is 10 models trained on 10,000 of 20,000 records; 3 of them play target."],
        "data": {"name": "purchases", "kind": "table", "records": 20_000, "classes": 100},
        "populations": {
            "models": 10, "targets": 3, "references": 8, "audit_records": 20_000, "members": 10_000,
            "non_members": 10_000, "validation": 2_000,
        },
        "config": {"seed": 0, "recipes": {"original": {"epochs": 30}, "l2_5e-4": {"epochs": 30, "weight_decay": 5e-4}}},
        "published": "purchase100",
        "fronts": fronts(pooled),
        "rows": rows,
        "notes": ["Data: purchases, since purchase100 is not on this machine."],
        "run": {"created": "2026-03-14T09:26:53+00:00", "memberscope": "0.1.0", "seconds": {"original": 431.2}},
    }  # fmt: skip
    return StudyResult(**known | changes)
