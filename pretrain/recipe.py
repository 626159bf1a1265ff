"""Resolve a recipe's name and overrides `a.b=c` to a run's complete config, with the origin of each value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, ValidationError

from trichord.core.errors import UserError
from trichord.core.reading import DEEPEST
from trichord.core.yaml_subset import load_yaml, read_yaml, write_yaml
from trichord.pretrain.config import RunConfig
from trichord.pretrain.config_tree import SELECTORS, Tree, class_for, find_mistakes, leaves, overlay, with_defaults
from trichord.pretrain.recipe_file import FOLDER, find_recipe, list_recipes
from trichord.shards.reading.manifest import Manifest
from trichord.shards.reading.root import allow_typed, refuse_untyped

_LONGEST_SHOWN = 200  # characters of an override in a message
DEFAULT, COMMAND_LINE, TO_BE_GIVEN = "default", "command line", "to be given"


C = TypeVar("C", bound=RunConfig)
Layers = list[tuple[str, Tree]]  # pairs of an origin and the values that it set


@dataclass(frozen=True)
class RecipeSet(Generic[C]):
    """A package's recipes: their folder, and the config class that they resolve to."""

    config: type[C]
    folder: Path
    # Returns layers derived from the recipes and the command line, such as from another run; they go below all others.
    derive: Callable[[Layers], Layers] = lambda _: []
    # Returns layers with values that must fit the others and were not given. They go above all others, because a layer
    # that changes a kind discards the values below it.
    fit: Callable[[Layers], Layers] = lambda _: []
    # Values that recipes leave to the user, with placeholders for showing a recipe.
    stand_ins: Mapping[str, Any] = field(default_factory=dict)
    command: str = "pretrain"  # that runs them


def class_names(sources: Any) -> tuple[str, tuple[str, ...]] | None:
    """Return the root of the first source and its class names; None without a source or class names."""
    first = sources[0] if isinstance(sources, list) and sources else sources
    root = first.get("root") if isinstance(first, dict) else first
    if not isinstance(root, str):
        return None
    manifest = Manifest.load((first.get("manifest") if isinstance(first, dict) else None) or root)
    return (root, manifest.classes) if manifest.classes else None


def _refuse_commands(sources: Any, recipe: str) -> None:
    """Raise UserError for a source of a recipe that is a command; sources may still be of any form."""
    for source in sources if isinstance(sources, list) else [sources]:
        for place in source.values() if isinstance(source, dict) else [source]:
            if isinstance(place, str):
                refuse_untyped(place, recipe)


def _derive(layers: Layers) -> Layers:
    """Return a layer with the shards' class names, if the recipe uses class texts and sets none."""
    if given(layers, "objective.classes") is None or given(layers, "objective.classes.names") is not None:
        return []
    named = class_names(given(layers, "data.sources"))
    objective = {"kind": "video_text", "classes": {"names": list(named[1])}} if named else {}
    return [(f"shards {named[0]}", {"objective": objective})] if named else []


PRETRAINING = RecipeSet(
    RunConfig,
    FOLDER,
    _derive,
    stand_ins={
        "data.sources": ["SHARDS"],
        "init_from.path": "WEIGHTS",
        "text_init_from.path": "WEIGHTS",
        "objective.classes.names": ["CLASSES"],
    },
)


@dataclass(frozen=True)
class Resolved(Generic[C]):
    """A config and the origin of each of its values: default, a recipe, or the command line."""

    config: C
    origins: dict[str, str]


def load_recipe(
    name_or_path: str | Path, overrides: Sequence[str] = (), stand_ins: Mapping[str, Any] | None = None
) -> Resolved[RunConfig]:
    """Resolve a pretraining recipe with overrides."""
    return resolve(PRETRAINING, name_or_path, overrides, stand_ins)


def resolve(
    recipe_set: RecipeSet[C],
    name_or_path: str | Path,
    overrides: Sequence[str] = (),
    stand_ins: Mapping[str, Any] | None = None,
) -> Resolved[C]:
    """Resolve a recipe of a package with overrides.

    `stand_ins` maps dotted names to values that are used if there is no default and none was given.
    """
    layers = _read_chain(str(name_or_path), recipe_set.folder)
    typed = [(COMMAND_LINE, layer) for layer in read_overrides(overrides)]
    allow_typed(overrides)
    _refuse_commands(given([*layers, *typed], "data.sources"), str(name_or_path))
    layers = [*recipe_set.derive([*layers, *typed]), *layers]
    tree: Tree = {}
    for _, layer in layers:
        tree = overlay(tree, layer)
    tree = with_defaults(recipe_set.config, tree)
    for source, layer in typed:
        tree = overlay(tree, layer)
        layers.append((source, layer))
    for source, layer in recipe_set.fit(layers):
        tree = overlay(tree, layer)
        layers.append((source, layer))
    for name, value in (stand_ins or {}).items():
        if _lacks(recipe_set.config, tree, name):
            layer = _nested(name, value)
            tree = overlay(tree, layer)
            layers.append((TO_BE_GIVEN, layer))
    _refuse_commands(given([("", tree)], "data.sources"), str(name_or_path))
    config = _check(recipe_set, tree, str(name_or_path), is_overridden=bool(overrides))
    return Resolved(config, _origins(config, layers))


