"""`trichord show`: list the recipes, print every value of one with its origin, or explain a setting."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from argparse import Namespace
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from trichord.core.console import show_figures
from trichord.core.errors import UserError
from trichord.core.field_docs import value_words
from trichord.pretrain.config_tree import SELECTORS, hint, leaves
from trichord.pretrain.recipe import PRETRAINING, RecipeSet, Resolved, resolve
from trichord.pretrain.recipe_file import SUFFIX, first_comment, list_recipes
from trichord.pretrain.setting_docs import ELEMENT, Setting, explanations, settings_of

_WIDEST = 120
_NOTHING = object()


def run_show(arguments: Namespace) -> int:
    """Show a pretraining recipe, explain a setting, or list the recipes."""
    return show(arguments, (PRETRAINING,))


def show(arguments: Namespace, recipe_sets: Sequence[RecipeSet[Any]]) -> int:
    """Show a recipe of these packages or settings; a recipe file belongs to the first package."""
    shipped = {
        name: (recipe_set, path) for recipe_set in recipe_sets for name, path in list_recipes(recipe_set.folder).items()
    }
    recipe, words = arguments.recipe, list(arguments.settings)
    if recipe is None:
        rows = [{"recipe": name, "what it is": first_comment(path)} for name, (_, path) in shipped.items()]
        show_figures("recipes", rows, arguments.json)
        return 0
    reference = Reference(recipe_sets)
    if recipe not in shipped and Path(recipe).suffix != SUFFIX and reference.resembles(recipe):
        recipe, words = None, [recipe, *words]
    asked = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if recipe is None:
        if overrides:
            raise UserError(f"{overrides[0]} overrides a recipe, and none is given: trichord show RECIPE {words[0]}")
        return _explain(reference, asked, None, arguments.json)
    recipe_set = shipped[recipe][0] if recipe in shipped else recipe_sets[0]
    resolved = resolve(recipe_set, recipe, overrides, stand_ins=recipe_set.stand_ins)
    if asked:
        return _explain(Reference((recipe_set,)), asked, resolved, arguments.json)
    _show_values(f"recipe {recipe}", resolved, arguments.json)
    return 0


class Reference:
    """All settings of some packages' recipes."""

    def __init__(self, recipe_sets: Sequence[RecipeSet[Any]]) -> None:
        self._recipe_sets = recipe_sets
        self._found: list[Setting] | None = None

    @property
    def settings(self) -> list[Setting]:
        """The settings, collected on first use."""
        if self._found is None:
            self._found = [setting for each in self._recipe_sets for setting in settings_of(each.config, each.command)]
        return self._found

    def resembles(self, word: str) -> bool:
        """Return whether a word is a setting or a part of its name, or has dots like one, and is no file's name."""
        is_dotted = re.fullmatch(r"\w+(\.\w+)+", word) is not None and not word.endswith((".yml", ".json"))
        return is_dotted or any(word in (each.name, each.key) for each in self.settings)

    def find(self, word: str) -> list[Setting]:
        """Return the settings of a name; a selector belongs to the setting above it, and 0 is any element."""
        name = re.sub(r"\.\d+(?=\.|$)", f".{ELEMENT}", word).removesuffix(f".{ELEMENT}")
        above, _, last = name.rpartition(".")
        found = [each for each in self.settings if each.name == (above if last in SELECTORS else name)]
        if not found:
            known = list(dict.fromkeys(each.name for each in self.settings))
            raise UserError(f"unknown setting {word!r}, {hint(name, known)}. All settings: docs/configuration.md")
        return found


def _explain(reference: Reference, names: Sequence[str], resolved: Resolved[Any] | None, as_json: bool) -> int:
    rows = []
    for name in names:
        settings = reference.find(name)
        if resolved is not None:
            settings = [each for each in settings if _applies(each, resolved.config)]
            if not settings:
                row = explanations(reference.find(name), reference.settings)[0]
                raise UserError(f"the recipe has no setting {name}, which applies to {row['applies to']}")
        for row in explanations(settings, reference.settings):
            last = name.rpartition(".")[2]
            title = {"setting": f"{row['setting']}.{last}"} if last in SELECTORS else {}
            rows.append({**row, **title, **(_value(name, resolved) if resolved else {})})
    if as_json:
        show_figures("settings", rows, as_json=True)
    else:
        print("\n\n".join(map(_paragraph, rows)))
    return 0


def _applies(setting: Setting, config: BaseModel) -> bool:
    """Return whether a config makes the choices that lead to a setting."""
    return all(_at(config, selector) == value for selector, value in setting.choices)


def _at(config: Any, name: str) -> Any:
    """Return the value of a dotted name; `_NOTHING` where the config ends above it."""
    for part in name.split("."):
        if isinstance(config, tuple):
            number = 0 if part == ELEMENT else int(part)
            config = config[number] if number < len(config) else _NOTHING
        else:
            config = getattr(config, part, _NOTHING)
    return config


def _value(name: str, resolved: Resolved[Any]) -> dict[str, Any]:
    """Return the value of a setting and its origins; those of what it is part of, where a recipe has a short form."""
    value, origins = _at(resolved.config, name), resolved.origins
    place = name.replace(f".{ELEMENT}.", ".0.")
    found = [source for each, source in origins.items() if f"{each}.".startswith(f"{place}.")]
    while not found and "." in place:
        place = place.rpartition(".")[0]
        found = [origins[place]] if place in origins else []
    if value is not _NOTHING:
        words = value_words(value)
    else:
        words = f"none: {place} is {value_words(_at(resolved.config, place))}" if found else "none"
    return {"value": words, "from": ", ".join(dict.fromkeys(found))}


def _paragraph(row: Mapping[str, Any]) -> str:
    """Return the facts of a setting as text."""
    width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
    lines = [row["setting"], *textwrap.wrap(row["meaning"], width, initial_indent="  ", subsequent_indent="  ")]
    facts = {name: each for name, each in row.items() if name not in ("setting", "meaning", "kinds")}
    facts |= {f"kind {name}": each for name, each in row.get("kinds", {}).items()}
    room = max(map(len, facts)) + 4
    for name, text in facts.items():
        lines += textwrap.wrap(text, width, initial_indent=f"  {name:<{room - 2}}", subsequent_indent=" " * room)
    return "\n".join(lines)


def _show_values(title: str, resolved: Resolved[Any], as_json: bool) -> None:
    values = sorted(leaves(resolved.config.model_dump(mode="json")), key=lambda leaf: "." in leaf[0])
    if as_json:
        found = [{"setting": name, "value": value, "from": resolved.origins[name]} for name, value in values]
        show_figures(title, found, as_json=True)
        return
    for section, group in groupby(values, key=lambda leaf: leaf[0].partition(".")[0] if "." in leaf[0] else title):
        # Print values as they are typed: a table of figures would show 1e-6 as 0.000001 and true as yes.
        part = [{"setting": name, "value": _typed(value), "from": resolved.origins[name]} for name, value in group]
        show_figures(section, part, as_json=False)


def _typed(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
