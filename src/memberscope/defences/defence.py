"""What a defence is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from memberscope.training.recipe import Recipe

Kind = Literal["image", "table"]
Family = Literal["none", "training", "private training", "output"]


@dataclass(frozen=True)
class Defence:
    """One row of a study.

    Args:
        name: what configurations and results call it.
        title: what tables print.
        source: the paper.
        family: where it acts.
        does: one sentence.
        changes: the recipe of the models behind it, from the undefended recipe and the kind of records.
        policy: the output policy before the model, or None.
        base: the defence whose trained models it shares; its own when empty.
        in_paper: whether the paper's tables hold it.
    """

    name: str
    title: str
    source: str
    family: Family
    does: str
    changes: Callable[[Recipe, Kind], Recipe]
    policy: Literal["reweighting"] | None = None
    base: str = ""
    in_paper: bool = False

    @property
    def pool(self) -> str:
        """The method whose pool of models this row is measured on."""
        return self.base or self.name


def revised(recipe: Recipe, **changes: Any) -> Recipe:
    """``recipe`` with other values, checked as a whole; a nested part is replaced, not merged.

    Raises:
        ConfigError: an unknown key, a value out of range, or keys that contradict each other.

    >>> revised(Recipe(), weight_decay=1e-3).weight_decay
    0.001
    """
    return Recipe.parse(recipe.as_json() | changes)
