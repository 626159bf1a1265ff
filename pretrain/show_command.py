"""`trichord show`: print every value of a recipe with its origin, or list the recipes."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from trichord.core.command import Command, add_json
from trichord.core.console import show_figures

if TYPE_CHECKING:
    from trichord.pretrain.recipe import RecipeSet


def _declare(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a recipe's name or its file (default: list them)")
    parser.add_argument("settings", nargs="*", metavar="A.B=C", help="settings that override the recipe")
    add_json(parser)


def _run(arguments: Namespace) -> int:
    from trichord.pretrain.recipe import PRETRAINING

    return show(arguments, (PRETRAINING,))


def show(arguments: Namespace, recipe_sets: Sequence[RecipeSet[Any]]) -> int:
    """Show a recipe of these packages, or list all their recipes; a recipe file belongs to the first package."""
    from trichord.pretrain.config_tree import leaves
    from trichord.pretrain.recipe import resolve
    from trichord.pretrain.recipe_file import first_comment, list_recipes

    shipped = {
        name: (recipe_set, path) for recipe_set in recipe_sets for name, path in list_recipes(recipe_set.folder).items()
    }
    if arguments.recipe is None:
        rows = [{"recipe": name, "what it is": first_comment(path)} for name, (_, path) in shipped.items()]
        show_figures("recipes", rows, arguments.json)
        return 0
    recipe_set = shipped[arguments.recipe][0] if arguments.recipe in shipped else recipe_sets[0]
    resolved = resolve(recipe_set, arguments.recipe, arguments.settings, stand_ins=recipe_set.stand_ins)
    values = sorted(leaves(resolved.config.model_dump(mode="json")), key=lambda leaf: "." in leaf[0])
    title = f"recipe {arguments.recipe}"
    if arguments.json:
        found = [{"setting": name, "value": value, "from": resolved.origins[name]} for name, value in values]
        show_figures(title, found, as_json=True)
        return 0
    for section, group in groupby(values, key=lambda leaf: leaf[0].partition(".")[0] if "." in leaf[0] else title):
        # Print values as they are typed: a table of figures would show 1e-6 as 0.000001 and true as yes.
        part = [{"setting": name, "value": _typed(value), "from": resolved.origins[name]} for name, value in group]
        show_figures(section, part, as_json=False)
    return 0


def _typed(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


SHOW = Command(
    "show",
    "print every value of a recipe and its origin",
    _declare,
    _run,
    (
        "trichord show",
        "trichord show svt_paper",
        "trichord show svt_paper data.sources=shards/train optimiser.learning_rate.start=1e-3 --json",
    ),
)
