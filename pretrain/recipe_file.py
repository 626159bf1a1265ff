"""Recipes on disk: where a name leads, and YAML that is read without surprises.

Values mean what they look like: 1e-4 is a number, `no` and 12:30 are text, a key that stands twice is a mistake.
Nothing but mappings, lists, text, numbers, true, false and null can be written.
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
    """PyYAML's safe one, less the surprises of YAML 1.1."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(problem="a key must be a name", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands here twice", problem_mark=key.start_mark)
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
    """Find a recipe of a folder by its name, or by the path of its file; `beside` is where paths start from."""
    path = (beside or Path()) / name
    if path.suffix == SUFFIX and path.is_file():
        return path
    shipped = list_recipes(folder)
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(
        f"no recipe is called {name!r}, and no file either.{hint}\n"
        f"Recipes: {', '.join(shipped)}; or the path of a {SUFFIX} file"
    )


def list_recipes(folder: Path = FOLDER) -> dict[str, Path]:
    """Give the recipes that come with trichord, by name; those of pretraining where no other folder is named."""
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def first_comment(path: Path) -> str:
    """Give the sentence that a recipe opens with."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").rstrip()


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe's own differences."""
    found = read_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(found, dict):
        raise UserError(f"{path} holds {type(found).__name__}, expected keys and values such as `steps: 1000`")
    return found


def read_yaml(text: str, where: str) -> Any:
    """Read YAML; a mistake is told with its place."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        place = ""
        mark = getattr(error, "problem_mark", None)
        if mark is not None:
            place = f", line {mark.line + 1}, column {mark.column + 1}"
        raise UserError(f"{where}{place}: {getattr(error, 'problem', None) or error}") from error


def write_yaml(values: Mapping[str, Any]) -> str:
    """Write what `read_yaml` reads back."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text that the loader above would take for something else, and around nothing more."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        has_parts = any(isinstance(each, dict | list) for each in sequence)
        return super().represent_sequence(tag, sequence, flow_style=not has_parts)
