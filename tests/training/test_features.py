"""Collected features are what the models hand to their last layer, and survive kills and changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from memberscope.errors import PoolError, SignalsError
from memberscope.files import sha256_file
from memberscope.models import build
from memberscope.signals.collect import collect
from memberscope.signals.features import collect_features, load_features
from memberscope.training.pool import train_pool
from memberscope.training.recipe import Recipe
from memberscope.training.store import encode
from memberscope.types import Dataset, Pool

MODELS = {
    "cnn": {"widths": [8, 16], "hidden": 24},
    "vit": {"patch": 2, "dim": 12, "blocks": 1, "heads": 2},
}


def trained(images: Dataset, members: NDArray[np.bool_], folder: Path, name: str = "cnn", seed: int = 0) -> Pool:
    options = {
        "model": {"name": name, **MODELS[name]},
        "epochs": 3,
        "dropout": 0.4,
        "channels_last": True,
        "evaluation_batch_size": 100,
    }
    return train_pool(images, members[:3], Recipe.parse(options), seed=seed, folder=folder, quiet=True)


@pytest.fixture(scope="module")
def pool(images: Dataset, members: NDArray[np.bool_], tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return trained(images, members, tmp_path_factory.mktemp("features") / "pool")


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob("*.npy"))}


@pytest.mark.parametrize("name", MODELS)
def test_features_are_the_models_own(name: str, images: Dataset, members: NDArray[np.bool_], tmp_path: Path) -> None:
    pool = trained(images, members, tmp_path / "pool", name)
    found = collect_features(pool, images, [2, 0], folder=tmp_path / "features", quiet=True)
    assert list(found) == [2, 0]
    signals = collect(pool, images, folder=tmp_path / "signals", quiet=True)
    ink = images.inputs.astype(np.float64)
    batch = torch.tensor((ink - ink.mean()) / ink.std()).float()
    for row, features in found.items():
        assert isinstance(features, np.memmap) and features.dtype == np.float32 and not features.flags.writeable
        model = build(name, (1, 8, 8), 10, **MODELS[name], dropout=0.4).eval()
        model.load_state_dict(load_file(pool.model_path(row)))
        with torch.no_grad():
            assert features == pytest.approx(model.features(batch).numpy(), abs=1e-4)
            # The very numbers that the last layer turned into the collected logits, without dropout between.
            logits = model.classifier(torch.from_numpy(np.array(features)))
        assert signals.outputs[row][:, 0] == pytest.approx(logits.numpy(), abs=1e-5)
    assert sorted(stamps(tmp_path / "features")) == ["00000.npy", "00002.npy"]


def test_nothing_is_asked_twice_and_a_killed_collection_goes_on(pool: Pool, images: Dataset, tmp_path: Path) -> None:
    collect_features(pool, images, [0, 1, 2], folder=tmp_path, quiet=True)
    before = stamps(tmp_path)
    content = {name: (tmp_path / name).read_bytes() for name in before}
    collect_features(pool, images, [1], folder=tmp_path, quiet=True)
    assert stamps(tmp_path) == before
    # Killed before the description, and in the middle of writing; and a file that rotted.
    (tmp_path / "00000.json").unlink()
    (tmp_path / ".00001.npy.x.part").write_bytes(b"half")
    (tmp_path / "00002.npy").write_bytes(content["00002.npy"][:-1] + b"\x7f")
    collect_features(pool, images, range(3), folder=tmp_path, quiet=True)
    assert [name for name, stamp in stamps(tmp_path).items() if stamp != before[name]] == ["00000.npy", "00002.npy"]
    assert {name: (tmp_path / name).read_bytes() for name in before} == content
    assert not list(tmp_path.glob(".*.part"))


def test_features_of_other_models_are_asked_anew(
    pool: Pool, images: Dataset, members: NDArray[np.bool_], tmp_path: Path
) -> None:
    first = np.array(collect_features(pool, images, [1], folder=tmp_path / "features", quiet=True)[1])
    other = trained(images, members, tmp_path / "pool", seed=1)
    second = collect_features(other, images, [1], folder=tmp_path / "features", quiet=True)[1]
    assert not np.array_equal(first, second)


def test_logits_are_not_taken_for_features(pool: Pool, images: Dataset, tmp_path: Path) -> None:
    """Both lie under the same names and come from the same model file and records."""
    collect(pool, images, folder=tmp_path, quiet=True)
    found = collect_features(pool, images, [0], folder=tmp_path / "logits", quiet=True)
    assert found[0].shape == (240, MODELS["cnn"]["hidden"])
    assert collect(pool, images, folder=tmp_path, quiet=True).outputs[0].shape == (240, 1, 10)


@pytest.mark.parametrize(
    ("rows", "change", "message"),
    [
        ([0, 3], lambda data: data, "a model row from 0 to 2"),
        ([1, 1], lambda data: data, "different rows of the pool"),
        ([0], lambda data: data.take(np.arange(240)[::-1]), "Give collect_features the same data set"),
    ],
)
def test_wrong_arguments_are_refused(
    pool: Pool, images: Dataset, tmp_path: Path, rows: list[int], change: Callable[[Dataset], Dataset], message: str
) -> None:
    with pytest.raises(PoolError, match=message):
        collect_features(pool, change(images), rows, folder=tmp_path, quiet=True)
    assert not stamps(tmp_path)


def test_an_unfinished_pool_is_refused(pool: Pool, images: Dataset, tmp_path: Path) -> None:
    unfinished = replace(pool, manifest={key: value for key, value in pool.manifest.items() if key != "files"})
    with pytest.raises(PoolError, match="a finished pool"):
        collect_features(unfinished, images, [0], folder=tmp_path, quiet=True)


def test_a_diverged_model_is_named(pool: Pool, images: Dataset, members: NDArray[np.bool_], tmp_path: Path) -> None:
    broken = trained(images, members, tmp_path / "pool")
    path = broken.model_path(1)
    state = load_file(path)
    state["hidden.1.bias"][3] = float("nan")
    path.write_bytes(encode(state, 1, broken.manifest["plan_hash"]))
    files = dict(broken.manifest["files"]) | {path.name: sha256_file(path)}
    broken = replace(broken, manifest=dict(broken.manifest) | {"files": files})
    with pytest.raises(SignalsError, match=r"finite features; got NaN or infinity from 00001\.safetensors"):
        collect_features(broken, images, [0, 1], folder=tmp_path / "features", quiet=True)
    # What was finished before is kept; nothing stands where the broken one would be.
    assert list(stamps(tmp_path / "features")) == ["00000.npy"]


def test_missing_or_cut_features_are_named(pool: Pool, images: Dataset, tmp_path: Path) -> None:
    whole = collect_features(pool, images, [0], folder=tmp_path, quiet=True)[0]
    assert np.array_equal(load_features(tmp_path, [0])[0], whole)
    with pytest.raises(SignalsError, match=r"whole features in .*Run collect_features again"):
        load_features(tmp_path, [0, 1])
    path = tmp_path / "00000.npy"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(SignalsError, match="whole features"):
        load_features(tmp_path, [0])
