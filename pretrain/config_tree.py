"""A config as a tree before validation: overlay trees, fill in defaults, list leaves, and describe errors.

A tree is what YAML yields: mappings, lists and plain values. Alternative classes of one field are distinguished by
their `kind` (those of RandAugment by `convention`). Errors name unknown keys with the nearest known one, and invalid
values with what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import islice
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from trichord.core.errors import UserError, shown

Tree = dict[str, Any]
_INDEX = re.compile("[0-9]{1,9}")
SELECTORS = ("kind", "convention")  # fields that select the class
_PLAIN: TypeAdapter[Any] = TypeAdapter(Any)


def overlay(below: Any, above: Any) -> Any:
    """Overlay one tree on another: mappings merge key by key, everything else replaces the value below.

    A mapping of another kind replaces too, because the fields of the old kind do not apply to the new one. Below a
    mapping, a plain number stands for a constant schedule and plain text for a source. Numeric keys address elements
    of a list.
    """
    if not isinstance(above, dict):
        return above
    if above and all(_INDEX.fullmatch(key) for key in above):
        return _overlay_list(below, above)
    if isinstance(below, int | float) and not isinstance(below, bool):
        below = {"kind": "constant", "value": below}
    elif isinstance(below, str):
        below = {"root": below}
    if not isinstance(below, dict) or any(key in above and above[key] != below.get(key) for key in SELECTORS):
        below = {}
    return {**below, **{key: overlay(below.get(key), value) for key, value in above.items()}}


def with_defaults(model: type[BaseModel], given: Mapping[str, Any]) -> Tree:
    """Fill in all defaults, at any depth; keys that the model does not know are kept."""
    filled: Tree = {}
    for name, field in model.model_fields.items():
        if name not in given and field.is_required():
            continue
        value = given.get(name)
        if not field.is_required():
            value = _PLAIN.dump_python(field.get_default(call_default_factory=True), mode="json")
            value = overlay(value, given[name]) if name in given else value
        chosen = class_for(field.annotation, value)
        filled[name] = with_defaults(chosen, value) if chosen and isinstance(value, dict) else value
    return {**filled, **{name: value for name, value in given.items() if name not in filled}}


def leaves(tree: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted names of a tree and their values; a list of plain values is one value."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{above}.{key}" if above else key)
    elif isinstance(tree, list) and any(isinstance(each, dict) for each in tree):
        for number, value in enumerate(tree):
            yield from leaves(value, f"{above}.{number}")
    else:
        yield above, tree


def classes_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that a field may hold, directly, in a union, or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in classes_in(argument)]


def class_for(annotation: Any, value: Any) -> type[BaseModel] | None:
    """Return the model selected by a value's `kind` or `convention`; None if that does not decide."""
    models = classes_in(annotation)
    if len(models) == 1:
        return models[0]
    selectors = [(key, value[key]) for key in SELECTORS if isinstance(value, dict) and key in value]
    for model in models:
        if any(
            key in model.model_fields and model.model_fields[key].default == selected for key, selected in selectors
        ):
            return model
    return None


def _overlay_list(below: Any, above: Mapping[str, Any]) -> list[Any]:
    """Change elements by their index; the index after the last appends one."""
    elements = list(below) if isinstance(below, list) else [] if below is None else [below]
    for number, value in sorted((int(key), value) for key, value in above.items()):
        if number > len(elements):
            raise UserError(f"there is no element {number}: the first is 0, and the length is {len(elements)}")
        elements[number : number + 1] = [overlay(elements[number] if number < len(elements) else None, value)]
    return elements


_MOST_MISTAKES = 20  # that are listed; to look for the nearest names of thousands would take minutes
_MIN_SIMILARITY = 0.6  # of 1; a less similar name is not suggested


def find_mistakes(model: type[BaseModel], tree: Tree, error: ValidationError | None) -> list[str]:
    """List the keys that the model does not know and, after a failed validation, the invalid values."""
    known = list(_names(model, tree))
    found = []
    for name in islice(_unknown_names(model, tree), _MOST_MISTAKES):
        found.append(f"unknown key {name!r}, {hint(name, known)}")
    for each in error.errors() if error else ():
        if each["type"] != "extra_forbidden" and len(found) < _MOST_MISTAKES:
            found += _describe(model, each, _dotted(each["loc"], tree))
    return found


