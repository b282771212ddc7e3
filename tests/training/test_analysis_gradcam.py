"""Maps show what they are defined to show, planted evidence is found, and focus numbers are what they say."""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from memberscope.analysis.focus import compare, feature_focus, map_focus, sentence
from memberscope.analysis.gradcam import _gradcam, attribution, look
from memberscope.analysis.shown import extremes, matched_pairs
from memberscope.errors import MissingExtraError, PoolError, SignalsError
from memberscope.models import build
from memberscope.models.base import Classifier
from memberscope.signals.features import collect_features
from memberscope.training.inputs import Encoder, Normalisation
from memberscope.training.pool import train_pool
from memberscope.training.recipe import Recipe
from memberscope.training.store import pool_model
from memberscope.types import Dataset, Pool

pytest.importorskip("captum", reason="needs the extra analysis")

MODELS: dict[str, dict[str, Any]] = {
    "cnn": {"widths": [6, 8]},
    "resnet": {"width": 4, "blocks": [1, 1]},
    "densenet": {"depth": 10, "growth": 4},
    "vit": {"patch": 4, "dim": 12, "blocks": 2, "heads": 2},
}


def slow_gradcam(model: Classifier, batch: Tensor, labels: Tensor, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Grad-CAM from its formula, record by record, cell by cell."""
    kept: list[Tensor] = []
    hook = model.gradcam_layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    found = np.zeros((len(batch), *grid))
    for i in range(len(batch)):
        kept.clear()
        logit = model(batch[i : i + 1])[0, labels[i]]
        (gradient,) = torch.autograd.grad(logit, kept)
        activation, gradient = kept[0][0].detach().double().numpy(), gradient[0].double().numpy()
        if activation.ndim == 3:
            weights = [gradient[channel].mean() for channel in range(len(gradient))]
            for r in range(grid[0]):
                for c in range(grid[1]):
                    found[i, r, c] = sum(w * activation[channel, r, c] for channel, w in enumerate(weights))
        else:
            weights = [gradient[:, d].mean() for d in range(gradient.shape[1])]
            for token in range(len(activation)):
                row, column = divmod(token, grid[1])
                found[i, row, column] = sum(w * activation[token, d] for d, w in enumerate(weights))
    hook.remove()
    return np.maximum(found, 0)


@pytest.mark.parametrize(("name", "grid"), [("cnn", (4, 8)), ("resnet", (4, 8)), ("densenet", (2, 4)), ("vit", (2, 4))])
def test_maps_are_grad_cam(name: str, grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build(name, (3, 8, 16), 5, **MODELS[name])
    for _ in range(3):
        model(torch.randn(32, 3, 8, 16) * 2 + 1)  # running means that matter
    model.eval()
    batch, labels = torch.randn(12, 3, 8, 16), torch.arange(12) % 5
    expected = slow_gradcam(model, batch, labels, grid)
    with torch.no_grad():
        before = model(batch)
    with _gradcam(model, model.gradcam_layer, (3, 8, 16)) as explain:
        found = explain(batch, labels).detach().numpy()
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5 * expected.max())
    assert (expected.max(axis=(1, 2)) > 0).mean() > 0.5
    # Each a map, not a constant, and different from record to record.
    alive = expected[expected.max(axis=(1, 2)) > 0]
    assert (np.ptp(alive.reshape(len(alive), -1), axis=1) > 0.1 * alive.max(axis=(1, 2))).all()
    with torch.no_grad():
        assert torch.equal(model(batch), before)


def patches(n: int = 240) -> tuple[Dataset, NDArray[np.bool_]]:
    """Noise of 8×16 pixels whose class is told by where a bright 4×4 patch lies; no place mirrors another."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    inputs = rng.integers(0, 60, (n, 1, 8, 16))
    for i, (top, left) in enumerate(np.array(PLACES)[labels]):
        inputs[i, 0, top : top + 4, left : left + 4] += 180
    half = rng.permutation(n) < n // 2
    return Dataset(inputs.astype(np.uint8), labels), np.stack([half, ~half])


PLACES = [(0, 12), (4, 0), (4, 8)]


def in_their_place(maps: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
    """By chance an eighth; a convolution also sees the patch from a cell beyond its edge."""
    cell = np.ones((8 // maps.shape[1], 16 // maps.shape[2]))
    for label in range(3):
        pixels = np.kron(maps[labels == label].mean(axis=0), cell)
        shares = [pixels[top : top + 4, left : left + 4].sum() / pixels.sum() for top, left in PLACES]
        assert shares[label] > 0.35 and shares[label] > 2 * sorted(shares)[1], (label, shares)


def test_a_planted_patch_is_where_the_model_looks(tmp_path: Path) -> None:
    data, members = patches()
    options = {"model": {"name": "cnn", **MODELS["cnn"]}, "epochs": 12, "batch_size": 24, "learning_rate": 5e-3}
    pool = train_pool(data, members, Recipe.parse(options), folder=tmp_path, quiet=True)
    records = np.flatnonzero(members[1])
    seen = look(pool, 1, data, records)
    assert (seen.predicted == data.labels[records]).mean() > 0.95
    in_their_place(seen.maps, data.labels[records])


def test_a_planted_patch_is_where_a_transformer_looks() -> None:
    """Weights by hand: channel 0 of a token is its patch's brightness, blocks pass it on, class 0 reads it."""
    data, _ = patches(30)
    torch.manual_seed(0)
    model = build("vit", (1, 8, 16), 3, **MODELS["vit"]).eval()
    with torch.no_grad():
        for block in model.blocks:
            for layer in (block.out, block.mlp[2]):
                layer.weight.zero_(), layer.bias.zero_()
        model.patches.weight.zero_(), model.patches.bias.zero_()
        model.patches.weight[0] = 1 / 16
        model.classifier.weight.zero_()
        model.classifier.weight[0, 0] = 1
    batch = torch.from_numpy(data.inputs / 255.0).float()
    with _gradcam(model, model.gradcam_layer, (1, 8, 16)) as explain:
        maps = explain(batch, torch.zeros(30, dtype=torch.int64)).detach().numpy()
    assert maps.shape == (30, 2, 4)
    in_their_place(maps, data.labels)


# End to end on digits ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flags() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    vulnerable = np.random.default_rng(7).random(240) < 0.3
    return vulnerable, ~vulnerable


@pytest.fixture(scope="module")
def pool(images: Dataset, members: NDArray[np.bool_], tmp_path_factory: pytest.TempPathFactory) -> Pool:
    options = {"model": {"name": "cnn", "widths": [8, 16]}, "epochs": 6, "channels_last": True}
    folder = tmp_path_factory.mktemp("gradcam") / "pool"
    return train_pool(images, members[:2], Recipe.parse(options), folder=folder, quiet=True)


@pytest.fixture(scope="module")
def features(pool: Pool, images: Dataset, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    return collect_features(pool, images, [1], folder=tmp_path_factory.mktemp("features"), quiet=True)[1]


def test_the_whole_is_made_of_its_parts(
    pool: Pool,
    images: Dataset,
    features: NDArray[np.float32],
    flags: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> None:
    result = attribution(pool, 1, images, *flags, features, seed=0, shown=5)
    assert (result.method, result.target, result.layer) == ("gradcam", 1, "stages.4")
    assert Counter((item.kind, item.place) for item in result.maps) == {
        (kind, place): 5 for kind in ("vulnerable", "protected") for place in ("nearest", "farthest")
    }
    model = pool_model(pool, 1)
    batch = Encoder.of(Normalisation.fit(images.inputs), True, False, "cpu")
    with torch.no_grad():
        predicted = model(batch(batch.load(images.inputs.copy()))).argmax(1).numpy()
    row_of = {name: row for row, name in enumerate(images.ids.tolist())}
    for item in result.maps:
        row = row_of[item.id]
        assert pool.members[1, row] and flags[0][row] == (item.kind == "vulnerable")
        assert item.label_name == str(images.labels[row]) and item.predicted_name == str(predicted[row])
        own = np.asarray(features, np.float64)[pool.members[1] & (images.labels == images.labels[row])].mean(axis=0)
        point = np.asarray(features[row], np.float64)
        cosine = point @ own / np.sqrt((point @ point) * (own @ own))
        assert item.distance == pytest.approx(1 - cosine, abs=1e-5)
        one = batch(batch.load(images.inputs[row : row + 1].copy()))
        expected = slow_gradcam(model, one, torch.tensor([images.labels[row]]), (4, 4))[0]
        largest = expected.max() or 1.0
        assert np.array(item.map) == pytest.approx(expected / largest, abs=2e-3)
    assert [item.name for item in result.focus] == ["centre_mass", "border_mass", "entropy"]
    for item in result.focus:
        assert 0 <= item.controls.low <= item.controls.high <= 1
        assert item.difference.value == pytest.approx(item.vulnerable.value - item.controls.value)
        assert item.p_value <= item.adjusted_p_value
    again = attribution(pool, 1, images, *flags, features, seed=0, shown=5)
    assert again.model_dump_json() == result.model_dump_json()
    # Another draw of pairs, the same records to show.
    other = attribution(pool, 1, images, *flags, features, seed=1, shown=5, measured=20)
    assert other.maps == result.maps and other.focus != result.focus


def test_images_without_a_convolution_get_a_map_of_pixels(
    images: Dataset, members: NDArray[np.bool_], flags: tuple[NDArray[np.bool_], NDArray[np.bool_]], tmp_path: Path
) -> None:
    recipe = Recipe.parse({"model": {"name": "fcn", "widths": [24]}, "epochs": 5})
    pool = train_pool(images, members[:2], recipe, folder=tmp_path / "pool", quiet=True)
    features = collect_features(pool, images, [0], folder=tmp_path / "features", quiet=True)[0]
    result = attribution(pool, 0, images, *flags, features, seed=0)
    assert (result.method, result.layer) == ("attribution", "input")
    assert "no convolution" in result.sentence
    assert all(np.shape(item.map) == (8, 8) and not item.features for item in result.maps)
    assert all(max(map(max, item.map)) == 1 and min(map(min, item.map)) == 0 for item in result.maps)
    # Digits never ink their outermost columns, so these cannot speak for a label.
    assert max(item.map[row][0] for item in result.maps for row in range(8)) < 0.35


def test_integrated_gradients_add_up_to_the_logit(table: Dataset, members: NDArray[np.bool_], tmp_path: Path) -> None:
    recipe = Recipe.parse({"model": {"name": "fcn", "widths": [32, 16]}, "epochs": 8})
    pool = train_pool(table, members[:2], recipe, folder=tmp_path, quiet=True)
    records = np.arange(0, 240, 7)
    seen = look(pool, 0, table, records)
    model = pool_model(pool, 0)
    encode = Encoder.of(Normalisation.fit(table.inputs), False, False, "cpu")
    with torch.no_grad():
        logits = model(encode(encode.load(table.inputs.copy()))).numpy()
        mean = model(encode(encode.load(table.inputs.mean(axis=0, keepdims=True)))).numpy()[0]
    labels = table.labels[records]
    gained = logits[records, labels] - mean[labels]
    assert seen.maps.sum(axis=1) == pytest.approx(gained, abs=0.01 * float(np.abs(gained).max()))
    assert (seen.predicted == logits[records].argmax(axis=1)).all()


@pytest.mark.parametrize("names", [(), tuple(f"column {letter}" for letter in "abcdefghijklmno")])
def test_the_feature_that_decides_a_planted_table_stands_first(names: tuple[str, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = 5 + 3 * rng.normal(size=(200, 15))
    data = Dataset(inputs, (inputs[:, 3] > 5).astype(np.int64), feature_names=names)
    half = np.arange(200) % 2 == 0
    recipe = Recipe.parse({"model": {"name": "fcn", "widths": [16]}, "epochs": 30, "learning_rate": 0.01})
    pool = train_pool(data, np.stack([half, ~half]), recipe, folder=tmp_path / "pool", quiet=True)
    features = collect_features(pool, data, [0], folder=tmp_path / "features", quiet=True)[0]
    vulnerable = rng.random(200) < 0.4
    result = attribution(pool, 0, data, vulnerable, ~vulnerable, features, seed=0)
    assert (result.method, result.layer) == ("attribution", "input")
    row_of = {name: row for row, name in enumerate(data.ids.tolist())}
    clear = [item for item in result.maps if abs(inputs[row_of[item.id], 3] - 5) > 1.5]
    assert len(clear) > 8
    for item in clear:
        assert item.features[0][0] == ("column d" if names else "feature 3")
        # It speaks for the label on either side of the border, since the mean record lies on it.
        assert item.features[0][2] > 0
    for item in result.maps:
        assert len(item.features) == 10 and not item.map
        sizes = [abs(size) for _, _, size in item.features]
        assert sizes == sorted(sizes, reverse=True)
        for name, value, _ in item.features:
            column = names.index(name) if names else int(name.removeprefix("feature "))
            assert value == pytest.approx(inputs[row_of[item.id], column], rel=1e-5)
    assert [item.name for item in result.focus] == ["top_mass", "entropy"]
    assert "0 one feature" in result.focus[1].title


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"vulnerable": np.arange(240) < 4}, SignalsError, "at least 4 vulnerable and 4 protected records"),
        ({"protected": np.zeros(240, np.bool_)}, SignalsError, "and 0"),
        ({"protected": np.ones(3, np.bool_)}, SignalsError, r"booleans \(240,\)"),
        ({"features": np.zeros((3, 4))}, SignalsError, r"features \(240, D\)"),
        ({"target": 2}, PoolError, "a model row from 0 to 1"),
    ],
)
def test_wrong_arguments_are_refused(
    pool: Pool,
    images: Dataset,
    features: NDArray[np.float32],
    flags: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    change: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    arguments = {"target": 1, "vulnerable": flags[0], "protected": flags[1], "features": features} | change
    with pytest.raises(kind, match=message):
        attribution(pool, dataset=images, seed=0, **arguments)


def test_other_records_and_a_missing_package_are_named(
    pool: Pool,
    images: Dataset,
    features: NDArray[np.float32],
    flags: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(PoolError, match="Give attribution the same data set"):
        attribution(pool, 1, images.take(np.arange(240)[::-1]), *flags, features, seed=0)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'memberscope\[analysis\]'"):
        attribution(pool, 1, images, *flags, features, seed=0)


# Focus numbers -------------------------------------------------------------------------------------------------


def test_focus_of_maps_with_a_known_answer() -> None:
    centre, corner, even, blank = np.zeros((4, 8, 8))
    centre[2:6, 2:6] = [[3, 1, 4, 1]] * 4
    corner[0, 7] = 5
    even[:] = 0.3
    focus = map_focus(np.stack([centre, corner, even, blank]))
    assert focus["centre_mass"] == pytest.approx([1, 0, 0.25, np.nan], nan_ok=True)
    assert focus["border_mass"] == pytest.approx([0, 1, 1 - 0.75**2, np.nan], nan_ok=True)
    share = np.tile([3 / 36, 1 / 36, 4 / 36, 1 / 36], 4)
    wide = -(share * np.log(share)).sum() / np.log(64)
    assert focus["entropy"] == pytest.approx([wide, 0, 1, np.nan], nan_ok=True)


@pytest.mark.parametrize("shape", [(7, 7), (4, 4), (3, 5), (32, 32), (2, 8)])
def test_focus_counts_cut_cells_by_area(shape: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).random((4, *shape)) ** 3
    fine = np.kron(maps, np.ones((1, 8, 8)))
    (h, w), mass = fine.shape[1:], fine.sum(axis=(1, 2))
    focus = map_focus(1e-8 * maps)
    inner = fine[:, h // 4 : h - h // 4, w // 4 : w - w // 4].sum(axis=(1, 2))
    assert focus["centre_mass"] == pytest.approx(inner / mass)
    inner = fine[:, h // 8 : h - h // 8, w // 8 : w - w // 8].sum(axis=(1, 2))
    assert focus["border_mass"] == pytest.approx(1 - inner / mass)
    share = maps.reshape(4, -1) / maps.sum(axis=(1, 2))[:, None]
    assert focus["entropy"] == pytest.approx(-(share * np.log(share)).sum(axis=1) / np.log(share.shape[1]))


def test_maps_too_coarse_for_a_place_say_so() -> None:
    maps = np.random.default_rng(0).random((2, 20, 2, 2))
    first, second = map(map_focus, maps)
    assert np.isnan(first["centre_mass"]).all() and np.isfinite(first["entropy"]).all()
    focus = {item.name: item for item in compare(first, second)}
    assert focus["centre_mass"].p_value is None and "too few cells" in focus["centre_mass"].difference.reason
    assert focus["entropy"].p_value is not None
    single = map_focus(np.ones((5, 1, 1)))
    assert all(np.isnan(values).all() for values in single.values())
    assert "was not measured: the maps have too few cells" in sentence(compare(single, single), 5, (0.0, 0.0))


def test_focus_of_attributions_with_a_known_answer() -> None:
    attributions = np.zeros((3, 20))
    attributions[0] = -0.5
    attributions[1, 7] = -2
    attributions[2, :12] = [3, -3, 3, -3, 3, 3, 3, 3, 3, 3, -1, 2]
    focus = feature_focus(attributions)
    assert focus["top_mass"] == pytest.approx([0.5, 1, 30 / 33])
    assert focus["entropy"][:2] == pytest.approx([1, 0])
    few = feature_focus(attributions[:, :10])
    assert np.isnan(few["top_mass"]).all()
    assert np.isnan(feature_focus(np.zeros((1, 20)))["entropy"]).all()


def planted(shift: float, n: int, rng: np.random.Generator) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Focus of pairs whose classes differ widely, and whose vulnerable record is moved by ``shift``."""
    where = rng.beta(4, 8, n)
    pair = [np.clip(where + rng.normal(0, 0.05, n) + move, 0.001, 0.999) for move in (shift, 0.0)]
    return tuple({"centre_mass": v, "border_mass": 1 - v**2, "entropy": np.sqrt(v)} for v in pair)  # type: ignore[return-value]


def test_a_planted_difference_is_found_against_controls_of_the_same_class() -> None:
    focus = compare(*planted(-0.07, 80, np.random.default_rng(0)))
    centre = focus[0]
    assert centre.difference.low < -0.07 < centre.difference.high < -0.03
    assert centre.adjusted_p_value < 1e-6
    text = sentence(focus, 80, (0.05, 0.0))
    assert text.startswith("On vulnerable records the model looks less at the centre (")
    assert "looks more at the border" in text and "looks at a narrower area" in text
    assert "on protected records of the same class; difference −" in text and "points" in text
    assert "80 pairs" in text
    assert "5\u00a0% of the vulnerable and 0\u00a0% of the protected ones, are left out" in text
    reversed_ = sentence(compare(*planted(0.07, 80, np.random.default_rng(0))), 80, (0.0, 0.0))
    assert "looks more at the centre" in reversed_ and "left out" not in reversed_
    table = {"top_mass": np.linspace(0.5, 0.6, 9)}, {"top_mass": np.linspace(0.7, 0.75, 9)}
    assert "leans less on a few features" in sentence(compare(*table), 9, (0.0, 0.0))


def test_without_a_difference_few_are_found_and_intervals_cover() -> None:
    rng = np.random.default_rng(1)
    found = covered = 0
    for _ in range(300):
        focus = compare(*planted(0.0, 12, rng))
        found += any(item.adjusted_p_value <= 0.05 for item in focus)
        covered += focus[0].difference.low <= 0 <= focus[0].difference.high
    # Binomial(300, 0.05): 26 or more, and 274 or fewer, have a chance below 0.5 %.
    assert found <= 26
    assert covered > 274
    text = sentence(compare(*planted(0.0, 12, np.random.default_rng(4))), 12, (0.0, 0.0))
    assert text.startswith("No difference was found in where the model looks")


def test_blank_maps_are_left_out_as_pairs() -> None:
    first, second = planted(-0.1, 10, np.random.default_rng(0))
    for name in first:
        first[name][:3], second[name][2:5] = np.nan, np.nan
    focus = compare(first, second)[0]
    assert focus.vulnerable.value == pytest.approx(first["centre_mass"][5:].mean())
    assert focus.controls.value == pytest.approx(second["centre_mass"][5:].mean())
    for name in first:
        first[name][:7] = np.nan
    assert compare(first, second)[0].difference.reason.startswith("3 pairs with evidence")


# Which records -------------------------------------------------------------------------------------------------


def fan(labels: NDArray[np.int64], angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Features whose class centroid is a class's own axis: each record and its mirror image at ``angles`` of it."""
    features = np.zeros((2 * len(labels), 3 * (labels.max() + 1)))
    for i, (label, angle) in enumerate(zip(labels, angles, strict=True)):
        for row, sign in ((2 * i, 1), (2 * i + 1, -1)):
            features[row, 3 * label : 3 * label + 2] = math.cos(angle), sign * math.sin(angle)
    return features


def test_the_nearest_and_the_farthest_are_shown_with_their_distances() -> None:
    rng = np.random.default_rng(0)
    half = np.arange(60) % 6
    angles = rng.permutation(np.linspace(0.02, 1.4, 60))
    features, labels = fan(half, angles), np.repeat(half, 2)
    distance = 1 - np.cos(np.repeat(angles, 2))
    vulnerable = np.zeros(120, np.bool_)
    vulnerable[::2] = rng.random(60) < 0.6
    protected = ~vulnerable
    found = extremes(features, labels, np.ones(120, np.bool_), vulnerable, protected, 8)
    assert len({item.record for item in found}) == len(found) == 32
    for item in found:
        assert item.distance == pytest.approx(distance[item.record])
        assert (vulnerable if item.kind == "vulnerable" else protected)[item.record]
    chosen = {
        (kind, place): [item.record for item in found if (item.kind, item.place) == (kind, place)]
        for kind in ("vulnerable", "protected")
        for place in ("nearest", "farthest")
    }
    own = np.flatnonzero(vulnerable)
    for place, order in (("nearest", own[np.argsort(distance[own])]), ("farthest", own[np.argsort(-distance[own])])):
        expected: list[int] = []
        for record in order:
            if len(expected) < 8 and [labels[r] for r in expected].count(labels[record]) < 2:
                expected.append(record)
        assert chosen["vulnerable", place] == expected
        # Protected ones: the extreme ones of the very same classes.
        wanted = Counter(labels[expected])
        assert Counter(labels[chosen["protected", place]]) == wanted
        for label, count in wanted.items():
            mine = np.flatnonzero(protected & (labels == label))
            mine = mine[np.argsort(distance[mine] if place == "nearest" else -distance[mine])][:count]
            assert sorted(distance[mine]) == pytest.approx(
                sorted(distance[r] for r in chosen["protected", place] if labels[r] == label)
            )


def test_few_records_are_never_shown_twice_nor_a_class_of_one() -> None:
    features = fan(np.array([0, 0, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4]))
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 2])
    vulnerable = np.array([1, 0, 1, 0, 1, 0, 1, 0], np.bool_)
    found = extremes(features, labels, np.ones(8, np.bool_), vulnerable, ~vulnerable, 8)
    assert [(item.record, item.place) for item in found if item.kind == "vulnerable"] == [
        (0, "nearest"),
        (2, "nearest"),
        (4, "farthest"),
    ]
    assert sorted(item.record for item in found if item.kind == "protected") == [1, 3, 5]


def test_pairs_are_of_one_class_and_no_record_stands_in_two() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 300)
    vulnerable = (rng.random(300) < 0.3) & (labels != 4)
    protected = ~vulnerable & (labels != 5)
    pairs = matched_pairs(labels, vulnerable, protected, 1000, rng)
    assert len(set(pairs.ravel().tolist())) == pairs.size
    assert vulnerable[pairs[:, 0]].all() and protected[pairs[:, 1]].all()
    assert (labels[pairs[:, 0]] == labels[pairs[:, 1]]).all()
    for label in range(6):
        here = labels == label
        expected = min((vulnerable & here).sum(), (protected & here).sum())
        assert (labels[pairs[:, 0]] == label).sum() == expected
    fewer = matched_pairs(labels, vulnerable, protected, 20, rng)
    assert len(fewer) == 20 and len(np.unique(labels[fewer[:, 0]])) > 2
    assert matched_pairs(labels, labels == 4, labels == 5, 10, rng).shape == (0, 2)
