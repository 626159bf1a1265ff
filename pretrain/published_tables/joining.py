"""Makes one tensor of several, as of queries, keys and values that a file keeps apart and a network holds as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trichord.pretrain.published_tables.naming import pattern


def joined(tensors: Mapping[str, Tensor], parts: Sequence[str], whole: str) -> dict[str, Tensor]:
    """Put the tensors that `parts` name below each other as `whole`; a set that is not complete is left as it is.

    All are templates of tables of names: `joined(tensors, ["{n}.query.{rest}", "{n}.key.{rest}"], "{n}.both.{rest}")`.
    """
    found = dict(tensors)
    for name in tensors:
        match = pattern(parts[0]).fullmatch(name)
        names = [part.format_map(match.groupdict()) for part in parts] if match else []
        if match and all(part in tensors for part in names):
            found[whole.format_map(match.groupdict())] = torch.cat([found.pop(part) for part in names])
    return found