def _describe(model: type[BaseModel], error: Mapping[str, Any], name: str) -> list[str]:
    """Return lines that describe an error: one for a value, one or more for a check of several fields."""
    if error["type"] == "missing":
        part = name.partition(".")[0]
        is_optional = part in model.model_fields and not model.model_fields[part].is_required()
        choice = f", or omit it: {part}=null" if is_optional and part != name else ""
        return [f"{name} is missing: it has no default. Set {name}=...{choice}"]
    if error["type"] == "union_tag_not_found":
        selector = error["ctx"]["discriminator"].strip("'")
        return [f"{name} does not select a class. Set {name}.{selector}=..."]
    message, value = error["msg"].removeprefix("Value error, "), error["input"]
    if isinstance(value, dict):
        return [f"{name}: {line}" if name else line for line in message.splitlines()]
    return [f"{name}: {message}, found {shown(value)}"]


def _dotted(place: Sequence[int | str], tree: Any) -> str:
    """Turn pydantic's location into a dotted name, without the classes that pydantic tried."""
    names = []
    for part in place:
        inside = dict(enumerate(tree)) if isinstance(tree, list) else tree
        if not isinstance(inside, dict):
            break  # a short form, such as a number for a schedule
        if part in inside:
            names.append(str(part))
            tree = inside[part]
        elif part not in [inside.get(key) for key in SELECTORS]:
            names.append(str(part))
            tree = None
    return ".".join(names)


def _unknown_names(model: type[BaseModel], tree: Tree, above: str = "") -> Iterator[str]:
    for key, value in tree.items():
        field = model.model_fields.get(key)
        if field is None:
            name = f"{above}{key}"
            while isinstance(value, dict) and len(value) == 1:  # report `optim.lr` as it was typed
                ((key, value),) = value.items()
                name = f"{name}.{key}"
            yield name
            continue
        chosen = class_for(field.annotation, value)
        for name, part in _mappings(f"{above}{key}", value):
            if chosen is not None:
                yield from _unknown_names(chosen, part, f"{name}.")


def _names(model: type[BaseModel], tree: Tree, above: str = "") -> Iterator[str]:
    """Yield every valid name, of all classes where the tree does not select one."""
    for key, field in model.model_fields.items():
        value = tree.get(key)
        yield f"{above}{key}"
        chosen = class_for(field.annotation, value)
        for name, part in _mappings(f"{above}{key}", value) or [(f"{above}{key}", {})]:
            for each in [chosen] if chosen else classes_in(field.annotation):
                yield from _names(each, part, f"{name}.")


def _mappings(name: str, value: Any) -> list[tuple[str, Tree]]:
    """Return a mapping, or the mappings in a list, with their names."""
    if isinstance(value, dict):
        return [(name, value)]
    if isinstance(value, list):
        return [(f"{name}.{number}", each) for number, each in enumerate(value) if isinstance(each, dict)]
    return []


def hint(name: str, known: Sequence[str]) -> str:
    """Suggest the key most similar in its last part or its initials, and then in its parent path.

    If none is similar, list the keys of the nearest known parent.
    """
    above, _, last = name.rpartition(".")

    def similarity(candidate: str) -> float:
        word = candidate.rpartition(".")[2]
        initials = "".join(part[:1] for part in word.split("_"))
        return max(_ratio(last, word), 0.9 * _ratio(last, initials) if len(initials) > 1 else 0.0)

    near = [each for each in known if similarity(each) >= _MIN_SIMILARITY]
    if near:
        best = max(near, key=lambda each: similarity(each) + 0.5 * _ratio(above, each.rpartition(".")[0]))
        return f"nearest {best!r}"
    while above and above not in known:
        above = above.rpartition(".")[0]
    beside = [each for each in known if each.rpartition(".")[0] == above]
    return f"expected one of {', '.join(beside)}"


def _ratio(first: str, second: str) -> float:
    return SequenceMatcher(None, first, second).ratio() if first or second else 1.0
