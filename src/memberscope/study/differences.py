"""Why a row of ours and the paper's differ: by how much, and what that comes with."""

from __future__ import annotations

from memberscope.data import REGISTRY
from memberscope.defences import DEFENCES
from memberscope.study.prepare import Prepared
from memberscope.study.published import TABLES, PaperTable
from memberscope.training.recipe import Recipe
from memberscope.types import Figure
from memberscope.types.study import Published

_COMPARED = (
    ("train_accuracy", "train accuracy"),
    ("test_accuracy", "test accuracy"),
    ("threshold_auc", "threshold AUC"),
    ("threshold_advantage", "advantage"),
)

PROTOCOL = (
    "The paper has one split, one seed and no intervals, and its test records are its validation records and the "
    "attack's non-members too; ours keeps them apart."
)
THRESHOLD = "Our advantage is judged on other records than its threshold was chosen on."
CHECKPOINTS = "The paper's before and after come from different checkpoints; ours from the same models."
_ABOUT = {
    "early_stopping": (
        "The paper stops at the epoch that is best on its test records, which flatters test accuracy and narrows the "
        "gap that the attack sees; ours stops on a validation split of its own."
    ),
    "dp_sgd": (
        "Both clip at 1; ours draws every batch by Poisson sampling over the members alone and counts what was drawn."
    ),
    "original+reweighting": CHECKPOINTS,
    "regdrop_25+reweighting": CHECKPOINTS,
}
_ABOUT_TABLE = {
    ("cifar10", "label_smoothing"): "The paper documents ε = 0.1, its script has 0.01; ours is {smoothing:g}.",
    ("cifar10", "dp_sgd"): (
        "The published ε of 4.95 is void: the published loop bypasses the Poisson loader that its accountant counts."
    ),
    ("cifar10", "original+reweighting"): (
        "A popular summary credits reweighting with 50.06 and 0.82, which are the paper's figures of L2 5e-3."
    ),
}


def differences(method: str, prepared: Prepared, figures: dict[str, Figure], published: Published | None) -> list[str]:
    """Sentences that set ``figures`` beside the published ones; empty where the study has no published table."""
    name = prepared.config.published
    if name is None:
        return []
    table = TABLES[name]
    if published is None:
        return ["The paper's table has no such row."]
    recipe = prepared.recipes[DEFENCES[method].pool]
    said = [_compared(figures, published), *_scale(method, prepared, table, recipe), PROTOCOL, THRESHOLD]
    if method in _ABOUT:
        said.append(_ABOUT[method])
    if (name, method) in _ABOUT_TABLE:
        said.append(_ABOUT_TABLE[name, method].format(smoothing=recipe.label_smoothing))
    return said


def _compared(figures: dict[str, Figure], published: Published) -> str:
    agree, differ = [], []
    for key, label in _COMPARED:
        ours, theirs = figures[key], float(getattr(published, key))
        if ours.value is None or ours.low is None or ours.high is None:
            continue
        if ours.low <= theirs <= ours.high:
            agree.append(label)
        else:
            points = f"{100 * (ours.value - theirs):+.1f}".replace("-", "−")
            differ.append(f"{label} {points} points")
    if not differ:
        return "Every published figure lies inside our interval." if agree else "Nothing here can be compared."
    inside = f"; {' and '.join(agree)} inside our interval" if agree else ""
    return f"Ours less the published: {', '.join(differ)}{inside}."


def _scale(method: str, prepared: Prepared, table: PaperTable, recipe: Recipe) -> list[str]:
    """What is smaller or other here than in the paper."""
    said = []
    choice = prepared.config.data[0]
    if choice.name == "purchases":
        said.append(f"Our records are generated in the shape of {table.data}, whose own are real.")
    elif choice.name not in REGISTRY or choice.name.replace("-", "") != table.data.lower().replace("-", ""):
        said.append(f"Our records are not those of {table.data}.")
    if prepared.size < 0.95 * table.train:
        said.append(
            f"Our models train on {prepared.size:,} records, the paper's on {table.train:,}: with fewer records a "
            "model generalises worse, and each record tells more."
        )
    model = {"fcn": "FCN", "densenet": "DenseNet"}.get(recipe.model.name, recipe.model.name)
    if not table.model.startswith(model):
        said.append(f"Our model is a {recipe.model.name}, the paper's {table.model}.")
    batch = table.batches.get(method, table.batch)
    if (recipe.epochs, recipe.batch_size) != (table.epochs, batch):
        said.append(
            f"Ours trains {recipe.epochs} epochs in batches of {recipe.batch_size}, the paper's {table.epochs} in "
            f"batches of {batch}; ours reshuffles every epoch."
        )
    else:
        said.append("Ours reshuffles the records every epoch, the paper's does not.")
    return said
