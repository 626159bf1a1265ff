"""The documentation of settings: the string below each field of a pydantic model, and its type in words.

The strings are read from the source only where they are shown. With pydantic's `use_attribute_docstrings` every command
would parse the source of all models at import, which takes 0.15 s.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

REQUIRED = object()  # stands for a default where there is none
_PLAIN = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path", Any: "any value"}
_PLURALS = {"whole number": "whole numbers", "number": "numbers", "text": "texts", "path": "paths", "list": "lists"}
_PLAIN_TEXT = re.compile(r"[\w./*-]+")
_LONGEST_NUMBER = 12  # of characters; a longer default, such as 4 / 3, is rounded
_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}  # by the attributes of limits in metadata


@functools.cache
def field_docs(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the documentation of a model's fields by name; fields without any are left out."""
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if issubclass(owner, BaseModel) and owner is not BaseModel:
            found |= _strings_below(owner)
    return {name: found[name] for name in model.model_fields if name in found}


def summary(model: type[BaseModel]) -> str:
    """Return the first paragraph of a model's own docstring, in one line; empty without one."""
    return paragraphs(model)[0] if paragraphs(model) else ""


def paragraphs(model: type[BaseModel]) -> list[str]:
    """Return the paragraphs of a model's own docstring, a line each."""
    text = inspect.cleandoc(model.__dict__.get("__doc__") or "")
    return [" ".join(each.split()) for each in text.split("\n\n") if each]


def type_words(field: FieldInfo, name_of: Callable[[type[BaseModel]], str], quoted: Callable[[str], str] = str) -> str:
    """Return the type of a field in words, with its limits or the values that it allows.

    `name_of` names the models in it, and `quoted` marks its values.
    """
    return _Words(name_of, quoted).of(field.annotation, field.metadata)


def selector_of(model: type[BaseModel]) -> str | None:
    """Return the field that selects a model among the alternatives of a setting, such as `kind`; None without one."""
    return next((name for name, field in model.model_fields.items() if _is_selector(field)), None)


def default_of(field: FieldInfo) -> Any:
    """Return the default of a field; `REQUIRED` if it has none."""
    return REQUIRED if field.is_required() else field.get_default(call_default_factory=True)


def default_words(value: Any) -> str:
    """Return a default as it is written in a recipe, or that there is none."""
    if value is REQUIRED:
        return "required"
    if isinstance(value, BaseModel) and _shortened(value) == {}:
        return "its defaults"
    return value_words(value)


def value_words(value: Any) -> str:
    """Return a value as it is written in a recipe; of models only what differs from their defaults."""
    value = _shortened(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{value_words(name)}: {value_words(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(value_words, value))}]"
    if isinstance(value, float) and len(repr(value)) > _LONGEST_NUMBER:
        return f"{value:.6g}"
    return value if isinstance(value, str) and _PLAIN_TEXT.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def _strings_below(owner: type) -> dict[str, str]:
    """Return the strings below the annotated names in the body of a class, each in one line."""
    body = _classes(owner.__module__).get(owner.__qualname__, [])
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


@functools.cache
def _classes(module: str) -> Mapping[str, list[ast.stmt]]:
    """Return the bodies of a module's classes by name; none if its source is not at hand."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):  # TypeError: a class typed into an interpreter
        return {}
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}


class _Words:
    """Types in words, with names for the models in them."""

    def __init__(self, name_of: Callable[[type[BaseModel]], str], quoted: Callable[[str], str]) -> None:
        self._name_of, self._quoted = name_of, quoted

    def of(self, annotation: Any, metadata: Sequence[Any] = ()) -> str:
        """Return a type in words; `metadata` holds its limits and validators."""
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return self.of(arguments[0], [*metadata, *arguments[1:]])
        if origin is Literal:
            return either([self._quoted(value_words(each)) for each in arguments])
        if origin in (Union, types.UnionType):
            parts = [self.of(each, metadata) for each in arguments if each is not type(None)]
            return either(parts) + (", or null" if type(None) in arguments else "")
        if origin in (tuple, list, frozenset):
            return self._list(arguments, metadata)
        if origin is dict:
            return f"mapping from {self.of(arguments[0])} to {self.of(arguments[1])}"
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return self._name_of(annotation)
        names = _names(metadata)
        return (
            either([self._quoted(name) for name in names])
            if names
            else _PLAIN[annotation] + _limits(annotation, metadata)
        )

    def _list(self, arguments: tuple[Any, ...], metadata: Sequence[Any]) -> str:
        of = [self.of(each) for each in arguments if each is not Ellipsis]
        first, space, rest = of[0].partition(" of ")
        kind = re.match(r"(whole number|number|text|path|list)\b", first)
        plural = _PLURALS[kind[1]] + first[kind.end() :] if kind else first
        count = f"{len(of)} " if Ellipsis not in arguments and len(of) > 1 else ""
        least = next((each.min_length for each in _unpacked(metadata) if hasattr(each, "min_length")), 0)
        return f"list of {count}{plural}{space}{rest}" + (", not empty" if least else "")


def _limits(kind: Any, metadata: Sequence[Any]) -> str:
    """Return the limits of a number; a whole number above 0 is at least 1."""
    limits = []
    for each in _unpacked(metadata):
        for name, sign in _SIGNS.items():
            limit = getattr(each, name, None)
            if limit is not None:
                is_next = kind is int and name == "gt"
                limits.append(f"≥ {limit + 1:.9g}" if is_next else f"{sign} {limit:.9g}")
    return " " + " and ".join(limits) if limits else ""


def _unpacked(metadata: Sequence[Any]) -> list[Any]:
    """Return metadata with that of `Field()` inside a type, such as in a list of shares."""
    return [inner for each in metadata for inner in (each.metadata if isinstance(each, FieldInfo) else [each])]


def _names(metadata: Sequence[Any]) -> list[str]:
    """Return the names that a validator such as `Registry.check` allows."""
    for each in metadata:
        owner = getattr(each.func, "__self__", None) if isinstance(each, AfterValidator) else None
        if isinstance(owner, Mapping):
            return list(owner)
    return []


def either(parts: Sequence[str]) -> str:
    """Return alternatives in words: a, b or c."""
    return " or ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _shortened(value: Any) -> Any:
    """Return a value as plain data; of a model its selector and what differs from its defaults."""
    if isinstance(value, BaseModel):
        short = value.model_dump(mode="json")  # a plain value where a model has a short form, such as a constant
        return _differences(value) if isinstance(short, dict) else short
    if isinstance(value, tuple | list | set | frozenset):
        return [_shortened(each) for each in value]
    if isinstance(value, dict):
        return {name: _shortened(each) for name, each in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _differences(model: BaseModel) -> dict[str, Any]:
    """Return the selector of a model and what differs from its defaults."""
    fields = type(model).model_fields
    selector = selector_of(type(model))
    found = {selector: getattr(model, selector)} if selector else {}
    for name, field in fields.items():
        value = getattr(model, name)
        if name != selector and value != default_of(field):
            found[name] = _shortened(value)
    return found


def _is_selector(field: FieldInfo) -> bool:
    """Return whether a field has one possible value, a name."""
    values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return len(values) == 1 and isinstance(values[0], str) and field.default == values[0]
