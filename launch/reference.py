"""The configuration reference as Markdown: `python -m trichord.launch.reference docs/configuration.md`.

Everything in it comes from the configs of recipes and the settings of commands, so it includes the settings of plug-ins
that are installed. Settings stand below those that alone lead to them; what several sections refer to has its own.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from trichord.core.field_docs import default_of, default_words, field_docs, paragraphs, selector_of, type_words
from trichord.finetune.recipe import FINETUNING
from trichord.finetune.retrieval.spec import Windows
from trichord.finetune.zeroshot.spec import ZeroShotSpec
from trichord.launch.cluster_file import ClusterSettings
from trichord.pretrain.config_tree import classes_in
from trichord.pretrain.recipe import PRETRAINING
from trichord.shards.building.encode import Preset
from trichord.shards.synthetic.plan import SyntheticRules

Model = type[BaseModel]
Node = Model | str  # a model, or the key of a recipe
ROOT = ""
RECIPES = (PRETRAINING.config, FINETUNING.config)
# Models of settings that are not in recipes, with the commands that take them.
OF_COMMANDS: Mapping[Model, str] = {
    ClusterSettings: "Options of `trichord launch` and keys of its cluster file.",
    ZeroShotSpec: "Options of `trichord zeroshot`, and settings of its classifier in Python.",
    Windows: "`--windows` and `--stride` of `trichord embed`.",
    SyntheticRules: "`--rules NAME=VALUE` of `trichord shards synthetic`.",
    Preset: "`--preset NAME=VALUE` of `trichord shards build --mode encode`.",
}
_WIDTH = 120
_NO_BREAK = "\0"  # stands for a space where a line may not end
_INTRODUCTION = """\
# Configuration

A recipe is a YAML file with the settings below as its keys; `a.b=c` on the command line sets the key `b` of `a`. Where
there are several kinds of something, its key `kind` selects one (in RandAugment `convention`), and its other keys are
those of that kind. A required setting has no default; the recipes that come with trichord set most of them.

`trichord show RECIPE` prints every value of a recipe, and `trichord show SETTING`, as in `trichord show optimiser.eps`,
prints the entry of one setting.

`make reference` generates this page from the docstrings of the settings.
"""


def reference() -> str:
    """Return the page."""
    parts = [_INTRODUCTION, "## Keys of a recipe\n", _root_keys()]
    for title, models in _sections():
        parts += [f"## {title}\n", *(_described(model) for model in models)]
    parts.append("## Settings of commands\n")
    parts += [_described(each, words) for model, words in OF_COMMANDS.items() for each in reachable(model)]
    return "\n".join(parts)


def _sections() -> Iterator[tuple[str, list[Model]]]:
    """Yield each key of a recipe that holds settings with these, and at the end what several keys refer to."""
    edges = _edges()
    owners = _owners(edges)
    modules = list(dict.fromkeys(node.__module__ for node in owners if not isinstance(node, str)))

    def below(node: Node) -> list[Model]:
        inner = [each for each in owners if owners[each] == node and not isinstance(each, str)]
        inner.sort(key=lambda model: modules.index(model.__module__))
        return [model for each in inner for model in (each, *below(each))]

    yield from ((key, below(key)) for key in edges[ROOT] if isinstance(key, str) and below(key))
    yield "Used in several sections", below(ROOT)


def _root_keys() -> str:
    """Return the items of all keys of a recipe; those that differ for fine-tuning are listed twice."""
    first, other = RECIPES
    items = [_item(first, name) for name in first.model_fields]
    differing = [_item(other, name) for name in other.model_fields if _item(other, name) not in items]
    return "\n".join([*items, "\nIn recipes of `trichord finetune`:\n", *differing, ""])


def _edges() -> dict[Node, list[Node]]:
    """Return what each key and each model of recipes leads to, in the order in which a reader meets them."""
    edges: dict[Node, list[Node]] = {ROOT: []}
    for config in RECIPES:
        known = [model for key in edges[ROOT] for model in edges[key]]
        for name, field in config.model_fields.items():
            models = [model for model in classes_in(field.annotation) if model not in known or config is RECIPES[0]]
            key = name if name not in edges else f"{name}, for fine-tuning"
            if models:
                place = edges[ROOT].index(name) + 1 if name in edges else len(edges[ROOT])
                edges[ROOT].insert(place, key)
                edges[key] = [*models]
    for root in [model for key in edges[ROOT] for model in edges[key] if not isinstance(model, str)]:
        edges |= {model: [*_inner(model)] for model in reachable(root) if model not in edges}
    return edges


def _owners(edges: Mapping[Node, Sequence[Node]]) -> dict[Node, Node]:
    """Return for each node the last one that every way from the root to it passes: its immediate dominator."""
    above: dict[Node, set[Node]] = {node: set(edges) if node != ROOT else {ROOT} for node in edges}
    is_settled = False
    while not is_settled:
        is_settled = True
        for node in edges:
            ways = [above[each] for each in edges if node in edges[each]]
            found = {node} | (set[Node]().union(ways[0]).intersection(*ways) if ways else set())
            is_settled, above[node] = is_settled and found == above[node], found
    return {node: max(above[node] - {node}, key=lambda each: len(above[each])) for node in edges if node != ROOT}


def reachable(root: Model) -> list[Model]:
    """Return a model and all models that its fields may hold, at any depth."""
    found = [root]
    for model in found:  # grows meanwhile
        found += [each for each in dict.fromkeys(_inner(model)) if each not in found]
    return found


def _inner(model: Model) -> list[Model]:
    return [each for field in model.model_fields.values() for each in classes_in(field.annotation)]


def _described(model: Model, *words: str) -> str:
    """Return what the page says about one model, after the given words."""
    selector = selector_of(model)
    chosen = [f"`{selector}: {model.model_fields[selector].default}`."] if selector else []
    first, *more = paragraphs(model)
    texts = [_filled(" ".join([*chosen, *words, first])), *map(_filled, more)]
    items = [_item(model, name) for name in model.model_fields if name != selector]
    listed = [*items, ""] if items else []
    return "\n".join([f"### {model.__name__}\n", *(f"{text}\n" for text in texts), *listed])


def _item(model: Model, name: str) -> str:
    field = model.model_fields[name]
    default = default_words(default_of(field))
    default = default if default in ("required", "its defaults") else f"default `{default}`"
    facts = f"{type_words(field, _link, _code)}; {default}"
    return _filled(f"- `{name}` ({facts}): {field_docs(model).get(name, '')}", "  ")


def _link(model: Model) -> str:
    selector = selector_of(model)
    name = model.model_fields[selector].default if selector else model.__name__
    return f"[{name}](#{model.__name__.lower()})"


def _code(text: str) -> str:
    return f"`{text}`"


def _filled(text: str, indent: str = "") -> str:
    """Return a text in lines, none of which ends within a span of code."""
    whole = re.sub(r"`[^`]+`", lambda span: span[0].replace(" ", _NO_BREAK), text)
    filled = textwrap.fill(whole, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return filled.replace(_NO_BREAK, " ")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m trichord.launch.reference FILE")
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
