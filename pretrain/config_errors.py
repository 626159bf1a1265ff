"""What is wrong with a config, in words: unknown keys with the nearest right one, values with what was expected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pretrain.config_tree import TELLING, Tree, class_for, classes_in

_NEAR_ENOUGH = 0.8  # of 1.5; further away a name is no help
_LONGEST_VALUE = 60


def find_mistakes(model: type[BaseModel], tree: Tree, error: ValidationError | None) -> list[str]:
    """List the keys that the model does not know and, if it was refused, the values that it does not take."""
    known = list(_names(model, tree))
    found = []
    for name in _unknown_names(model, tree):
        near = _nearest(name, known)
        found.append(f"unknown key {name!r}" + (f", nearest {near!r}" if near else ""))
    for each in error.errors() if error else ():
        if each["type"] != "extra_forbidden":
            found += _word(each, _dotted(each["loc"], tree))
    return found


def _word(error: ErrorDetails, name: str) -> list[str]:
    """Say in a line what is wrong with a value; what a check of several fields found, in as many as it took."""
    if error["type"] == "missing":
        return [f"{name} is missing: it has no default. Give it: {name}=..."]
    if error["type"] == "union_tag_not_found":
        telling = error["ctx"]["discriminator"].strip("'")
        return [f"{name} does not say which one it is. Give it: {name}.{telling}=..."]
    message, value = error["msg"].removeprefix("Value error, "), error["input"]
    if isinstance(value, dict):
        return [f"{name}: {line}" if name else line for line in message.splitlines()]
    text = repr(value)
    return [f"{name}: {message}, found {text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + '...'}"]


def _dotted(place: Sequence[int | str], tree: Any) -> str:
    """Turn pydantic's place into a name; it also names the class it tried, which is no part of the name."""
    names = []
    for part in place:
        if isinstance(tree, list) or (isinstance(tree, dict) and part in tree):
            names.append(str(part))
            tree = tree[part]
        elif isinstance(tree, dict) and part not in [tree.get(key) for key in TELLING]:
            names.append(str(part))
            tree = None
    return ".".join(names)


def _unknown_names(model: type[BaseModel], tree: Tree, above: str = "") -> Iterator[str]:
    for key, value in tree.items():
        field = model.model_fields.get(key)
        if field is None:
            name = f"{above}{key}"
            while isinstance(value, dict) and len(value) == 1:  # `optim.lr=1` is answered as it was typed
                ((key, value),) = value.items()
                name = f"{name}.{key}"
            yield name
            continue
        chosen = class_for(field.annotation, value)
        for name, part in _mappings(f"{above}{key}", value):
            if chosen is not None:
                yield from _unknown_names(chosen, part, f"{name}.")


def _names(model: type[BaseModel], tree: Any, above: str = "") -> Iterator[str]:
    """Give every name that would be right, of all classes where the tree does not say which."""
    for key, field in model.model_fields.items():
        value = tree.get(key) if isinstance(tree, dict) else None
        yield f"{above}{key}"
        chosen = class_for(field.annotation, value)
        parts = list(_mappings(f"{above}{key}", value)) or [(f"{above}{key}", None)]
        for name, part in parts:
            for each in [chosen] if chosen else classes_in(field.annotation):
                yield from _names(each, part, f"{name}.")


def _mappings(name: str, value: Any) -> list[tuple[str, Tree]]:
    """Give a mapping, or those in a list, with their names."""
    if isinstance(value, dict):
        return [(name, value)]
    if isinstance(value, list):
        return [(f"{name}.{number}", each) for number, each in enumerate(value) if isinstance(each, dict)]
    return []


def _nearest(name: str, known: Sequence[str]) -> str | None:
    """Find the right name that a wrong one was meant for: by its last word or that word's initials, then by its way."""
    above, _, last = name.rpartition(".")

    def likeness(candidate: str) -> float:
        way, _, word = candidate.rpartition(".")
        initials = "".join(part[:1] for part in word.split("_"))
        alike = max(_ratio(last, word), 0.9 * _ratio(last, initials) if len(initials) > 1 else 0.0)
        return alike + 0.5 * _ratio(above, way)

    best = max(known, key=likeness)
    return best if likeness(best) >= _NEAR_ENOUGH else None


def _ratio(first: str, second: str) -> float:
    return SequenceMatcher(None, first, second).ratio() if first or second else 1.0
