"""Defences that change how a model is trained, without a guarantee."""

from __future__ import annotations

from collections.abc import Callable

from memberscope.defences.defence import Defence, Kind, revised
from memberscope.training.recipe import Recipe

PAPER = "Khalil et al. 2025"

# The paper smooths images by .1 in its text and .01 in its script; .1 is what it documents.
SMOOTHING: dict[Kind, float] = {"table": 0.03, "image": 0.1}
# Zhang et al. 2018 mix images with Beta(1, 1); mixed baskets are far from any real one, so tables are mixed less.
MIX: dict[Kind, float] = {"table": 0.2, "image": 1.0}
# Of 600 products some 42 are bought: a chance of 1 in 200 changes about 3 entries of a basket.
BIT_FLIP = 0.005
CROP = 4


def _none(recipe: Recipe, kind: Kind) -> Recipe:
    return recipe


def _early_stopping(recipe: Recipe, kind: Kind) -> Recipe:
    return revised(recipe, early_stopping={"patience": 10, "metric": "accuracy"})


def _decay(value: float) -> Callable[[Recipe, Kind], Recipe]:
    return lambda recipe, kind: revised(recipe, weight_decay=value)


def _regdrop(dropout: float) -> Callable[[Recipe, Kind], Recipe]:
    return lambda recipe, kind: revised(recipe, weight_decay=5e-4, dropout=dropout)


def _smoothing(recipe: Recipe, kind: Kind) -> Recipe:
    return revised(recipe, label_smoothing=SMOOTHING[kind])


def augmented(recipe: Recipe, kind: Kind) -> Recipe:
    """Crop by 4 pixels and flip for images, bit flips for 0/1 tables."""
    change = {"crop": CROP, "flip": True} if kind == "image" else {"bit_flip": BIT_FLIP}
    return revised(recipe, augmentation=change)


def _mixup(recipe: Recipe, kind: Kind) -> Recipe:
    return revised(recipe, mixup=MIX[kind])


def _curriculum(recipe: Recipe, kind: Kind) -> Recipe:
    return revised(recipe, curriculum={"start": 0.3, "until": 0.5})


REGULARISATION = (
    Defence("original", "No defence", "–", "none", "The recipe as it stands.", _none, in_paper=True),
    Defence(
        "early_stopping",
        "Early stopping",
        "Prechelt 1998",
        "training",
        "Keeps the epoch that is most accurate on a validation split that nothing else is measured on; stops after 10 "
        "epochs without a better one.",
        _early_stopping,
        in_paper=True,
    ),
    *(
        Defence(
            f"l2_{text}",
            f"L2 {text}",
            "Krogh & Hertz 1991",
            "training",
            f"Weight decay {text}, added to the gradient as PyTorch's SGD and Adam do.",
            _decay(float(text)),
            in_paper=True,
        )
        for text in ("5e-4", "1e-3", "5e-3")
    ),
    *(
        Defence(
            f"regdrop_{round(100 * share)}",
            f"RegDrop {share:g}",
            PAPER,
            "training",
            f"Weight decay 5e-4 and dropout {share:g} together.",
            _regdrop(share),
            in_paper=True,
        )
        for share in (0.25, 0.5)
    ),
    Defence(
        "label_smoothing",
        "Label smoothing",
        "Szegedy et al. 2016",
        "training",
        "Targets of 1 − ε for the label and ε shared by all: ε is 0.03 for tables, 0.1 for images.",
        _smoothing,
        in_paper=True,
    ),
    Defence(
        "augmentation",
        "Augmentation",
        "Shorten & Khoshgoftaar 2019",
        "training",
        "Images are shifted by up to 4 pixels and mirrored; an entry of a 0/1 table is flipped with chance 0.005.",
        augmented,
    ),
    Defence(
        "mixup",
        "Mixup",
        "Zhang et al. 2018",
        "training",
        "Trains on mixtures of two records and their labels, with shares from Beta(α, α): α is 1 for images, "
        "0.2 for tables.",
        _mixup,
    ),
    Defence(
        "curriculum",
        "Curriculum",
        "Bengio et al. 2009",
        "training",
        "Easy records first: from 30 % in the first epoch to all after half of them. A record is as hard as its mean "
        "loss under undefended models that did not train on it.",
        _curriculum,
    ),
)
