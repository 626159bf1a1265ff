"""Tables of names that map the tensors of released files to those of trichord.

{n} stands for the number of a block, {rest} for any remaining part. A network of trichord has a `backbone` and a
`head`; `classifier` is the supervised classifier of a released model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import filter as matching
from functools import cache

import torch
from torch import Tensor

_NAMES_SHOWN = 12
_LONGEST_SHOWN = 100

Table = tuple[tuple[str, str], ...]  # (theirs, ours); the first match applies


@dataclass(frozen=True)
class Family:
    """A kind of weight file, identified by a tensor name, or a pattern of names, that other kinds do not have."""

    name: str
    sign: str
    table: Table
    prepare: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict  # convert tensors so that renaming suffices
    but_not: tuple[str, ...] = ()  # tensors of other families that also match the sign

    def matches(self, names: Collection[str]) -> bool:
        """Return whether a file with these tensor names is of this family."""
        return bool(matching(names, self.sign)) and not any(other in names for other in self.but_not)


def renamed(name: str, table: Table) -> str:
    """Return the new name of a tensor; names that are not in the table are unchanged."""
    for theirs, ours in table:
        if found := pattern(theirs).fullmatch(name):
            return ours.format_map(found.groupdict())
    return name


def reversed_table(table: Table) -> Table:
    """Return the table of the opposite direction."""
    return tuple((ours, theirs) for theirs, ours in table)


def shortened(names: Iterable[str]) -> str:
    """Return a list of names as text, at most 12 of them and 100 characters of each."""
    listed = list(names)
    shown = [name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…" for name in listed[:_NAMES_SHOWN]]
    more = f" and {len(listed) - _NAMES_SHOWN} more" if len(listed) > _NAMES_SHOWN else ""
    return ", ".join(shown) + more


@cache
def pattern(template: str) -> re.Pattern[str]:
    """Compile a template to the regular expression of the names that it matches."""
    parts: Mapping[str, str] = {"{n}": r"(?P<n>\d+)", "{rest}": "(?P<rest>.+)"}
    return re.compile("".join(parts.get(part, re.escape(part)) for part in re.split(r"(\{\w+\})", template)))


def joined(tensors: Mapping[str, Tensor], parts: Sequence[str], whole: str) -> dict[str, Tensor]:
    """Concatenate the tensors named by `parts` as `whole`; incomplete sets are left unchanged.

    All are templates of name tables: `joined(tensors, ["{n}.query.{rest}", "{n}.key.{rest}"], "{n}.both.{rest}")`.
    """
    found = dict(tensors)
    for name in tensors:
        match = pattern(parts[0]).fullmatch(name)
        names = [part.format_map(match.groupdict()) for part in parts] if match else []
        if match and all(part in tensors for part in names):
            found[whole.format_map(match.groupdict())] = torch.cat([found.pop(part) for part in names])
    return found


# Hugging Face's models that derive from its ViT keep queries, keys and values apart. Released files use
# `encoder.layer`, those of transformers 5 `layers`.
_BLOCK = "backbone.blocks.{n}."


def model_table(prefix: str) -> Table:
    """Return the names that these models share; `prefix` is that of a model's tensors."""
    old, new = f"{prefix}encoder.layer.{{n}}.", f"{prefix}layers.{{n}}."
    return (
        (f"{prefix}embeddings.cls_token", "backbone.cls_token"),
        (f"{prefix}embeddings.position_embeddings", "backbone.pos_embed"),
        (f"{prefix}embeddings.patch_embeddings.projection.{{rest}}", "backbone.patch_embed.proj.{rest}"),
        *((f"{layer}layernorm_before.{{rest}}", f"{_BLOCK}norm1.{{rest}}") for layer in (old, new)),
        *((f"{layer}layernorm_after.{{rest}}", f"{_BLOCK}norm2.{{rest}}") for layer in (old, new)),
        (f"{old}attention.output.dense.{{rest}}", f"{_BLOCK}attn.proj.{{rest}}"),
        (f"{new}attention.o_proj.{{rest}}", f"{_BLOCK}attn.proj.{{rest}}"),
        (f"{old}intermediate.dense.{{rest}}", f"{_BLOCK}mlp.fc1.{{rest}}"),
        (f"{old}output.dense.{{rest}}", f"{_BLOCK}mlp.fc2.{{rest}}"),
        (f"{new}mlp.{{rest}}", f"{_BLOCK}mlp.{{rest}}"),
        (f"{prefix}layernorm.{{rest}}", "backbone.norm.{rest}"),
    )


def with_prefix_and_joined(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Add a missing prefix to all tensors except a classifier's, and join queries, keys and values."""
    found = {
        name if name.startswith((prefix, "classifier.")) else f"{prefix}{name}": tensor
        for name, tensor in tensors.items()
    }
    old, new = f"{prefix}encoder.layer.{{n}}.attention.attention.", f"{prefix}layers.{{n}}.attention."
    for parts in ([f"{old}{part}" for part in ("query", "key", "value")], [f"{new}{part}_proj" for part in "qkv"]):
        found = joined(found, [f"{part}.{{rest}}" for part in parts], f"{_BLOCK}attn.qkv.{{rest}}")
    return found
