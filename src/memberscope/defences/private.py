"""DP-SGD and its controls: each record's gradient clipped, noise added to their sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memberscope.defences.defence import Defence, Kind, revised
from memberscope.defences.regularisation import augmented
from memberscope.models.options import OPTIONS
from memberscope.training.recipe import Recipe

ABADI = "Abadi et al. 2016"

# The paper's: Purchase100 with SGD .001, σ = 1, batches of 256; CIFAR-10 with its own SGD, σ = .5, batches of 64.
_PUBLISHED: dict[Kind, dict[str, Any]] = {
    "table": {"batch_size": 256, "optimizer": "sgd", "learning_rate": 0.001, "momentum": 0.0, "nesterov": False},
    "image": {"batch_size": 64},
}
_NOISE: dict[Kind, float] = {"table": 1.0, "image": 0.5}


def private(recipe: Recipe, privacy: Mapping[str, Any], **changes: Any) -> Recipe:
    """``recipe`` as it can be trained privately: float32, group normalisation where the model normalises batches.

    The batch's own gradient clip is dropped, since every record's gradient is clipped already.
    """
    normalised = "norm" in OPTIONS[recipe.model.name].model_fields
    return revised(
        recipe,
        # "auto" stays: it is float32 with privacy anyway.
        **{"privacy": dict(privacy), "gradient_clip": None}
        | ({"precision": "fp32"} if recipe.precision == "bf16" else {})
        | ({"norm": "group"} if normalised else {})
        | changes,
    )


def _dp_sgd(recipe: Recipe, kind: Kind) -> Recipe:
    return private(recipe, {"clip": 1.0, "noise_multiplier": _NOISE[kind]}, **_PUBLISHED[kind])


def _clip_only(recipe: Recipe, kind: Kind) -> Recipe:
    return private(recipe, {"clip": 1.0, "noise_multiplier": 0.0}, **_PUBLISHED[kind])


def _high_utility(recipe: Recipe, kind: Kind) -> Recipe:
    return private(
        augmented(recipe, kind),
        {"clip": 1.0, "epsilon": 8.0, "multiplicity": 4},
        batch_size=1024,
        optimizer="sgd",
        learning_rate=2.0,
        momentum=0.0,
        nesterov=False,
        schedule="constant",
        milestones=(),
        warmup=0.0,
        ema=0.999,
    )


PRIVATE = (
    Defence(
        "dp_sgd",
        "DP-SGD",
        ABADI,
        "private training",
        "Clips every record's gradient to 1 and adds noise: σ is 1 for tables (batches of 256, SGD 0.001), 0.5 for "
        "images (batches of 64). ε is what the accountant says of the batches that were drawn.",
        _dp_sgd,
        in_paper=True,
    ),
    Defence(
        "clip_only",
        "Clipping alone",
        ABADI,
        "private training",
        "DP-SGD without its noise: a control that guarantees nothing.",
        _clip_only,
    ),
    Defence(
        "dp_sgd_high_utility",
        "DP-SGD, high utility",
        "De et al. 2022",
        "private training",
        "DP-SGD at ε = 8 with batches of 1,024, 4 augmentations of a record averaged before clipping, a constant "
        "rate, and a moving average of the weights.",
        _high_utility,
    ),
)
