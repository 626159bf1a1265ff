"""The labels of a clustering round by sample, available on every rank.

Samples are identified by a 64-bit hash of their key. If several rows belong to one sample, the newest row's label is
used.
Legend: n rows of this rank, N distinct samples, b keys of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trichord.core.seeds import derive_seed
from trichord.pretrain.collectives import gather_unequal_rows

UNKNOWN = -1


def hash_keys(keys: Sequence[str]) -> Tensor:
    """Return an int64 hash for each key, the same on every machine."""
    return torch.tensor([derive_seed(key) - 2**63 for key in keys], dtype=torch.long)


class Labelled(NamedTuple):
    """This rank's rows of one clustering."""

    keys_n: Tensor
    ages_n: Tensor  # over all ranks; the lowest is the newest
    labels_n: Tensor


class LabelTable:
    """The labels of the newest round, the same on every rank; empty before the first round."""

    def __init__(self) -> None:
        self._tables: dict[str, tuple[Tensor, Tensor]] = {}  # keys_N, ascending, and labels_N, for each clustering

    @torch.no_grad()
    def replace(self, clusterings: Mapping[str, Labelled]) -> None:
        """Replace the previous round with the rows of all ranks; every rank calls it with the same names."""
        self._tables = {}
        for name, rows in clusterings.items():
            keys, ages, labels = (gather_unequal_rows(column) for column in _newest(*rows))
            keys_N, _, labels_N = _newest(keys, ages, labels)
            self._tables[name] = (keys_N, labels_N.int())

    def lookup(self, name: str, keys_b: Tensor) -> Tensor:
        """Return labels_b of this clustering, on the keys' device; -1 for a sample that had no row in the round."""
        if name not in self._tables or not len(self._tables[name][0]):
            return torch.full_like(keys_b, UNKNOWN)
        keys_N, labels_N = self._tables[name]
        query_b = keys_b.to(keys_N.device)
        place_b = torch.searchsorted(keys_N, query_b).clamp(max=len(keys_N) - 1)
        labels_b = torch.where(keys_N[place_b] == query_b, labels_N[place_b].long(), UNKNOWN)
        return labels_b.to(keys_b.device)

    def state(self) -> dict[str, Tensor]:
        """Return the table, which is the same on all ranks."""
        return {
            f"{column}.{name}": tensor
            for name, table in self._tables.items()
            for column, tensor in zip(("keys", "labels"), table, strict=True)
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` returned."""
        names = [field.removeprefix("keys.") for field in state if field.startswith("keys.")]
        self._tables = {name: (state[f"keys.{name}"], state[f"labels.{name}"]) for name in names}


def _newest(keys: Tensor, ages: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the newest row of each key, in ascending order of keys."""
    by_age = ages.argsort(stable=True)
    order = by_age[keys[by_age].argsort(stable=True)]
    keys, ages, labels = keys[order], ages[order], labels[order]
    is_first = torch.ones_like(keys, dtype=torch.bool)
    is_first[1:] = keys[1:] != keys[:-1]
    return keys[is_first], ages[is_first], labels[is_first]
