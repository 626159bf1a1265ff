"""Tables of names: {n} stands for the number of a block, {rest} for whatever follows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

Table = tuple[tuple[str, str], ...]  # theirs, ours; the first that fits counts


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
