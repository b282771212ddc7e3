"""Defences by name: a change to the recipe, an output policy, or both. A recipe never imports them."""

from __future__ import annotations

from memberscope.defences.defence import Defence, Kind, revised
from memberscope.defences.output import RESPONSES
from memberscope.defences.private import PRIVATE
from memberscope.defences.regularisation import REGULARISATION
from memberscope.errors import ConfigError, nearest
from memberscope.training.recipe import Recipe

# The order of every table: no defence first, the paper's rows, then the others, output policies last.
DEFENCES: dict[str, Defence] = {
    defence.name: defence
    for defence in (
        *(defence for defence in REGULARISATION if defence.in_paper),
        *(defence for defence in PRIVATE if defence.in_paper),
        *(defence for defence in (*REGULARISATION, *PRIVATE) if not defence.in_paper),
        *RESPONSES,
    )
}


def defence(name: str) -> Defence:
    """The defence called ``name``.

    Raises:
        ConfigError: there is none; the nearest known name is given.

    >>> defence("l2_1e-3").title
    'L2 1e-3'
    """
    if name not in DEFENCES:
        raise ConfigError(
            f"a method among {', '.join(DEFENCES)}", f"{name!r}{nearest(name, DEFENCES)}", "Choose one of them."
        )
    return DEFENCES[name]


def defend(name: str, recipe: Recipe, kind: Kind) -> Recipe:
    """``recipe`` as the defence ``name`` changes it for records of ``kind`` (``"image"`` or ``"table"``).

    Raises:
        ConfigError: no such defence, or a recipe that it cannot be combined with.

    >>> defend("regdrop_25", Recipe(), "table").dropout
    0.25
    """
    return defence(name).changes(recipe, kind)


__all__ = ["DEFENCES", "Defence", "Kind", "defence", "defend", "revised"]
