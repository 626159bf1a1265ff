"""`trichord show`: every value of a recipe and where it came from; without a name, which recipes there are."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from trichord.core.command import Command, add_json
from trichord.core.console import show_figures

if TYPE_CHECKING:
    from trichord.pretrain.recipe import Floor


def _declare(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a recipe's name or its file (default: list them)")
    parser.add_argument("settings", nargs="*", metavar="A.B=C", help="laid over the recipe")
    add_json(parser)


def _run(arguments: Namespace) -> int:
    from trichord.pretrain.recipe import PRETRAINING

    return show(arguments, (PRETRAINING,))


def show(arguments: Namespace, floors: Sequence[Floor[Any]]) -> int:
    """Show a recipe of one of these floors, or list all that they have; a file is read as one of the first floor's."""
    from trichord.pretrain.config_tree import leaves
    from trichord.pretrain.recipe import resolve
    from trichord.pretrain.recipe_file import first_comment, list_recipes

    shipped = {name: (floor, path) for floor in floors for name, path in list_recipes(floor.recipes).items()}
    if arguments.recipe is None:
        rows = [{"recipe": name, "what it is": first_comment(path)} for name, (_, path) in shipped.items()]
        show_figures("recipes", rows, arguments.json)
        return 0
    floor = shipped[arguments.recipe][0] if arguments.recipe in shipped else floors[0]
    resolved = resolve(floor, arguments.recipe, arguments.settings, stand_ins=floor.stand_ins)
    values = sorted(leaves(resolved.config.model_dump(mode="json")), key=lambda leaf: "." in leaf[0])
    title = f"recipe {arguments.recipe}"
    if arguments.json:
        found = [{"setting": name, "value": value, "from": resolved.origins[name]} for name, value in values]
        show_figures(title, found, as_json=True)
        return 0
    for section, group in groupby(values, key=lambda leaf: leaf[0].partition(".")[0] if "." in leaf[0] else title):
        # Values as they would be typed: a table of figures would write 1e-6 as 0.000001 and true as yes.
        part = [{"setting": name, "value": _typed(value), "from": resolved.origins[name]} for name, value in group]
        show_figures(section, part, as_json=False)
    return 0


def _typed(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


SHOW = Command(
    "show",
    "print every value of a recipe and where it came from",
    _declare,
    _run,
    (
        "trichord show",
        "trichord show svt_paper",
        "trichord show svt_paper data.sources=shards/train optimiser.learning_rate.start=1e-3 --json",
    ),
)
