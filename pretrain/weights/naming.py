"""Tables of names: what the tensors of a released file are called there and here.

{n} stands for the number of a block, {rest} for whatever follows. Here a network has a `backbone` and a `head`;
`classifier` is what a released model learnt with labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import filter as matching
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


Table = tuple[tuple[str, str], ...]  # theirs, ours; the first that fits counts


@dataclass(frozen=True)
class Family:
    """A kind of file, known by a tensor, or by a pattern of names, that files of other kinds do not have."""

    name: str
    sign: str
    table: Table
    prepare: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict  # into tensors that a table of names can serve
    but_not: tuple[str, ...] = ()  # tensors of other families that bear the sign as well

    def is_that_of(self, names: Collection[str]) -> bool:
        """Return whether a file whose tensors are called so is of this family."""
        return bool(matching(names, self.sign)) and not any(other in names for other in self.but_not)


def renamed(name: str, table: Table) -> str:
    """Give a tensor's name here; one that the table does not know keeps its own."""
    for theirs, ours in table:
        if found := pattern(theirs).fullmatch(name):
            return ours.format_map(found.groupdict())
    return name


def reversed_table(table: Table) -> Table:
    """Give the table that leads back."""
    return tuple((ours, theirs) for theirs, ours in table)


@cache
def pattern(template: str) -> re.Pattern[str]:
    """Make the pattern of the names that a template stands for."""
    parts: Mapping[str, str] = {"{n}": r"(?P<n>\d+)", "{rest}": "(?P<rest>.+)"}
    return re.compile("".join(parts.get(part, re.escape(part)) for part in re.split(r"(\{\w+\})", template)))


def joined(tensors: Mapping[str, Tensor], parts: Sequence[str], whole: str) -> dict[str, Tensor]:
    """Put the tensors that `parts` name below each other as `whole`; a set that is not complete is left as it is.

    All are templates of tables of names: `joined(tensors, ["{n}.query.{rest}", "{n}.key.{rest}"], "{n}.both.{rest}")`.
    """
    import torch

    found = dict(tensors)
    for name in tensors:
        match = pattern(parts[0]).fullmatch(name)
        names = [part.format_map(match.groupdict()) for part in parts] if match else []
        if match and all(part in tensors for part in names):
            found[whole.format_map(match.groupdict())] = torch.cat([found.pop(part) for part in names])
    return found
