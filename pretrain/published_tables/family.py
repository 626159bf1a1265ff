"""What there is to say of a family of released files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import filter as matching
from typing import TYPE_CHECKING

from trichord.pretrain.published_tables.naming import Table

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Family:
    """A kind of file, known by a tensor, or by a pattern of names, that files of other kinds do not have."""

    name: str
    sign: str
    table: Table
    prepare: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict  # into tensors that a table of names can serve
    but_not: tuple[str, ...] = ()  # tensors of other families that bear the sign as well

    def is_that_of(self, names: Collection[str]) -> bool:
        """Say whether a file whose tensors are called so is of this family."""
        return bool(matching(names, self.sign)) and not any(other in names for other in self.but_not)
