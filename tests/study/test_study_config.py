"""What a study may be asked, and that every mistake shows before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from memberscope.cli import several_values
from memberscope.defences import DEFENCES
from memberscope.errors import ConfigError, DataError, MemberscopeError
from memberscope.study import PRESETS, SCALES, StudyConfig, preset, with_data, with_rows, with_seeds
from memberscope.study.prepare import prepare
from memberscope.training.recipe import Recipe

TINY: dict[str, Any] = {
    "data": "digits",
    "records": 300,
    "validation": 60,
    "recipe": {"model": {"name": "fcn", "widths": [12]}, "epochs": 2, "batch_size": 32},
    "rows": ["original", "original+reweighting"],
    "models": 6,
    "engine": "serial",
}
IMAGES = {"data": {"name": "digits", "as_images": True}, "recipe": {"model": {"name": "cnn", "widths": [4]}}}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("scale", SCALES)
def test_presets_are_valid_and_can_be_written_down(name: str, scale: str) -> None:
    config = preset(name, scale)
    assert config.rows == tuple(DEFENCES) and config.seeds >= 3
    again = StudyConfig.parse(yaml.safe_load(yaml.safe_dump(config.resolved())))
    assert again.resolved() == config.resolved()
    if scale != "smoke":
        assert config.models - 2 >= 8
    assert (config.published is None) == (name == "cifar100")


def test_paper_scale_is_the_published_recipe() -> None:
    assert Recipe.parse(preset("purchase100", "paper").recipe).as_json() | {"evaluation_batch_size": 0} == (
        Recipe.paper_fcn().as_json() | {"evaluation_batch_size": 0}
    )
    assert Recipe.parse(preset("cifar10", "paper").recipe).as_json() == Recipe.paper_densenet().as_json()
    sizes = {"purchase100": 157_859, "cifar10": 50_000}
    for name, published in sizes.items():
        config = preset(name, "paper")
        assert config.records is not None
        trained = config.records * (config.folds - 1) / config.folds
        assert 0.96 * published < trained <= published


def test_laptop_scale_is_as_large_as_promised() -> None:
    sizes = {"purchase100": 10_000, "cifar10": 4_000}
    for name, least in sizes.items():
        config = preset(name)
        assert config.records is not None and config.records // 2 >= least and config.seeds >= 3


def test_changes_of_the_command_line() -> None:
    config = preset("cifar10")
    assert with_rows(config, ["dp_sgd,mixup", "original"]).rows == ("dp_sgd", "mixup", "original")
    assert with_rows(config, ["original"]).strengths == config.strengths
    assert with_seeds(config, 7).models == 14 and with_seeds(config, 2).models == config.models
    assert with_data(config, "digits").data[0].name == "digits"


def test_data_may_lie_anywhere(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.touch()
    chosen = with_data(preset("cifar10"), str(archive)).data[0]
    assert (chosen.name, chosen.path) == ("cifar10", str(archive))
    table = tmp_path / "own.csv"
    table.touch()
    chosen = with_data(StudyConfig.parse(TINY), str(table)).data[0]
    assert (chosen.name, chosen.path) == (None, str(table))


def test_several_rows_on_the_command_line() -> None:
    given = ["study", "cifar10", "--rows", "original", "original+reweighting", "l2_1e-3,mixup", "--out", "x"]
    expected = ["study", "cifar10", "--rows", "original", "--rows", "original+reweighting", "--rows", "l2_1e-3,mixup"]
    assert several_values(given) == [*expected, "--out", "x"]


def test_rows_may_bring_their_strengths() -> None:
    rows = ["original", {"method": "l2_1e-3", "recipe": {"epochs": 3}}]
    config = StudyConfig.parse(TINY | {"rows": rows})
    assert config.rows == ("original", "l2_1e-3") and config.strengths == {"l2_1e-3": {"epochs": 3}}
    recipes = prepare(config).recipes
    assert (
        recipes["l2_1e-3"].epochs == 3 and recipes["l2_1e-3"].weight_decay == 1e-3 and recipes["original"].epochs == 2
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": ["l2_1e3"]}, "did you mean 'l2_1e-3'"),
        ({"strengths": {"dp_sdg": {}}}, "did you mean 'dp_sgd'"),
        ({"strengths": {"mixup": {"epoch": 3}}}, "did you mean 'epochs'"),
        ({"strengths": {"original+reweighting": {"epochs": 3}}}, "Move them to 'original'"),
        ({"sed": 1}, "did you mean 'seed'"),
        ({"rows": ["mixup", "mixup"]}, "once"),
        ({"rows": []}, "rows"),
        ({"models": 4}, "at least 6 for 3 targets"),
        ({"models": 7}, "multiple of 2"),
        ({"models": 8, "folds": 3}, "multiple of 3"),
        ({"recipe": {"learning_rte": 1}}, "did you mean 'learning_rate'"),
        ({"data": {"name": "digits", "records": 100}}, "beside data"),
        ({"validation": -1}, "at least 0"),
        ({"published": "imagenet"}, "published"),
    ],
)
def test_mistakes_in_the_study_itself(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        StudyConfig.parse(TINY | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "cifar10"}, "cifar-10-binary"),
        ({"data": "nowhere/at-all.csv"}, "no such file"),
        ({"records": 5000}, "at most 1,797"),
        ({"recipe": {"model": "cnn"}}, r"images .* \(in the row 'original'"),
        ({"recipe": TINY["recipe"] | {"batch_size": 512}}, "batches of at most 150"),
        ({"rows": ["early_stopping"], "validation": 0}, "validation records for early stopping"),
        ({"rows": ["augmentation"]}, r"0 and 1 for bit_flip \(in the row 'augmentation'"),
        (
            {"recipe": TINY["recipe"] | {"schedule": "step", "milestones": [5]}},
            "epochs that reach the first milestone",
        ),
        (
            IMAGES | {"rows": ["dp_sgd"], "strengths": {"dp_sgd": {"norm": "batch"}}},
            r"without batch normalisation .*\(in the row 'dp_sgd'",
        ),
        ({"rows": ["dp_sgd"], "strengths": {"dp_sgd": {"mixup": 0.2, "batch_size": 16}}}, "cannot be combined"),
        ({"workers": 2, "engine": "serial", "device": "cuda:99"}, "CUDA|device"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(
    changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEMBERSCOPE_DATA", str(tmp_path))
    with pytest.raises(MemberscopeError, match=said):
        prepare(StudyConfig.parse(TINY | changes))
    assert not list(tmp_path.iterdir())


def write_table(path: Path, inputs: np.ndarray, labels: np.ndarray, ids: list[str]) -> None:
    names = [f"f{column}" for column in range(inputs.shape[1])]
    lines = [",".join(["id", "label", *names])]
    lines += [
        ",".join([key, str(label), *map(str, row)])
        for key, label, row in zip(ids, labels, inputs.tolist(), strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")


def test_validation_of_ones_own_may_not_overlap(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(120, 4)).round(3), rng.integers(0, 2, 120)
    write_table(tmp_path / "audit.csv", inputs[:80], labels[:80], [f"r{i}" for i in range(80)])
    write_table(tmp_path / "overlap.csv", inputs[70:110], labels[70:110], [f"r{i}" for i in range(70, 110)])
    write_table(tmp_path / "apart.csv", inputs[80:], labels[80:], [f"r{i}" for i in range(80, 120)])
    options = {"label": "label", "id": "id"}
    study = TINY | {
        "data": {"path": str(tmp_path / "audit.csv"), **options},
        "records": None,
        "rows": ["early_stopping"],
        "recipe": TINY["recipe"] | {"batch_size": 16},
    }
    with pytest.raises(DataError, match="shares no record"):
        prepare(StudyConfig.parse(study | {"validation": {"path": str(tmp_path / "overlap.csv"), **options}}))
    found = prepare(StudyConfig.parse(study | {"validation": {"path": str(tmp_path / "apart.csv"), **options}}))
    assert found.validation is not None and len(found.validation) == 40 and len(found.dataset) == 80


def test_records_are_divided_once_for_all() -> None:
    found = prepare(StudyConfig.parse(TINY | {"rows": [*list(DEFENCES)[:8], "curriculum"], "seed": 4}))
    assert found.validation is not None and len(found.dataset) == 300 and len(found.validation) == 60
    assert not set(found.dataset.ids) & set(found.validation.ids)
    assert found.targets == [0, 2, 4, 1, 3, 5] and found.members.shape == (6, 300) and found.size == 150


def test_the_first_data_that_are_here_are_taken_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEMBERSCOPE_DATA", str(tmp_path))
    small = {"records": 300, "validation": 0, "rows": ["original"]}
    found = prepare(StudyConfig.parse(TINY | small | {"data": ["purchase100", "purchases"]}))
    assert found.config.data[0].name == "purchases"
    assert any("purchase100 is not on this machine" in note for note in found.notes)


def test_curriculum_alone_brings_the_models_that_score_it() -> None:
    found = prepare(StudyConfig.parse(TINY | {"rows": ["curriculum"]}))
    assert list(found.recipes) == ["original", "curriculum"] and any("scores how hard" in note for note in found.notes)


def test_tiny_classes_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = np.r_[np.zeros(50, int), np.ones(49, int), [2]]
    write_table(tmp_path / "few.csv", rng.normal(size=(100, 3)).round(3), labels, [f"r{i}" for i in range(100)])
    study = {"data": {"path": str(tmp_path / "few.csv"), "label": "label", "id": "id"}, "records": None}
    found = prepare(StudyConfig.parse(TINY | study | {"validation": 0}))
    assert any("1 of 3 classes have fewer than 4 records" in note for note in found.notes)
    write_table(tmp_path / "one.csv", rng.normal(size=(40, 3)), np.zeros(40, int), [f"r{i}" for i in range(40)])
    with pytest.raises(ConfigError, match="at least 2 classes"):
        data = {"path": str(tmp_path / "one.csv"), "label": "label", "id": "id"}
        prepare(StudyConfig.parse(TINY | study | {"data": data, "validation": 0}))
