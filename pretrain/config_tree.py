"""A config as a tree of names before it is checked: trees laid over one another, defaults filled in, leaves listed.

A tree is what YAML gives: mappings, lists and plain values. Classes that may stand in one place are told apart by their
`kind` (RandAugment's by `convention`).

What is wrong with a config, in words: unknown keys with the nearest right one, values with what was expected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from trichord.core.errors import UserError

Tree = dict[str, Any]
TELLING = ("kind", "convention")  # fields that say which class is meant
_PLAIN: TypeAdapter[Any] = TypeAdapter(Any)


def overlay(below: Any, above: Any) -> Any:
    """Lay one tree over another: mappings merge key by key, everything else replaces what was there.

    A mapping of another kind replaces too, for the fields of the old kind mean nothing to the new. Under a mapping, a
    plain number is a schedule in short and a plain text a source. Keys that are numbers reach into a list.
    """
    if not isinstance(above, dict):
        return above
    if above and all(key.isdecimal() for key in above):
        return _overlay_list(below, above)
    if isinstance(below, int | float) and not isinstance(below, bool):
        below = {"kind": "constant", "value": below}
    elif isinstance(below, str):
        below = {"root": below}
    if not isinstance(below, dict) or any(key in above and above[key] != below.get(key) for key in TELLING):
        below = {}
    return {**below, **{key: overlay(below.get(key), value) for key, value in above.items()}}


def with_defaults(model: type[BaseModel], given: Mapping[str, Any]) -> Tree:
    """Fill in whatever has a default, at any depth; what the model does not know stays as it is."""
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
    """Give the dotted names of a tree and their values; a list of plain values is one value."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{above}.{key}" if above else key)
    elif isinstance(tree, list) and any(isinstance(each, dict) for each in tree):
        for number, value in enumerate(tree):
            yield from leaves(value, f"{above}.{number}")
    else:
        yield above, tree


def classes_in(annotation: Any) -> list[type[BaseModel]]:
    """Find the models that a field may hold, by itself, as one of several, or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in classes_in(argument)]


def class_for(annotation: Any, value: Any) -> type[BaseModel] | None:
    """Choose among them by what a value says of itself; None where it does not say enough."""
    models = classes_in(annotation)
    if len(models) == 1:
        return models[0]
    said = [(key, value[key]) for key in TELLING if isinstance(value, dict) and key in value]
    for model in models:
        if any(key in model.model_fields and model.model_fields[key].default == what for key, what in said):
            return model
    return None


def _overlay_list(below: Any, above: Mapping[str, Any]) -> list[Any]:
    """Change elements by their numbers; the number behind the last adds one."""
    elements = list(below) if isinstance(below, list) else [] if below is None else [below]
    for number, value in sorted((int(key), value) for key, value in above.items()):
        if number > len(elements):
            raise UserError(f"there is no element {number}: they are numbered from 0 and there are {len(elements)}")
        elements[number : number + 1] = [overlay(elements[number] if number < len(elements) else None, value)]
    return elements


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
