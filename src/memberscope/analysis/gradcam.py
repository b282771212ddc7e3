"""Where a model looks: Grad-CAM maps of images (Figure 3 of Khalil et al., arXiv 2511.16792), attributions of tables.

Grad-CAM (Selvaraju et al. 2017): the maps of a layer, weighted by the mean gradient of the label's logit, summed,
negative parts cut; made by captum. It asks for the record's label, which for members is nearly always what the model
predicts. Models without such a layer, and tables, get integrated gradients (Sundararajan et al. 2017) instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from memberscope.analysis.focus import TOP, compare, feature_focus, map_focus, sentence
from memberscope.analysis.shown import Shown, extremes, matched_pairs
from memberscope.errors import MissingExtraError, SignalsError
from memberscope.signals.ask import check_pool
from memberscope.training.store import ModelPlan, pool_model
from memberscope.types import Dataset, Pool
from memberscope.types.analyses import Attribution, AttributionMap

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from memberscope.models.base import Classifier
    from memberscope.training.inputs import Encoder

Explain = Callable[["Tensor", "Tensor"], "Tensor"]

LEAST = 4
STEPS = 50
BATCH = 64
# Integrated gradients hold steps times the batch at once: this many values at most.
VALUES = 1 << 24


def attribution(
    pool: Pool,
    target: int,
    dataset: Dataset,
    vulnerable: NDArray[np.bool_],
    protected: NDArray[np.bool_],
    features: NDArray[Any],
    *,
    seed: int,
    device: str = "cpu",
    shown: int = 8,
    measured: int = 200,
) -> Attribution:
    """Maps of vulnerable and protected members of one target, and whether the model looks elsewhere on them.

    - Images, model with a convolution: Grad-CAM on the last one (``gradcam_layer``).
    - Vision Transformer: Grad-CAM on the tokens that leave the last block, laid out as their patches are. Attention
      has mixed the tokens by then, so such a map is wider, and may stand beside what it speaks of.
    - Images, model without either: integrated gradients from the mean image, summed over channels, negative parts
      cut, a cell a pixel; ``method`` is then ``"attribution"`` and ``layer`` ``"input"``.
    - Tables: integrated gradients from the mean record, the 10 strongest features with their values.

    A map is evidence for the record's label, divided by its largest value (0 to 1), at the layer's own resolution,
    rows from the top. 400 images through ResNet-18 take about half a minute of one core.

    Args:
        pool: a finished pool.
        target: row of the model that is looked into.
        dataset: the records that the pool was trained on.
        vulnerable: ``(N,)`` bool; those that the target was trained on are used.
        protected: ``(N,)`` bool, likewise; a record that is vulnerable too counts as vulnerable.
        features: ``(N, D)`` penultimate features of the target, for distances to the class centroids.
        seed: of the choice of pairs.
        device: ``"cpu"`` or ``"cuda"``.
        shown: maps of each kind and place.
        measured: pairs of a vulnerable and a protected record of one class behind the focus numbers, at most.

    Raises:
        SignalsError: fewer than 4 vulnerable or 4 protected members, shapes that disagree, values not finite.
        PoolError: other records than the pool was trained on, no such row, an altered model file.
        MissingExtraError: captum is not installed.
    """
    check_pool(pool, dataset, "attribution")
    pool.model_path(target)  # names a row that is not there
    members, labels = pool.members[target], dataset.labels
    _check(len(dataset), vulnerable, protected, features)
    cases, controls = vulnerable & members, protected & members & ~vulnerable
    if min(cases.sum(), controls.sum()) < LEAST:
        raise SignalsError(
            f"at least {LEAST} vulnerable and {LEAST} protected records among the target's members",
            f"{cases.sum()} and {controls.sum()}",
            "Choose another target, or a pool with more models.",
        )
    _captum()
    chosen = extremes(features, labels, members, cases, controls, shown)
    pairs = matched_pairs(labels, cases, controls, measured, np.random.default_rng(seed))
    records = np.unique(np.concatenate([pairs.ravel(), np.array([item.record for item in chosen], np.int64)]))
    seen = look(pool, target, dataset, records, device=device)
    focus_of = feature_focus if dataset.kind == "table" else map_focus
    values = [focus_of(seen.maps[np.searchsorted(records, column)]) for column in pairs.T]
    blank = np.asarray(~seen.maps.reshape(len(records), -1).any(axis=1))
    shares = [float(blank[np.searchsorted(records, column)].mean()) if len(pairs) else 0.0 for column in pairs.T]
    focus = compare(*values)
    note = "" if dataset.kind == "table" or seen.method == "gradcam" else _NO_LAYER
    return Attribution(
        method=seen.method,
        target=target,
        layer=seen.layer,
        maps=[_shown(dataset, seen, item, int(np.searchsorted(records, item.record))) for item in chosen],
        focus=focus,
        sentence=note + sentence(focus, len(pairs), (shares[0], shares[1])),
    )


_NO_LAYER = "The model has no convolution, so the maps show the pixels that speak for the label. "


@dataclass(frozen=True, eq=False)
class Seen:
    """Where one model looks in R records.

    Args:
        method: how it was found.
        layer: whose maps they are.
        maps: ``(R, H, W)`` at least 0, evidence for the label; tables: ``(R, F)`` signed attributions.
        predicted: ``(R,)`` class that the model predicts.
    """

    method: Literal["gradcam", "attribution"]
    layer: str
    maps: NDArray[np.float64]
    predicted: NDArray[np.int64]


def look(pool: Pool, target: int, dataset: Dataset, records: NDArray[np.int64], *, device: str = "cpu") -> Seen:
    """Maps or attributions of the ``records``, ``(R,)`` row numbers, for their labels; see :func:`attribution`.

    Raises:
        SignalsError: values that are not finite.
        PoolError, MissingExtraError: as :func:`attribution`.
    """
    _captum()
    import torch

    from memberscope.training.inputs import Encoder
    from memberscope.training.loop import reproducible

    plan = ModelPlan.of(pool)
    with reproducible(plan.recipe.threads, device):
        model = pool_model(pool, target, device)
        images = dataset.kind == "image"
        encode = Encoder.of(plan.normalisation, images, plan.recipe.channels_last, device)
        layer = model.gradcam_layer if images else None
        size = BATCH
        if layer is None:
            name, size = "input", max(1, min(BATCH, VALUES // (STEPS * math.prod(plan.input_shape))))
            explainer = _integrated(model, _mean_record(encode, dataset), images)
        else:
            name = next(name for name, module in model.named_modules() if module is layer)
            explainer = _gradcam(model, layer, plan.input_shape)
        maps, predicted = [], []
        with explainer as explain:
            for start in range(0, len(records), size):
                rows = records[start : start + size]
                batch = encode(encode.load(np.array(dataset.inputs[rows])))
                labels = torch.from_numpy(dataset.labels[rows]).to(device)
                maps.append(explain(batch, labels).detach().double().cpu().numpy())
                with torch.no_grad():
                    predicted.append(model(batch).argmax(1).cpu().numpy())
    found = np.concatenate(maps)
    if not np.isfinite(found).all():
        raise SignalsError(
            "finite gradients", f"NaN or infinity from model {target}", "A diverged model cannot be looked into."
        )
    return Seen("attribution" if layer is None else "gradcam", name, found, np.concatenate(predicted))


@contextmanager
def _gradcam(model: Classifier, layer: Module, input_shape: tuple[int, ...]) -> Iterator[Explain]:
    """Grad-CAM ``(B, H, W)`` on the output of ``layer``, a convolution's maps or a transformer block's tokens."""
    from torch import nn

    grid = nn.Identity()

    def through(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Show Grad-CAM tokens ``(B, T, D)`` as maps ``(B, D, H/p, W/p)``; a convolution's maps as they are."""
        # The layer's output is where gradients end: what comes before is neither recorded nor held.
        output = output.detach().requires_grad_()
        if output.ndim == 4:
            return grid(output)  # type: ignore[no-any-return]
        patch = math.isqrt(input_shape[1] * input_shape[2] // output.shape[1])
        sides = input_shape[1] // patch, input_shape[2] // patch
        tokens: Tensor = grid(output.transpose(1, 2).reshape(len(output), -1, *sides)).flatten(2).transpose(1, 2)
        return tokens

    hook = layer.register_forward_hook(through)
    model.requires_grad_(False)
    try:
        method = _captum().LayerGradCam(model, grid)

        def explain(batch: Tensor, labels: Tensor) -> Tensor:
            maps: Tensor = method.attribute(batch, target=labels, relu_attributions=True)
            return maps[:, 0]

        yield explain
    finally:
        hook.remove()


@contextmanager
def _integrated(model: Classifier, baseline: Tensor, images: bool) -> Iterator[Explain]:
    """Integrated gradients from the mean record: ``(B, F)`` signed, or ``(B, H, W)`` evidence for images."""
    method = _captum().IntegratedGradients(model)

    def explain(batch: Tensor, labels: Tensor) -> Tensor:
        found: Tensor = method.attribute(batch, baselines=baseline, target=labels, n_steps=STEPS)
        return found.sum(1).relu() if images else found

    yield explain


def _mean_record(encode: Encoder, dataset: Dataset) -> Tensor:
    """The mean ``(1, …)`` of all records as the model takes them."""
    import torch

    total = torch.zeros(dataset.inputs.shape[1:], dtype=torch.float64, device=encode.mean.device)
    for _, batch in encode.stream(dataset.inputs, 4096):
        total += batch.double().sum(0)
    return (total / len(dataset)).float()[None]


def _shown(dataset: Dataset, seen: Seen, item: Shown, position: int) -> AttributionMap:
    found = seen.maps[position]
    rows: list[list[float]] = []
    strongest: list[tuple[str, float, float]] = []
    if dataset.kind == "table":
        names = dataset.feature_names or tuple(f"feature {j}" for j in range(len(found)))
        strongest = [
            (names[j], _digits(dataset.inputs[item.record, j]), _digits(found[j]))
            for j in np.argsort(-np.abs(found), kind="stable")[:TOP]
        ]
    else:
        largest = found.max()
        rows = np.round(found / largest if largest > 0 else found, 3).tolist()
    return AttributionMap(
        id=str(dataset.ids[item.record]),
        label_name=dataset.class_names[dataset.labels[item.record]],
        predicted_name=dataset.class_names[seen.predicted[position]],
        kind=item.kind,
        place=item.place,
        distance=_digits(item.distance),
        map=rows,
        features=strongest,
    )


def _digits(value: Any) -> float:
    return float(f"{float(value):.6g}")


def _check(n: int, vulnerable: NDArray[Any], protected: NDArray[Any], features: NDArray[Any]) -> None:
    flags = (vulnerable, protected)
    if any(flag.shape != (n,) or flag.dtype != np.bool_ for flag in flags) or features.ndim != 2 or len(features) != n:
        raise SignalsError(
            f"vulnerable and protected as booleans ({n},) and features ({n}, D)",
            f"{', '.join(f'{flag.dtype} {flag.shape}' for flag in flags)} and features {features.shape}",
            "Give the arrays of this data set.",
        )


def _captum() -> Any:
    try:
        return import_module("captum.attr")
    except ImportError as error:
        raise MissingExtraError.of("captum", "analysis", "Grad-CAM") from error
