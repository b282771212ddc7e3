"""Recipes: what is refused and how, and the schedules against PyTorch's own."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from memberscope.errors import ConfigError
from memberscope.training.recipe import Recipe
from memberscope.training.schedule import learning_rate_at


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rte": 0.1}, "'learning_rte' (did you mean 'learning_rate'?)"),
        ({"learning_rate": -0.1}, "'learning_rate'; got -0.1. Input should be greater than 0"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"learning_rate": float("nan")}, "finite number"),
        ({"learning_rate": "fast"}, "valid number"),
        ({"weight_decay": -1e-4}, "greater than or equal to 0"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"epochs": 2.5}, "valid integer"),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"momentum": 1.0}, "less than 1"),
        ({"betas": [0.9]}, "'betas.1'"),
        ({"optimizer": "sdg"}, "'sgd', 'adam' or 'adamw'"),
        ({"schedule": "cosin"}, "'constant', 'cosine', 'step' or 'onecycle'"),
        ({"schedule": "step"}, "needs milestones"),
        ({"milestones": [3]}, "belong to schedule step"),
        ({"schedule": "step", "milestones": [6, 3]}, "rising epochs"),
        ({"warmup": 50}, "shorter than epochs"),
        ({"nesterov": True}, "needs optimizer sgd"),
        ({"gradient_clip": 0}, "greater than 0"),
        ({"precision": "fp16"}, "'fp32' or 'bf16'"),
        ({"threads": 0}, "greater than or equal to 1"),
        ({"dropout": 1}, "less than 1"),
        ({"model": "fnc"}, "did you mean 'fcn'"),
        ({"model": {"nme": "fcn"}}, "'model.name'"),
        ({"model": {"name": "fcn", "width": [8]}}, "did you mean 'widths'"),
        ({"model": {"name": "fcn", "dropout": 0.5}}, "beside the model"),
        ({"model": "vit", "norm": "group"}, "'norm'"),
        ({"model": "cnn", "batch_size": 1}, "at least 2 for batch normalisation"),
        ([("epochs", 3)], "as keys and values"),
    ],
)
def test_wrong_recipes_are_refused(values: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe.parse(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.fix


def test_recipe_survives_json_and_pickling_between_processes() -> None:
    for recipe in (
        Recipe(),
        Recipe.paper_fcn(),
        Recipe.paper_densenet(),
        Recipe.parse({"model": "resnet", "norm": "group"}),
    ):
        again = Recipe.parse(json.loads(json.dumps(recipe.as_json())))
        assert again.as_json() == recipe.as_json()
        assert again.model_options() == recipe.model_options()
        assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_defaults_are_written_out() -> None:
    # A default that changes in a later version must not change what an old pool was trained with.
    spelled = Recipe.parse({"model": {"name": "fcn", "widths": [1024, 512, 256, 128], "activation": "tanh"}})
    assert Recipe.parse({"model": "fcn"}).as_json() == spelled.as_json()


def test_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe().epochs = 3  # type: ignore[misc]


def test_presets_are_the_papers() -> None:
    fcn, densenet = Recipe.paper_fcn(), Recipe.paper_densenet()
    assert (fcn.optimizer, fcn.learning_rate, fcn.batch_size, fcn.epochs) == ("adam", 5e-4, 32, 200)
    rates = [learning_rate_at(densenet, epoch * 10, 10) for epoch in (0, 29, 30, 60, 90)]
    assert rates == pytest.approx([0.1, 0.1, 1e-2, 1e-3, 1e-4])


STEPS = 7


@pytest.mark.parametrize(
    ("values", "oracle"),
    [
        ({"schedule": "constant"}, lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0)),
        (
            {"schedule": "step", "milestones": [2, 5], "gamma": 0.3},
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2 * STEPS, 5 * STEPS], 0.3),
        ),
        ({"schedule": "cosine"}, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 6 * STEPS)),
        (
            {"schedule": "onecycle"},
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.2, 6 * STEPS, cycle_momentum=False),
        ),
        (
            {"schedule": "onecycle", "warmup": 1.5},
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.2, 6 * STEPS, pct_start=0.25, cycle_momentum=False),
        ),
    ],
)
def test_schedules_equal_pytorchs(values: dict[str, Any], oracle: Any) -> None:
    recipe = Recipe.parse({"learning_rate": 0.2, "epochs": 6, **values})
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.2)
    scheduler = oracle(optimizer)
    for step in range(6 * STEPS):
        assert learning_rate_at(recipe, step, STEPS) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12), step
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    "values", [{"schedule": "constant"}, {"schedule": "cosine"}, {"schedule": "step", "milestones": [5]}]
)
def test_warmup_rises_in_a_line_and_then_leaves_the_schedule_alone(values: dict[str, Any]) -> None:
    plain, warm = (Recipe.parse({"learning_rate": 0.2, "epochs": 6, "warmup": w, **values}) for w in (0, 2))
    shares = [learning_rate_at(warm, step, STEPS) / learning_rate_at(plain, step, STEPS) for step in range(6 * STEPS)]
    assert shares[: 2 * STEPS] == pytest.approx([(step + 1) / (2 * STEPS) for step in range(2 * STEPS)])
    assert shares[2 * STEPS :] == pytest.approx([1.0] * (4 * STEPS))


def test_one_step_schedules_do_not_divide_by_zero() -> None:
    for schedule in ("constant", "cosine", "onecycle"):
        assert learning_rate_at(Recipe(epochs=1, schedule=schedule), 0, 1) > 0