def given(layers: Layers, name: str) -> Any:
    """Return the value of a dotted name in the topmost layer that has one, or None."""
    for _, layer in reversed(layers):
        value: Any = layer
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def read_overrides(overrides: Sequence[str]) -> list[Tree]:
    """Parse overrides `a.b=c`, whose right side is YAML; list elements go by index, as in `data.sources.0.weight=2`.

    Overrides of a kind come first, whatever their order, because they discard the other values of their mapping.
    """
    layers: list[Tree] = []
    for text in sorted(overrides, key=lambda each: each.partition("=")[0].rpartition(".")[2] not in SELECTORS):
        name, equals, value = text.partition("=")
        shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
        if not equals or not all(name.split(".")) or name.count(".") >= DEEPEST:
            raise UserError(f"found {shown!r}, expected a setting such as steps=1000 or optimiser.learning_rate=1e-4")
        layers.append(_nested(name, read_yaml(value, shown)))
    return layers


def to_yaml(config: RunConfig) -> str:
    """Return a config as complete YAML, which loads as a recipe to an equal config."""
    return write_yaml(config.model_dump(mode="json"))


def _read_chain(name: str, folder: Path) -> Layers:
    """Read a recipe and its chain of bases, the lowest first."""
    chain: Layers = []
    seen: list[Path] = []
    beside = None
    while True:
        path = find_recipe(name, beside, folder)
        if path.resolve() in seen:
            names = " -> ".join(each.stem for each in [*seen, path])
            raise UserError(f"recipes are based on one another in a cycle: {names}. Remove `base` from one of them.")
        seen.append(path.resolve())
        tree = load_yaml(path)
        base = tree.pop("base", None)
        chain.insert(0, (f"recipe {path.stem}", tree))
        if base is None:
            return chain
        if not isinstance(base, str):
            raise UserError(f"{path}: base is {base!r}, expected the name of a recipe")
        name, beside = base, path.parent


def _nested(name: str, value: Any) -> Tree:
    for part in reversed(name.split(".")):
        value = {part: value}
    return cast(Tree, value)


def _lacks(model: type[BaseModel], tree: Tree, name: str) -> bool:
    """Return whether the mapping of this name exists, accepts the key, and does not have it yet."""
    *above, last = name.split(".")
    part: Any = tree
    chosen: type[BaseModel] | None = model
    for key in above:
        part = part.get(key) if isinstance(part, dict) else None
        place = chosen.model_fields.get(key) if chosen else None
        chosen = class_for(place.annotation, part) if place else None
    return isinstance(part, dict) and last not in part and chosen is not None and last in chosen.model_fields


def _check(recipe_set: RecipeSet[C], tree: Tree, name: str, is_overridden: bool) -> C:
    refused: ValidationError | None = None
    try:
        return recipe_set.config.model_validate(tree)
    except ValidationError as error:
        refused = error
    mistakes = find_mistakes(recipe_set.config, tree, refused)
    count = "1 error" if len(mistakes) == 1 else f"{len(mistakes)} errors"
    what = f"recipe {name}" + (" with overrides" if is_overridden else "")
    lines = "\n  ".join(mistakes)
    valid = name if is_overridden else next(iter(list_recipes(recipe_set.folder)))
    raise UserError(f"Found {count} in {what}:\n  {lines}\nAll keys: trichord show {valid}") from refused


def _origins(config: RunConfig, layers: Sequence[tuple[str, Tree]]) -> dict[str, str]:
    given: dict[str, tuple[str, Any]] = {}
    for source, layer in layers:
        for name, value in sorted(leaves(layer), key=lambda leaf: leaf[0].rpartition(".")[2] not in SELECTORS):
            above, _, last = name.rpartition(".")
            is_new_kind = last in SELECTORS and name in given and given[name][1] != value
            gone = f"{above}." if is_new_kind else f"{name}."
            given = {each: entry for each, entry in given.items() if each != name and not each.startswith(gone)}
            given[name] = (source, value)
    return {name: _origin(name, value, given) for name, value in leaves(config.model_dump(mode="json"))}


def _origin(name: str, value: Any, given: Mapping[str, tuple[str, Any]]) -> str:
    within = [source for each, (source, _) in given.items() if each == name or each.startswith(f"{name}.")]
    if within:
        return within[-1]
    while "." in name:  # it may have a short form: a root for a source, a number for a schedule
        name = name.rpartition(".")[0]
        if name in given:
            source, short = given[name]
            return source if value == short or (isinstance(short, list) and value in short) else DEFAULT
    return DEFAULT
