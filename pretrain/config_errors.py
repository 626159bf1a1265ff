"""What is wrong with a config, in words: unknown keys with the nearest right one, values with what was expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from pydantic import BaseModel, ValidationError

from trichord.pretrain.config_tree import TELLING, Tree, class_for, classes_in

_ALIKE = 0.6  # of 1; a name less like the one found is no help
_LONGEST_VALUE = 60


def find_mistakes(model: type[BaseModel], tree: Tree, error: ValidationError | None) -> list[str]:
    """List the keys that the model does not know and, if it was refused, the values that it does not take."""
    known = list(_names(model, tree))
    found = []
    for name in _unknown_names(model, tree):
        found.append(f"unknown key {name!r}, {_hint(name, known)}")
    for each in error.errors() if error else ():
        if each["type"] != "extra_forbidden":
            found += _word(model, each, _dotted(each["loc"], tree))
    return found


def _word(model: type[BaseModel], error: Mapping[str, Any], name: str) -> list[str]:
    """Say in a line what is wrong with a value; what a check of several fields found, in as many as it took."""
    if error["type"] == "missing":
        part = name.partition(".")[0]
        can_be_left = part in model.model_fields and not model.model_fields[part].is_required()
        choice = f", or do without: {part}=null" if can_be_left and part != name else ""
        return [f"{name} is missing: it has no default. Give it: {name}=...{choice}"]
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
        inside = dict(enumerate(tree)) if isinstance(tree, list) else tree
        if not isinstance(inside, dict):
            break  # a value in short, such as a schedule's number
        if part in inside:
            names.append(str(part))
            tree = inside[part]
        elif part not in [inside.get(key) for key in TELLING]:
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


def _names(model: type[BaseModel], tree: Tree, above: str = "") -> Iterator[str]:
    """Give every name that would be right, of all classes where the tree does not say which."""
    for key, field in model.model_fields.items():
        value = tree.get(key)
        yield f"{above}{key}"
        chosen = class_for(field.annotation, value)
        for name, part in _mappings(f"{above}{key}", value) or [(f"{above}{key}", {})]:
            for each in [chosen] if chosen else classes_in(field.annotation):
                yield from _names(each, part, f"{name}.")


def _mappings(name: str, value: Any) -> list[tuple[str, Tree]]:
    """Give a mapping, or those in a list, with their names."""
    if isinstance(value, dict):
        return [(name, value)]
    if isinstance(value, list):
        return [(f"{name}.{number}", each) for number, each in enumerate(value) if isinstance(each, dict)]
    return []


def _hint(name: str, known: Sequence[str]) -> str:
    """Name the key that was meant: the one most alike in its last word, or in its initials, and then in its way.

    Where none is alike, name those that there are.
    """
    above, _, last = name.rpartition(".")

    def word_likeness(candidate: str) -> float:
        word = candidate.rpartition(".")[2]
        initials = "".join(part[:1] for part in word.split("_"))
        return max(_ratio(last, word), 0.9 * _ratio(last, initials) if len(initials) > 1 else 0.0)

    near = [each for each in known if word_likeness(each) >= _ALIKE]
    if near:
        best = max(near, key=lambda each: word_likeness(each) + 0.5 * _ratio(above, each.rpartition(".")[0]))
        return f"nearest {best!r}"
    while above and above not in known:
        above = above.rpartition(".")[0]
    beside = [each for each in known if each.rpartition(".")[0] == above]
    return f"expected one of {', '.join(beside)}"


def _ratio(first: str, second: str) -> float:
    return SequenceMatcher(None, first, second).ratio() if first or second else 1.0
