"""From a recipe's name and `a.b=c` to a run's whole config, remembering where each value came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, ValidationError

from trichord.core.errors import UserError
from trichord.pretrain.config import RunConfig
from trichord.pretrain.config_tree import TELLING, Tree, class_for, find_mistakes, leaves, overlay, with_defaults
from trichord.pretrain.recipe_file import FOLDER, find_recipe, list_recipes, read_recipe, read_yaml, write_yaml
from trichord.shards.reading.manifest import Manifest

DEFAULT, COMMAND_LINE, TO_BE_GIVEN = "default", "command line", "to be given"


C = TypeVar("C", bound=RunConfig)
Layers = list[tuple[str, Tree]]  # what set the values, and those values


@dataclass(frozen=True)
class Floor(Generic[C]):
    """What the recipes of a floor make: which config, of which folder."""

    config: type[C]
    recipes: Path
    # Gives what follows from what recipes and command line give, such as from another run; it lies below all of them.
    derive: Callable[[Layers], Layers] = lambda _: []
    # Gives what has to fit all that was given, where that does not say it; it lies above, for a kind that one layer
    # changes takes along what lies below.
    fit: Callable[[Layers], Layers] = lambda _: []
    # What recipes leave to be given, with a word in its place for who only wants to see them.
    stand_ins: Mapping[str, Any] = field(default_factory=dict)


def class_names(sources: Any) -> tuple[str, tuple[str, ...]] | None:
    """Give the first set of shards and what it calls its classes; None where there is no set, or it names none."""
    first = sources[0] if isinstance(sources, list) and sources else sources
    root = first.get("root") if isinstance(first, dict) else first
    if not isinstance(root, str):
        return None
    manifest = Manifest.load((first.get("manifest") if isinstance(first, dict) else None) or root)
    return (root, manifest.classes) if manifest.classes else None


def _derive(layers: Layers) -> Layers:
    """Let texts of classes be those that the shards name, where a recipe learns from classes and names none."""
    if given(layers, "objective.classes") is None or given(layers, "objective.classes.names") is not None:
        return []
    named = class_names(given(layers, "data.sources"))
    objective = {"kind": "video_text", "classes": {"names": list(named[1])}} if named else {}
    return [(f"shards {named[0]}", {"objective": objective})] if named else []


PRETRAINING = Floor(
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
    """A config, and for each of its values what set it: default, a recipe, the command line."""

    config: C
    origins: dict[str, str]


def load_recipe(
    name_or_path: str | Path, overrides: Sequence[str] = (), stand_ins: Mapping[str, Any] | None = None
) -> Resolved[RunConfig]:
    """Resolve a recipe of pretraining with the overrides laid over it."""
    return resolve(PRETRAINING, name_or_path, overrides, stand_ins)


def resolve(
    floor: Floor[C],
    name_or_path: str | Path,
    overrides: Sequence[str] = (),
    stand_ins: Mapping[str, Any] | None = None,
) -> Resolved[C]:
    """Resolve a floor's recipe with the overrides laid over it.

    `stand_ins` take the place of values that have no default and were not given, by their dotted names.
    """
    layers = _read_chain(str(name_or_path), floor.recipes)
    typed = [(COMMAND_LINE, layer) for layer in read_overrides(overrides)]
    layers = [*floor.derive([*layers, *typed]), *layers]
    tree: Tree = {}
    for _, layer in layers:
        tree = overlay(tree, layer)
    tree = with_defaults(floor.config, tree)
    for source, layer in typed:
        tree = overlay(tree, layer)
        layers.append((source, layer))
    for source, layer in floor.fit(layers):
        tree = overlay(tree, layer)
        layers.append((source, layer))
    for name, value in (stand_ins or {}).items():
        if _lacks(floor.config, tree, name):
            layer = _nested(name, value)
            tree = overlay(tree, layer)
            layers.append((TO_BE_GIVEN, layer))
    config = _check(floor, tree, str(name_or_path), is_overridden=bool(overrides))
    return Resolved(config, _origins(config, layers))


def given(layers: Layers, name: str) -> Any:
    """Give the value that the topmost of these layers has under a dotted name; None where none has one."""
    for _, layer in reversed(layers):
        value: Any = layer
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def read_overrides(overrides: Sequence[str]) -> list[Tree]:
    """Read `a.b=c`, whose right side is YAML; elements of lists go by number, as in `data.sources.0.weight=2`.

    Those that say a kind come first, whatever the order they were typed in: they clear the place for the others.
    """
    layers: list[Tree] = []
    for text in sorted(overrides, key=lambda each: each.partition("=")[0].rpartition(".")[2] not in TELLING):
        name, equals, value = text.partition("=")
        if not equals or not all(name.split(".")):
            raise UserError(f"found {text!r}, expected a setting such as steps=1000 or optimiser.learning_rate=1e-4")
        layers.append(_nested(name, read_yaml(value, text)))
    return layers


def to_yaml(config: RunConfig) -> str:
    """Write a config whole; as a recipe it loads back to an equal one."""
    return write_yaml(config.model_dump(mode="json"))


def _read_chain(name: str, folder: Path) -> Layers:
    """Read a recipe and those it is based on, the lowest first."""
    chain: Layers = []
    seen: list[Path] = []
    beside = None
    while True:
        path = find_recipe(name, beside, folder)
        if path.resolve() in seen:
            names = " -> ".join(each.stem for each in [*seen, path])
            raise UserError(f"recipes are based on one another in a circle: {names}. Take `base` out of one of them.")
        seen.append(path.resolve())
        tree = read_recipe(path)
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
    """Say whether the mapping in which this name belongs is there, has room for it, and has no such key."""
    *above, last = name.split(".")
    part: Any = tree
    chosen: type[BaseModel] | None = model
    for key in above:
        part = part.get(key) if isinstance(part, dict) else None
        place = chosen.model_fields.get(key) if chosen else None
        chosen = class_for(place.annotation, part) if place else None
    return isinstance(part, dict) and last not in part and chosen is not None and last in chosen.model_fields


def _check(floor: Floor[C], tree: Tree, name: str, is_overridden: bool) -> C:
    refused: ValidationError | None = None
    try:
        return floor.config.model_validate(tree)
    except ValidationError as error:
        refused = error
    mistakes = find_mistakes(floor.config, tree, refused)
    count = "1 error" if len(mistakes) == 1 else f"{len(mistakes)} errors"
    what = f"recipe {name}" + (" with what was laid over it" if is_overridden else "")
    lines = "\n  ".join(mistakes)
    sound = name if is_overridden else next(iter(list_recipes(floor.recipes)))
    raise UserError(f"Found {count} in {what}:\n  {lines}\nAll keys: trichord show {sound}") from refused


def _origins(config: RunConfig, layers: Sequence[tuple[str, Tree]]) -> dict[str, str]:
    given: dict[str, tuple[str, Any]] = {}
    for source, layer in layers:
        for name, value in sorted(leaves(layer), key=lambda leaf: leaf[0].rpartition(".")[2] not in TELLING):
            above, _, last = name.rpartition(".")
            is_new_kind = last in TELLING and name in given and given[name][1] != value
            gone = f"{above}." if is_new_kind else f"{name}."
            given = {each: what for each, what in given.items() if each != name and not each.startswith(gone)}
            given[name] = (source, value)
    return {name: _origin(name, value, given) for name, value in leaves(config.model_dump(mode="json"))}


def _origin(name: str, value: Any, given: Mapping[str, tuple[str, Any]]) -> str:
    within = [source for each, (source, _) in given.items() if each == name or each.startswith(f"{name}.")]
    if within:
        return within[-1]
    while "." in name:  # it may have been given in short: a root for a source, a number for a schedule
        name = name.rpartition(".")[0]
        if name in given:
            source, short = given[name]
            return source if value == short or (isinstance(short, list) and value in short) else DEFAULT
    return DEFAULT
