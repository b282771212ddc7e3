"""Collected signals are what the models say, in the records' order, and survive kills and changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from memberscope.errors import PoolError, SignalsError
from memberscope.files import read_json, write_json
from memberscope.models import build
from memberscope.signals.collect import collect, load_collected
from memberscope.training.pool import load_pool, read_metrics, train_pool
from memberscope.training.recipe import Recipe
from memberscope.types import Access, Dataset, Pool


@pytest.fixture(scope="module")
def pool(images: Dataset, members: NDArray[np.bool_], tmp_path_factory: pytest.TempPathFactory) -> Pool:
    options = {
        "model": {"name": "cnn", "widths": [8, 16]},
        "epochs": 4,
        "precision": "fp32",
        "channels_last": True,
        "evaluation_batch_size": 64,
    }
    members = members.copy()
    members[:, 200:] = False
    folder = tmp_path_factory.mktemp("collect") / "pool"
    return train_pool(images, members, Recipe.parse(options), folder=folder, quiet=True)


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.rglob("*.npy"))}


def test_logits_are_the_models_own(pool: Pool, images: Dataset, tmp_path: Path) -> None:
    signals = collect(pool, images, folder=tmp_path, quiet=True)
    assert (len(signals), signals.records, signals.queries, signals.classes) == (6, 240, 1, 10)
    assert signals.access is Access.LOGITS
    assert all(isinstance(row, np.memmap) and row.dtype == np.float32 for row in signals.outputs)
    assert np.array_equal(signals.members, pool.members)
    assert signals.ids.tolist() == images.ids.tolist()
    ink = images.inputs.astype(np.float64)
    batch = torch.tensor((ink - ink.mean()) / ink.std()).float()
    for row, metrics in enumerate(read_metrics(pool)):
        model = build("cnn", (1, 8, 8), 10, widths=[8, 16]).eval()
        model.load_state_dict(load_file(pool.model_path(row)))
        with torch.no_grad():
            assert signals.outputs[row][:, 0] == pytest.approx(model(batch).numpy(), abs=1e-4)
        correct = signals.outputs[row][:, 0].argmax(1) == images.labels
        assert correct[pool.members[row]].mean() == metrics.train_accuracy
        assert correct[~pool.members[row]].mean() == metrics.held_out_accuracy


def test_the_same_bytes_on_every_engine_and_nothing_twice(pool: Pool, images: Dataset, tmp_path: Path) -> None:
    first = collect(pool, images, folder=tmp_path / "a", quiet=True)
    before = stamps(tmp_path / "a")
    assert collect(pool, images, folder=tmp_path / "a", quiet=True).fingerprint == first.fingerprint
    assert stamps(tmp_path / "a") == before
    other = collect(pool, images, folder=tmp_path / "b", engine="processes", workers=2, quiet=True)
    assert other.fingerprint == first.fingerprint
    for name in before:
        paths = [next((tmp_path / folder).rglob(name)) for folder in ("a", "b")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_signals_grow_with_a_pool_that_was_stopped_early(
    images: Dataset, members: NDArray[np.bool_], tmp_path: Path
) -> None:
    recipe = Recipe.parse({"model": {"name": "fcn", "widths": [8]}, "epochs": 1})

    def grown(until: int | None) -> Pool:
        return train_pool(images, members, recipe, folder=tmp_path / "pool", quiet=True, until=until)

    begun = collect(grown(2), images, folder=tmp_path / "signals", quiet=True)
    assert len(begun) == 2 and begun.members.tolist() == members[:2].tolist()
    before = stamps(tmp_path / "signals" / "logits")
    whole = collect(grown(None), images, folder=tmp_path / "signals", quiet=True)
    assert len(whole) == len(members) and whole.fingerprint != begun.fingerprint
    assert stamps(tmp_path / "signals" / "logits").items() >= before.items()
    fresh = collect(grown(None), images, folder=tmp_path / "fresh", quiet=True)
    assert fresh.fingerprint == whole.fingerprint


def test_a_killed_collection_goes_on(pool: Pool, images: Dataset, tmp_path: Path) -> None:
    whole = collect(pool, images, folder=tmp_path, quiet=True).fingerprint
    before = stamps(tmp_path)
    logits = tmp_path / "logits"
    # Killed before the file, between file and description, and in the middle of writing.
    (logits / "00001.npy").unlink()
    (logits / "00003.json").unlink()
    (logits / ".00005.npy.x.part").write_bytes(b"half")
    assert collect(pool, images, folder=tmp_path, quiet=True).fingerprint == whole
    assert [name for name, stamp in stamps(tmp_path).items() if stamp != before[name]] == ["00001.npy", "00003.npy"]
    assert not list(tmp_path.rglob(".*.part"))


def test_rows_of_other_models_are_asked_anew(pool: Pool, images: Dataset, tmp_path: Path) -> None:
    first = collect(pool, images, folder=tmp_path / "signals", quiet=True)
    old = np.array(first.outputs[0])
    other = train_pool(images, pool.members, Recipe.parse(pool.recipe), seed=1, folder=tmp_path / "pool", quiet=True)
    second = collect(other, images, folder=tmp_path / "signals", quiet=True)
    assert second.fingerprint != first.fingerprint
    assert not np.array_equal(second.outputs[0], old)


def test_population_is_kept_and_part_of_the_fingerprint(pool: Pool, images: Dataset, tmp_path: Path) -> None:
    population = np.arange(240) >= 220
    plain = collect(pool, images, folder=tmp_path, quiet=True)
    signals = collect(pool, images, folder=tmp_path, population=population, quiet=True)
    assert np.array_equal(signals.population, population)
    assert signals.fingerprint != plain.fingerprint
    assert load_collected(tmp_path).fingerprint == signals.fingerprint


def test_signals_reopen_without_torch(pool: Pool, images: Dataset, tmp_path: Path) -> None:
    signals = collect(pool, images, folder=tmp_path, quiet=True)
    code = (
        "import sys; from memberscope.signals.collect import load_collected; s = load_collected(sys.argv[1]);"
        "print(s.fingerprint, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [signals.fingerprint, "False"]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"population": np.ones(240, np.bool_)}, SignalsError, "population records that no model was trained on"),
        ({"population": np.ones(3, np.bool_)}, SignalsError, r"population as booleans of shape \(240,\)"),
        ({"population": np.ones(240)}, SignalsError, "population as booleans"),
        (
            {"dataset": Dataset(np.zeros((240, 1, 8, 8)), np.arange(240) % 10)},
            PoolError,
            "the same data set as train_pool",
        ),
    ],
)
def test_wrong_arguments_are_refused(
    pool: Pool, images: Dataset, tmp_path: Path, arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        collect(pool, **({"dataset": images, "folder": tmp_path, "quiet": True} | arguments))
    assert not (tmp_path / "manifest.json").exists()


def test_an_altered_model_is_not_asked(images: Dataset, members: NDArray[np.bool_], tmp_path: Path) -> None:
    recipe = Recipe.parse({"model": {"name": "fcn", "widths": [8]}, "epochs": 1})
    pool = train_pool(images, members[:2], recipe, folder=tmp_path / "pool", quiet=True)
    path = pool.model_path(1)
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(PoolError, match=r"00001\.safetensors as it was written"):
        collect(load_pool(pool.folder, verify=False), images, folder=tmp_path / "signals", quiet=True)


def test_altered_or_missing_signals_are_named(pool: Pool, images: Dataset, tmp_path: Path) -> None:
    with pytest.raises(SignalsError, match="Run collect again"):
        load_collected(tmp_path)
    collect(pool, images, folder=tmp_path, quiet=True)
    path = tmp_path / "logits" / "00002.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\x7f")
    with pytest.raises(SignalsError, match=r"00002\.npy as it was written"):
        load_collected(tmp_path)
    path.unlink()
    for verify in (True, False):
        with pytest.raises(SignalsError, match=r"00002\.npy"):
            load_collected(tmp_path, verify=verify)
    path.write_bytes(content)
    np.save(tmp_path / "labels.npy", images.labels[::-1])
    with pytest.raises(SignalsError, match="members, labels, ids and population"):
        load_collected(tmp_path)
    write_json(tmp_path / "manifest.json", {"models": read_json(tmp_path / "manifest.json")["models"]})
    with pytest.raises(SignalsError, match="the manifest of signals"):
        load_collected(tmp_path)
