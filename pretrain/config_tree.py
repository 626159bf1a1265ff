"""A config as a tree of names before it is checked: trees laid over one another, defaults filled in, leaves listed.

A tree is what YAML gives: mappings, lists and plain values. Classes that may stand in one place are told apart by their
`kind` (RandAugment's by `convention`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter

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
