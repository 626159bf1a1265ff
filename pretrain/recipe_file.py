"""Recipe files: find them by name, and read and write a strict subset of YAML.

In this subset 1e-4 is a number, `no` and 12:30 are text, and a duplicate key is an error. Only mappings, lists, text,
numbers, true, false and null can be written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from trichord.core.errors import UserError

FOLDER = Path(__file__).parent / "recipes"
SUFFIX = ".yaml"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, without the implicit conversions of YAML 1.1."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(problem="a key must be a name", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is a duplicate key", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_FLOAT = (
    r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.inf)|\.nan"
)
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern in (
    ("null", "null|~|"),
    ("bool", "true|false"),
    ("int", "[-+]?(0|[1-9][0-9_]*)"),
    ("float", _FLOAT),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), None)


def find_recipe(name: str, beside: Path | None = None, folder: Path = FOLDER) -> Path:
    """Return the path of a recipe given its name in `folder` or its file; `beside` is the base of relative paths."""
    path = (beside or Path()) / name
    if path.suffix == SUFFIX and path.is_file():
        return path
    shipped = list_recipes(folder)
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(
        f"no recipe or file is called {name!r}.{hint}\nRecipes: {', '.join(shipped)}; or the path of a {SUFFIX} file"
    )


def list_recipes(folder: Path = FOLDER) -> dict[str, Path]:
    """Return the recipes in a folder by name; by default the pretraining recipes shipped with trichord."""
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def first_comment(path: Path) -> str:
    """Return the first comment line of a recipe."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").rstrip()


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe file, without its base."""
    found = read_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(found, dict):
        raise UserError(f"{path} holds {type(found).__name__}, expected keys and values such as `steps: 1000`")
    return found


def read_yaml(text: str, where: str) -> Any:
    """Parse YAML; raise UserError with the position of an error."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        place = ""
        mark = getattr(error, "problem_mark", None)
        if mark is not None:
            place = f", line {mark.line + 1}, column {mark.column + 1}"
        raise UserError(f"{where}{place}: {getattr(error, 'problem', None) or error}") from error


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
