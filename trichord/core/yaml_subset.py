"""A strict subset of YAML, read and written.

In this subset 1e-4 is a number, `no` and 12:30 are text, and a duplicate key is an error. Only mappings, lists, text,
numbers, true, false and null can be written. Size, depth and the values that aliases repeat are limited, so that a
document of any origin takes bounded time and memory, and so does whatever walks through its values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from trichord.core.errors import UserError
from trichord.core.reading import DEEPEST, read_text, reason

_MOST_CHARACTERS = 1 << 20
_MOST_VALUES = 100_000  # aliases count as all that they repeat
_LONGEST_KEY = 200
_MOST_DIGITS = 20  # of a whole number, such as one of 64 bits
_TAG = "tag:yaml.org,2002:"
_FLOAT = (
    r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.inf)|\.nan"
)
_PATTERNS = {"null": "null|~|", "bool": "true|false", "int": "[-+]?(0|[1-9][0-9_]*)", "float": _FLOAT}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, without the implicit conversions of YAML 1.1, and with limits."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0
        self._repeated: dict[str, int] = {}  # number of values of each complete anchor

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        is_alias = isinstance(event, yaml.AliasEvent)
        if is_alias and event.anchor in self.anchors and event.anchor not in self._repeated:
            _refuse(f"*{event.anchor} is part of itself", event.start_mark)
        before = self._values
        self._values += self._repeated.get(event.anchor, 1) if is_alias else 1
        if self._values > _MOST_VALUES:
            _refuse(f"more than {_MOST_VALUES:,} values, with all that aliases repeat", event.start_mark)
        if self._depth >= DEEPEST:
            _refuse(f"nested deeper than {DEEPEST} levels", event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None and not is_alias:
            self._repeated[event.anchor] = self._values - before
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if not isinstance(node, yaml.MappingNode):
            _refuse("expected a mapping", node.start_mark)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
                _refuse("a key must be a name", key.start_mark)
            if len(key.value) > _LONGEST_KEY:
                _refuse(f"a key has {len(key.value):,} characters", key.start_mark)
            if key.value in seen:
                _refuse(f"{key.value!r} is a duplicate key", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _refuse(problem: str, mark: Any) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _text(loader: _Loader, node: yaml.Node) -> str:
    value = str(loader.construct_scalar(node))  # type: ignore[arg-type]
    found = re.search("[\0\ud800-\udfff]", value)
    if found:
        _refuse(f"a text holds {found[0]!a}, which no file can hold", node.start_mark)
    return value


def _plain(kind: str, convert: Callable[[str], Any]) -> Callable[[_Loader, yaml.Node], Any]:
    """Return a constructor of values that are written as `_PATTERNS` has it, also where a tag claims them to be."""

    def construct(loader: _Loader, node: yaml.Node) -> Any:
        value = str(loader.construct_scalar(node))  # type: ignore[arg-type]
        if re.fullmatch(_PATTERNS[kind], value) is None:
            _refuse(f"expected {kind}, found {value[:40]!r}", node.start_mark)
        if kind == "int" and len(value) > _MOST_DIGITS:
            _refuse(f"a number has {len(value):,} digits, expected at most {_MOST_DIGITS}", node.start_mark)
        return convert(value.replace("_", ""))

    return construct


def _unknown(loader: _Loader, node: yaml.Node) -> NoReturn:
    _refuse(f"the tag {node.tag.replace(_TAG, '!!')} is not supported", node.start_mark)


_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_multi_constructors = {}
_Loader.yaml_constructors = {
    f"{_TAG}map": yaml.SafeLoader.construct_yaml_map,
    f"{_TAG}seq": yaml.SafeLoader.construct_yaml_seq,
    f"{_TAG}str": _text,
    f"{_TAG}null": _plain("null", lambda _: None),
    f"{_TAG}bool": _plain("bool", lambda text: text == "true"),
    f"{_TAG}int": _plain("int", int),
    f"{_TAG}float": _plain("float", lambda text: float(text.replace(".inf", "inf").replace(".nan", "nan"))),
    None: _unknown,
}
for _kind, _pattern in _PATTERNS.items():
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"^(?:{_pattern})$"), None)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a file of settings; raise UserError, which names the file and where known the line, for anything else."""
    try:
        text = read_text(path, 4 * _MOST_CHARACTERS)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    found = read_yaml(text, str(path))
    if not isinstance(found, dict):
        kind = "nothing" if found is None else type(found).__name__
        raise UserError(f"{path} holds {kind}, expected keys and values such as `steps: 1000`")
    return found


def read_yaml(text: str, where: str) -> Any:
    """Parse YAML; raise UserError with the position of an error."""
    if len(text) > _MOST_CHARACTERS:
        raise UserError(f"{where} has {len(text):,} characters, expected at most {_MOST_CHARACTERS:,}")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise UserError(f"{where}{place}: {error.problem or error}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{where}, line {line}: the character {chr(error.character)!a} is not allowed") from error
    except ValueError as error:  # an escape sequence of no character
        raise UserError(f"{where}: {reason(error)}") from error


def write_yaml(values: Mapping[str, Any]) -> str:
    """Return values as YAML that `read_yaml` reads back."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper; quotes only text that the loader above would not read as text."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        has_parts = any(isinstance(each, dict | list) for each in sequence)
        return super().represent_sequence(tag, sequence, flow_style=not has_parts)
